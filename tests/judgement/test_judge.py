"""The judgement of a whole run: probe and head of one label, the index of reports, the candidate and its gate."""

import json

import numpy as np
import pytest
from made_vectors import make_vectors

from hilum.errors import CheckFailed, UsageError
from hilum.judgement import judge
from hilum.judgement.gate import verdict as verdicts
from hilum.recipe import Gate, Probe, Recipe, parse

RECIPE = parse(
    {
        "probe": Probe(bootstrap=100, kernels=("rbf",), min_cases=3).model_dump(),
        "audit": {"bootstrap": 100, "min_group": 2, "groups": ["sex", "age_band"]},
        "shortcuts": {"permutations": 99, "bootstrap": 100, "min_group": 2},
        "mitigation": {"methods": ["reweighting"]},
        "export": {"encoder": "moco"},
    },
    Recipe,
)
LENIENT = Gate(
    min_auroc=0.0,
    min_sensitivity="not asked",
    max_auroc_gap="not asked",
    max_ece="not asked",
    max_shortcut="not asked",
    min_group=2,
    groups=("sex",),
)


@pytest.fixture(scope="module")
def judged(tiny_dataset, tmp_path_factory):
    """Probe, audit and a stand-in for the encoder run of `moco` (strong) and `pixels` (weak)."""
    root = tmp_path_factory.mktemp("judged")
    found = {}
    for name, signal in (("moco", 3.0), ("pixels", 0.5)):
        folder = root / name
        vectors = make_vectors(tiny_dataset, folder / "vectors", name, signal=signal)
        found[name] = judge.probe(tiny_dataset, vectors, RECIPE, folder / "scores")
        judge.audit(tiny_dataset, vectors, folder / "scores", RECIPE, folder / "findings")
        (folder / "encoder").mkdir()
        (folder / "encoder" / "weights.pt").write_text(name)
    return root, found


def folders(root, what):
    return [root / name / what for name in ("moco", "pixels")]


def test_a_probe_shows_finite_metrics_and_a_curve_that_json_can_hold(judged):
    _, found = judged
    assert found["moco"].metrics["pneumonia_rbf_auroc"] > 0.9
    assert np.isfinite(list(found["moco"].metrics.values())).all()
    fpr, tpr, thresholds = found["moco"].roc
    assert fpr[0] == tpr[0] == 0.0
    assert fpr[-1] == tpr[-1] == 1.0
    assert thresholds == sorted(thresholds, reverse=True)
    json.dumps([fpr, tpr, thresholds], allow_nan=False)


def test_a_label_that_is_not_known_has_no_curve(tiny_dataset, tmp_path):
    vectors = make_vectors(tiny_dataset, tmp_path / "vectors", "moco", signal=1.0)
    other = RECIPE.model_copy(update={"audit": RECIPE.audit.model_copy(update={"label": "fracture"})})
    found = judge.probe(tiny_dataset, vectors, other, tmp_path / "scores")
    assert found.roc is None
    assert json.loads((tmp_path / "scores" / "head.json").read_text())["answered"] is False


def test_the_index_leads_to_every_report_and_names_the_run(judged, tmp_path):
    root, _ = judged
    (tmp_path / "verdict").mkdir()
    (tmp_path / "verdict" / "validation.html").write_text("<p>validated</p>")
    tuned = [tmp_path / "tuned-moco", tmp_path / "tuned-pixels"]
    for folder in tuned:
        folder.mkdir()
    (tuned[0] / "fusion.html").write_text("<p>fused</p>")
    out = tmp_path / "out"
    judge.compare(tmp_path / "verdict", folders(root, "scores"), folders(root, "findings"), tuned, out)
    page = (out / "index.html").read_text()
    for name in (
        "xr-moco/map.png",
        "xr-pixels/fairness.html",
        "xr-moco/audit.html",
        "xr-moco/fusion.html",
        "xr-moco/explore.html",
        "xr-pixels/shortcuts.html",
        "xr-moco/mitigation.html",
        "efficiency-xr/efficiency.png",
        "leaderboard.html",
    ):
        assert f'href="{name}"' in page
        assert (out / name).is_file()
    assert "xr-pixels/fusion.html" not in page
    assert "policies.html" not in page  # no label is uncertain
    assert (out / "xr-moco" / "shortcuts.json").is_file()
    assert json.loads((root / "moco" / "scores" / "probe.json").read_text())["run"]["data_digest"] in page
    assert "made by a test" in page


def test_the_candidate_is_the_encoder_to_be_released_with_its_evidence(judged, tmp_path):
    root, _ = judged
    lenient = RECIPE.model_copy(update={"gate": LENIENT})
    parts = [folders(root, what) for what in ("encoder", "scores", "findings")]
    assert judge.gate(*parts, lenient, tmp_path / "candidate", tmp_path / "verdict")
    assert [path.name for path in (tmp_path / "candidate").iterdir()] == ["XR"]
    assert (tmp_path / "candidate" / "XR" / "encoder" / "weights.pt").read_text() == "moco"
    for name in ("audit.json", "shortcuts.json"):
        assert (tmp_path / "candidate" / "XR" / "findings" / name).is_file()


def test_a_gate_that_fails_is_refused_with_its_reason(judged, tmp_path):
    root, _ = judged
    strict = RECIPE.model_copy(
        update={
            "gate": LENIENT.model_copy(update={"min_auroc": 1.0}),
            "export": RECIPE.export.model_copy(update={"encoder": "pixels"}),
        }
    )
    parts = [folders(root, what) for what in ("encoder", "scores", "findings")]
    assert not judge.gate(*parts, strict, tmp_path / "candidate", tmp_path / "verdict")
    with pytest.raises(CheckFailed, match="at least 1 is asked for"):
        verdicts.refuse(tmp_path / "verdict")


def test_an_override_lets_the_candidate_through_by_name(judged, tmp_path):
    root, _ = judged
    strict = RECIPE.model_copy(update={"gate": LENIENT.model_copy(update={"min_auroc": 1.0, "min_gain": 0.0})})
    parts = [folders(root, what) for what in ("encoder", "scores", "findings")]
    by = {"override_by": "Dr Example", "override_reason": "a test"}
    assert judge.gate(*parts, strict, tmp_path / "candidate", tmp_path / "verdict", **by)
    found = verdicts.Verdict.read(tmp_path / "verdict")
    assert (found.override.by, found.passes) == ("Dr Example", False)
    assert (tmp_path / "verdict" / "gate.html").is_file()
    [gain] = [one for one in found.criteria if one.criterion == "gain"]
    assert gain.value > 0.1  # over `pixels`, whose scores are among the others
    with pytest.raises(UsageError, match="a reason is missing"):
        judge.gate(*parts, strict, tmp_path / "c2", tmp_path / "v2", override_by="Dr Example")
    assert not (tmp_path / "c2").exists()


def test_an_encoder_that_was_not_judged_cannot_be_released(judged, tmp_path):
    root, _ = judged
    scores = folders(root, "scores")[1:]
    with pytest.raises(UsageError, match="no encoder 'moco' was judged"):
        judge.gate(
            folders(root, "encoder")[1:], scores, folders(root, "findings")[1:], RECIPE, tmp_path / "c", tmp_path / "v"
        )
