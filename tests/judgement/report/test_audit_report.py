import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from making import make_dataset

from hilum.data.store import FACTS, MANIFEST, Dataset, write_json
from hilum.data.vectors import VectorFacts, Vectors
from hilum.errors import DatasetError, UsageError
from hilum.identity import Run
from hilum.judgement.fairness import tables as fairness
from hilum.judgement.fairness.gaps import GAPS
from hilum.judgement.probing import head
from hilum.judgement.report import audit as report
from hilum.judgement.report import drift
from hilum.judgement.report.sides import Sides
from hilum.recipe import Audit

RECIPE = Audit(bootstrap=100, min_group=3, groups=("sex", "age_band", "site"))
FILES = {"audit.html", "fairness.csv", "fairness.html", "audit.json"}
PICTURES = {f"fairness_{what}.{ending}" for what in ("groups", "gaps") for ending in ("png", "svg")}


def embed(folder, out, modality="XR"):
    """Flattened, shrunken pixels as embeddings."""
    dataset = Dataset.open(folder)
    z = dataset.images[:, ::4, ::4].reshape(len(dataset.images), -1).astype(np.float32)
    rows = dataset.manifest[["image_id", "patient_id", "split"]].copy()
    rows.insert(0, "row", np.arange(len(rows)))
    run = Run(code_revision="test", data_digest=dataset.facts.digest, recipe_digest="1" * 64)
    Vectors(z, rows, VectorFacts(encoder="pixels", modality=modality, dim=z.shape[1], n=len(z), run=run)).write(out)
    return out


def change(folder, out, **columns):
    """A copy of a dataset with columns of its manifest changed."""
    shutil.copytree(folder, out)
    table = pd.read_parquet(out / MANIFEST).assign(**columns)
    table.to_parquet(out / MANIFEST, index=False)
    return out


def audit(folder, out, recipe=RECIPE, modality="XR"):
    vectors = embed(folder, out / "vectors", modality)
    head.run(folder, vectors, recipe.label, out / "head")
    report.run(folder, vectors, out / "head", recipe, out / "audit")
    return out / "audit", json.loads((out / "audit" / "audit.json").read_text(), parse_constant=pytest.fail)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """300 patients, one whole audit; named so that a leak of a name into a page would be seen."""
    folder = tmp_path_factory.mktemp("audit")
    dataset = make_dataset(folder / "dataset", n_patients=300)
    table = pd.read_parquet(dataset / MANIFEST)
    for name in ("image_id", "patient_id", "study_id"):
        table[name] = "secret-" + table[name]
    table.to_parquet(dataset / MANIFEST, index=False)
    facts = json.loads((dataset / FACTS).read_text())
    write_json(dataset / FACTS, {**facts, "caution": "made by a test <of> hilum"})
    return dataset, folder, *audit(dataset, folder)


def test_an_audit_writes_its_files_and_nothing_else(large):
    _, _, out, _ = large
    assert {path.name for path in out.iterdir()} == FILES | PICTURES
    for name in PICTURES:
        assert (out / name).read_bytes()[:5] == (b"\x89PNG\r" if name.endswith("png") else b"<?xml")


def test_pages_can_be_traced_warn_and_name_nobody(large):
    dataset, _, out, facts = large
    for name in ("audit.html", "fairness.html"):
        page = (out / name).read_text()
        assert "made by a test &lt;of&gt; hilum" in page
        for part in facts["run"].values():
            assert part in page
        assert "pixels" in page
    for path in (path for path in out.iterdir() if path.suffix != ".png"):
        assert "secret" not in path.read_text(), path.name
        assert str(dataset) not in path.read_text(), path.name
    assert facts["run"]["data_digest"] == Dataset.open(dataset).facts.digest


def test_the_page_asks_nothing_of_the_network_and_shows_every_part(large, visit):
    out, facts = large[2:]
    asked, wrong, shown = visit(out / "audit.html", "Quality by sex")
    assert asked == [(out / "audit.html").as_uri()]
    assert wrong == []
    for said in ("Drift: test split against train split", "Quality on the test split", "Gaps by site"):
        assert said in shown
    assert {one["status"] for one in facts["gap_tests"]} <= {"success", "fail", "warning", "skipped"}
    csv = pd.read_csv(out / "fairness.csv").query("attribute == 'sex' and metric == 'tpr' and kind == 'group'")
    for row in csv.itertuples():
        assert f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]" in shown


def test_pages_load_nothing_from_elsewhere(large):
    for name in ("audit.html", "fairness.html"):
        page = (large[2] / name).read_text()
        assert not re.search(r"<(?:script|link|img|iframe)[^>]*\s(?:src|href)=[\"']?(?:https?:)?//", page)


def test_the_table_is_that_of_the_fairness_functions_on_the_test_split(large):
    dataset, folder, out, facts = large
    opened, answering = Dataset.open(dataset), head.Head.load(folder / "head")
    is_test = (opened.manifest["split"] == "test").to_numpy()
    test = opened.manifest[is_test].reset_index(drop=True)
    probability = answering.predict(Vectors.open(folder / "vectors").z_ND[is_test])
    expected = fairness.table(
        test["pneumonia"].to_numpy(),
        probability,
        answering.threshold,
        test[["sex"]],
        test["patient_id"],
        RECIPE,
    )
    csv = pd.read_csv(out / "fairness.csv")
    written = csv[(csv["kind"] == "group") & csv["attribute"].isin(["all", "sex"])].reset_index(drop=True)
    columns = ["attribute", "group", "n", "n_patients", "n_positive", "metric", "value", "low", "high"]
    pd.testing.assert_frame_equal(written[columns], expected[columns], check_dtype=False)
    assert set(csv.loc[csv["kind"] == "gap", "metric"]) == set(GAPS)
    assert facts["regressions"] == {}  # a head alone, without a probe's predictions
    assert facts["mitigation"] is None
    assert "No mitigation was applied" in (out / "fairness.html").read_text()
    by_json = [row for row in facts["groups"] if row["attribute"] in ("all", "sex")]
    values = [np.nan if row["value"] is None else row["value"] for row in by_json]
    assert values == pytest.approx(list(expected["value"]), nan_ok=True)
    assert {row["attribute"] for row in facts["gaps"]} == {"sex", "age_band", "site"}


def test_all_that_the_dataset_has_is_audited_where_nothing_is_named(large, tmp_path):
    """And the ages that a probe read, and how the head was treated."""
    dataset, folder, _, _ = large
    probe = tmp_path / "probe"
    shutil.copytree(folder / "head", probe)
    said = json.loads((probe / "head.json").read_text())
    write_json(probe / "head.json", {**said, "mitigation": {"method": "reweighting", "attribute": "sex"}})
    opened = Dataset.open(dataset)
    test = opened.manifest[opened.manifest["split"] == "test"]
    read = pd.DataFrame({"row": test.index, "task": "age", "kernel": "rbf", "truth": test["age_years"]})
    read["score"] = read["truth"] + np.where(test["sex"] == "F", 10.0, 0.0) + np.arange(len(read)) % 3
    read.to_parquet(probe / "predictions.parquet")
    run = {"data_digest": opened.facts.digest}
    write_json(probe / "probe.json", {"headline_kernel": "rbf", "run": run})
    report.run(dataset, folder / "vectors", probe, RECIPE.model_copy(update={"groups": ()}), tmp_path / "audit")
    facts = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert [*dict.fromkeys(row["attribute"] for row in facts["gaps"])] == [
        "sex", "age_band", "view", "site", "sex+age_band", "sex+view", "sex+site", "age_band+view", "age_band+site",
    ]  # fmt: skip
    bias = next(
        row for row in facts["regressions"]["age"]["gaps"] if (row["attribute"], row["metric"]) == ("sex", "bias")
    )
    assert bias["value"] == pytest.approx(10, abs=0.5)
    assert bias["p_holm"] < 0.05
    page = (tmp_path / "audit" / "fairness.html").read_text()
    assert "treated: reweighting, by sex" in page
    assert "Age read from the image" in page
    assert facts["mitigation"]["method"] == "reweighting"
    write_json(probe / "probe.json", {"headline_kernel": "rbf", "run": {"data_digest": "other"}})
    with pytest.raises(DatasetError, match="of another dataset"):
        report.run(dataset, folder / "vectors", probe, RECIPE, tmp_path / "refused")


def test_drift_facts_are_those_that_evidently_shows(large):
    dataset, _, out, facts = large
    rows = Dataset.open(dataset).manifest
    rows = rows[rows["split"] != "val"].reset_index(drop=True)
    sides = Sides.parted((rows["split"] == "test").to_numpy(), rows["patient_id"])
    compared = drift.columns(rows, ["o2_saturation_pct"], ["pneumonia"])
    page = (out / "audit.html").read_text()
    assert set(facts["drift"]["columns"]) == set(compared)
    assert facts["drift"]["embedding"]["verdict"] == "not told apart"
    assert facts["drift"]["embedding"]["n_patients"] == [180, 60]
    assert "The embeddings of the two sets are not told apart (reference: 360 images of 180 patients" in page
    for name, column in facts["drift"]["columns"].items():
        measured = drift.distance(compared[name], sides)
        assert column["distance"] == pytest.approx(measured)
        assert f'"{round(measured, 6)}"' in page or str(round(measured, 6)) in page, name  # Evidently's own figure
        assert column["drifted"] is (measured >= column["limit"])
    share = np.mean([column["drifted"] for column in facts["drift"]["columns"].values()])
    assert facts["drift"]["share"] == pytest.approx(share)


def test_quality_is_of_the_test_split_alone(large):
    dataset, _, out, facts = large
    test = Dataset.open(dataset).manifest.query("split == 'test'")
    assert facts["quality"] == {
        "n": int(test["pneumonia"].notna().sum()),
        "n_positive": int(test["pneumonia"].sum()),
    }
    assert "Quality on the test split" in (out / "audit.html").read_text()


def test_a_planted_shift_is_reported_as_drift(large, tmp_path):
    table = pd.read_parquet(large[0] / MANIFEST)
    is_test = table["split"] == "test"
    moved = change(
        large[0],
        tmp_path / "moved",
        pixel_mean=table["pixel_mean"] + 40 * is_test,
        site=np.where(is_test, "A</script>", "B"),
    )
    out, facts = audit(moved, tmp_path)
    columns = facts["drift"]["columns"]
    assert columns["pixel_mean"]["drifted"]
    assert columns["site"]["drifted"]
    assert not columns["sex"]["drifted"]
    assert 'A</script>"' not in (out / "audit.html").read_text()  # it would end Evidently's script


def test_a_modality_without_the_label_says_so_and_gives_the_sizes(tmp_path):
    made = make_dataset(tmp_path / "made", n_patients=60, modality="MR")
    dataset = change(made, tmp_path / "dataset", pneumonia=np.nan)
    out, facts = audit(dataset, tmp_path, modality="MR")
    assert {path.name for path in out.iterdir()} == FILES
    assert facts["answered"] is False
    assert facts["groups"] == facts["gaps"] == []
    assert "pneumonia" in facts["why"]
    assert facts["drift"]["share"] is not None
    page = (out / "fairness.html").read_text()
    assert "no decision is made" in page
    assert "MRI" in page
    assert '<td>sex</td><td>F</td><td class="number">12</td>' in page
    assert facts["gap_tests"] == []
    assert "There is no part on quality" in (out / "audit.html").read_text()
    assert "Quality on the test split" not in (out / "audit.html").read_text()
    assert len(pd.read_csv(out / "fairness.csv")) == 0


def test_a_test_split_of_one_class_has_no_part_on_quality(tiny_dataset, tmp_path):
    table = pd.read_parquet(tiny_dataset / MANIFEST)
    dataset = change(
        tiny_dataset, tmp_path / "dataset", pneumonia=table["pneumonia"].where(table["split"] != "test", 0.0)
    )
    out, facts = audit(dataset, tmp_path)
    assert facts["answered"] is True
    assert facts["quality"] == {"n": 24, "n_positive": 0}
    assert all(row["value"] is None and row["note"].startswith("insufficient data") for row in facts["groups"])
    assert all(row["value"] is None for row in facts["gaps"])
    assert "one class is missing" in (out / "audit.html").read_text()
    assert "0 of " in (out / "fairness.html").read_text()


def test_what_does_not_belong_together_is_refused(tiny_dataset, tmp_path):
    vectors = embed(tiny_dataset, tmp_path / "vectors")
    head.run(tiny_dataset, vectors, "pneumonia", tmp_path / "head")
    case = (tiny_dataset, vectors, tmp_path / "head")
    with pytest.raises(UsageError, match="answers for 'pneumonia', but the audit is asked of 'edema'"):
        report.run(*case, Audit(label="edema"), tmp_path / "audit")
    with pytest.raises(UsageError, match="no attribute 'race'"):
        report.run(*case, Audit(groups=("race",)), tmp_path / "audit")
    untested = change(tiny_dataset, tmp_path / "untested", split="train")
    with pytest.raises(DatasetError, match="no XR image in its test split"):
        report.run(untested, embed(untested, tmp_path / "v"), tmp_path / "head", Audit(), tmp_path / "audit")
    said = json.loads((tmp_path / "head" / "head.json").read_text())
    write_json(tmp_path / "head" / "head.json", {**said, "encoder": "moco"})
    with pytest.raises(DatasetError, match="belongs to moco"):
        report.run(*case, Audit(), tmp_path / "audit")
    assert not (tmp_path / "audit").exists()
