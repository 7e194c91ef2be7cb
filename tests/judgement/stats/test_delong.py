"""DeLong's variance against its authors' data, the definition over all pairs, and Obuchowski's sums over patients."""

import math
import time

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, rankdata

from hilum.judgement import stats

# DeLong, DeLong & Clarke-Pearson 1988: albumin, total protein and the Krebs-Goplerud score of the 43 patients with
# ovarian cancer who have all three, and whether surgery failed to help; as the SAS/STAT guide prints them.
ALBUMIN = np.array(
    [
        3.0, 3.2, 3.9, 2.8, 3.2, 0.9, 2.5, 1.6, 3.8, 3.7, 3.2, 3.8, 4.1, 3.6, 4.3, 3.6, 2.3, 4.2, 4.0, 3.5, 3.8,
        3.0, 4.5, 3.7, 3.1, 4.1, 4.3, 4.3, 3.2, 2.6, 3.3, 1.7, 3.7, 3.3, 4.2, 3.5, 2.9, 2.1, 2.8, 4.0, 3.3, 3.7,
        3.6,
    ]
)  # fmt: skip
PROTEIN = np.array(
    [
        5.8, 6.3, 6.8, 4.8, 5.8, 4.0, 5.7, 5.6, 5.7, 6.7, 5.4, 6.6, 6.6, 5.7, 7.0, 6.7, 4.4, 7.6, 6.6, 5.8, 6.8,
        4.7, 7.4, 7.4, 6.6, 8.2, 7.0, 6.5, 5.1, 4.7, 6.8, 4.0, 6.1, 6.3, 7.7, 6.2, 5.7, 4.8, 6.2, 7.0, 5.7, 6.9,
        6.6,
    ]
)  # fmt: skip
# A high score is a bad sign.
SCORE = np.array(
    [
        -10, -5, -3, -6, -3, -5, -8, -5, -5, -6, -4, -6, -5, -5, -4, -4, -6, -4, -6, -6, -7, -8, -5, -5, -6, -6, -5,
        -4, -5, -6, -6, -7, -5, -7, -6, -5, -9, -7, -8, -7, -6, -5, -5,
    ]
)  # fmt: skip
FAILED = np.array(
    [
        0, 1, 1, 0, 1, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 0, 0, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1,
        0, 1, 0, 1, 1, 1, 1,
    ]
)  # fmt: skip


@pytest.mark.parametrize(
    ("score", "auroc", "error", "low", "high"),
    [
        (ALBUMIN, 0.7366, 0.0927, 0.5549, 0.9182),
        (SCORE, 0.7258, 0.1028, 0.5243, 0.9273),
        (PROTEIN, 0.6478, 0.1000, 0.4518, 0.8439),
    ],
)
def test_areas_and_errors_of_the_ovarian_cancer_patients_are_as_published(score, auroc, error, low, high):
    found = stats.delong(FAILED, score)
    assert (found.value, found.low, found.high) == tuple(pytest.approx(x, abs=6e-5) for x in (auroc, low, high))
    assert (found.high - found.low) / 2 / stats.Z_95 == pytest.approx(error, abs=6e-5)
    assert (found.n, found.n_patients) == (43, 43)


@pytest.mark.parametrize(
    ("score", "value", "error", "low", "high", "p"),
    [(ALBUMIN, 0.0108, 0.0953, -0.1761, 0.1976, 0.9102), (PROTEIN, -0.0780, 0.1046, -0.2830, 0.1271, 0.4561)],
)
def test_differences_from_the_kg_score_are_as_published(score, value, error, low, high, p):
    found = stats.delong_difference(FAILED, score, SCORE)
    assert (found.value, found.low, found.high, found.p) == tuple(
        pytest.approx(x, abs=6e-5) for x in (value, low, high, p)
    )
    assert (found.high - found.low) / 2 / stats.Z_95 == pytest.approx(error, abs=6e-5)


def placements(y, score):
    """By definition: for each positive its share of negatives below, for each negative that of positives above."""
    psi = np.array([[(x > z) + 0.5 * (x == z) for z in score[y == 0]] for x in score[y == 1]])
    return psi.mean(axis=1), psi.mean(axis=0)


def naive_covariance(y, a, b, patient):
    """Obuchowski 1997, section 2, patient by patient; with one row each it is DeLong 1988, equation 5."""
    (above_a, below_a), (above_b, below_b) = placements(y, a), placements(y, b)
    auroc_a, auroc_b, m, n = above_a.mean(), above_b.mean(), len(above_a), len(below_a)
    s10 = s01 = s11 = s11_other = 0.0
    names = np.unique(patient)
    for name in names:
        p, q = patient[y == 1] == name, patient[y == 0] == name
        s10 += (above_a[p].sum() - p.sum() * auroc_a) * (above_b[p].sum() - p.sum() * auroc_b)
        s01 += (below_a[q].sum() - q.sum() * auroc_a) * (below_b[q].sum() - q.sum() * auroc_b)
        s11 += (above_a[p].sum() - p.sum() * auroc_a) * (below_b[q].sum() - q.sum() * auroc_b)
        s11_other += (above_b[p].sum() - p.sum() * auroc_b) * (below_a[q].sum() - q.sum() * auroc_a)
    i10, i01, i = len(np.unique(patient[y == 1])), len(np.unique(patient[y == 0])), len(names)
    s10, s01 = s10 * i10 / ((i10 - 1) * m), s01 * i01 / ((i01 - 1) * n)
    s11, s11_other = (s * i / (i - 1) for s in (s11, s11_other))
    return s10 / m + s01 / n + (s11 + s11_other) / (m * n)


@pytest.fixture
def cohort():
    random = np.random.default_rng(1)
    patient = random.permutation(np.repeat(np.arange(30), random.integers(1, 5, 30)))
    y = (random.random(len(patient)) < 0.4).astype(float)
    common = y + random.normal(size=30)[patient]
    a, b = (np.round(common + random.normal(size=len(y)), 1) for _ in range(2))
    return patient, y, a, b


@pytest.mark.parametrize("clustered", [False, True])
def test_covariance_is_its_definition(cohort, clustered):
    patient, y, a, b = cohort
    ids = patient if clustered else np.arange(len(y))
    auroc, covariance = stats.delong_covariance(y, np.stack([a, b], axis=1), patient if clustered else None)
    for i, one in enumerate((a, b)):
        assert auroc[i] == pytest.approx(mannwhitneyu(one[y == 1], one[y == 0]).statistic / sum(y == 1) / sum(y == 0))
        for j, other in enumerate((a, b)):
            assert covariance[i, j] == pytest.approx(naive_covariance(y, one, other, ids), rel=1e-9)
    independent = np.cov(placements(y, a)[0]) / sum(y == 1) + np.cov(placements(y, a)[1]) / sum(y == 0)
    assert clustered or covariance[0, 0] == pytest.approx(independent)


def test_a_second_copy_of_every_film_says_nothing_new(cohort):
    _, y, a, b = cohort
    twice = np.tile(np.arange(len(y)), 2)
    y2, a2, b2 = np.tile(y, 2), np.tile(a, 2), np.tile(b, 2)
    once, clustered, naive = stats.delong(y, a), stats.delong(y2, a2, twice), stats.delong(y2, a2)
    assert (clustered.value, clustered.low, clustered.high) == pytest.approx((once.value, once.low, once.high))
    assert naive.high - naive.low < 0.75 * (once.high - once.low)
    assert stats.delong_difference(y2, a2, b2, twice).p == pytest.approx(stats.delong_difference(y, a, b).p)


def test_symmetries(cohort):
    patient, y, a, b = cohort
    there, back = stats.delong_difference(y, a, b, patient), stats.delong_difference(y, b, a, patient)
    assert (there.value, there.low, there.high, there.p) == pytest.approx((-back.value, -back.high, -back.low, back.p))
    turned = stats.delong(1 - y, -a, patient)
    found = stats.delong(y, a, patient)
    assert (turned.low, turned.high) == pytest.approx((found.low, found.high))
    stretched = stats.delong(y, np.exp(3 * a), patient)
    assert (stretched.low, stretched.high) == pytest.approx((found.low, found.high))


def test_the_logit_s_bounds_are_its_own_inverse_and_stay_inside(cohort):
    patient, y, a, _ = cohort
    plain, logit = stats.delong(y, a, patient), stats.delong(y, a, patient, scale="logit")
    error = (plain.high - plain.low) / 2
    for bound, sign in ((logit.low, -1), (logit.high, 1)):
        away = math.log(bound / (1 - bound)) - math.log(plain.value / (1 - plain.value))
        assert away == pytest.approx(sign * error / (plain.value * (1 - plain.value)))
    near = stats.delong([1, 1, 1, 0, 0, 0], [6, 5, 3, 4, 2, 1], scale="logit")
    assert 0 < near.low < near.value < near.high < 1
    assert stats.delong([1, 1, 1, 0, 0, 0], [6, 5, 3, 4, 2, 1]).high == 1


def test_unknown_truths_take_no_part(cohort):
    patient, y, a, b = cohort
    known = np.arange(len(y)) % 5 > 0
    unknown = np.where(known, y, np.nan)
    assert stats.delong(unknown, a, patient) == stats.delong(y[known], a[known], patient[known])
    assert stats.delong_difference(unknown, a, b) == stats.delong_difference(y[known], a[known], b[known])


def test_what_cannot_be_said_is_not(cohort):
    _, y, a, _ = cohort
    one_class = stats.delong(np.ones(5), np.arange(5.0))
    assert np.isnan([one_class.value, one_class.low]).all()
    assert "insufficient data" in one_class.note
    lone = stats.delong([1, 0, 0], [3, 1, 2])  # one positive has no variance
    assert lone.value == 1
    assert not lone.bounded
    assert "two rows of each class" in lone.note
    perfect = stats.delong([1, 1, 0, 0], [4, 3, 2, 1])
    assert perfect.value == 1
    assert "perfect separation" in perfect.note
    gap = a.copy()
    gap[0] = np.nan
    assert "no score" in stats.delong(y, gap).note
    assert "no score" in stats.delong_difference(y, a, gap).note
    assert "insufficient data" in stats.delong_difference(np.zeros(5), np.arange(5.0), np.arange(5.0)).note
    same = stats.delong_difference(y, a, 2 * a + 1)
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)
    opposite = stats.delong_difference([1, 1, 0, 0], [4, 3, 2, 1], [1, 2, 3, 4])
    assert opposite.value == 1
    assert np.isnan(opposite.p)
    assert not opposite.established
    assert "no rows" not in stats.delong([], []).note
    assert np.isnan(stats.delong([], []).value)


def test_midranks_share_ties():
    score = np.array([3.0, 1, 2, 2, 9, 2])
    np.testing.assert_array_equal(stats.midranks(score), [5, 1, 3, 3, 6, 3])
    random = np.round(np.random.default_rng(0).normal(size=500), 1)
    np.testing.assert_array_equal(stats.midranks(random), rankdata(random))


def test_two_hundred_thousand_rows_take_no_pairs():
    random = np.random.default_rng(0)
    y = (random.random(223_414) < 0.1).astype(float)
    a, b = random.normal(size=(2, len(y))) + y
    began = time.process_time()
    stats.delong_difference(y, a, b, random.integers(0, 64_540, len(y)))
    assert time.process_time() - began < 5
