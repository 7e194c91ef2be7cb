import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_vectors import make_vectors
from making import make_dataset
from sklearn.svm import SVC

from hilum.data import parquet
from hilum.data.store import FACTS, MANIFEST, Dataset
from hilum.data.vectors import Vectors
from hilum.judgement.probing import policies
from hilum.ranking import auroc
from hilum.recipe import Probe

ONE = Probe(bootstrap=200, min_cases=5, kernels=("linear",), c_grid=(1.0,), scalings=("feature",))


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """In train `edema` is uncertain in every woman who has it, so that only men teach it; of `mass`, some negatives."""
    folder = tmp_path_factory.mktemp("policies")
    dataset = make_dataset(folder / "dataset", n_patients=900, images_each=1, size=16)
    random = np.random.default_rng(0)
    table = parquet.read(dataset / MANIFEST)
    drop = random.random(len(table)) < 0.7
    women = (table["split"] == "train") & (table["sex"] == "F")
    table["edema"] = table["pneumonia"].where((table["pneumonia"] != 1) | ~women, -1.0)
    table["mass"] = table["pneumonia"].where((table["pneumonia"] != 0) | ~drop, -1.0)
    table["hernia"] = np.where(np.arange(len(table)) == 0, -1.0, 0.0)
    parquet.write(table, dataset / MANIFEST)
    facts = json.loads((dataset / FACTS).read_text())
    (dataset / FACTS).write_text(json.dumps({**facts, "labels": [*facts["labels"], "edema", "mass", "hernia"]}))
    vectors = make_vectors(dataset, folder / "vectors", "made", signal=2.0)
    return folder, policies.compare(dataset, vectors, ONE, folder / "out"), dataset


def of(table, label, policy):
    return table[(table["label"] == label) & (table["policy"] == policy)].iloc[0]


def test_only_labels_that_are_uncertain_are_compared(compared):
    folder, table, _ = compared
    assert tuple(table.columns) == policies.COLUMNS
    assert list(table["label"].unique()) == ["edema", "mass", "hernia"]
    assert list(table["policy"][:3]) == ["ignore", "zeros", "ones"]
    written = pd.read_csv(folder / "out" / "policies.csv").fillna({"note": ""})
    pd.testing.assert_frame_equal(written, table, check_dtype=False)
    assert table[table["label"] == "hernia"]["value"].isna().all()
    assert "insufficient data" in of(table, "hernia", "ones")["note"]


def test_every_policy_is_a_machine_on_its_labels_and_certain_test_rows(compared):
    folder, table, dataset = compared
    manifest = Dataset.open(dataset).manifest
    z = np.asarray(Vectors.open(folder / "vectors").z_ND, dtype=float)
    for label in ("edema", "mass"):
        y = manifest[label].to_numpy()
        test = np.flatnonzero((manifest["split"] == "test") & np.isin(y, [0, 1]))
        for policy, value in (("ignore", np.nan), ("zeros", 0.0), ("ones", 1.0)):
            learnt = np.where(y == -1, value, y)
            fit = np.flatnonzero((manifest["split"] == "train") & np.isfinite(learnt))
            mean, length = z[fit].mean(0), z[fit].std(0) * np.sqrt(z.shape[1])
            machine = SVC(kernel="linear", C=1.0, class_weight="balanced").fit((z[fit] - mean) / length, learnt[fit])
            score = machine.decision_function((z[test] - mean) / length)
            row = of(table, label, policy)
            assert row["value"] == pytest.approx(auroc(y[test], score), abs=3e-3)
            assert (row["n"], row["n_positive"], row["n_train"]) == (len(test), y[test].sum(), len(fit))
            assert row["n_uncertain"] == ((manifest["split"] == "train") & (y == -1)).sum()
            if policy != "ignore":
                assert row["gain"] == pytest.approx(row["value"] - of(table, label, "ignore")["value"])
                assert row["gain_low"] <= row["gain"] <= row["gain_high"]


def test_the_planted_policy_is_the_better_one_and_said_so(compared):
    folder, table, _ = compared
    assert of(table, "edema", "ones")["gain_low"] > 0, "ignoring them, men alone teach it"
    assert of(table, "edema", "zeros")["gain_high"] < 0, "the others learn that women do not have it"
    words = json.loads((folder / "out" / "policies.json").read_text())["words"]
    assert words[0].startswith("edema: against ignoring ")
    assert "U-Ones +" in words[0]
    assert "], better. The probes use U-Ones." in words[0]
    assert "The probes use U-Ignore." in words[1]
    assert "4 comparisons" in words[-1]
    assert list(table.loc[table["used"], "policy"]) == ["ones", "ignore", "ignore"]


def test_the_page_names_the_run_and_nobody(compared):
    folder, _, dataset = compared
    page = (folder / "out" / "policies.html").read_text()
    assert Dataset.open(dataset).facts.digest in page
    assert "made by a test" in page
    assert "U-Ones" in page
    assert not any(patient in page for patient in Dataset.open(dataset).manifest["patient_id"])
    assert not list(Path(folder / "out").glob("*.partial"))


def test_a_dataset_without_uncertain_labels_has_nothing_to_compare(tmp_path, tiny_dataset):
    vectors = make_vectors(tiny_dataset, tmp_path / "vectors", "made", signal=1.0)
    table = policies.compare(tiny_dataset, vectors, ONE, tmp_path / "out")
    assert table.empty
    assert tuple(table.columns) == policies.COLUMNS
    assert "nothing to compare" in (tmp_path / "out" / "policies.html").read_text()
