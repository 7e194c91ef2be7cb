import json

import numpy as np
import pandas as pd
import pytest
from made_vectors import make_vectors

from hilum.data.store import Dataset, DatasetFacts
from hilum.data.vectors import Vectors
from hilum.errors import DatasetError
from hilum.judgement.explorer import columns


def named(found, name, group=None):
    (one,) = [one for one in found if one.name == name and group in (None, one.group)]
    return one


def texts(column):
    return [column.levels[int(value)] if np.isfinite(value) else None for value in column.values]


def test_attributes_labels_and_covariates_of_a_dataset(tiny_dataset):
    opened = Dataset.open(tiny_dataset)
    found = columns.of_dataset(opened, opened.manifest)
    assert [one.name for one in found] == [
        "view", "sex", "age (years; 90 is 90 or more)", "site", "source", "split", "pneumonia", "no finding",
        "o2 saturation pct",
    ]  # fmt: skip
    assert texts(named(found, "sex")) == opened.manifest["sex"].tolist()
    assert named(found, "split").levels == ("train", "val", "test")
    said = {1.0: "present", 0.0: "absent"}
    assert texts(named(found, "pneumonia")) == [said.get(value) for value in opened.manifest["pneumonia"]]
    covariate = named(found, "o2 saturation pct")
    assert covariate.levels == ()
    np.testing.assert_array_equal(covariate.values, opened.manifest["o2_saturation_pct"])


def made(tiny_dataset, **changes):
    """The tiny dataset with other columns."""
    opened = Dataset.open(tiny_dataset)
    table = opened.manifest.assign(**changes)
    attributes = tuple(name for name in changes if name not in opened.manifest)
    facts = DatasetFacts.model_validate({**opened.facts.model_dump(), "attributes": attributes})
    return Dataset(opened.path, facts, table), table


def test_what_few_patients_share_is_not_named(tiny_dataset):
    opened = Dataset.open(tiny_dataset)
    patient = opened.manifest["patient_id"].str[1:].astype(int)
    remark = np.select([patient < 4, patient < 30], ["Mrs Miller", "upright"], "supine")
    (one,) = [c for c in columns.of_dataset(*made(tiny_dataset, remark=remark)) if c.name == "remark"]
    assert one.levels == ("supine", "upright", "other")
    assert [text == "other" for text in texts(one)] == (patient < 4).tolist()


def test_many_levels_become_the_frequent_ones_and_other(tiny_dataset):
    opened = Dataset.open(tiny_dataset)
    ward = opened.manifest["patient_id"].str[1:].astype(int).map(lambda i: f"ward {min(i // 5, 9)}")
    (one,) = [c for c in columns.of_dataset(*made(tiny_dataset, ward=ward)) if c.name == "ward"]
    assert len(one.levels) == 7
    assert one.levels[-1] == "other"
    assert "ward 9" in one.levels  # the most frequent
    assert np.isfinite(one.values).all()


def test_ages_above_89_are_not_told(tiny_dataset):
    _, table = made(tiny_dataset)
    table["age_years"] = np.linspace(60, 101, len(table))
    age = named(columns.of_dataset(Dataset.open(tiny_dataset), table), "age (years; 90 is 90 or more)").values
    assert age.max() == 90
    np.testing.assert_array_equal(age[table["age_years"] < 89], table["age_years"][table["age_years"] < 89].round())


def test_uncertain_labels_have_a_level_of_their_own(tiny_dataset):
    dataset, table = made(tiny_dataset)
    table.loc[3, "pneumonia"] = -1.0
    assert texts(named(columns.of_dataset(dataset, table), "pneumonia"))[3] == "uncertain"


def test_the_wrong_side_is_one_minus_auroc_on_average():
    random = np.random.default_rng(0)
    truth = random.integers(0, 2, 80).astype(float)
    truth[:5] = np.nan
    score = np.round(random.normal(size=80) + truth.astype(float, copy=True).clip(0, 1), 1)  # with ties
    score[:5] = 0
    wrong = columns.wrong_side(truth, score)
    for i in range(80):
        others = [j for j in range(80) if truth[j] == 1 - truth[i]]
        if np.isnan(truth[i]):
            assert np.isnan(wrong[i])
            continue
        sign = 1 if truth[i] == 1 else -1
        losses = [1.0 if sign * (score[j] - score[i]) > 0 else 0.5 if score[j] == score[i] else 0.0 for j in others]
        assert wrong[i] == pytest.approx(np.mean(losses))
    assert wrong[truth == 1].mean() == pytest.approx(wrong[truth == 0].mean())
    assert np.isnan(columns.wrong_side(np.ones(4), np.arange(4.0))).all()


def make_probe(folder, vectors, headline="rbf"):
    """A probe's folder with answers of two machines for the test split."""
    opened = Vectors.open(vectors)
    held = np.flatnonzero(opened.rows["split"] == "test")
    random = np.random.default_rng(0)
    truths = {"pneumonia": (held % 2).astype(float), "age_years": 40.0 + held}
    pieces = [
        pd.DataFrame(
            {
                "row": opened.rows["row"].to_numpy()[held],
                "patient": held,
                "task": task,
                "kernel": kernel,
                "split": "test",
                "fold": held % 3,
                "score": truth + random.normal(size=len(held)),
                "truth": truth,
            }
        )
        for task, truth in truths.items()
        for kernel in ("linear", "rbf")
    ]
    folder.mkdir()
    table = pd.concat(pieces, ignore_index=True)
    table.sample(frac=1.0, random_state=1).to_parquet(folder / "predictions.parquet", index=False)
    facts = {"encoder": opened.facts.encoder, "headline_kernel": headline, "embedding_run": opened.facts.run}
    (folder / "probe.json").write_text(json.dumps(facts))
    return table[table["kernel"] == headline], held


def test_scores_and_errors_of_a_probe(tiny_dataset, tmp_path):
    vectors = make_vectors(tiny_dataset, tmp_path / "vectors", "moco", 2.0)
    answers, held = make_probe(tmp_path / "probe", vectors)
    found = columns.of_probe(tmp_path / "probe", Vectors.open(vectors))
    assert {(one.name, one.group) for one in found} == {
        (name, group) for name in ("pneumonia", "age years") for group in ("Probe scores", "Probe errors")
    }
    for one in found:
        assert np.flatnonzero(np.isfinite(one.values)).tolist() == held.tolist()
    age = answers[answers["task"] == "age_years"]
    score, error = (named(found, "age years", group).values[held] for group in ("Probe scores", "Probe errors"))
    np.testing.assert_allclose(score, age["score"])
    np.testing.assert_allclose(error, np.abs(age["score"] - age["truth"]))
    ill = answers[answers["task"] == "pneumonia"]
    for fold, of in ill.groupby("fold"):  # machines of two folds have two scales, so ranks are of one fold
        at = held[held % 3 == fold]
        expected = columns.wrong_side(of["truth"].to_numpy(), of["score"].to_numpy())
        np.testing.assert_allclose(named(found, "pneumonia", "Probe errors").values[at], expected)


def test_a_probe_of_another_embedding_is_refused(tiny_dataset, tmp_path):
    make_probe(tmp_path / "probe", make_vectors(tiny_dataset, tmp_path / "one", "moco", 2.0))
    other = Vectors.open(make_vectors(tiny_dataset, tmp_path / "two", "vae", 2.0))
    with pytest.raises(DatasetError, match="probes another embedding"):
        columns.of_probe(tmp_path / "probe", other)
