"""Groups of images that lie apart in the embedding, view by view: HDBSCAN, and a second look at whether they do.

Views are looked at one by one: that a lateral film lies apart from a frontal one is no news, and hides what parts the
lateral ones. HDBSCAN (Campello et al. 2013) needs no number of clusters and leaves images out as noise, but finds
clusters in one even cloud too; each is therefore asked whether it has a valley around it (`unimodal`), along a
direction that was learnt from other patients.

Legend: N rows, D features.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import HDBSCAN
from sklearn.covariance import ledoit_wolf
from sklearn.neighbors import KNeighborsClassifier

from hilum.judgement.shortcuts.modes import principal
from hilum.judgement.shortcuts.permuting import Rows
from hilum.judgement.shortcuts.unimodal import one_mode
from hilum.judgement.stats import Floats
from hilum.recipe import Shortcuts

MIN_SHARE: Final = 0.02  # of a view's images: the smallest cluster
NEIGHBOURS: Final = 5  # HDBSCAN's smoothing of the density, and of the assignment of images beyond the sample
MAX_EXACT: Final = 10_000  # images of a view that are clustered; the others join the cluster of their neighbours
NOISE: Final = -1
# Of a view's images that must be in some cluster. The second look shares its images with the first, so that what it
# calls 1% is more: on 60 phantom cohorts without anything to find it passed 3 of 21 searches in which HDBSCAN had
# gathered 12-37% of a view, all three below 25%; real separations gathered 29-68%. On 80 other such cohorts nothing
# passed both.
MIN_CLUSTERED: Final = 0.25


@dataclass(frozen=True)
class Cluster:
    """Images of one view that lie apart.

    Attributes:
        view: Their view; empty where no view is known.
        number: From 1 in each view, largest first.
        members: Rows of the images.
        others: Rows of the view's other clustered images.
        nearest: Rows of members by distance from the middle of the cluster, one of each patient.
    """

    view: str
    number: int
    members: Rows
    others: Rows
    nearest: Rows

    @property
    def name(self) -> str:
        """`PA 1`, or `1` where no view is known."""
        return f"{self.view} {self.number}".strip()


@dataclass(frozen=True)
class Search:
    """What was found in all views.

    Attributes:
        clusters: Those that lie apart.
        n_images: Images that were looked at.
        n_noise: Of these, images in no cluster.
        n_blurred: Clusters of HDBSCAN without a valley, with few patients, or in a view that is mostly noise.
    """

    clusters: tuple[Cluster, ...]
    n_images: int
    n_noise: int
    n_blurred: int


def find(z_ND: NDArray[Any], view_N: NDArray[Any], patient_N: Rows, fold_N: Rows, recipe: Shortcuts) -> Search:
    """Look for clusters in each view.

    Args:
        z_ND: Embeddings.
        view_N: View of each, as text; `unknown` is a view of its own.
        patient_N: Number of each row's patient.
        fold_N: Number of its fold.
        recipe: `cluster_dims`, `min_group`, `alpha`, `seed`.
    """
    found: list[Cluster] = []
    n_noise = n_blurred = 0
    views = np.unique(view_N)
    for view in views:
        rows = np.flatnonzero(view_N == view)
        score_ND = principal(np.asarray(z_ND[rows]), recipe.cluster_dims)
        cluster_N = _clustered(score_ND, len(np.unique(patient_N[rows])), recipe)
        n_noise += int((cluster_N == NOISE).sum())
        sizes = np.bincount(cluster_N[cluster_N >= 0])
        dense = (cluster_N >= 0).mean() >= MIN_CLUSTERED
        number = 0
        for k in np.argsort(-sizes, kind="stable"):
            member_N = cluster_N == k
            patients = patient_N[rows]
            enough = len(np.unique(patients[member_N])) >= recipe.min_group
            if not (dense and enough and _apart(score_ND, cluster_N, member_N, patients, fold_N[rows], recipe)):
                n_blurred += 1
                continue
            number += 1
            middle_D = score_ND[member_N].mean(axis=0)
            members = rows[member_N]
            order = members[np.argsort(((score_ND[member_N] - middle_D) ** 2).sum(axis=1), kind="stable")]
            once = order[np.sort(np.unique(patient_N[order], return_index=True)[1])]
            others = rows[~member_N & (cluster_N >= 0)]
            found.append(Cluster("" if len(views) == 1 else str(view), number, members, others, once))
    return Search(tuple(found), len(z_ND), n_noise, n_blurred)


def _clustered(score_ND: Floats, n_patients: int, recipe: Shortcuts) -> Rows:
    """Number of each row's cluster, (N,); NOISE where it is in none."""
    n = len(score_ND)
    smallest = max(recipe.min_group, int(MIN_SHARE * n))
    if n_patients < 2 * recipe.min_group or n < 2 * smallest:
        return np.full(n, NOISE)
    chosen = np.arange(n)
    if n > MAX_EXACT:
        chosen = np.sort(np.random.default_rng(recipe.seed).permutation(n)[:MAX_EXACT])
        smallest = max(recipe.min_group, int(MIN_SHARE * MAX_EXACT))
    found = HDBSCAN(min_cluster_size=smallest, min_samples=NEIGHBOURS, copy=True).fit_predict(score_ND[chosen])
    if len(chosen) == n:
        return np.asarray(found, dtype=np.int64)
    whole = KNeighborsClassifier(NEIGHBOURS).fit(score_ND[chosen], found).predict(score_ND)
    whole[chosen] = found
    return np.asarray(whole, dtype=np.int64)


def _apart(
    score_ND: Floats, cluster_N: Rows, member_N: NDArray[np.bool_], patient_N: Rows, fold_N: Rows, recipe: Shortcuts
) -> bool:
    """Whether a valley lies between the cluster and the other clusters together, all images of the view counted.

    Images are projected on the discriminant direction that the patients of other folds show, one image of each patient.
    """
    other_N = ~member_N & (cluster_N >= 0)
    if not other_N.any():
        return False
    along_N = np.empty(len(score_ND))
    for fold in np.unique(fold_N):
        fit, held = fold_N != fold, fold_N == fold
        if not (fit & member_N).any() or not (fit & other_N).any():
            return False
        ours_D, theirs_D = score_ND[fit & member_N].mean(axis=0), score_ND[fit & other_N].mean(axis=0)
        inner = np.concatenate([score_ND[fit & member_N] - ours_D, score_ND[fit & other_N] - theirs_D])
        direction_D = np.linalg.solve(ledoit_wolf(inner, assume_centered=True)[0], ours_D - theirs_D)
        # On one scale in all folds: -1 where the others' mean lies, 1 where the cluster's does.
        reach = float((ours_D - theirs_D) @ direction_D)
        along_N[held] = 2 * (score_ND[held] - (ours_D + theirs_D) / 2) @ direction_D / reach
    once = np.random.default_rng(recipe.seed).permutation(len(patient_N))
    once = once[np.unique(patient_N[once], return_index=True)[1]]
    low, high = float(np.median(along_N[other_N])), float(np.median(along_N[member_N]))
    return one_mode(along_N[once], low, high, recipe.seed) <= recipe.alpha
