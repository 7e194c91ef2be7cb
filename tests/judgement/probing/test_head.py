import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_vectors import make_vectors
from making import make_dataset
from sklearn.linear_model import LogisticRegression

from hilum.data.store import Dataset
from hilum.data.vectors import Vectors
from hilum.errors import CheckFailed, DatasetError
from hilum.judgement.probing import head
from hilum.ranking import auroc
from hilum.recipe import Probe

QUICK = Probe(bootstrap=200)


def draw(n_patients=120, each=2, signal=1.5, seed=0, prevalence=0.3):
    """Embeddings, labels and patients; the label belongs to the patient, its first feature is off scale."""
    random = np.random.default_rng(seed)
    y = np.repeat((random.random(n_patients) < prevalence).astype(float), each)
    z = random.normal(size=(len(y), 6))
    z[:, 0] = 1000 + 50 * (z[:, 0] + signal * y)
    z[:, 5] = 3.0  # a feature that never varies
    return z, y, np.repeat(np.arange(n_patients), each)


@pytest.mark.parametrize("scaling", ["feature", "whole"])
def test_weights_hold_the_scaling(scaling, monkeypatch):
    monkeypatch.setattr(head, "SETTINGS", ((scaling, 3.0), (scaling, 30.0)))
    z, y, patients = draw()
    found = head.fit(z, y, patients, 0, replicates=200)
    assert found.facts["scaling"] == scaling
    sd = z.std(0)
    length = np.where(sd > 0, sd, 1) * np.sqrt(5) if scaling == "feature" else np.sqrt((sd**2).sum())  # 5 vary
    scaled = (z - z.mean(0)) / length
    reference = LogisticRegression(C=found.facts["penalty_c"], max_iter=10_000).fit(scaled, y)
    margin = reference.decision_function(scaled)
    np.testing.assert_allclose(z @ found.weight + found.bias, margin, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(found.predict(z), 1 / (1 + np.exp(-(found.platt_a * margin + found.platt_b))))


def test_probabilities_mean_what_they_say_on_new_patients():
    found = head.fit(*draw(n_patients=1500, each=1), 0, replicates=200)
    z, y, _ = draw(n_patients=6000, each=1, seed=1)
    p = found.predict(z)
    for low, high in ((0, 0.2), (0.2, 0.5), (0.5, 1)):
        chosen = (p >= low) & (p < high)
        assert chosen.sum() > 100
        assert y[chosen].mean() == pytest.approx(p[chosen].mean(), abs=0.06)


def test_out_of_fold_scores_come_from_strangers():
    # Pure noise, as wide as there are rows: scored by a model that saw the rows the AUROC would be about 1.
    random = np.random.default_rng(0)
    patients = np.repeat(np.arange(30), 4)
    y = np.repeat(np.arange(30) % 2, 4).astype(float)
    z = np.repeat(random.normal(size=(30, 100)), 4, axis=0) + 0.01 * random.normal(size=(120, 100))
    _, margin = head._out_of_fold(z, y, patients, 0)
    assert auroc(y, margin) < 0.8


def test_every_fold_leaves_both_classes_and_keeps_patients_whole():
    random = np.random.default_rng(0)
    for seed in range(50):
        patients = np.repeat(np.arange(20), 3)
        y = np.ones(60)
        y[random.choice(20, 5, replace=False) * 3] = 0  # five patients have one negative row beside positive ones
        folds = head._folds(y, patients, seed)
        assert pd.Series(folds).groupby(patients).nunique().max() == 1
        for fold in range(head.FOLDS):
            assert set(y[folds != fold]) == {0.0, 1.0}


@pytest.mark.parametrize(("positive", "answers"), [(4, False), (5, True)])
def test_refuses_fewer_than_five_patients_of_a_class(positive, answers):
    z, _, patients = draw(n_patients=60)
    y = (patients < positive).astype(float)
    z[:, 0] += 500 * y
    if answers:
        found = head.fit(z, y, patients, 0, replicates=200)
        assert any("only 5 positive patients" in caveat for caveat in found.facts["caveats"])
    else:
        with pytest.raises(CheckFailed, match="4 positive and 56 negative patients, at least 5"):
            head.fit(z, y, patients, 0, replicates=200)


def test_refuses_scores_that_do_not_rank():
    random = np.random.default_rng(4)
    z, y = random.normal(size=(100, 6)), np.arange(100) % 2.0
    # Each patient has a twin of the other class, so what is learnt from one is wrong for the other.
    z[1::2] = z[::2]
    with pytest.raises(CheckFailed, match="do not rank positives above negatives"):
        head.fit(z, y, np.arange(100), 0, replicates=200)


def test_written_and_read_back(tmp_path, tiny_dataset):
    vectors = make_vectors(tiny_dataset, tmp_path / "vectors", "made", signal=2.0)
    said = head.run(tiny_dataset, vectors, "pneumonia", tmp_path / "out", QUICK)
    assert said == json.loads((tmp_path / "out" / "head.json").read_text())
    assert said["answered"]
    assert (said["label"], said["encoder"], said["modality"], said["dim"]) == ("pneumonia", "made", "XR", 8)
    assert said["caution"] == "made by a test"
    assert said["run"]["data_digest"] == Dataset.open(tiny_dataset).facts.digest
    read = head.Head.load(tmp_path / "out")
    cohort, embedded = Dataset.open(tiny_dataset), Vectors.open(vectors)
    table = cohort.manifest
    test = ((table["split"] == "test") & table["pneumonia"].notna()).to_numpy()
    p, y = read.predict(embedded.z_ND[test]), table.loc[test, "pneumonia"].to_numpy()
    figures = said["test"]
    assert figures["n"] == test.sum()
    assert figures["n_positive"] == y.sum()
    assert figures["sensitivity"]["value"] == pytest.approx((p[y == 1] >= read.threshold).mean())
    assert figures["specificity"]["value"] == pytest.approx((p[y == 0] < read.threshold).mean())
    assert figures["brier"]["value"] == pytest.approx(((p - y) ** 2).mean())
    assert figures["auroc"]["low"] <= figures["auroc"]["value"] <= figures["auroc"]["high"]
    again = head.run(tiny_dataset, vectors, "pneumonia", tmp_path / "again", QUICK)
    assert again == said


def test_test_rows_do_not_touch_the_head(tmp_path, tiny_dataset):
    vectors = make_vectors(tiny_dataset, tmp_path / "vectors", "made", signal=2.0)
    head.run(tiny_dataset, vectors, "pneumonia", tmp_path / "out", QUICK)
    embedded = Vectors.open(vectors)
    z = np.array(embedded.z_ND)
    z[embedded.rows["split"] == "test"] = 77.0
    replace(embedded, z_ND=z).write(tmp_path / "other")
    head.run(tiny_dataset, tmp_path / "other", "pneumonia", tmp_path / "out2", QUICK)
    one, two = head.Head.load(tmp_path / "out"), head.Head.load(tmp_path / "out2")
    np.testing.assert_array_equal(one.weight, two.weight)
    assert (one.bias, one.platt_a, one.platt_b, one.threshold) == (two.bias, two.platt_a, two.platt_b, two.threshold)


def test_absent_label_is_said_and_replaces_an_older_head(tmp_path, tiny_dataset):
    vectors = make_vectors(tiny_dataset, tmp_path / "vectors", "made", signal=2.0)
    head.run(tiny_dataset, vectors, "pneumonia", tmp_path / "out", QUICK)
    said = head.run(tiny_dataset, vectors, "dementia", tmp_path / "out", QUICK)
    assert not said["answered"]
    assert said["n_known"] == 0
    assert "dementia for no XR image" in said["why"]
    assert not (tmp_path / "out" / "head.npz").exists()
    with pytest.raises(CheckFailed, match="does not answer for dementia"):
        head.Head.load(tmp_path / "out")
    with pytest.raises(DatasetError, match="absent or damaged"):
        head.facts(tmp_path)


def test_damaged_weights_are_an_error_in_words(tmp_path, tiny_dataset):
    vectors = make_vectors(tiny_dataset, tmp_path / "vectors", "made", signal=2.0)
    head.run(tiny_dataset, vectors, "pneumonia", tmp_path / "out", QUICK)
    (tmp_path / "out" / "head.npz").write_bytes(b"no archive")
    with pytest.raises(DatasetError, match="damaged"):
        head.Head.load(tmp_path / "out")


def test_one_class_test_split_leaves_figures_blank(tmp_path):
    dataset = make_dataset(tmp_path / "dataset", n_patients=60)
    path = dataset / "manifest.parquet"
    table = pd.read_parquet(path)
    table.loc[table["split"] == "test", "pneumonia"] = 0.0
    table.to_parquet(path, index=False)
    vectors = make_vectors(dataset, tmp_path / "vectors", "made", signal=2.0)
    said = head.run(dataset, vectors, "pneumonia", tmp_path / "out", QUICK)
    assert said["test"]["auroc"]["value"] is None
    assert said["test"]["sensitivity"]["value"] is None
    assert "insufficient data" in said["test"]["sensitivity"]["note"]
    assert said["test"]["specificity"]["n"] == 24


def test_an_auroc_on_a_handful_of_patients_is_not_given():
    """One ill patient resampled is always the same patient: the interval would be narrow and mean nothing."""
    random = np.random.default_rng(0)
    made = head.Head(np.array([1.0]), 0.0, 1.0, 0.0, 0.5, "pneumonia", {})
    z, patients = random.normal(size=(60, 1)), np.arange(60)
    for n_ill, given in ((4, False), (5, True)):
        said = head.judge(made, z, (np.arange(60) < n_ill).astype(float), patients, 100, 0)
        assert (said["auroc"]["value"] is not None) is given
        assert ("insufficient data" in said["auroc"]["note"]) is not given
