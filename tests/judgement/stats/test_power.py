"""What a cohort can tell apart, against published tables, and against experiments that are carried out."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from hilum.judgement import stats


def test_the_standard_error_is_that_of_the_paper():
    """Hanley & McNeil 1982: CT ratings of 51 abnormal and 58 normal patients, area 0.893, standard error 0.032."""
    normal, abnormal = np.repeat(np.arange(5), [33, 6, 6, 11, 2]), np.repeat(np.arange(5), [3, 2, 2, 11, 33])
    found = stats.delong(np.r_[np.zeros(58), np.ones(51)], np.r_[normal, abnormal])
    assert found.value == pytest.approx(0.893, abs=5e-4)
    assert stats.auroc_error(0.893, 51, 58) == pytest.approx(0.0325, abs=5e-4)
    assert (found.high - found.low) / 2 / stats.Z_95 == pytest.approx(0.032, abs=2e-3)


def test_half_width_of_the_sources_table():
    """The best AUROC of the second source's CheXpert column, 89.03 on 234 images with 8 positives: about 0.149."""
    assert stats.auroc_half_width(0.8903, 8, 226) == pytest.approx(0.149, abs=5e-4)
    assert stats.auroc_half_width(0.5, 50, 70) == pytest.approx(stats.auroc_half_width(0.5, 70, 50))
    assert stats.auroc_half_width(1.0, 9, 9) == 0
    assert math.isnan(stats.auroc_half_width(0.8, 0, 50))
    assert math.isnan(stats.auroc_half_width(math.nan, 10, 50))


@pytest.mark.parametrize(("higher", "n", "power"), [(0.75, 652, 0.8), (0.75, 897, 0.9), (0.75, 1131, 0.95)])
def test_sample_sizes_are_those_of_table_iii(higher, n, power):
    """Hanley & McNeil 1982, table III: cases (and as many controls) to tell 0.70 from 0.75, one-sided 5%."""
    found = stats.detectable_auroc_difference(0.70, n, n, power=power, level=0.10)
    assert found == pytest.approx(higher - 0.70, abs=2e-4)


def test_half_the_normal_theory_holds_at_every_root():
    for auroc, correlation in ((0.7, 0.0), (0.8, 0.6), (0.9, 0.3)):
        gap = stats.detectable_auroc_difference(auroc, 60, 400, correlation)
        a, b = stats.auroc_error(auroc, 60, 400), stats.auroc_error(auroc + gap, 60, 400)
        apart = math.sqrt(a * a + b * b - 2 * correlation * a * b)
        assert gap == pytest.approx(norm.ppf(0.975) * a * math.sqrt(2 - 2 * correlation) + norm.ppf(0.8) * apart)
    one = stats.detectable_auroc(0.7, 60, 400)
    expected = norm.ppf(0.975) * stats.auroc_error(0.7, 60, 400) + norm.ppf(0.8) * stats.auroc_error(0.7 + one, 60, 400)
    assert one == pytest.approx(expected)
    assert stats.detectable_difference(0.02) == pytest.approx(0.02 * (1.959964 + 0.841621))


def test_pairing_and_more_cases_tell_more_apart():
    wide = stats.detectable_auroc_difference(0.8, 40, 200)
    assert stats.detectable_auroc_difference(0.8, 40, 200, correlation=0.7) < 0.6 * wide
    assert stats.detectable_auroc_difference(0.8, 160, 800) < 0.55 * wide
    assert stats.detectable_auroc(0.8, 40, 200) < wide
    assert math.isnan(stats.detectable_auroc_difference(0.89, 8, 226))  # nothing below 1 is far enough
    assert math.isnan(stats.detectable_auroc_difference(1.0, 50, 50))
    assert math.isnan(stats.detectable_auroc_difference(0.8, 0, 50))


def test_two_proportions_are_as_published():
    """Fleiss, Levin & Paik 2003, section 4.2 (equation 4.14 with the variance of each proportion): checked by hand."""
    gap = stats.detectable_proportion_difference(0.8, 100)
    under, over = 0.8 * 0.2 * 2 / 100, 0.8 * 0.2 / 100 + (0.8 + gap) * (0.2 - gap) / 100
    assert gap == pytest.approx(norm.ppf(0.975) * math.sqrt(under) + norm.ppf(0.8) * math.sqrt(over))
    paired = stats.detectable_proportion_difference(0.8, 100, correlation=0.5)
    assert paired < 0.8 * gap
    assert stats.detectable_proportion_difference(0.8, 100, 1000) < gap
    assert stats.detectable_proportion(0.8, 100) < gap
    assert math.isnan(stats.detectable_proportion_difference(0.8, 5))
    assert math.isnan(stats.detectable_proportion_difference(0.8, 100, 50, correlation=0.5))  # no pairs of 100 and 50
    assert math.isnan(stats.detectable_proportion(0.8, 0))


def test_a_detectable_difference_is_found_four_times_in_five():
    """DeLong's paired test, on cohorts whose true difference is the detectable one."""
    random, low, n = np.random.default_rng(0), 0.75, 200
    effect = norm.ppf(low) * math.sqrt(2)
    y = np.repeat([1.0, 0.0], [n // 2, n // 2])

    def scores(second):
        common = random.normal(size=n)
        own = random.normal(size=(2, n))
        return [e * y + math.sqrt(0.5) * (common + o) for e, o in zip((effect, second), own, strict=True)]

    covariances = [stats.delong_covariance(y, np.stack(scores(effect), axis=1))[1] for _ in range(200)]
    correlation = np.mean([c[0, 1] / math.sqrt(c[0, 0] * c[1, 1]) for c in covariances])
    gap = stats.detectable_auroc_difference(low, n / 2, n / 2, correlation)
    better = norm.ppf(low + gap) * math.sqrt(2)
    found = [stats.delong_difference(y, *reversed(scores(better))).p < 0.05 for _ in range(400)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.08)


def test_the_sentence_beside_a_comparison():
    open_ = stats.Difference(0.03, -0.12, 0.18, 234, 200, p=0.7)
    assert stats.order_sentence(open_, "8 positives") == "with 8 positives, ±0.15: no order can be established"
    lower = stats.Difference(-0.21, -0.30, -0.12, 900, 700, p=0.001)
    assert stats.order_sentence(lower, "80 positives") == "with 80 positives, ±0.09: the second is higher by 0.21"
    higher = stats.Interval(0.021, 0.012, 0.030, 900, 700)
    assert stats.order_sentence(higher, "700 patients", 3) == (
        "with 700 patients, ±0.009: the first is higher by 0.021"
    )
    none = stats.order_sentence(stats.undefined("insufficient data: no rows"), "0 positives")
    assert none == "with 0 positives: no order can be established (insufficient data: no rows)"


def test_the_sentence_beside_a_published_table():
    sources = stats.auroc_sentence(0.8625, 8, 226, 0.0278)
    assert sources == "with 8 positives, ±0.16: no order can be established; no difference is large enough"
    large = stats.auroc_sentence(0.80, 2000, 8000, 0.05)
    assert large.startswith("with 2,000 positives, ±0.01: the difference exceeds chance; 0.02 would be found")
    assert stats.auroc_sentence(0.8, 0, 9, 0.1) == "with 0 positives and 9 negatives: no order can be established"
