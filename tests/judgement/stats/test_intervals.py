"""Proportions against published tables and their own equation."""

import math

import numpy as np
import pytest

from hilum.judgement import stats


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


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_is_as_published(hits, n, low, high):
    """Newcombe 1998 (Statistics in Medicine 17, 857-872), table I, method 3."""
    assert stats.wilson(hits, n) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    assert stats.wilson(n - hits, n) == (pytest.approx(1 - high, abs=5e-5), pytest.approx(1 - low, abs=5e-5))


def test_a_difference_says_if_an_order_is_established():
    assert stats.Difference(0.1, 0.02, 0.18, 9, 9, p=0.01).established
    assert stats.Difference(-0.1, -0.18, -0.02, 9, 9, p=0.01).established
    assert not stats.Difference(0.1, -0.02, 0.22, 9, 9, p=0.1).established
    none = stats.undefined_difference("insufficient data: no rows")
    assert not none.established
    assert (none.facts()["value"], none.facts()["p"]) == (None, None)
    assert math.isnan(none.p)
    assert str(none) == "insufficient data: no rows"
    assert str(stats.Difference(0.1, 0.02, 0.18, 9, 9, p=0.014)) == "+0.100 [+0.020, +0.180], p 0.014"
