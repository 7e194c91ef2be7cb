"""The swap test against all permutations written out."""

from itertools import product

import numpy as np
import pytest

from hilum.judgement import stats
from hilum.ranking import auroc


@pytest.fixture
def cohort():
    random = np.random.default_rng(4)
    patient = np.repeat([f"p{i}" for i in range(9)], 3)
    truth = (random.random(27) < 0.4).astype(float)
    a, b = truth + random.normal(size=27), 30 * (0.2 * truth + random.normal(size=27))  # of different scales
    return patient, truth, a, b


def naive(measure, patient, a, b):
    """The share of all ways to exchange the scores patient by patient that part them at least as far."""
    names, observed, reached = np.unique(patient), abs(measure(a) - measure(b)), 0
    for swaps in product([False, True], repeat=len(names)):
        swap = np.isin(patient, names[np.array(swaps)]).reshape(-1, *[1] * (a.ndim - 1))
        reached += abs(measure(np.where(swap, b, a)) - measure(np.where(swap, a, b))) >= observed - 1e-12
    return reached / 2 ** len(names)


def test_with_few_patients_every_permutation_is_taken(cohort):
    patient, truth, a, b = cohort
    ranks = [stats.midranks(score) for score in (a, b)]
    expected = naive(lambda score: auroc(truth, score), patient, *ranks)
    assert stats.swap_test(stats.weighted_auroc, patient, truth, a, b, 512) == pytest.approx(expected)
    assert stats.swap_test(stats.weighted_auroc, patient, truth, b, a, 512) == pytest.approx(expected)
    drawn = stats.swap_test(stats.weighted_auroc, patient, truth, a, b, 511, seed=1)  # one short of all: at random
    assert drawn == pytest.approx(expected, abs=0.07)
    assert stats.swap_test(stats.weighted_auroc, patient, truth, a, b, 20_000, 2) == pytest.approx(expected)
    assert stats.swap_test(stats.weighted_auroc, patient, truth, np.exp(a), b, 512) == pytest.approx(expected)


def test_values_are_compared_as_they_are_where_a_metric_reads_them(cohort):
    patient, truth, a, b = cohort
    expected = naive(lambda score: np.abs(truth - score).mean(), patient, a, b / 30)
    found = stats.swap_test(stats.weighted_mae, patient, truth, a, b / 30, 512, ranked=False)
    assert found == pytest.approx(expected)


def test_strata_are_ranked_and_compared_apart(cohort):
    patient, truth, a, b = cohort
    fold = np.repeat([0, 1, 0], 9)

    def measure(score):
        return float(stats.weighted_auroc(np.ones((1, 27)), truth, score, fold)[0])

    ranks = [np.zeros(27), np.zeros(27)]
    for score, rank in zip((a, b), ranks, strict=True):
        for k in (0, 1):
            rank[fold == k] = stats.midranks(score[fold == k])
    expected = naive(measure, patient, *ranks)
    shifted = a + 100 * fold  # another offset in another fold changes nothing
    found = stats.swap_test(stats.weighted_auroc, patient, truth, shifted, b, 512, stratum_N=fold)
    assert found == pytest.approx(expected)


def test_several_classes(cohort):
    patient, _, a, b = cohort
    truth = np.arange(27) % 3
    ours, theirs = (np.stack([-score, score, np.abs(score)], axis=1) for score in (a, b))

    def measure(score):
        return np.mean([auroc(truth == k, score[:, k]) for k in range(3)])

    def ranked(score):
        return np.stack([stats.midranks(score[:, k]) for k in range(3)], axis=1)

    expected = naive(measure, patient, ranked(ours), ranked(theirs))
    found = stats.swap_test(stats.weighted_macro_auroc, patient, truth, ours, theirs, 512)
    assert found == pytest.approx(expected)
    assert stats.swap_test(stats.weighted_macro_auroc, patient, truth, ours, ours, 512) == 1


def test_a_plain_difference_is_found_and_p_is_never_zero():
    random = np.random.default_rng(0)
    patient = np.repeat(np.arange(60), 2)
    truth = (np.arange(120) // 2 % 2).astype(float)
    good, bad = truth + 0.5 * random.normal(size=120), random.normal(size=120)
    assert stats.swap_test(stats.weighted_auroc, patient, truth, good, bad, 999) == 1 / 1000
    assert stats.swap_test(stats.weighted_auroc, patient, truth, good, good, 999) == 1
    repeat = [stats.swap_test(stats.weighted_auroc, patient, truth, bad, -bad, 500, 3) for _ in range(2)]
    assert repeat[0] == repeat[1]


def test_undefined_is_nan(cohort):
    patient, _, a, b = cohort
    assert np.isnan(stats.swap_test(stats.weighted_auroc, patient, np.ones(27), a, b, 512))
    assert np.isnan(stats.swap_test(stats.weighted_auroc, [], np.array([]), np.array([]), np.array([]), 512))
    missing = a.copy()
    missing[0] = np.nan
    assert np.isnan(stats.swap_test(stats.weighted_auroc, patient, (a > 0).astype(float), missing, b, 512))
