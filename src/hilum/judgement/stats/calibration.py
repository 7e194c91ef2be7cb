"""The calibration error over bins that stay as they are in every resample, and how large chance alone makes it.

Legend: N rows, R resamples, B bins, S simulations.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hilum.judgement.stats.intervals import Floats
from hilum.judgement.stats.metrics import CALIBRATION_BINS, Sums, ratio, scored

ROWS_PER_BIN: Final = 20  # fewer rows make a bin's observed rate too noisy to compare
SIMULATIONS: Final = (200, 2000)  # at least and at most; the mean of 200 is within 2% of what endless ones give
SIMULATED_ELEMENTS: Final = 2_000_000  # simulations x rows between those ends, and at a time: 8 MB


def equal_mass_bins(probability_N: NDArray[Any]) -> NDArray[np.int64]:
    """The bin of each row by the rule of `weighted_ece`: equal probabilities share the one where their middle falls.

    Returns:
        (N,), from 0; as many bins as leave ROWS_PER_BIN rows to each, CALIBRATION_BINS at most; -1 where that is none.
    """
    count = min(CALIBRATION_BINS, len(probability_N) // ROWS_PER_BIN)
    if not count:
        return np.full(len(probability_N), -1)
    _, value_N, mass = np.unique(probability_N, return_inverse=True, return_counts=True)
    middle = np.cumsum(mass) - mass / 2
    return np.asarray(np.minimum(count * middle // len(probability_N), count - 1).astype(np.int64)[value_N])


def weighted_binned_ece(w_RN: Floats, y_N: NDArray[Any], probability_N: NDArray[Any]) -> Floats:
    """Expected calibration error, (R,), over `equal_mass_bins` of the rows themselves, whatever the weights.

    Naeini et al. 2015, equation 3. An edge moves little from resample to resample, and with edges that stay a bin's sum
    is one over patients: a thousand resamples of 200,000 rows are a product of matrices. With a weight of one for every
    row it equals `weighted_ece` with as many bins. NaN where there are too few rows for one bin.
    """
    columns, finish = binned_ece_sums(y_N, probability_N)
    return finish(w_RN @ np.stack(columns, axis=1))


def binned_ece_sums(y_N: NDArray[Any], probability_N: NDArray[Any]) -> Sums:
    """What `weighted_binned_ece` sums over rows, and how it is made of those sums."""
    y_N, p_N = np.asarray(y_N, dtype=float), np.asarray(probability_N, dtype=float)
    known = ~np.isnan(y_N)
    bin_N = np.full(len(y_N), -1)
    if scored(y_N, p_N):
        bin_N[known] = equal_mass_bins(p_N[known])
    residual_N = np.where(known, p_N - y_N, 0.0)
    residuals = [np.where(bin_N == b, residual_N, 0.0) for b in range(int(bin_N.max(initial=-1)) + 1)]

    def finish(sums_RT: Floats) -> Floats:
        below_R = sums_RT[:, -1] if residuals else np.zeros(len(sums_RT))
        return ratio(np.abs(sums_RT[:, :-1]).sum(axis=1), below_R)

    return [*residuals, known.astype(float)], finish


def calibrated_ece(probability_N: NDArray[Any], seed: int) -> float:
    """The calibration error that a perfectly calibrated score shows on average on these rows; NaN if too few for a bin.

    It is not zero: chance moves every bin away from what was predicted, and the error counts the way in either
    direction. Outcomes are drawn from the probabilities themselves, each row for itself (consistency resampling:
    Broecker & Smith 2007, Weather and Forecasting 22, 651-661), and scored over `equal_mass_bins`.

    Args:
        probability_N: What is predicted, in [0, 1].
        seed: Of the outcomes.
    """
    bin_N = equal_mass_bins(probability_N)
    if not len(bin_N) or bin_N[0] < 0:
        return float("nan")
    order = np.argsort(bin_N, kind="stable")
    p_N = np.asarray(probability_N, dtype=np.float64)[order]
    starts = np.flatnonzero(np.r_[True, np.diff(bin_N[order]) != 0])
    expected_B = np.add.reduceat(p_N, starts)
    random, p32_N = np.random.default_rng(seed), p_N.astype(np.float32)
    simulations = int(np.clip(SIMULATED_ELEMENTS // len(p_N), *SIMULATIONS))
    step, total = max(1, SIMULATED_ELEMENTS // len(p_N)), 0.0
    for start in range(0, simulations, step):
        y_SN = random.random((min(step, simulations - start), len(p_N)), dtype=np.float32) < p32_N
        seen_SB = np.add.reduceat(y_SN, starts, axis=1, dtype=np.int32)
        total += float(np.abs(seen_SB - expected_B).sum())
    return total / (simulations * len(p_N))
