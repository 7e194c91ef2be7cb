import numpy as np
import pytest

from hilum.judgement.probing import decisions
from hilum.judgement.probing.calibration import ece, operating_point, platt
from hilum.recipe import Probe

QUICK = Probe(bootstrap=200)


def draw(n=600, seed=0, signal=1.5, prevalence=0.3):
    random = np.random.default_rng(seed)
    y = (random.random(n) < prevalence).astype(float)
    return y, random.normal(size=n) + signal * y


def test_calibration_and_threshold_are_those_of_the_rows_given():
    y, score = draw()
    for recipe in (QUICK, Probe(threshold="sensitivity", min_sensitivity=0.95)):
        locked = decisions.lock(y, score, recipe)
        a, b = platt(score, y)
        p = 1 / (1 + np.exp(-(a * score + b)))
        np.testing.assert_allclose(locked.probability(score), p)
        cut = operating_point(y, p, recipe.threshold, recipe.min_sensitivity)
        assert locked.threshold == cut
        np.testing.assert_array_equal(locked.called(score), (p >= cut).astype(float))
    assert locked.called(score)[y == 1].mean() >= 0.95


def test_what_each_figure_is_worth_by_hand():
    y, score = draw(seed=1)
    locked = decisions.lock(*draw(seed=2), QUICK)
    p, called = locked.probability(score), locked.called(score)
    found = decisions.worth(y, p, called, np.full(600, 0.3), np.arange(600), QUICK)
    assert tuple(found) == decisions.DECISIONS
    expected = {
        "sensitivity": (called[y == 1].mean(), called.mean()),
        "specificity": (1 - called[y == 0].mean(), 1 - called.mean()),
        "brier": (((p - y) ** 2).mean(), ((0.3 - y) ** 2).mean()),
        "ece": (ece(y, p)[0], abs(0.3 - y.mean())),
    }
    for name, (value, level) in expected.items():
        score, chance = found[name]
        assert score.value == pytest.approx(value)
        assert chance.value == pytest.approx(level)
        assert score.low <= score.value <= score.high
        assert chance.low <= chance.value <= chance.high
        assert score.n == {"sensitivity": y.sum(), "specificity": 600 - y.sum()}.get(name, 600)
    assert found["brier"][0].high < found["brier"][1].low


def test_margins_that_do_not_rank_give_the_prevalence_and_no_threshold():
    y, score = draw()
    locked = decisions.lock(y, -score, QUICK)
    np.testing.assert_allclose(locked.probability(score), y.mean())
    found = decisions.worth(
        y, locked.probability(score), locked.called(score), np.full(600, 0.3), np.arange(600), QUICK
    )
    for name in ("sensitivity", "specificity"):
        assert np.isnan(found[name][0].value)
        assert "do not rank" in found[name][0].note
    assert found["brier"][0].value == pytest.approx(y.mean() * (1 - y.mean()))
    assert found["ece"][0].value == pytest.approx(0, abs=1e-9)


def test_without_unseen_rows_nothing_is_locked():
    assert decisions.lock(np.empty(0), np.empty(0), QUICK) is None
    assert decisions.lock(np.ones(20), np.arange(20.0), QUICK) is None
    nothing = np.full(600, np.nan)
    found = decisions.worth(draw()[0], nothing, nothing, np.full(600, 0.3), np.arange(600), QUICK)
    assert {
        name: (np.isnan(score.value), "too few" in score.note) for name, (score, _) in found.items()
    } == dict.fromkeys(decisions.DECISIONS, (True, True))


def test_the_interval_of_the_calibration_error_holds_the_truth_of_a_calibrated_probability():
    """Percentiles alone would not: a resample's error lies above the error, and that above zero."""
    for seed in range(20):
        random = np.random.default_rng(seed)
        p = random.uniform(0.05, 0.95, 400)
        y = (random.random(400) < p).astype(float)
        found = decisions.calibration_error(y, p, np.arange(400), QUICK)
        assert found.low <= found.value <= found.high
        assert found.low < 0.01, "the true error is zero"
        assert "perfect calibration would show 0.0" in found.note
    wrong = decisions.calibration_error(y, np.clip(p + 0.3, 0, 1), np.arange(400), QUICK)
    assert wrong.low > 0.1
    few = decisions.calibration_error(y[:10], p[:10], np.arange(10), QUICK)
    assert "insufficient data: 10 images" in few.note
