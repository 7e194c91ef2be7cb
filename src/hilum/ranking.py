"""How well a score ranks: the one figure that training, pictures and judgement all ask for."""

import math

import numpy as np
from numpy.typing import ArrayLike


def auroc(y: ArrayLike, score: ArrayLike) -> float:
    """Area under the ROC curve by midranks (Hanley & McNeil 1982: the Wilcoxon statistic; ties count one half).

    Args:
        y: 1 or True for positive, 0 or False for negative, of shape (N,).
        score: Higher means more likely positive, of shape (N,).

    Returns:
        In [0, 1]; NaN where one class is missing.
    """
    positive = np.asarray(y, dtype=float) == 1
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if n_positive == 0 or n_negative == 0:
        return math.nan
    _, place, count = np.unique(np.asarray(score, dtype=float), return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]
    return float((rank[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))
