"""What chance alone would show: an attribute dealt out anew among patients, who keep their images and their labels.

Images of one patient are not independent, so patients are exchanged, not images; and only with patients whose images
fall into the same strata (of the label, say), so that what the strata explain stays as it is (a restricted permutation,
Good 2005, chapter 7). Image i of a patient takes the attribute of image i of the donor in the same stratum, beginning
anywhere and from the front again where the donor has fewer, so that an attribute that changes from image to image
(the view) changes as it does within a patient.

Legend: N rows, B permutations, M tests.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hilum.judgement.stats import Floats

Rows = NDArray[np.int64]


def donors(patient_N: Rows, stratum_N: Rows, permutations: int, seed: int) -> Iterator[Rows]:
    """Permutation by permutation, the row from which each row takes its attribute, (N,).

    Args:
        patient_N: Number of each row's patient.
        stratum_N: Number of its stratum; at most 62 different ones.
        permutations: B.
        seed: Same input and seed, same permutations.
    """
    random = np.random.default_rng(seed)
    _, patient_N = np.unique(patient_N, return_inverse=True)
    _, stratum_N = np.unique(stratum_N, return_inverse=True)
    n_strata = int(stratum_N.max()) + 1 if len(stratum_N) else 1
    assert n_strata <= 62, "the strata of a patient are kept in the bits of one number"
    block_N = patient_N * n_strata + stratum_N
    order_N = np.argsort(block_N, kind="stable")
    length_B = np.bincount(block_N, minlength=(int(patient_N.max()) + 1) * n_strata if len(patient_N) else 0)
    start_B = np.cumsum(length_B) - length_B
    place_N = np.empty(len(block_N), dtype=np.int64)
    place_N[order_N] = np.arange(len(block_N)) - start_B[block_N[order_N]]
    seen_PS = (length_B > 0).reshape(-1, n_strata)
    kind_P = seen_PS @ (1 << np.arange(n_strata))
    exchangeable = [np.flatnonzero(kind_P == kind) for kind in np.unique(kind_P)]
    for _ in range(permutations):
        donor_P = np.arange(len(kind_P))
        for members in exchangeable:
            donor_P[members] = random.permutation(members)
        from_N = donor_P[patient_N] * n_strata + stratum_N
        begin_B = random.integers(0, np.maximum(length_B, 1))
        yield order_N[start_B[from_N] + (begin_B[from_N] + place_N) % length_B[from_N]]


def p_value(observed: float, null_B: Floats) -> float:
    """Share of permutations that reach the observed value, itself among them (Davison & Hinkley 1997, eq. 4.11)."""
    return float((1 + int((null_B >= observed).sum())) / (1 + len(null_B)))


def together(observed_M: Floats, null_BM: Floats) -> Floats:
    """p-values of tests that were permuted together, corrected for how many there are, (M,).

    The share of permutations whose most extreme test is as extreme as the observed one, each test measured in its own
    standard deviations of the null (Westfall & Young 1993, the single-step maximum). Unlike Holm's correction it needs
    no more permutations the more tests there are, and tests that depend on each other cost less.

    Args:
        observed_M: Statistics; larger is more extreme. NaN where one is undefined, which then has no p-value.
        null_BM: The same of each permutation, all tests of a row permuted alike.
    """
    p_M = np.full(len(observed_M), np.nan)
    asked = np.isfinite(observed_M)
    if not asked.any():
        return p_M
    null = np.where(np.isfinite(null_BM[:, asked]), null_BM[:, asked], np.nan)
    centre, spread = np.nanmean(null, axis=0), np.nanstd(null, axis=0)
    spread = np.where(spread > 0, spread, np.inf)
    # A test that is undefined in a permutation says nothing there; that must not speak against the others.
    highest_B = np.nan_to_num((null - centre) / spread).max(axis=1, initial=-np.inf)
    for place, z in zip(np.flatnonzero(asked), (observed_M[asked] - centre) / spread, strict=True):
        p_M[place] = p_value(float(z), highest_B)
    return p_M
