"""Corrected p-values against the papers' procedures, step by step, and published examples."""

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from hilum.judgement import stats

# Benjamini & Hochberg 1995, section 3.2: 15 hypotheses about a treatment of myocardial infarction.
INFARCTION = np.array(
    [
        0.0001,
        0.0004,
        0.0019,
        0.0095,
        0.0201,
        0.0278,
        0.0298,
        0.0344,
        0.0459,
        0.3240,
        0.4262,
        0.5719,
        0.6528,
        0.7590,
        1.0,
    ]
)


def rejected_by_holm(p, level):
    """Holm 1979: from the smallest p upwards, reject while p_(i) <= level / (m - i + 1)."""
    out = set()
    for i, k in enumerate(np.argsort(p)):
        if p[k] > level / (len(p) - i):
            break
        out.add(int(k))
    return out


def rejected_by_benjamini_hochberg(p, level):
    """Benjamini & Hochberg 1995: reject the k smallest, k the largest i with p_(i) <= level i / m."""
    order = np.argsort(p)
    passed = [i + 1 for i, k in enumerate(order) if p[k] <= level * (i + 1) / len(p)]
    return {int(k) for k in order[: max(passed, default=0)]}


def test_the_infarction_trial_is_as_published():
    assert np.flatnonzero(stats.benjamini_hochberg(INFARCTION) <= 0.05).tolist() == [0, 1, 2, 3]
    assert np.flatnonzero(stats.holm(INFARCTION) <= 0.05).tolist() == [0, 1, 2]  # as Bonferroni's and Hochberg's here
    np.testing.assert_allclose(stats.benjamini_hochberg(INFARCTION), false_discovery_control(INFARCTION))
    assert stats.holm(INFARCTION)[:4] == pytest.approx([0.0015, 0.0056, 0.0247, 0.1140])


def test_a_corrected_p_is_the_least_level_that_rejects():
    random = np.random.default_rng(0)
    for _ in range(30):
        p = np.round(random.random(8) ** 3, 3)  # with ties
        for corrected, rejected in (
            (stats.holm(p), rejected_by_holm),
            (stats.benjamini_hochberg(p), rejected_by_benjamini_hochberg),
        ):
            assert (corrected >= p).all()
            for k, level in enumerate(corrected):
                assert level == 1 or k in rejected(p, level + 1e-9)
                assert k not in rejected(p, level - 1e-9)


def test_order_is_kept_and_what_was_not_asked_does_not_count():
    p = np.array([0.04, np.nan, 0.01, 0.03])
    for correct in (stats.holm, stats.benjamini_hochberg):
        np.testing.assert_allclose(correct(p)[[0, 2, 3]], correct(p[[0, 2, 3]]))
        assert np.isnan(correct(p)[1])
        order = np.array([3, 2, 0, 1])
        np.testing.assert_allclose(correct(p[order]), correct(p)[order])
        assert len(correct([])) == 0
        assert np.isnan(correct([np.nan])).all()
    np.testing.assert_allclose(stats.holm(p), [0.06, np.nan, 0.03, 0.06])
    assert np.array_equal(p, [0.04, np.nan, 0.01, 0.03], equal_nan=True)
