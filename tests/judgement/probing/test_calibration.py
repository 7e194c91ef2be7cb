from itertools import pairwise

import numpy as np
import pytest
from scipy.optimize import minimize

from hilum.judgement.fairness import draws
from hilum.judgement.probing import calibration


def naive_operating_point(y, p, rule, least=0.9):
    """Try every cut halfway between neighbours, one row at a time."""
    best, chosen = -1.0, None
    values = sorted(set(p))
    for cut in [values[0], *((a + b) / 2 for a, b in pairwise(values))]:
        sensitivity = sum(1 for t, q in zip(y, p, strict=True) if t == 1 and q >= cut) / sum(y)
        specificity = sum(1 for t, q in zip(y, p, strict=True) if t == 0 and q < cut) / (len(y) - sum(y))
        if rule == "sensitivity" and sensitivity >= least:
            chosen = cut
        if rule == "youden" and sensitivity + specificity > best + 1e-12:
            best, chosen = sensitivity + specificity, cut
    return chosen


@pytest.fixture
def scores():
    random = np.random.default_rng(2)
    y = (random.random(150) < 0.3).astype(float)
    return y, 2 * y + random.normal(size=150) - 1


def test_platt_is_the_maximum_of_its_likelihood(scores):
    y, score = scores
    a, b = calibration.platt(score, y)
    target = np.where(y == 1, (y.sum() + 1) / (y.sum() + 2), 1 / ((1 - y).sum() + 2))

    def loss(ab):
        p = 1 / (1 + np.exp(-(ab[0] * score + ab[1])))
        return -(target * np.log(p) + (1 - target) * np.log(1 - p)).sum()

    reference = minimize(loss, [0.0, 0.0]).x
    assert (a, b) == pytest.approx(tuple(reference), abs=1e-3)


def test_platt_stays_finite_where_classes_separate_and_scales_are_wild():
    y = np.repeat([0.0, 1.0], 20)
    for scale in (1e-6, 1.0, 1e6):
        a, b = calibration.platt(scale * (y - 0.5), y)
        p = calibration.sigmoid(a * scale * (y - 0.5) + b)
        assert p[0] == pytest.approx(1 / 22, abs=1e-3)
        assert p[-1] == pytest.approx(21 / 22, abs=1e-3)


@pytest.mark.parametrize("rule", ["youden", "sensitivity"])
def test_operating_point_by_trying_all(scores, rule):
    y, score = scores
    for p in (calibration.sigmoid(score), np.round(calibration.sigmoid(score), 1)):  # the second has ties
        assert calibration.operating_point(y, p, rule) == pytest.approx(naive_operating_point(y, p, rule))


def test_sensitivity_rule_reaches_what_it_promises(scores):
    y, score = scores
    p = calibration.sigmoid(score)
    for least in (0.5, 0.95, 1.0):
        cut = calibration.operating_point(y, p, "sensitivity", least)
        assert (p[y == 1] >= cut).mean() >= least
        missed = p[y == 1][p[y == 1] >= cut].min() + 1e-12  # one more positive would be lost
        assert (p[y == 1] >= missed).mean() < least


def test_ece_by_hand():
    p = np.r_[np.full(20, 0.2), np.full(20, 0.8)]
    y = np.r_[np.ones(6), np.zeros(14), np.ones(10), np.zeros(10)]
    # Bins of 20: |0.2 - 0.3| and |0.8 - 0.5|, each of half the mass.
    value, bins = calibration.ece(y, p)
    assert bins == 2
    assert value == pytest.approx(0.5 * 0.1 + 0.5 * 0.3)
    assert calibration.ece(np.r_[y] * 0 + 1, np.ones(40))[0] == 0
    few, none = calibration.ece(y[:10], p[:10])
    assert np.isnan(few)
    assert none == 0


def test_a_heads_ece_is_that_of_its_audit_also_where_rows_do_not_divide_into_bins():
    random = np.random.default_rng(5)
    p = np.round(random.random(298), 2)  # ties, which stay together
    y = (random.random(298) < p).astype(float)
    cases = draws.Cases(y, p, (p > 0.5).astype(float), np.arange(298))
    audited = draws.draw(cases, {"all": np.arange(298)}, 1, 0)["all"].value["ece"]
    gap = {}
    for row in range(298):  # a row's bin is the one in which the middle of its tie falls
        middle = (p < p[row]).sum() + (p == p[row]).sum() / 2
        gap.setdefault(min(int(10 * middle // 298), 9), []).append(p[row] - y[row])
    naive = sum(abs(sum(one)) for one in gap.values()) / 298
    assert calibration.ece(y, p) == (pytest.approx(naive, abs=1e-12), 10)
    assert audited == pytest.approx(naive, abs=1e-6)
    shuffled = random.permutation(298)
    assert calibration.ece(y[shuffled], p[shuffled])[0] == pytest.approx(naive, abs=1e-12)


def test_sigmoid_does_not_overflow():
    np.testing.assert_allclose(calibration.sigmoid(np.array([-1e4, 0.0, 1e4])), [0, 0.5, 1])
