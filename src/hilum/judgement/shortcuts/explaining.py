"""Does anything that is known of the images tell why they lie apart?

A cluster is explained step by step, as one would ask. The attribute that tells best who is a member is named, and the
question is put again among the images that share the cluster's levels of it, until nearly all of these are members
(explained), or nothing that is left tells more (unexplained: then only the pictures can).

Legend: N clustered images of one view, L levels, B permutations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import adjusted_mutual_info_score

from hilum.judgement.fairness.groups import UNKNOWN
from hilum.judgement.shortcuts.association import association
from hilum.judgement.shortcuts.attributes import Attribute
from hilum.judgement.shortcuts.clusters import Cluster
from hilum.judgement.shortcuts.permuting import Rows, donors, together
from hilum.judgement.stats import Floats, Interval
from hilum.recipe import Shortcuts

MAX_STEPS: Final = 3
LARGE_EFFECT: Final = 0.8  # standard deviations (Cohen 1988): a difference in brightness worth a word
NEARLY_ALL: Final = 0.8  # of the images that share the levels; a label or a view is not noted more reliably than that


@dataclass(frozen=True)
class Measure:
    """How well an attribute tells the members of a cluster from the view's other clustered images.

    Attributes:
        attribute: What.
        auroc: Of membership ranked by the attribute alone, learnt from other patients.
        p_adjusted: Of no relation, by permutation of patients, corrected over the attributes.
        adjusted_mutual_information: 0 where it tells nothing, 1 where it tells all (Vinh et al. 2010).
        commonest: The commonest level among the members.
        purity: Its share of them.
    """

    attribute: Attribute
    auroc: Interval
    p_adjusted: float
    adjusted_mutual_information: float
    commonest: str
    purity: float


@dataclass(frozen=True)
class Explanation:
    """Why a cluster lies apart, as far as is known.

    Attributes:
        measures: Every attribute among all clustered images of the view, most telling first.
        because: Attribute and levels of each step that told something.
        explained: Whether the steps leave nothing to ask.
    """

    measures: tuple[Measure, ...]
    because: tuple[tuple[Attribute, tuple[str, ...]], ...]
    explained: bool


def explain(
    cluster: Cluster, attributes: Sequence[Attribute], patient_N: Rows, fold_N: Rows, recipe: Shortcuts
) -> Explanation:
    """Look for what tells the members of a cluster from the other clustered images of their view.

    Args:
        cluster: Whose members.
        attributes: All that is known of the dataset's images, labels among it.
        patient_N: Number of each image's patient.
        fold_N: Number of its fold.
        recipe: `explained`, `alpha`, `min_group`, `permutations`, `bootstrap`, `seed`.
    """
    rows = np.concatenate([cluster.members, cluster.others])
    member_N = np.arange(len(rows)) < len(cluster.members)
    left = list(attributes)
    first: tuple[Measure, ...] = ()
    because: list[tuple[Attribute, tuple[str, ...]]] = []
    for step in range(MAX_STEPS):
        measures = _measured(left, rows, member_N, patient_N, fold_N, recipe)
        first = measures if step == 0 else first
        telling = [m for m in measures if m.p_adjusted <= recipe.alpha and m.auroc.low > recipe.explained]
        if not telling:
            return Explanation(first, tuple(because), explained=False)
        best = telling[0].attribute
        band = best.band_N[rows]
        levels = _typical(band, member_N)
        because.append((best, levels))
        inside = np.isin(band, levels)
        rows, member_N, left = rows[inside], member_N[inside], [one for one in left if one is not best]
        outside = len(np.unique(patient_N[rows[~member_N]]))
        if member_N.mean() >= NEARLY_ALL or outside < recipe.min_group:
            return Explanation(first, tuple(because), explained=True)
    return Explanation(first, tuple(because), explained=False)


def _measured(
    attributes: Sequence[Attribute],
    rows: Rows,
    member_N: NDArray[np.bool_],
    patient_N: Rows,
    fold_N: Rows,
    recipe: Shortcuts,
) -> tuple[Measure, ...]:
    """How well each attribute tells membership among these rows; those of one level only are not asked."""
    found, codes = [], []
    for attribute in attributes:
        band = attribute.band_N[rows]
        levels, code_N = np.unique(band.astype(str), return_inverse=True)
        known = band != UNKNOWN
        if len(set(levels) - {UNKNOWN}) < 2 or len(np.unique(member_N[known])) < 2:
            continue
        code = np.where(known, code_N, np.nan).astype(float)
        local = Attribute(attribute.name, "category", tuple(levels), code, code, band)
        auroc = association(local, member_N.astype(float), patient_N[rows], fold_N[rows], recipe)
        names, counts = np.unique(band[member_N].astype(str), return_counts=True)
        told = float(adjusted_mutual_info_score(member_N[known], code_N[known]))
        top = int(counts.argmax())
        found.append((attribute, auroc, told, str(names[top]), float(counts[top] / counts.sum())))
        codes.append(np.where(known, code_N, -1))
    corrected = _chance(codes, member_N, patient_N[rows], recipe)
    measures = [Measure(one[0], one[1], float(p), *one[2:]) for one, p in zip(found, corrected, strict=True)]
    return tuple(sorted(measures, key=lambda one: -one.auroc.value))


def _chance(codes: Sequence[Rows], member_N: NDArray[np.bool_], patient_N: Rows, recipe: Shortcuts) -> Floats:
    """p-value of each attribute telling membership on these rows, membership dealt out anew among patients.

    Args:
        codes: Level of each row, one array for each attribute; -1 where unknown.
        member_N: Membership of each row.
        patient_N: Patient of each row.
        recipe: `permutations`, `seed`.
    """
    if not codes:
        return np.empty(0)
    everywhere = np.zeros(len(member_N), dtype=np.int64)
    dealt = donors(patient_N, everywhere, recipe.permutations, recipe.seed)
    member_BN = np.stack([member_N, *(member_N[donor] for donor in dealt)]).astype(np.float32)
    told = []
    for code_N in codes:
        is_NL = (code_N[:, None] == np.arange(code_N.max() + 1)).astype(np.float32)
        told.append(_by_rate((member_BN @ is_NL).astype(float), is_NL.sum(axis=0, dtype=float)))
    told_BM = np.stack(told, axis=1)
    return together(told_BM[0], told_BM[1:])


def _by_rate(member_BL: Floats, n_L: Floats) -> Floats:
    """AUROC of membership where rows are ranked by the share of members at their level, (B,)."""
    rate_BL = np.divide(member_BL, n_L, out=np.zeros_like(member_BL), where=n_L > 0)
    order_BL = np.argsort(rate_BL, axis=1, kind="stable")
    member = np.take_along_axis(member_BL, order_BL, axis=1)
    rest = np.take_along_axis(n_L - member_BL, order_BL, axis=1)
    # Levels of equal rate share the pairs between them in exactly that rate, so that their order does not matter.
    wins_B = (member * (np.cumsum(rest, axis=1) - rest / 2)).sum(axis=1)
    pairs_B = member.sum(axis=1) * rest.sum(axis=1)
    return np.asarray(np.divide(wins_B, pairs_B, out=np.full(len(wins_B), np.nan), where=pairs_B > 0))


def _typical(band_N: NDArray[Any], member_N: NDArray[np.bool_]) -> tuple[str, ...]:
    """Levels at which membership is commoner than overall, commonest first."""
    named = {str(level) for level in band_N} - {UNKNOWN}
    share = {level: float(member_N[band_N == level].mean()) for level in named}
    count = {level: int((member_N & (band_N == level)).sum()) for level in named}
    known = member_N[band_N != UNKNOWN].mean()
    return tuple(sorted((one for one in named if share[one] > known), key=lambda one: (-count[one], one)))


def words(cluster: Cluster, explanation: Explanation, grey_N: Floats) -> str:
    """What was found of a cluster, in sentences.

    Args:
        cluster: Which.
        explanation: Its explanation.
        grey_N: Mean grey value of each image of the dataset's vectors, 0-255.
    """
    view = f"{cluster.view} " if cluster.view else ""
    said = [f"{len(cluster.members):,} {view}images lie apart from {len(cluster.others):,} others."]
    steps = [f"{one.spoken} ({_few(levels)})" for one, levels in explanation.because]
    if explanation.explained:
        said.append(f"What tells them apart is {', and among these '.join(steps)}.")
    elif steps:
        said.append(f"{', and among these '.join(steps).capitalize()} tells part of it; nothing known tells the rest.")
    else:
        closest = explanation.measures[0] if explanation.measures else None
        near = f"; the closest is {closest.attribute.spoken}, AUROC {closest.auroc.value:.2f}" if closest else ""
        said.append(f"Nothing that is known of the images tells why{near}. Their pictures may.")
    ours, theirs = grey_N[cluster.members], grey_N[cluster.others]
    if np.isfinite(ours).any() and np.isfinite(theirs).any():
        gap = float(np.nanmean(ours) - np.nanmean(theirs))
        spread = float(np.sqrt((np.nanvar(ours) + np.nanvar(theirs)) / 2))
        if abs(gap) > LARGE_EFFECT * spread:
            said.append(
                f"They are {'brighter' if gap > 0 else 'darker'} by {abs(gap):.0f} of 255 grey levels on average."
            )
    return " ".join(said)


def _few(levels: Sequence[str]) -> str:
    """Up to three levels by name."""
    shown = ", ".join(levels[:3])
    return shown if len(levels) <= 3 else f"{shown} and {len(levels) - 3} more"
