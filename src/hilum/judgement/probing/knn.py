"""k nearest neighbours on frozen embeddings: what the images that lie nearest were labelled.

Legend: N rows to fit on, M rows to score, D width of the embedding, K classes. Neighbours by Euclidean distance, each
with one vote; the plainest reading of an embedding, since it is fitted to nothing but k.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from hilum.judgement.probing.svm import Floats, Kind

K_GRID: Final = (5, 15, 50, 150)


def scores(z_ND: Floats, y_N: NDArray[Any], z_MD: Floats, kind: Kind, grid: Sequence[float]) -> list[Floats]:
    """Scores of the held-out rows for each k; where there are fewer rows than k, all are neighbours.

    A class's score is log((n_k / share_k + 1) / (k + 1)), n_k of the neighbours being of a class that has `share_k` of
    the rows: 0 where the neighbourhood is as the whole, so that a rare class is called where it is more frequent than
    elsewhere. The one is a pseudo-neighbour with the shares of the whole: no score is infinite.

    Returns:
        For each k: (M,) the score of 1 minus that of 0 (binary) or the neighbours' mean (regression), (M, K)
        (multiclass).
    """
    counts = [min(int(k), len(z_ND)) for k in grid]
    near = (
        NearestNeighbors(n_neighbors=max(counts), algorithm="brute").fit(z_ND).kneighbors(z_MD, return_distance=False)
    )
    if kind == "regression":
        return [y_N[near[:, :k]].mean(axis=1) for k in counts]
    n_classes = 2 if kind == "binary" else int(y_N.max()) + 1
    share_K = np.bincount(y_N.astype(int), minlength=n_classes) / len(y_N)
    found = []
    for k in counts:
        votes_MK = np.stack([(y_N[near[:, :k]] == name).sum(axis=1) for name in range(n_classes)], axis=1)
        score_MK = np.log((votes_MK / share_K + 1) / (k + 1))
        found.append(score_MK[:, 1] - score_MK[:, 0] if kind == "binary" else score_MK)
    return found
