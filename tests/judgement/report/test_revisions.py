import json
import shutil

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from made_vectors import make_vectors
from making import make_dataset

from hilum.cli.judging import drift as verb
from hilum.data.store import FACTS, IMAGES, MANIFEST, Dataset, write_json
from hilum.data.vectors import Vectors
from hilum.errors import DatasetError
from hilum.judgement.report import revisions
from hilum.recipe import Audit

RECIPE = Audit(bootstrap=100)


def revised(folder, out, table, **facts):
    """Another revision of a dataset: these rows of it, as they are in `table`."""
    shutil.copytree(folder, out)
    np.save(out / IMAGES, np.load(folder / IMAGES)[table.index])
    table.to_parquet(out / MANIFEST, index=False)
    sizes = {"n_images": len(table), "n_patients": int(table["patient_id"].nunique())}
    said = json.loads((out / FACTS).read_text())
    write_json(out / FACTS, {**said, **sizes, "digest": "e" * 64, "caution": "of the <second> revision", **facts})
    return out


def subset(vectors, out, dataset):
    """The vectors of those images that a revision still has."""
    whole, rows = Vectors.open(vectors), Dataset.open(dataset).manifest
    kept = whole.rows["image_id"].isin(rows["image_id"]).to_numpy()
    table = whole.rows[kept].assign(row=np.arange(len(rows)))
    run = {**whole.facts.run, "data_digest": Dataset.open(dataset).facts.digest}
    facts = whole.facts.model_copy(update={"n": len(rows), "run": run})
    Vectors(np.array(whole.z_ND[kept]), table, facts).write(out)
    return out


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The first revision, 300 images of 150 patients whose names would be known again, and its vectors."""
    folder = tmp_path_factory.mktemp("revisions")
    dataset = make_dataset(folder / "first", n_patients=150)
    table = pd.read_parquet(dataset / MANIFEST)
    for name in ("image_id", "patient_id", "study_id"):
        table[name] = "secret-" + table[name]
    table.to_parquet(dataset / MANIFEST, index=False)
    return dataset, make_vectors(dataset, folder / "vectors", "moco", 1.0), table


def test_a_random_part_of_a_dataset_has_not_drifted(first, tmp_path):
    dataset, vectors, table = first
    kept = table[table["patient_id"].isin(sorted(table["patient_id"].unique())[20:])]
    second = revised(dataset, tmp_path / "second", kept)
    of_second = subset(vectors, tmp_path / "v", second)
    facts = revisions.run(dataset, second, RECIPE, tmp_path / "out", (vectors, of_second))
    assert facts["images"] == {
        "in_both": 260, "changed": 0, "added": 0, "removed": 40,
        "patients_in_both": 130, "patients_added": 0, "patients_removed": 20,
    }  # fmt: skip
    assert not any(column["drifted"] for column in facts["columns"].values())
    assert facts["embedding"]["verdict"] == "not told apart"
    assert facts["embedding"]["n_moved"] == 20


def test_a_revision_with_other_films_is_told_in_words_and_numbers(first, tmp_path, visit):
    """The verb, the page in a browser, and nothing of the patients in either file."""
    dataset, vectors, table = first
    moved = table.assign(
        image_id=table["image_id"] + "x",
        patient_id=table["patient_id"] + "x",
        pixel_mean=table["pixel_mean"] + 40,
        site="C</script>",
        edema=1.0,
    )
    second = revised(dataset, tmp_path / "second", moved, labels=["pneumonia", "no_finding", "edema"])
    whole = Vectors.open(vectors)
    rows = whole.rows.assign(image_id=moved["image_id"], patient_id=moved["patient_id"])
    facts = whole.facts.model_copy(update={"run": {**whole.facts.run, "data_digest": "e" * 64}})
    Vectors(whole.z_ND + np.float32(2), rows, facts).write(tmp_path / "v")
    asked = [dataset, second, "--vectors", vectors, tmp_path / "v", "--out", tmp_path / "out"]
    done = CliRunner().invoke(verb, list(map(str, asked)), catch_exceptions=False)
    assert "columns that differ: pixel_mean, site" in done.output
    assert "embeddings: drifted" in done.output
    found = json.loads((tmp_path / "out" / "drift.json").read_text(), parse_constant=pytest.fail)
    assert found["columns"]["pixel_mean"]["drifted"] is True
    assert found["columns"]["sex"]["drifted"] is False
    assert found["columns"]["edema"]["note"] == "only in the current set"
    assert found["embedding"]["auroc"]["low"] > 0.9
    assert found["current"]["data_digest"] == "e" * 64
    page = (tmp_path / "out" / "drift.html").read_text()
    for said in (*found["run"].values(), found["reference"]["data_digest"], "of the &lt;second&gt; revision", "moco"):
        assert said in page
    assert 'C</script>"' not in page
    for name in ("drift.html", "drift.json"):
        assert "secret" not in (tmp_path / "out" / name).read_text()
        assert str(tmp_path) not in (tmp_path / "out" / name).read_text()
    requested, wrong, text = visit(tmp_path / "out" / "drift.html", "Dataset Drift")
    assert requested == [(tmp_path / "out" / "drift.html").as_uri()]
    assert wrong == []
    assert "The embeddings drifted" in text


def test_rows_of_both_are_picked_as_if_they_were_one_array():
    before, now = np.arange(12, dtype=np.float32).reshape(6, 2), np.arange(100, 108, dtype=np.float32).reshape(4, 2)
    for rows in ([0, 5, 6, 9], [1, 2], [7, 8], list(range(10))):
        np.testing.assert_array_equal(revisions.picked(before, now, np.array(rows)), np.r_[before, now][rows])


def test_changed_labels_of_the_same_images_are_drift_of_the_label_alone(first, tmp_path):
    dataset, _, table = first
    second = revised(dataset, tmp_path / "second", table.assign(pneumonia=1.0))
    facts = revisions.run(dataset, second, RECIPE, tmp_path / "out")
    assert [name for name, column in facts["columns"].items() if column["drifted"]] == ["pneumonia"]
    assert facts["images"]["changed"] == 0
    assert facts["embedding"] == {"verdict": "not asked"}


def test_embeddings_by_another_encoder_are_refused(first, tmp_path):
    dataset, vectors, _ = first
    other = make_vectors(dataset, tmp_path / "v", "vae", 1.0)
    with pytest.raises(DatasetError, match=r"another encoder \(moco and vae\); embed both"):
        revisions.run(dataset, dataset, RECIPE, tmp_path / "out", (vectors, other))
    whole = Vectors.open(vectors)
    trained_again = whole.facts.model_copy(update={"encoder_weights": "f" * 64})
    Vectors(np.array(whole.z_ND), whole.rows, trained_again).write(tmp_path / "w")
    with pytest.raises(DatasetError, match="another encoder weights"):
        revisions.run(dataset, dataset, RECIPE, tmp_path / "out", (vectors, tmp_path / "w"))
    assert not (tmp_path / "out").exists()
