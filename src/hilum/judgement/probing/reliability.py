"""What a probability has meant: of held-out images with about this probability, how many were positive?

The bins of a reliability diagram (Murphy & Winkler 1977, Applied Statistics 26, 41-47) with equal mass, each with the
interval of its observed share. They are what stands behind the calibration error, and what an answer can cite.
"""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hilum.judgement import stats
from hilum.judgement.stats.calibration import equal_mass_bins


def reliability(probability_N: NDArray[Any], y_N: NDArray[Any], patients_N: NDArray[Any]) -> list[dict[str, Any]]:
    """Bins of equal mass in ascending order; none where there are too few rows for one.

    Args:
        probability_N: Calibrated probabilities in [0, 1].
        y_N: 1 positive, 0 negative.
        patients_N: One id per row; the interval is of patients (`stats.proportion`).

    Returns:
        For each bin `low` and `high`, which meet halfway between neighbouring bins, and `observed`: value, low, high,
        n, n_positive.
    """
    bin_N = equal_mass_bins(probability_N)
    names = [name for name in np.unique(bin_N) if name >= 0]
    ends = [(probability_N[bin_N == name].min(), probability_N[bin_N == name].max()) for name in names]
    edges = [0.0, *(float(a[1] + b[0]) / 2 for a, b in pairwise(ends)), 1.0]
    return [
        {
            "low": edges[number],
            "high": edges[number + 1],
            "observed": stats.proportion(y_N[bin_N == name] == 1, patients_N[bin_N == name]).facts(),
            "n_positive": int((y_N[bin_N == name] == 1).sum()),
        }
        for number, name in enumerate(names)
    ]
