"""Can a classifier tell from an embedding which of two sets a row belongs to, and could it if that were chance?

A classifier two-sample test (Lopez-Paz & Oquab 2017, ICLR): if the AUROC on held-out patients is above what dealing
patients out anew shows, the sets differ. The classifier is the shrunk linear discriminant of
`hilum.judgement.shortcuts.decoding`, which has the decision boundary of a logistic regression (Efron 1975, JASA 70) in
closed form, so that it is fitted anew for every deal at the price of a matrix product.

Legend: N rows, D features, R deals.
"""

from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.judgement import stats
from hilum.judgement.probing.tasks import fold_of
from hilum.judgement.report.sides import Bools, Rows, Sides
from hilum.judgement.shortcuts import decoding, modes
from hilum.judgement.stats import Floats, Interval

FOLDS: Final = 5
MAX_DIMS: Final = 512  # wider embeddings enter by so many principal components: inverting costs their cube
CHUNK_ELEMENTS: Final = 4_000_000  # rows x deals held at once: 32 MB per array


def told_apart(
    z_ND: NDArray[Any], sides: Sides, deals: tuple[Bools, Bools], bootstrap: int, seed: int
) -> tuple[Interval, Floats]:
    """How well held-out rows of the two sets are told apart, and how well in every deal.

    Patients are on one side of a fit only; what a row is told by was learnt from other patients.

    Args:
        z_ND: Embeddings, (N, D).
        sides: Where the rows lie.
        deals: Of `sides.deals`.
        bootstrap: Patient-bootstrap replicates of the interval; the fits stay as they are.
        seed: Of folds and resamples.

    Returns:
        AUROC of the current set against the reference with its interval, and the AUROC of each deal, (R,).
    """
    z_ND = np.asarray(z_ND, dtype=np.float64)
    if z_ND.shape[1] > MAX_DIMS:
        z_ND = modes.principal(z_ND, MAX_DIMS)
    fold_N = fold_of(pd.Series(sides.patient_N), FOLDS, seed)
    nothing_N = np.zeros(len(z_ND), dtype=np.int64)
    space = decoding.Space.prepare(z_ND, nothing_N, fold_N, sides.patient_N, conditional=False)
    score_N1 = _scores(space, sides.before_N[None], sides.now_N[None])
    rows = np.concatenate([np.flatnonzero(sides.before_N), np.flatnonzero(sides.now_N)])
    is_now = (np.arange(len(rows)) >= sides.before_N.sum()).astype(float)
    found = stats.patient_bootstrap(
        stats.weighted_auroc, sides.patient_N[rows], bootstrap, seed, is_now, score_N1[rows, 0], fold_N[rows]
    )
    step = max(1, CHUNK_ELEMENTS // len(z_ND))
    dealt = []
    for start in range(0, len(deals[0]), step):
        before_RN, now_RN = (lying_RN[start : start + step] for lying_RN in deals)
        dealt.append(_aurocs(_scores(space, before_RN, now_RN), before_RN, now_RN, fold_N))
    return found, np.concatenate(dealt)


def _scores(space: decoding.Space, before_RN: Bools, now_RN: Bools) -> Floats:
    """Held-out discriminant for each way to part the rows, (N, R)."""
    # Each row's share of its set: projected on these, the whitened rows give the difference of the sets' means.
    before_RN, now_RN = before_RN.astype(float), now_RN.astype(float)
    target_RN = now_RN / now_RN.mean(axis=1, keepdims=True) - before_RN / before_RN.mean(axis=1, keepdims=True)
    return decoding.held_out_scores(space, np.arange(before_RN.shape[1]), target_RN.T)


def _aurocs(score_NR: Floats, before_RN: Bools, now_RN: Bools, fold_N: Rows) -> Floats:
    """AUROC within folds for each way to part the rows, (R,); a row on both sides ties with itself."""
    wins_R, pairs_R = np.zeros(len(before_RN)), np.zeros(len(before_RN))
    for fold in range(FOLDS):
        held = np.flatnonzero(fold_N == fold)
        order_RN = np.argsort(score_NR[held], axis=0).T
        before = np.take_along_axis(before_RN[:, held], order_RN, axis=1).astype(float)
        now = np.take_along_axis(now_RN[:, held], order_RN, axis=1).astype(float)
        wins_R += (now * (np.cumsum(before, axis=1) - before / 2)).sum(axis=1)
        pairs_R += now.sum(axis=1) * before.sum(axis=1)
    return np.asarray(np.divide(wins_R, pairs_R, out=np.full(len(pairs_R), np.nan), where=pairs_R > 0))
