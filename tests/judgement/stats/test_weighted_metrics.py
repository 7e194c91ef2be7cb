"""Weighted metrics against their definitions, written as loops over rows, and against scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics

from hilum.judgement import stats
from hilum.judgement.probing import calibration
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


def test_average_precision_agrees_with_scikit_learn_weights_and_ties_included():
    random = np.random.default_rng(0)
    y, score = (random.random(80) < 0.3).astype(float), random.integers(0, 12, 80).astype(float)
    weights = random.integers(0, 4, (5, 80)).astype(float)
    found = stats.weighted_auprc(weights, y, score)
    for replicate in range(5):
        expected = metrics.average_precision_score(y, score, sample_weight=weights[replicate])
        assert found[replicate] == pytest.approx(expected)
    assert np.isnan(stats.weighted_auprc(np.ones((1, 3)), np.zeros(3), np.arange(3.0))).all()
    unknown = y.copy()
    unknown[:9] = np.nan
    expected = metrics.average_precision_score(y[9:], score[9:], sample_weight=weights[0, 9:])
    assert stats.weighted_auprc(weights, unknown, score)[0] == pytest.approx(expected)


def naive_ece(y, p, bins):
    """A row's bin is that of the middle of its tie in the sorted rows; then the sum of |mean p - mean y| by share."""
    n, members = len(y), {}
    for i in range(n):
        below, tied = sum(q < p[i] for q in p), sum(q == p[i] for q in p)
        members.setdefault(min(bins - 1, int(bins * (2 * below + tied) // (2 * n))), []).append(i)
    return sum(len(m) / n * abs(np.mean(p[m]) - np.mean(y[m])) for m in members.values())


def test_calibration_error_has_bins_of_equal_mass_of_the_rows_drawn():
    random = np.random.default_rng(2)
    p = np.round(random.random(70), 1)
    y = (random.random(70) < p).astype(float)
    weights = random.integers(0, 4, (6, 70))
    found = stats.weighted_ece(weights.astype(float), y, p, bins=7)
    for times, value in zip(weights, found, strict=True):
        rows = np.repeat(np.arange(70), times)
        assert value == pytest.approx(naive_ece(y[rows], p[rows], 7))
    unknown = np.r_[y, np.nan]
    assert stats.weighted_ece(np.ones((1, 71)), unknown, np.r_[p, 0.3], 7)[0] == pytest.approx(naive_ece(y, p, 7))
    apart = random.permutation(200) / 200  # no ties: the bins are those of the probe's calibration error
    y = (random.random(200) < apart).astype(float)
    assert stats.weighted_ece(np.ones((1, 200)), y, apart)[0] == pytest.approx(calibration.ece(y, apart)[0])
    assert stats.weighted_ece(np.ones((1, 4)), np.array([0, 0, 1, 1.0]), np.array([0, 0, 1, 1.0]))[0] == 0
    assert stats.weighted_ece(np.ones((1, 4)), np.array([0, 0, 1, 1.0]), np.array([1, 1, 0, 0.0]))[0] == 1


def test_rates_of_decisions_are_those_of_the_rows_drawn():
    random = np.random.default_rng(3)
    y, p = (random.random(60) < 0.4).astype(float), random.random(60)
    called = (p > 0.5).astype(float)
    weights = random.integers(0, 3, (4, 60))
    for r, times in enumerate(weights):
        rows = np.repeat(np.arange(60), times)
        w = weights[r : r + 1].astype(float)
        tn, fp, fn, tp = metrics.confusion_matrix(y[rows], called[rows]).ravel()
        assert stats.weighted_sensitivity(w, y, called)[0] == pytest.approx(tp / (tp + fn))
        assert stats.weighted_specificity(w, y, called)[0] == pytest.approx(tn / (tn + fp))
        assert stats.weighted_ppv(w, y, called)[0] == pytest.approx(tp / (tp + fp))
        assert stats.weighted_selection_rate(w, called)[0] == pytest.approx((tp + fp) / (tp + fp + fn + tn))
        assert stats.weighted_brier(w, y, p)[0] == pytest.approx(metrics.brier_score_loss(y[rows], p[rows]))


ONE = np.ones((1, 4))
CALLED = np.array([1, 0, 1, 0])


@pytest.mark.parametrize(
    ("statistic", "y"),
    [
        (stats.weighted_auroc, np.ones(4)),
        (stats.weighted_auroc, np.zeros(4)),
        (stats.weighted_auprc, np.zeros(4)),
        (stats.weighted_sensitivity, np.zeros(4)),
        (stats.weighted_specificity, np.ones(4)),
    ],
)
def test_one_class_alone_is_undefined(statistic, y):
    assert np.isnan(statistic(ONE, y, CALLED)[0])


def test_unknown_truths_take_no_part_and_nothing_known_is_undefined():
    y = np.array([1, 0, np.nan, np.nan])
    called = np.array([1, 1, 0, 1])
    assert stats.weighted_sensitivity(ONE, y, called)[0] == 1
    assert stats.weighted_specificity(ONE, y, called)[0] == 0
    assert stats.weighted_ppv(ONE, y, called)[0] == 0.5
    assert stats.weighted_brier(ONE, y, called)[0] == 0.5
    assert np.isnan(stats.weighted_ppv(ONE, np.array([1, 0, 1, 0.0]), np.zeros(4))[0])  # nobody is called
    for statistic in (stats.weighted_auroc, stats.weighted_auprc, stats.weighted_ece, stats.weighted_brier):
        assert np.isnan(statistic(ONE, np.full(4, np.nan), np.arange(4.0))[0])


def test_a_missing_score_leaves_no_row_out():
    y = np.array([1, 0, 1, np.nan])
    for statistic in (stats.weighted_auroc, stats.weighted_auprc, stats.weighted_ece, stats.weighted_brier):
        assert np.isnan(statistic(ONE, y, np.array([0.9, np.nan, 0.3, 0.2]))[0])
        assert np.isfinite(statistic(ONE, y, np.array([0.9, 0.1, 0.3, np.nan]))[0])  # that row is not asked about
