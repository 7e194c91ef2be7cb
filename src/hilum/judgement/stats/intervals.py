"""A score with its uncertainty, and the intervals of proportions.

What is undefined is NaN, never 0 or 1, and says why.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

CONFIDENCE: Final = 0.95
Z_95: Final = 1.959963984540054  # 97.5% quantile of the standard normal distribution


@dataclass(frozen=True)
class Interval:
    """A score with its 95% interval.

    Attributes:
        value: The score on all rows; NaN where undefined.
        low: Lower bound; NaN where there is none.
        high: Upper bound; NaN where there is none.
        n: Rows behind it.
        n_patients: Patients behind it.
        n_dropped: Bootstrap replicates in which the score was undefined.
        note: Why a value or bound is missing, or what to know about it; empty where there is nothing to say.
    """

    value: float
    low: float
    high: float
    n: int
    n_patients: int
    n_dropped: int = 0
    note: str = ""

    @property
    def bounded(self) -> bool:
        """Whether value and both bounds exist."""
        return bool(np.isfinite([self.value, self.low, self.high]).all())

    def facts(self) -> dict[str, Any]:
        """For JSON: what is NaN becomes None."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }

    def __str__(self) -> str:
        if not math.isfinite(self.value):
            return self.note or "undefined"
        if not self.bounded:
            return f"{self.value:.3f} (no interval)"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Difference(Interval):
    """A difference with its 95% interval and the p-value of its being zero.

    Attributes:
        p: Two-sided, not corrected for other comparisons; NaN where undefined.
    """

    p: float = math.nan

    @property
    def established(self) -> bool:
        """Whether the interval excludes zero: only then is an order claimed."""
        return self.bounded and (self.low > 0 or self.high < 0)

    def __str__(self) -> str:
        if not self.bounded:
            return super().__str__()
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}], p {self.p:.3g}"


def undefined(why: str, n: int = 0, n_patients: int = 0) -> Interval:
    """An interval that says why there is none."""
    return Interval(math.nan, math.nan, math.nan, n, n_patients, note=why)


def undefined_difference(why: str, n: int = 0, n_patients: int = 0) -> Difference:
    """A difference that says why there is none."""
    return Difference(math.nan, math.nan, math.nan, n, n_patients, note=why)


def wilson(k: float, n: float) -> tuple[float, float]:
    """95% score interval of a proportion (Wilson 1927); bounds are NaN where `n` is zero.

    Args:
        k: Successes; a fraction where `n` is an effective sample size.
        n: Trials.
    """
    if n <= 0:
        return math.nan, math.nan
    share, z2 = float(k / n), Z_95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def proportion(hit_N: ArrayLike, patients: ArrayLike) -> Interval:
    """A proportion with a Wilson interval whose sample size allows for several rows per patient.

    The number of rows is divided by the design effect of Rao & Scott (1992, Biometrics 48, 577-585): the variance
    of the proportion between patients over the binomial one, at least 1 here. With all hits or none it cannot be
    estimated, and the number of patients stands in for it. With one row per patient it is about the plain interval.
    """
    hits = np.asarray(hit_N, dtype=float)
    codes, known = pd.factorize(np.asarray(patients), sort=True)
    n, n_patients = len(hits), len(known)
    if n == 0:
        return undefined("insufficient data: no rows")
    share = float(hits.mean())
    effective = float(n_patients)
    if 0 < share < 1 and n_patients > 1:
        residual_P = np.bincount(codes, hits - share)
        between = n_patients / (n_patients - 1) * float((residual_P**2).sum()) / n**2
        effective = n / max(1.0, between / (share * (1 - share) / n))
    low, high = wilson(share * effective, effective)
    return Interval(share, low, high, n, n_patients)
