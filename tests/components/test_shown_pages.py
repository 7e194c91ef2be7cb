"""What the Kubeflow UI shows of a probe and an audit: the pages themselves, or one line that says why there is none."""

import json
from types import SimpleNamespace

import pandas as pd
import pytest
from made_vectors import make_vectors
from making import make_dataset

from components.audit import audit
from components.compare import compare
from components.gate import gate
from components.probe import probe
from components.validate import validate
from hilum.recipe import Recipe, plain

RECIPE = {
    "probe": {"bootstrap": 100, "kernels": ["rbf"], "min_cases": 3},
    "audit": {"bootstrap": 100, "min_group": 2, "groups": ["sex"]},
    "shortcuts": {"permutations": 99, "bootstrap": 100, "min_group": 2, "attributes": ["sex"]},
    "export": {"encoder": "pixels"},
}


class Curves:
    """An artifact of curves, as far as the component uses it."""

    def __init__(self, path):
        self.path, self.metadata, self.curve = str(path), {}, None

    def log_metric(self, name, value):
        self.metadata[name] = value

    def log_roc_curve(self, *curve):
        self.curve = curve


class Outputs:
    """Where a component is told to write; the folders above are there, as KFP's launcher makes them."""

    def __init__(self, folder):
        folder.mkdir(parents=True)
        self.folder = folder

    def of(self, name):
        return Curves(self.folder / name)

    def text(self, name):
        return (self.folder / name).read_text(encoding="utf-8")


def judged(dataset, root, recipe):
    """A probe and its audit, by the components."""
    whole = plain(Recipe.model_validate(recipe))
    given = {
        "dataset": SimpleNamespace(path=str(dataset)),
        "vectors": SimpleNamespace(path=str(make_vectors(dataset, root / "vectors", "pixels", signal=3.0))),
        "code": "c",
        "recipe": whole,
    }
    probed, audited = Outputs(root / "probe"), Outputs(root / "audit")
    outs = {name: probed.of(name) for name in ("scores", "metrics", "roc", "explorer", "uncertain")}
    probe.python_func(**given, tuned=SimpleNamespace(path=str(root / "tuned")), **outs)
    assert outs["metrics"].metadata["pneumonia_rbf_auroc"] > 0.8
    assert len(outs["roc"].curve) == 3
    pages = {name: audited.of(name) for name in ("findings", "drift", "fairness", "shortcuts", "mitigation")}
    audit.python_func(**given, scores=outs["scores"], **pages)
    return probed, audited


@pytest.fixture(scope="module")
def plainly(tiny_dataset, tmp_path_factory):
    """A run of which nothing more was asked."""
    return judged(tiny_dataset, tmp_path_factory.mktemp("plainly"), RECIPE)


def run_of(outputs):
    return json.loads((outputs.folder / "scores" / "probe.json").read_text())["run"]


def test_each_page_of_a_step_is_an_artifact_of_it(plainly):
    probed, audited = plainly
    assert probed.text("explorer") == probed.text("scores/explore.html")
    for artifact, page in (("drift", "audit"), ("fairness", "fairness"), ("shortcuts", "shortcuts")):
        assert audited.text(artifact) == audited.text(f"findings/{page}.html")


def test_what_there_is_nothing_to_show_of_is_one_line_that_says_why(plainly):
    probed, audited = plainly
    for outputs, name, why in (
        (probed, "uncertain", "No label of the dataset is uncertain."),
        (audited, "mitigation", "No mitigation was asked for"),
    ):
        text = outputs.text(name)
        assert why in text
        assert "made by a test" in text  # the dataset's caution
        for value in run_of(probed).values():
            assert value in text


def test_mitigations_and_uncertain_labels_are_shown_where_there_are_any(tmp_path):
    dataset = make_dataset(tmp_path / "dataset")
    table = pd.read_parquet(dataset / "manifest.parquet")
    table.loc[table.index[::17], "pneumonia"] = -1.0
    table.to_parquet(dataset / "manifest.parquet", index=False)
    probed, audited = judged(dataset, tmp_path / "run", {**RECIPE, "mitigation": {"methods": ["reweighting"]}})
    assert probed.text("uncertain") == probed.text("scores/policies.html")
    assert audited.text("mitigation") == audited.text("findings/mitigation.html")


def test_validation_leaderboard_and_gate_are_shown(plainly, tiny_dataset, tmp_path):
    probed, audited = plainly
    checked, compared, gated = (Outputs(tmp_path / name) for name in ("validate", "compare", "gate"))
    verdict = checked.of("verdict")
    dataset = SimpleNamespace(path=str(tiny_dataset))
    validate.python_func(dataset, code="c", report=checked.of("report"), verdict=verdict, metrics=checked.of("metrics"))
    assert checked.text("report") == checked.text("verdict/validation.html")
    (tmp_path / "tuned").mkdir()
    scores, findings = [probed.of("scores")], [audited.of("findings")]
    shown = {name: compared.of(name) for name in ("reports", "leaderboard", "summary")}
    compare.python_func(verdict, scores, findings, [SimpleNamespace(path=str(tmp_path / "tuned"))], code="c", **shown)
    assert compared.text("leaderboard") == compared.text("reports/leaderboard.html")
    assert compared.text("summary") == compared.text("reports/leaderboard.md")
    (tmp_path / "encoder").mkdir()
    gate.python_func(
        [SimpleNamespace(path=str(tmp_path / "encoder"))],
        scores,
        findings,
        code="c",
        recipe=plain(Recipe.model_validate(RECIPE)),
        override_by="",
        override_reason="",
        candidate=gated.of("candidate"),
        verdict=gated.of("verdict"),
        page=gated.of("page"),
    )
    assert gated.text("page") == gated.text("verdict/gate.html")
