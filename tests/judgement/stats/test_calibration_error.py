"""Calibration errors over bins that stay, and what a perfectly calibrated score shows by chance."""

import numpy as np
import pytest

from hilum.judgement import stats


def scores(n, seed=0):
    """Rounded, so that some tie; few are high."""
    return np.round(np.random.default_rng(seed).beta(1, 4, n), 2)


def by_the_book(y, p, bin_N):
    """Naeini et al. 2015, equation 3, bin by bin."""
    return sum(abs((p - y)[bin_N == b].sum()) for b in np.unique(bin_N)) / len(y)


@pytest.mark.parametrize(("n", "bins"), [(20, 1), (59, 2), (200, 10), (1000, 10)])
def test_bins_have_equal_mass_and_equal_scores_share_one(n, bins):
    p = np.random.default_rng(n).random(n)
    found = stats.equal_mass_bins(p)
    counts = np.bincount(found)
    assert len(counts) == bins
    assert counts.max() - counts.min() <= 1
    assert (np.diff(found[np.argsort(p)]) >= 0).all()
    tied = stats.equal_mass_bins(scores(n))
    for value in np.unique(scores(n)):
        assert len(set(tied[scores(n) == value])) == 1
    assert (stats.equal_mass_bins(p[:19]) == -1).all()


def test_bins_stay_whatever_the_weights():
    random, p = np.random.default_rng(1), scores(150)
    y = (random.random(150) < p).astype(float)
    w = random.integers(0, 4, (5, 150)).astype(float)
    bin_N = stats.equal_mass_bins(p)
    for weights, found in zip(w.astype(int), stats.weighted_binned_ece(w, y, p), strict=True):
        rows = np.repeat(np.arange(150), weights)
        assert found == pytest.approx(by_the_book(y[rows], p[rows], bin_N[rows]))
    assert stats.weighted_binned_ece(np.ones((1, 150)), y, p) == pytest.approx(
        stats.weighted_ece(np.ones((1, 150)), y, p, 7)
    )


def test_what_is_unknown_takes_no_part_and_what_is_too_few_is_undefined():
    p = scores(100)
    y = (p > 0.3).astype(float)
    unknown = np.r_[y, np.nan, np.nan]
    with_unknown = stats.weighted_binned_ece(np.ones((1, 102)), unknown, np.r_[p, 0.9, np.nan])
    assert with_unknown == pytest.approx(stats.weighted_binned_ece(np.ones((1, 100)), y, p))
    for rows in (y[:19], np.full(40, np.nan), np.zeros(0)):
        assert np.isnan(stats.weighted_binned_ece(np.ones((1, len(rows))), rows, p[: len(rows)])[0])
    assert np.isnan(stats.weighted_binned_ece(np.ones((1, 100)), y, np.r_[np.nan, p[1:]])[0])
    assert np.isnan(stats.calibrated_ece(p[:19], 0))
    assert np.isnan(stats.calibrated_ece(np.zeros(0), 0))


@pytest.mark.parametrize("n", [30, 400, 20_000])
def test_the_chance_level_is_the_mean_of_simulated_calibrated_scores(n):
    p, random = scores(n), np.random.default_rng(7)
    bin_N = stats.equal_mass_bins(p)
    shown = [by_the_book((random.random(n) < p).astype(float), p, bin_N) for _ in range(300)]
    sd = np.std(shown) / np.sqrt(300)
    assert stats.calibrated_ece(p, 3) == pytest.approx(np.mean(shown), abs=5 * sd)
    assert stats.calibrated_ece(p, 3) == stats.calibrated_ece(p, 3)
    assert stats.calibrated_ece(p, 3) != stats.calibrated_ece(p, 4)


def test_the_chance_level_falls_with_the_root_of_the_rows_and_is_nil_where_nothing_is_left_to_chance():
    few, many = (stats.calibrated_ece(scores(n), 0) for n in (1000, 16_000))
    assert few / many == pytest.approx(4, rel=0.1)
    assert stats.calibrated_ece(np.repeat([0.0, 1.0], 50), 0) == 0
