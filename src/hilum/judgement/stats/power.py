"""What a cohort of this size can tell apart, said before and beside every comparison.

Counts may be fractions (n times a prevalence). Rows of one patient are not independent: count patients, or divide the
rows by their design effect, or the answer is too hopeful.
"""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Final

from hilum.judgement.stats.intervals import CONFIDENCE, Z_95, Difference, Interval

POWER: Final = 0.8  # chance of establishing a difference that is there, as is usual in trials
HALVINGS: Final = 60  # of a range below 1: past the resolution of a float


def auroc_error(auroc: float, n_positive: float, n_negative: float) -> float:
    """Standard error of an AUROC (Hanley & McNeil 1982, equation 2, under exponential scores); NaN without a class."""
    if not (n_positive >= 1 and n_negative >= 1 and 0 <= auroc <= 1):
        return math.nan
    two_positives, two_negatives = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    variance = (
        auroc * (1 - auroc)
        + (n_positive - 1) * (two_positives - auroc**2)
        + (n_negative - 1) * (two_negatives - auroc**2)
    ) / (n_positive * n_negative)
    return math.sqrt(max(0.0, variance))


def auroc_half_width(auroc: float, n_positive: float, n_negative: float) -> float:
    """Half the width of an AUROC's 95% interval, from its value and the counts alone (Hanley & McNeil 1982)."""
    return Z_95 * auroc_error(auroc, n_positive, n_negative)


def detectable_auroc(
    auroc: float, n_positive: float, n_negative: float, power: float = POWER, level: float = 1 - CONFIDENCE
) -> float:
    """The least difference of an AUROC from a fixed value, such as 0.5 or a requirement, that can be established.

    Args:
        auroc: The fixed value.
        n_positive: Positive rows.
        n_negative: Negative rows.
        power: Chance of establishing it.
        level: Of the two-sided test.

    Returns:
        How far above `auroc` the true one must lie; NaN where even 1 is too near.
    """
    if not auroc < 1:
        return math.nan
    return _least(
        auroc_error(auroc, n_positive, n_negative),
        lambda gap: auroc_error(auroc + gap, n_positive, n_negative),
        1 - auroc, power, level,
    )  # fmt: skip


def detectable_auroc_difference(
    auroc: float,
    n_positive: float,
    n_negative: float,
    correlation: float = 0.0,
    power: float = POWER,
    level: float = 1 - CONFIDENCE,
) -> float:
    """The least difference of two AUROCs, one of them `auroc` and the other higher, that can be established.

    Hanley & McNeil 1982 (Table III) for two cohorts of this size each; Hanley & McNeil 1983 for two scores of the same
    rows: Var(A - B) = Var(A) + Var(B) - 2 r SE(A) SE(B).

    Args:
        auroc: The lower one.
        n_positive: Positive rows.
        n_negative: Negative rows.
        correlation: r, of the two AUROC estimates: 0 for two cohorts; for two scores of one cohort what
            `delong_covariance` finds. An unknown one is best left at 0, which errs on the cautious side.
        power: Chance of establishing it.
        level: Of the two-sided test.

    Returns:
        NaN where even an AUROC of 1 is too near.
    """
    if not (auroc < 1 and -1 <= correlation < 1):
        return math.nan
    base = auroc_error(auroc, n_positive, n_negative)

    def error(gap: float) -> float:
        return _error_of_difference(base, auroc_error(auroc + gap, n_positive, n_negative), correlation)

    return _least(error(0.0), error, 1 - auroc, power, level)


def detectable_proportion(share: float, n: float, power: float = POWER, level: float = 1 - CONFIDENCE) -> float:
    """The least difference of a proportion from a fixed value that can be established, upwards, with `n` rows.

    For a sensitivity the rows are the positives, n times the prevalence; for a specificity the negatives. By symmetry
    the answer for a proportion below `share` is that for 1 - `share`.
    """
    if not (n > 0 and 0 <= share < 1):
        return math.nan
    return _least(_share_error(share, n), lambda gap: _share_error(share + gap, n), 1 - share, power, level)


def detectable_proportion_difference(
    share: float,
    n: float,
    n_other: float | None = None,
    correlation: float = 0.0,
    power: float = POWER,
    level: float = 1 - CONFIDENCE,
) -> float:
    """The least difference of two proportions, one of them `share` and the other higher, that can be established.

    Args:
        share: The lower one.
        n: Its rows.
        n_other: Rows of the other; as many if None.
        correlation: Of the two answers on the same row: 0 for two groups; for two decisions about the same rows the
            phi coefficient (both tests are then asked of the same rows, and `n_other` must be None).
        power: Chance of establishing it.
        level: Of the two-sided test.

    Returns:
        NaN where even a share of 1 is too near.
    """
    other = n if n_other is None else n_other
    paired = correlation != 0
    if not (n > 0 and other > 0 and 0 <= share < 1 and -1 <= correlation < 1) or (paired and other != n):
        return math.nan

    def error(gap: float) -> float:
        return _error_of_difference(_share_error(share, n), _share_error(share + gap, other), correlation)

    return _least(error(0.0), error, 1 - share, power, level)


def detectable_difference(error: float, power: float = POWER, level: float = 1 - CONFIDENCE) -> float:
    """The least difference of any metric that can be established, from the standard error of the difference.

    Where the comparison has been made, its error is known, pairing and repeated rows included: half the width of the
    95% interval over 1.96.
    """
    return _z(1 - level / 2) * error + _z(power) * error


def order_sentence(found: Interval | Difference, counted: str, digits: int = 2) -> str:
    """What to print beside a measured paired comparison.

    Args:
        found: The difference with its interval.
        counted: What was counted, such as `8 positives`.
        digits: Decimal places.

    Returns:
        `with 8 positives, +-0.15: no order can be established`, or `...: the first is higher by 0.21`.
    """
    if not found.bounded:
        return f"with {counted}: no order can be established ({found.note or 'no interval'})"
    wide = f"with {counted}, ±{(found.high - found.low) / 2:.{digits}f}"
    if found.low > 0 or found.high < 0:
        which = "first" if found.low > 0 else "second"
        return f"{wide}: the {which} is higher by {abs(found.value):.{digits}f}"
    return f"{wide}: no order can be established"


def auroc_sentence(auroc: float, n_positive: int, n_negative: int, difference: float, correlation: float = 0.0) -> str:
    """What to print beside two AUROCs of which only the values and the counts are known, as in a published table.

    Args:
        auroc: The lower of the two.
        n_positive: Positive rows.
        n_negative: Negative rows.
        difference: Between the two.
        correlation: As for `detectable_auroc_difference`.

    Returns:
        The half width of each AUROC, and whether a difference of this size could be told from chance.
    """
    half = auroc_half_width(auroc, n_positive, n_negative)
    rows = f"with {n_positive:,} positives"
    if math.isnan(half):
        return f"{rows} and {n_negative:,} negatives: no order can be established"
    error = auroc_error(auroc, n_positive, n_negative)
    other = auroc_error(min(1.0, auroc + abs(difference)), n_positive, n_negative)
    shown = Z_95 * _error_of_difference(error, other, correlation)
    verdict = "the difference exceeds chance" if abs(difference) > shown else "no order can be established"
    least = detectable_auroc_difference(auroc, n_positive, n_negative, correlation)
    enough = (
        f"; {least:.2f} would be found four times in five"
        if math.isfinite(least)
        else "; no difference is large enough"
    )
    return f"{rows}, ±{half:.2f}: {verdict}{enough}"


def _least(error: float, error_at: Callable[[float], float], most: float, power: float, level: float) -> float:
    """Solve gap = z(1 - level/2) error + z(power) error_at(gap) by halving."""
    known, chance = _z(1 - level / 2) * error, _z(power)
    if not math.isfinite(known) or most < known + chance * error_at(most):
        return math.nan
    low, high = 0.0, most
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if middle >= known + chance * error_at(middle) else (middle, high)
    return high


def _error_of_difference(one: float, other: float, correlation: float) -> float:
    variance = one**2 + other**2 - 2 * correlation * one * other
    return math.sqrt(variance) if variance > 0 else variance * 0  # 0 by rounding below it; NaN stays NaN


def _share_error(share: float, n: float) -> float:
    return math.sqrt(max(0.0, share * (1 - share)) / n)


def _z(share: float) -> float:
    return NormalDist().inv_cdf(share)
