"""LEACE: taking out of an embedding what tells an attribute linearly, and as little else as can be.

Belrose et al. 2023, "LEACE: perfect linear concept erasure in closed form", theorem 4.3 and equation 1: of all affine
maps after which no linear probe tells the attribute better than a constant, r(x) = x - W+ P W (x - mu) moves the data
least in mean squared distance. W whitens the embedding, P projects onto the column space of W times the covariance of
embedding and attribute.

With the centred data written as U S V' (N x r, r x r, r x D), W = sqrt(N) V S^-1 V', and W times that covariance is
V U' Z up to a factor, Z being the centred indicators of the levels. With Q an orthonormal basis of U' Z,
W+ P W = V S Q (V S^-1 Q)': two thin matrices, also where the covariance has not full rank, and no inverse of it.

Legend: N rows, D width, K levels of the attribute, r rank of the data, k rank of what is erased (at most K - 1).
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hilum.errors import CheckFailed

Floats = NDArray[np.float64]

TELLS: Final = 1e-9  # of the attribute's own length: what is told less is rounding


@dataclass(frozen=True)
class Eraser:
    """r(x) = x - left (right' (x - mean)).

    Attributes:
        mean_D: Of the rows that it was fitted on.
        left_Dk: V S Q.
        right_Dk: V S^-1 Q.
    """

    mean_D: Floats
    left_Dk: Floats
    right_Dk: Floats

    def __call__(self, z_ND: NDArray[Any]) -> Floats:
        """Embeddings without the attribute, (N, D)."""
        z = np.asarray(z_ND, dtype=np.float64)
        return np.asarray(z - ((z - self.mean_D) @ self.right_Dk) @ self.left_Dk.T)

    def folded(self, weight_D: Floats, bias: float) -> tuple[Floats, float]:
        """A linear score of erased embeddings as one of raw embeddings: w.r(x) + b = w'.x + b'."""
        along_k = self.left_Dk.T @ weight_D
        return weight_D - self.right_Dk @ along_k, bias + float(along_k @ (self.right_Dk.T @ self.mean_D))


def fit(z_ND: NDArray[Any], level_N: NDArray[Any]) -> Eraser:
    """The eraser of an attribute.

    Args:
        z_ND: Embeddings of training rows.
        level_N: The attribute's level of each row, all known; numbers or names.

    Raises:
        CheckFailed: The rows have one level only, so there is nothing to erase.
    """
    names, codes = np.unique(np.asarray(level_N), return_inverse=True)
    if len(names) < 2:
        raise CheckFailed(
            f"nothing can be erased: the training rows have {len(names)} known level(s) of the attribute, "
            "at least 2 are needed"
        )
    z = np.asarray(z_ND, dtype=np.float64)
    mean_D = z.mean(axis=0)
    centred_NK = np.eye(len(names))[codes]
    centred_NK -= centred_NK.mean(axis=0)
    # Theorem 4.3 holds for every norm, so features may be scaled first: one of tiny variance is not taken for rounding.
    spread_D = z.std(axis=0)
    alive_D = spread_D > TELLS * np.abs(z).max(initial=0.0, axis=0)
    v_Dr, s_r, told_rK = _decomposed((z - mean_D)[:, alive_D] / spread_D[alive_D], centred_NK)
    q_rK, length_K, _ = np.linalg.svd(told_rK, full_matrices=False)
    q_rk = q_rK[:, length_K > TELLS * np.sqrt((centred_NK**2).sum())]
    left_Dk, right_Dk = np.zeros((len(mean_D), q_rk.shape[1])), np.zeros((len(mean_D), q_rk.shape[1]))
    left_Dk[alive_D] = (v_Dr * s_r) @ q_rk * spread_D[alive_D, None]
    right_Dk[alive_D] = (v_Dr / s_r) @ q_rk / spread_D[alive_D, None]
    return Eraser(mean_D, left_Dk, right_Dk)


def _decomposed(x_ND: Floats, z_NK: Floats) -> tuple[Floats, Floats, Floats]:
    """V, S and U'Z of the rank that the data have."""
    n, d = x_ND.shape
    if d == 0:
        return np.zeros((0, 0)), np.zeros(0), np.zeros((0, z_NK.shape[1]))
    if d > n:  # few rows of a wide embedding
        u_Nr, s_r, v_rD = np.linalg.svd(x_ND, full_matrices=False)
        kept = s_r > s_r[0] * max(n, d) * np.finfo(float).eps
        return v_rD[kept].T, s_r[kept], u_Nr[:, kept].T @ z_NK
    square_D, v_DD = np.linalg.eigh(x_ND.T @ x_ND)
    kept = square_D > square_D[-1] * max(n, d) * np.finfo(float).eps
    v_Dr, s_r = v_DD[:, kept], np.sqrt(square_D[kept])
    return v_Dr, s_r, (v_Dr.T @ (x_ND.T @ z_NK)) / s_r[:, None]
