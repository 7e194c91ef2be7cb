"""p-values that were asked for together, corrected for how many there are; those that are NaN were not asked."""

import numpy as np
from numpy.typing import ArrayLike

from hilum.judgement.stats.intervals import Floats


def holm(p_M: ArrayLike) -> Floats:
    """Step-down correction of Holm (1979): below 0.05 keeps the chance of any false claim below 0.05.

    It asks nothing about how the tests depend on each other.

    Returns:
        Corrected p-values in the order in which they came, (M,); NaN stays NaN and counts for nothing.
    """
    return _corrected(p_M, step_up=False)


def benjamini_hochberg(p_M: ArrayLike) -> Floats:
    """Step-up correction of Benjamini & Hochberg (1995): of the claims below 0.05, at most 5% are expected to be false.

    For independent tests, or tests that depend positively (Benjamini & Yekutieli 2001). It lets more through than
    `holm`, so it suits a list that will be looked at again, not a release decision.

    Returns:
        Corrected p-values in the order in which they came, (M,); NaN stays NaN and counts for nothing.
    """
    return _corrected(p_M, step_up=True)


def _corrected(p_M: ArrayLike, step_up: bool) -> Floats:
    corrected_M = np.array(p_M, dtype=float)
    known = np.flatnonzero(~np.isnan(corrected_M))
    order = known[np.argsort(corrected_M[known], kind="stable")]
    m, place = len(order), np.arange(len(order))
    if step_up:
        scaled = corrected_M[order] * m / (place + 1)
        stepped = np.minimum.accumulate(scaled[::-1])[::-1]
    else:
        stepped = np.maximum.accumulate(corrected_M[order] * (m - place))
    corrected_M[order] = np.minimum(1.0, stepped)
    return corrected_M
