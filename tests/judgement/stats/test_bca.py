"""The corrected interval against Efron's own example, a loop from the book, and scipy."""

from statistics import NormalDist

import numpy as np
import pytest
import scipy.stats

from hilum.judgement import stats
from hilum.judgement.stats import resampling

# Efron & Tibshirani 1993, table 14.1: the spatial test, A.
SPATIAL = np.array(
    [48, 36, 20, 29, 42, 42, 20, 42, 22, 41, 45, 14, 6, 0, 33, 28, 34, 4, 32, 24, 47, 41, 24, 26, 30, 41.0]
)


def variance(w_RN, value_N):
    mean_R = stats.weighted_mean(w_RN, value_N)
    return (w_RN * (value_N[None] - mean_R[:, None]) ** 2).sum(axis=1) / w_RN.sum(axis=1)


def test_acceleration_and_bounds_of_the_spatial_test_are_as_published():
    """Section 14.3: variance 171.5, acceleration 0.061; table 14.2's 90% BCa interval is (115.8, 259.6)."""
    jackknife = np.array([np.var(np.delete(SPATIAL, i)) for i in range(26)])
    assert np.var(SPATIAL) == pytest.approx(171.5, abs=0.05)
    assert resampling.acceleration(jackknife) == pytest.approx(0.061, abs=5e-4)
    found = stats.patient_bootstrap(variance, np.arange(26), 20_000, 0, SPATIAL, method="bca")
    scipys = scipy.stats.bootstrap(
        (SPATIAL,), np.var, n_resamples=20_000, method="BCa", rng=np.random.default_rng(1), vectorized=True
    ).confidence_interval
    assert (found.low, found.high) == (pytest.approx(scipys.low, rel=0.02), pytest.approx(scipys.high, rel=0.02))
    plain = stats.patient_bootstrap(variance, np.arange(26), 20_000, 0, SPATIAL)
    assert plain.low < found.low  # the variance is biased and skewed: BCa shifts both bounds up
    assert plain.high < found.high


def test_ninety_percent_bounds_are_the_published_ones(monkeypatch):
    monkeypatch.setattr(resampling, "Z_95", NormalDist().inv_cdf(0.95))
    found = stats.patient_bootstrap(variance, np.arange(26), 20_000, 0, SPATIAL, method="bca")
    assert (found.low, found.high) == (pytest.approx(115.8, abs=4), pytest.approx(259.6, abs=6))


def test_bounds_follow_a_loop_from_the_book():
    random = np.random.default_rng(2)
    patient = np.repeat(np.arange(25), random.integers(1, 4, 25))
    value = np.exp(random.normal(size=25))[patient] + 0.1 * random.normal(size=len(patient))
    grouped = stats.grouped_bootstrap(stats.weighted_mean, patient, {"all": value > -9}, 800, 4, value, method="bca")
    left_out = np.array([value[patient != p].mean() for p in range(25)])
    np.testing.assert_allclose(grouped.jackknife_JG[:, 0], left_out)
    drawn, whole, normal = grouped.drawn_RG[:, 0], value.mean(), NormalDist()
    z0 = normal.inv_cdf(np.mean(drawn < whole))
    away = left_out.mean() - left_out
    a = np.sum(away**3) / (6 * np.sum(away**2) ** 1.5)
    bounds = [np.quantile(drawn, normal.cdf(z0 + (z0 + z) / (1 - a * (z0 + z)))) for z in (-1.959964, 1.959964)]
    found = grouped.interval("all")
    assert (found.low, found.high) == (pytest.approx(bounds[0]), pytest.approx(bounds[1]))


def test_sets_of_patients_give_the_acceleration_of_single_ones(monkeypatch):
    random = np.random.default_rng(0)
    value = np.exp(random.normal(size=1500))
    single = resampling.acceleration(np.array([np.delete(value, i).mean() for i in range(1500)]))
    grouped = stats.grouped_bootstrap(
        stats.weighted_mean, np.arange(1500), {"all": value > 0}, 300, 0, value, method="bca"
    )
    assert grouped.jackknife_JG.shape == (1000, 1)
    assert resampling.acceleration(grouped.jackknife_JG[:, 0]) == pytest.approx(single, abs=0.005)
    monkeypatch.setattr(resampling, "JACKKNIFE_SETS", 2000)
    exact = stats.patient_bootstrap(stats.weighted_mean, np.arange(1500), 300, 0, value, method="bca")
    near = grouped.interval("all")
    assert (near.low, near.high) == (pytest.approx(exact.low, abs=0.02), pytest.approx(exact.high, abs=0.02))


def test_a_group_s_jackknife_leaves_out_its_own_patients_only():
    patient = np.arange(30)
    groups = {"few": patient < 10, "all": patient < 30}
    value = np.exp(np.random.default_rng(0).normal(size=30))
    both = stats.grouped_bootstrap(stats.weighted_mean, patient, groups, 50, 0, value, method="bca")
    assert both.touched_JG.sum(axis=0).tolist() == [10, 30]
    own = both.jackknife_JG[both.touched_JG[:, 0], 0]
    np.testing.assert_allclose(own, [np.delete(value[:10], i).mean() for i in range(10)])


def test_where_it_is_undefined_percentiles_stand_in_and_say_so():
    y, score = np.r_[np.zeros(10), 1], np.r_[np.arange(10.0), 5.5]  # without the one positive there is no AUROC
    lone = stats.patient_bootstrap(stats.weighted_auroc, np.arange(11), 400, 0, y, score, method="bca")
    plain = stats.patient_bootstrap(stats.weighted_auroc, np.arange(11), 400, 0, y, score)
    assert (lone.low, lone.high) == (plain.low, plain.high)
    assert "BCa is undefined" in lone.note
    highest = stats.patient_bootstrap(
        lambda w, v: np.where(w > 0, v, -np.inf).max(axis=1), np.arange(12), 400, 0, np.arange(12.0), method="bca"
    )  # no resample exceeds the value, but many reach it
    assert highest.high == 11


def test_two_sided_p_goes_with_the_percentile_interval():
    drawn = np.r_[np.full(30, -1.0), np.full(1970, 1.0), np.nan]
    assert stats.two_sided(drawn) == pytest.approx(2 * 31 / 2001)
    assert stats.two_sided(-drawn) == stats.two_sided(drawn)
    assert stats.two_sided(np.zeros(9)) == 1
    assert np.isnan(stats.two_sided(np.array([np.nan])))
