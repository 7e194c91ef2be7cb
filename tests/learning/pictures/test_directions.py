"""Directions of attributes: against closed forms, and on embeddings whose causes are known."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from hilum.data.store import Dataset
from hilum.errors import DatasetError, UsageError
from hilum.learning.pictures import directions
from hilum.ranking import auroc

N, D = 300, 6


@pytest.fixture
def made() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Feature 2 carries y, feature 3 moves with feature 2, feature 5 is constant; scales differ."""
    random = np.random.default_rng(0)
    patients = np.repeat(np.arange(N // 2), 2)
    y = random.normal(50, 20, N)
    z = random.normal(0, 1, (N, D)) * [1, 10, 1, 1, 0.1, 1] + 3
    z[:, 2] += (y - 50) / 10
    z[:, 3] = 2 * z[:, 2] + 0.1 * random.normal(0, 1, N)
    z[:, 5] = 7
    return z, y, patients


def test_weights_are_ridge_regression_of_standardised_features(made: tuple[np.ndarray, ...]) -> None:
    z, y, patients = made
    found = directions.fit(z, y, patients)
    s = (z - z.mean(axis=0)) / np.where(z.std(axis=0) > 0, z.std(axis=0), 1)
    expected = Ridge(alpha=found.ridge * N).fit(s, (y - y.mean()) / y.std())
    np.testing.assert_allclose(found.weights_D, expected.coef_, atol=1e-9)
    assert (found.n, found.n_patients) == (N, N // 2)


def test_a_step_raises_the_score_by_a_standard_deviation(made: tuple[np.ndarray, ...]) -> None:
    z, y, patients = made
    found = directions.fit(z, y, patients)
    scores = found.score(z)
    assert scores.mean() == pytest.approx(0, abs=1e-9)
    assert scores.std() == pytest.approx(1)
    for by in (-3.0, 0.5, 2.0):
        np.testing.assert_allclose(found.score(found.moved(z, by)), scores + by, atol=1e-9)


def test_the_way_is_how_embeddings_vary_with_the_score(made: tuple[np.ndarray, ...]) -> None:
    z, y, patients = made
    found = directions.fit(z, y, patients)
    scores = found.score(z)
    slopes = [np.polyfit(scores, z[:, d], 1)[0] for d in range(D)]
    np.testing.assert_allclose(found.way_D, slopes, atol=1e-8)
    assert found.way_D[3] == pytest.approx(2 * found.way_D[2], rel=0.05)  # feature 3 goes along, whatever its weight
    assert found.way_D[5] == 0


def test_the_score_finds_the_cause_and_unknown_values_are_left_out(made: tuple[np.ndarray, ...]) -> None:
    z, y, patients = made
    holes = y.copy()
    holes[::3] = np.nan
    found = directions.fit(z, holes, patients)
    assert found.n == N - N // 3
    assert np.corrcoef(found.score(z[::3]), y[::3])[0, 1] > 0.85
    known = ~np.isnan(holes)
    same = directions.fit(z[known], y[known], patients[known])
    np.testing.assert_array_equal(found.way_D, same.way_D)


def test_the_penalty_grows_where_features_are_noise() -> None:
    random = np.random.default_rng(1)
    z, patients = random.normal(size=(80, 60)), np.arange(80)
    assert directions.fit(z, random.normal(size=80), patients).ridge >= 1
    assert directions.fit(z, z[:, 0] - z[:, 1], patients).ridge <= 1e-2


def test_too_few_patients_and_a_constant_attribute_are_refused(made: tuple[np.ndarray, ...]) -> None:
    z, y, _ = made
    with pytest.raises(DatasetError, match="known for 5 and has"):
        directions.fit(z, y, np.arange(N) % 5)
    with pytest.raises(DatasetError, match="has 1 values"):
        directions.fit(z, np.ones(N), np.arange(N))


def test_auroc_counts_ties_half_as_sklearn_does() -> None:
    random = np.random.default_rng(0)
    scores, y = np.round(random.normal(size=200), 1), random.choice([-1.0, 1.0], 200)
    assert auroc(y > 0, scores) == pytest.approx(roc_auc_score(y, scores))
    assert np.isnan(auroc(np.ones(200), scores))


def test_quality_is_of_held_out_images_with_an_interval_over_patients(made: tuple[np.ndarray, ...]) -> None:
    z, y, patients = made
    found = directions.fit(z[:200], y[:200], patients[:200])
    z, y, patients = z[200:], y[200:], patients[200:]
    told = directions.quality(found, "continuous", z, y, patients)
    assert told["value"] == pytest.approx(np.corrcoef(found.score(z), y)[0, 1])
    assert told["low"] < told["value"] < told["high"] <= 1
    assert (told["measure"], told["n"], told["n_patients"]) == ("correlation", 100, 50)
    sides = np.where(y > 50, 1.0, -1.0)
    told = directions.quality(found, "binary", z, sides, patients)
    assert told["value"] == pytest.approx(roc_auc_score(sides, found.score(z)))
    # One patient's films many times over are no further patients: the interval does not shrink.
    many = directions.quality(found, "binary", *(np.repeat(a, 5, axis=0) for a in (z, sides, patients)))
    assert many["high"] - many["low"] == pytest.approx(told["high"] - told["low"], rel=0.05)


def test_quality_says_where_there_are_too_few_patients(made: tuple[np.ndarray, ...]) -> None:
    z, y, patients = made
    found = directions.fit(z, y, patients)
    sides = np.where(patients < 9, 1.0, -1.0)
    told = directions.quality(found, "binary", z, sides, patients)
    assert told["value"] is None
    assert told["remark"] == "insufficient data: fewer than 10 patients"


def test_attributes_are_labels_words_numbers_and_values(tiny_dataset: Path) -> None:
    dataset = Dataset.open(tiny_dataset)
    rows, table = dataset.rows(), dataset.manifest
    sex = directions.attribute(dataset, "sex", rows)
    assert (sex.kind, sex.less, sex.more) == ("binary", "sex F", "sex M")
    np.testing.assert_array_equal(sex.y_N, np.where(table["sex"] == "M", 1.0, -1.0))
    assert directions.attribute(dataset, "sex=F", rows).more == "sex F"
    view = directions.attribute(dataset, "view=AP", rows)
    assert (view.less, view.more) == ("view PA", "view AP")
    ill = directions.attribute(dataset, "pneumonia", rows)
    assert (ill.kind, ill.more) == ("binary", "with pneumonia")
    np.testing.assert_array_equal(np.isnan(ill.y_N), table["pneumonia"].isna())
    assert set(ill.y_N[~np.isnan(ill.y_N)]) == {-1.0, 1.0}
    age = directions.attribute(dataset, "age_years", rows)
    assert (age.kind, age.less) == ("continuous", "lower age_years")
    np.testing.assert_array_equal(age.y_N, table["age_years"])
    assert directions.attribute(dataset, "o2_saturation_pct", rows).kind == "continuous"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("patient_id", "take one of pneumonia, no_finding, sex, view, site, source, age_years, o2_saturation_pct"),
        ("nonsense", "a direction is asked of 'nonsense'"),
        ("pneumonia=1", "a direction is asked of 'pneumonia=1'"),
        ("source", "source has the values made; say which one is meant, as in source=made"),
        ("source=made", "source is made in this dataset, so 'source=made' has no two sides"),
        ("view=LATERAL", "view is AP or PA in this dataset"),
    ],
)
def test_what_is_no_attribute_is_refused(name: str, message: str, tiny_dataset: Path) -> None:
    dataset = Dataset.open(tiny_dataset)
    with pytest.raises(UsageError, match=message):
        directions.attribute(dataset, name, dataset.rows())
