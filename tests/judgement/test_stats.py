import time

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from hilum.judgement import stats
from hilum.ranking import auroc


def naive_auroc(y, score, weight=None):
    """Definition: the share of positive-negative pairs in the right order, ties one half."""
    weight = np.ones(len(y)) if weight is None else weight
    won = pairs = 0.0
    for i in range(len(y)):
        for j in range(len(y)):
            if y[i] == 1 and y[j] == 0:
                pairs += weight[i] * weight[j]
                won += weight[i] * weight[j] * ((score[i] > score[j]) + 0.5 * (score[i] == score[j]))
    return won / pairs if pairs else float("nan")


@pytest.fixture
def cohort():
    random = np.random.default_rng(3)
    patients = np.repeat([f"p{i}" for i in range(40)], random.integers(1, 5, 40))
    y = (random.random(len(patients)) < 0.4).astype(float)
    score = np.round(y + random.normal(size=len(y)), 1)  # rounded: ties
    return patients, y, score


def test_auroc_counts_pairs(cohort):
    _, y, score = cohort
    assert len(np.unique(score)) < len(score)
    assert auroc(y, score) == pytest.approx(naive_auroc(y, score))
    assert auroc(y, -score) == pytest.approx(1 - auroc(y, score))
    assert np.isnan(auroc(np.ones(5), np.arange(5)))


def test_weighted_auroc_counts_weighted_pairs_and_leaves_unknown_out(cohort):
    _, y, score = cohort
    weights = np.random.default_rng(0).integers(0, 4, (7, len(y))).astype(float)
    expected = [naive_auroc(y, score, w) for w in weights]
    np.testing.assert_allclose(stats.weighted_auroc(weights, y, score), expected)
    unknown = y.copy()
    unknown[::3] = np.nan
    np.testing.assert_allclose(
        stats.weighted_auroc(weights, unknown, score), [naive_auroc(unknown, score, w) for w in weights]
    )


def test_strata_compare_only_within():
    y = np.array([0, 1, 0, 1.0])
    score = np.array([0.0, 1.0, 10.0, 11.0])  # the second fold's scores have another offset
    fold = np.array([0, 0, 1, 1])
    one = np.ones((1, 4))
    assert stats.weighted_auroc(one, y, score)[0] == 0.75
    assert stats.weighted_auroc(one, y, score, fold)[0] == 1.0
    assert np.isnan(stats.weighted_auroc(one, y, score, np.arange(4))[0])


def test_metrics_equal_scikit_learn_on_repeated_rows():
    random = np.random.default_rng(1)
    truth, predicted = random.integers(0, 3, 60), random.integers(0, 3, 60)
    score = random.normal(size=(60, 3))
    age, guess = random.uniform(20, 90, 60), random.uniform(20, 90, 60)
    weights = random.integers(1, 4, (5, 60))
    for r, times in enumerate(weights):
        rows = np.repeat(np.arange(60), times)
        w = weights[r : r + 1].astype(float)
        assert stats.weighted_balanced_accuracy(w, truth, predicted)[0] == pytest.approx(
            metrics.balanced_accuracy_score(truth[rows], predicted[rows])
        )
        macro = np.mean([metrics.roc_auc_score(truth[rows] == k, score[rows, k]) for k in range(3)])
        assert stats.weighted_macro_auroc(w, truth, score)[0] == pytest.approx(macro)
        assert stats.weighted_mae(w, age, guess)[0] == pytest.approx(
            metrics.mean_absolute_error(age[rows], guess[rows])
        )
        assert stats.weighted_r2(w, age, guess)[0] == pytest.approx(metrics.r2_score(age[rows], guess[rows]))


def test_bootstrap_resamples_whole_patients(cohort):
    patients, y, score = cohort
    seen = []

    def spy(w_RN, *arrays):
        seen.append(w_RN)
        return stats.weighted_auroc(w_RN, *arrays)

    stats.patient_bootstrap(spy, patients, 200, 0, y, score)
    weights = pd.DataFrame(np.concatenate(seen[1:]).T, index=patients)
    per_patient = weights.groupby(level=0).nunique()
    assert (per_patient == 1).all().all(), "all rows of a patient are drawn equally often"
    assert (weights.groupby(level=0).first().sum() == 40).all(), "as many patients are drawn as there are"


def test_bootstrap_agrees_with_a_naive_loop(cohort):
    patients, y, score = cohort
    interval = stats.patient_bootstrap(stats.weighted_auroc, patients, 4000, 0, y, score)
    random, names = np.random.default_rng(9), np.unique(patients)
    rows_of = {name: np.flatnonzero(patients == name) for name in names}
    replicates = []
    for _ in range(4000):
        rows = np.concatenate([rows_of[name] for name in random.choice(names, len(names))])
        replicates.append(auroc(y[rows], score[rows]))
    assert interval.value == pytest.approx(auroc(y, score))
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(replicates, [0.025, 0.975])), abs=0.01)
    assert (interval.n, interval.n_patients, interval.n_dropped) == (len(y), 40, 0)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(5)
    covered = 0
    for draw in range(200):
        effect = random.normal(size=50)  # shared by a patient's four rows: rows are not independent
        value = np.repeat(effect, 4) + random.normal(size=200)
        interval = stats.patient_bootstrap(stats.weighted_mean, np.repeat(np.arange(50), 4), 300, draw, value)
        covered += interval.low <= 0 <= interval.high
    assert 0.88 <= covered / 200 <= 0.99  # a bootstrap of rows covers about 0.7 here


def test_bootstrap_does_not_depend_on_row_order_and_repeats(cohort):
    patients, y, score = cohort
    first = stats.patient_bootstrap(stats.weighted_auroc, patients, 300, 4, y, score)
    order = np.random.default_rng(0).permutation(len(y))
    again = stats.patient_bootstrap(stats.weighted_auroc, patients[order], 300, 4, y[order], score[order])
    assert first.facts() == pytest.approx(again.facts())
    assert first != stats.patient_bootstrap(stats.weighted_auroc, patients, 300, 5, y, score)


def test_bootstrap_is_quick():
    random = np.random.default_rng(0)
    y, score = (random.random(2000) < 0.3).astype(float), random.normal(size=2000)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        stats.patient_bootstrap(stats.weighted_auroc, np.arange(2000) // 2, 1000, 0, y, score)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1.0


def test_undefined_is_said_and_never_a_number():
    one_class = stats.patient_bootstrap(stats.weighted_auroc, np.arange(9), 100, 0, np.ones(9), np.arange(9.0))
    assert np.isnan([one_class.value, one_class.low, one_class.high]).all()
    assert "insufficient data" in one_class.note
    assert str(one_class) == one_class.note
    assert one_class.facts()["value"] is None
    empty = stats.patient_bootstrap(stats.weighted_mean, [], 100, 0, np.array([]))
    assert empty.n == 0
    assert "no rows" in empty.note
    alone = stats.patient_bootstrap(stats.weighted_mean, ["a", "a"], 100, 0, np.array([1.0, 2.0]))
    assert alone.value == 1.5
    assert not alone.bounded


def test_replicates_without_a_class_are_dropped_and_counted():
    y = np.array([1.0, 1, 0, 0, 0, 0, 0, 0])
    rare = stats.patient_bootstrap(stats.weighted_auroc, [0, 0, 1, 2, 3, 4, 5, 6], 1000, 0, y, np.arange(8.0))
    # The only positive patient is left out with probability (6/7)^7, about 0.34.
    assert 280 < rare.n_dropped < 400
    assert rare.bounded
    y[1:7] = np.nan  # one positive and one negative patient: most resamples lack one of them
    lone = stats.patient_bootstrap(stats.weighted_auroc, [0, 0, 1, 2, 3, 4, 5, 6], 1000, 0, y, np.arange(8.0))
    assert lone.n_dropped > 500
    assert not lone.bounded
    assert "no interval" in lone.note


def test_perfect_separation_is_noted():
    y = np.repeat([0.0, 1.0], 10)
    perfect = stats.patient_bootstrap(stats.weighted_auroc, np.arange(20), 200, 0, y, y)
    assert (perfect.value, perfect.low, perfect.high) == (1, 1, 1)
    assert "no width" in perfect.note


def test_wilson_solves_its_equation():
    for k, n in ((3, 10), (0, 8), (8, 8), (40, 200)):
        low, high = stats.wilson(k, n)
        for bound in (low, high):
            if 0 < bound < 1:  # the score equation (p - bound)^2 = z^2 bound (1 - bound) / n
                assert (k / n - bound) ** 2 == pytest.approx(stats.Z_95**2 * bound * (1 - bound) / n)
        assert 0 <= low <= k / n <= high <= 1
    assert np.isnan(stats.wilson(0, 0)).all()


def test_proportion_widens_where_patients_repeat():
    hits = np.repeat([1, 0, 1, 1, 0, 1, 1, 0, 1, 1], 5)
    clustered = stats.proportion(hits, np.repeat(np.arange(10), 5))
    low, high = stats.wilson(7, 10)
    # Five equal rows of a patient say no more than one.
    assert (clustered.low, clustered.high) == pytest.approx((low, high), abs=0.02)
    single = stats.proportion(hits, np.arange(50))
    assert (single.low, single.high) == pytest.approx(stats.wilson(35, 50), abs=0.01)
    assert single.high - single.low < clustered.high - clustered.low
    every = stats.proportion(np.ones(20), np.arange(20) // 4)
    assert (every.value, every.low) == pytest.approx((1.0, stats.wilson(5, 5)[0]))
    assert (every.n, every.n_patients) == (20, 5)
    assert "no rows" in stats.proportion([], []).note
