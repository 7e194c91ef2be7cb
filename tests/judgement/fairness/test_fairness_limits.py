import itertools

import numpy as np
import pytest
from scipy.stats import norm

from hilum.judgement.fairness import draws, limits
from hilum.judgement.fairness.gaps import between
from hilum.judgement.fairness.limits import Side


def rates(random, sizes, p, resamples=200):
    """A rate in groups of so many patients, one image each, resampled as `draws` does it."""
    hits = random.binomial(sizes, p)
    drawn = random.binomial(sizes, hits / sizes, size=(resamples, len(sizes)))
    extra = random.poisson(1.0, size=(2, resamples, len(sizes)))
    smoothed = (drawn + extra[0]) / (sizes + extra.sum(axis=0))
    centre = (hits + 1) / (sizes + 2)
    return Side(hits / sizes, centre, smoothed, limits.widening(sizes), centre)


@pytest.mark.parametrize("sizes", [(30, 30), (25, 400), (25, 25, 60, 200, 400), (60,) * 8])
@pytest.mark.parametrize("p", [0.5, 0.9])
def test_fair_groups_are_found_unequal_at_most_one_time_in_twenty(sizes, p):
    random = np.random.default_rng(7)
    n = 400
    found = [limits.difference([rates(random, np.array(sizes), p)]) for _ in range(n)]
    claimed = sum(one.low > 0 for one in found)
    assert claimed <= 0.05 * n + 2.33 * np.sqrt(0.05 * 0.95 * n)  # 99% of what a rate of 5% gives
    assert all((one.low > 0) == (one.p <= 0.05) for one in found)


def test_intervals_hold_the_true_gap():
    random = np.random.default_rng(1)
    truth = np.array([0.9, 0.75, 0.6])
    inside = 0
    for _ in range(300):
        one = limits.difference([rates(random, np.array([80, 40, 120]), truth)])
        inside += one.low <= 0.3 <= one.high
    assert inside >= 0.93 * 300


def test_a_small_noisy_group_does_not_hide_a_gap_between_large_ones():
    random = np.random.default_rng(2)
    sizes, p = np.array([2000, 2000, 20]), np.array([0.9, 0.8, 0.85])
    assert sum(limits.difference([rates(random, sizes, p)]).low > 0 for _ in range(50)) == 50


def test_the_lowest_group_is_bounded_though_it_was_chosen():
    random = np.random.default_rng(3)
    inside = 0
    for _ in range(300):
        one = limits.lowest(rates(random, np.array([40] * 6), 0.8))
        assert one.value < 0.8 or one.low <= 0.8
        inside += one.low <= 0.8 <= one.high
    assert inside >= 0.93 * 300


def test_the_median_and_the_other_of_two():
    random = np.random.default_rng(4)
    two = rates(random, np.array([200, 300]), np.array([0.9, 0.6]))
    first, second = limits.to_median(two)
    assert first.value == pytest.approx(two.value_G[0] - two.value_G[1]) == pytest.approx(-second.value)
    assert 0 < first.low < first.value < first.high
    three = rates(random, np.array([200, 300, 250]), np.array([0.9, 0.6, 0.7]))
    assert [one.value for one in limits.to_median(three)] == pytest.approx(three.value_G - np.median(three.value_G))


def test_the_difference_of_two_groups_is_the_textbook_one_where_they_are_large():
    random = np.random.default_rng(5)
    sizes = np.array([4000, 3000])
    one = rates(random, sizes, np.array([0.7, 0.68]), resamples=4000)
    found = limits.difference([one])
    p = one.value_G
    error = np.sqrt((p * (1 - p) / sizes).sum())
    d = abs(p[0] - p[1])
    assert found.high == pytest.approx(d + 1.96 * error, abs=0.05 * error)
    assert found.p == pytest.approx(2 * norm.sf(d / error), abs=0.02)


def test_p_values_beyond_the_resamples_go_on_falling():
    random = np.random.default_rng(6)
    largest = np.abs(random.normal(size=1000))
    ps = [limits._chance(z, largest) for z in (0.5, 1.5, 2.5, 3.5, 4.5)]
    assert all(earlier > later for earlier, later in itertools.pairwise(ps))
    for z, p in zip((2.5, 3.5, 4.5), ps[2:], strict=True):
        assert p == pytest.approx(2 * norm.sf(z), rel=0.6)
    assert limits._chance(50.0, largest) == limits.LEAST_P


def test_groups_that_never_vary_give_no_interval():
    same = Side(np.ones(2), np.ones(2), np.ones((100, 2)), np.ones(2), np.ones(2))
    found = limits.difference([same])
    assert found.value == 0
    assert np.isnan([found.low, found.high, found.p]).all()


@pytest.mark.slow
def test_fair_scores_are_found_unfair_at_most_one_time_in_twenty():
    """Whole cohorts: correlated images, calibrated scores, unequal groups; every gap at once."""
    random = np.random.default_rng(0)
    cohorts, claimed = 400, {}
    for seed in range(cohorts):
        sizes = (45, 45, 120, 400)
        patient = np.repeat(np.arange(sum(sizes)), random.integers(1, 4, sum(sizes)))
        group = np.repeat(np.arange(len(sizes)), sizes)[patient]
        truth = (random.random(sum(sizes)) < 0.5).astype(float)[patient]
        mark = 2 * truth + 0.7 * random.normal(size=sum(sizes))[patient] + 0.714 * random.normal(size=len(patient))
        probability = 1 / (1 + np.exp(2 - 2 * mark))
        cases = draws.Cases(truth, probability, (probability >= 0.5).astype(float), patient)
        rows = {str(k): np.flatnonzero(group == k) for k in range(len(sizes))}
        for name, (bound, _) in between(draws.draw(cases, rows, 400, seed), "no_finding").items():
            if np.isfinite(bound.p):
                claimed[name] = claimed.get(name, 0) + (bound.low > 0)
    assert len(claimed) == 7
    assert max(claimed.values()) <= 0.05 * cohorts + 2.33 * np.sqrt(0.05 * 0.95 * cohorts), claimed
