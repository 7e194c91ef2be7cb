"""Has an encoder collapsed: do its embeddings still spread, and in how many directions?

N: images, D: width of an embedding.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

MIN_RANK: Final = 2.0  # fewer directions than this, and the embeddings lie on a line
MIN_SPREAD: Final = 1e-3  # standard deviation as a share of the embeddings' size; below it every image looks the same


def effective_rank(z_ND: NDArray[np.floating]) -> float:
    """The effective number of directions in which embeddings spread: Roy and Vetterli 2007, definition 1.

    The exponential of the entropy of the singular values of the centred embeddings, normalised to sum to 1: D for a
    ball, 1 for a line, 0 where all embeddings are one point.
    """
    centred_ND = z_ND.astype(np.float64) - z_ND.mean(axis=0, dtype=np.float64)
    sizes = np.linalg.svd(centred_ND, compute_uv=False)
    if sizes.sum() == 0:
        return 0.0
    shares = sizes[sizes > 0] / sizes.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def collapse(z_ND: NDArray[np.float32]) -> dict[str, Any]:
    """Facts for the card: effective rank, mean standard deviation of a feature, n, and a warning where both are low."""
    rank, std = effective_rank(z_ND), float(z_ND.std(axis=0, dtype=np.float64).mean())
    size = float(np.abs(z_ND).mean(dtype=np.float64))
    warning = ""
    if std <= MIN_SPREAD * size:
        warning = f"the embeddings are nearly one point (standard deviation {std:.2g} at a size of {size:.2g})"
    elif rank < MIN_RANK:
        warning = f"the embeddings have collapsed to an effective rank of {rank:.2f} out of {z_ND.shape[1]}"
    return {"effective_rank": round(rank, 3), "feature_std": std, "n": len(z_ND), "warning": warning}
