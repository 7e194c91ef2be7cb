import json

import pytest
from made_vectors import make_vectors

from hilum.errors import DatasetError, UsageError
from hilum.judgement import gate
from hilum.judgement.probing import head, probes
from hilum.recipe import Gate, Probe

QUICK = Probe(bootstrap=200, min_cases=3, c_grid=(1.0,), kernels=("rbf",))


@pytest.fixture(scope="module")
def judged(tmp_path_factory, tiny_dataset):
    """A probe folder with a good head, and one whose label the dataset lacks."""
    folder = tmp_path_factory.mktemp("gate")
    vectors = make_vectors(tiny_dataset, folder / "vectors", "made", 4.0)
    for name, label in (("answers", "pneumonia"), ("silent", "dementia")):
        probes.run(tiny_dataset, vectors, QUICK, folder / name, label=label)
        head.run(tiny_dataset, vectors, label, folder / name, QUICK)
    return folder


def audit(folder, *gaps, label="pneumonia"):
    """What the audit writes, as far as the gate reads it; a gap is (attribute, metric, low, value, high)."""
    folder.mkdir()
    entries = [
        {"attribute": a, "metric": m, "value": v, "low": low, "high": high, "n": 40, "n_patients": 20, "note": "few"}
        for a, m, low, v, high in gaps
    ]
    (folder / "audit.json").write_text(json.dumps({"label": label, "answered": True, "groups": [], "gaps": entries}))
    return folder


@pytest.mark.parametrize(
    ("low", "high", "tolerance", "at_least", "verdict"),
    [
        (0.7, 0.9, 0.6, True, "pass"),
        (0.6, 0.9, 0.6, True, "pass"),
        (0.4, 0.59, 0.6, True, "fail"),
        (0.5, 0.9, 0.6, True, "insufficient data"),
        (0.0, 0.1, 0.2, False, "pass"),
        (0.21, 0.5, 0.2, False, "fail"),
        (0.1, 0.3, 0.2, False, "insufficient data"),
        (None, 0.3, 0.2, False, "insufficient data"),
        (float("nan"), float("nan"), 0.2, True, "insufficient data"),
    ],
)
def test_bounds_decide(low, high, tolerance, at_least, verdict):
    assert gate.decide(low, high, tolerance, at_least=at_least) == verdict


def test_a_good_release_passes(judged, tmp_path):
    found = audit(tmp_path / "audit", ("sex", "auroc", 0.0, 0.02, 0.1), ("sex", "equalized_odds", 0.5, 0.6, 0.7))
    assert gate.run([judged / "answers"], [found], Gate(), "made", "pneumonia", tmp_path / "out")
    said = json.loads((tmp_path / "out" / "gate.json").read_text())
    assert said["ok"] is True
    assert {one["criterion"]: one["verdict"] for one in said["criteria"]} == {"auroc": "pass", "auroc_gap_sex": "pass"}
    score = json.loads((judged / "answers" / "head.json").read_text())["test"]["auroc"]
    assert said["criteria"][0]["low"] == score["low"]
    assert said["criteria"][0]["n"] == score["n"]
    assert set(said["run"]) == {"code_revision", "data_digest", "recipe_digest"}


def test_a_proven_gap_fails_and_is_named(judged, tmp_path):
    found = audit(tmp_path / "audit", ("sex", "auroc", 0.25, 0.3, 0.4), ("age_band", "auroc", None, None, None))
    assert not gate.run([judged / "answers"], [found], Gate(), "made", "pneumonia", tmp_path / "out")
    said = json.loads((tmp_path / "out" / "gate.json").read_text())
    verdicts = {one["criterion"]: one for one in said["criteria"]}
    assert verdicts["auroc_gap_sex"]["verdict"] == "fail"
    assert "by sex by 0.300 [0.250, 0.400], at most 0.2" in verdicts["auroc_gap_sex"]["reason"]
    assert verdicts["auroc_gap_age_band"]["verdict"] == "insufficient data"
    assert "not known (few)" in verdicts["auroc_gap_age_band"]["reason"]


def test_a_weak_head_fails(judged, tmp_path):
    found = audit(tmp_path / "audit")
    weak = tmp_path / "weak"
    weak.mkdir()
    for name in ("probe.json", "head.json"):
        said = json.loads((judged / "answers" / name).read_text())
        if name == "head.json":
            said["test"]["auroc"] |= {"value": 0.5, "low": 0.42, "high": 0.58}
        (weak / name).write_text(json.dumps(said))
    assert not gate.run([weak], [found], Gate(), "made", "pneumonia", tmp_path / "out")
    said = json.loads((tmp_path / "out" / "gate.json").read_text())
    assert [one["verdict"] for one in said["criteria"]] == ["fail", "insufficient data"]


def test_a_modality_without_the_label_is_not_asked(judged, tmp_path):
    found = audit(tmp_path / "audit", label="dementia")
    assert gate.run([judged / "silent"], [found], Gate(), "made", "dementia", tmp_path / "out")
    said = json.loads((tmp_path / "out" / "gate.json").read_text())
    assert {one["verdict"] for one in said["criteria"]} == {"not asked"}
    assert all("embeddings only" in one["reason"] for one in said["criteria"])


def test_what_does_not_belong_is_refused(judged, tmp_path):
    found = audit(tmp_path / "audit")
    with pytest.raises(UsageError, match="no probe is of the encoder 'moco'; there are probes of made"):
        gate.run([judged / "answers"], [found], Gate(), "moco", "pneumonia", tmp_path / "out")
    with pytest.raises(UsageError, match="1 probes and 0 audits"):
        gate.run([judged / "answers"], [], Gate(), "made", "pneumonia", tmp_path / "out")
    with pytest.raises(UsageError, match="the head of XR is of 'dementia'"):
        gate.run([judged / "silent"], [found], Gate(), "made", "pneumonia", tmp_path / "out")
    with pytest.raises(DatasetError):
        gate.run([judged / "answers"], [tmp_path / "none"], Gate(), "made", "pneumonia", tmp_path / "out")
    assert not (tmp_path / "out").exists()
