"""Maximum mean discrepancy: how far apart two sets of vectors lie, by any difference that a Gaussian kernel sees.

MMD^2 is the squared distance between the mean embeddings of the two distributions in the kernel's space, 0 only where
they are the same (Gretton et al. 2012, JMLR 13, theorem 5). The estimate is their unbiased one (equation 3) with one
change: pairs of rows of one patient are left out, since such rows are alike whatever the sets, and would make the
estimate of two equal sets larger than 0. With one row per patient it is equation 3.

Legend: N rows, D features, R ways to part the rows, P patients.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from hilum.judgement.report.sides import Bools, Rows
from hilum.judgement.stats import Floats


def kernel(z_ND: NDArray[Any], patient_N: Rows) -> tuple[Floats, float]:
    """Gaussian kernel between rows of different patients, 0 between those of one, (N, N), and its bandwidth.

    The bandwidth is the median distance between rows of different patients, of both sets together (the median
    heuristic of Gretton et al. 2012, section 8). Features keep their scale: a direction counts as much as it counts in
    the distances that neighbours are found by. NaN as the bandwidth, and a kernel of ones, where most rows are equal.
    """
    z_ND = np.asarray(z_ND, dtype=np.float64)
    z_ND = z_ND - z_ND.mean(axis=0)  # no distance changes, and less is lost to rounding
    squared_N = (z_ND**2).sum(axis=1)
    apart_NN = squared_N[:, None] + squared_N[None] - 2 * (z_ND @ z_ND.T)
    np.maximum(apart_NN, 0.0, out=apart_NN)
    same_NN = patient_N[:, None] == patient_N[None]
    bandwidth = float(np.sqrt(np.median(apart_NN[~same_NN])))
    if bandwidth > 0:
        apart_NN /= -2 * bandwidth**2
        np.exp(apart_NN, out=apart_NN)
    else:
        apart_NN[:], bandwidth = 1.0, float("nan")
    apart_NN[same_NN] = 0.0
    return apart_NN, bandwidth


def mmd2(kernel_NN: Floats, before_RN: Bools, now_RN: Bools, patient_N: Rows) -> Floats:
    """Unbiased estimate of MMD^2 for R ways to part the rows, (R,); a row may lie on both sides.

    Returns:
        NaN where one side has no two patients.
    """
    n = len(patient_N)
    of_patient = csr_array((np.ones(n), (np.arange(n), patient_N)), shape=(n, int(patient_N.max()) + 1))
    before_RN, now_RN = before_RN.astype(float), now_RN.astype(float)
    before_RP, now_RP = before_RN @ of_patient, now_RN @ of_patient
    near_RN = before_RN @ kernel_NN

    def mean(summed_R: Floats, left_RP: Floats, right_RP: Floats) -> Floats:
        pairs_R = left_RP.sum(axis=1) * right_RP.sum(axis=1) - (left_RP * right_RP).sum(axis=1)
        return np.asarray(np.divide(summed_R, pairs_R, out=np.full(len(pairs_R), np.nan), where=pairs_R > 0))

    within_before = mean((near_RN * before_RN).sum(axis=1), before_RP, before_RP)
    between = mean((near_RN * now_RN).sum(axis=1), before_RP, now_RP)
    within_now = mean(((now_RN @ kernel_NN) * now_RN).sum(axis=1), now_RP, now_RP)
    return np.asarray(within_before + within_now - 2 * between)
