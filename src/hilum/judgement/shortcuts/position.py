"""Where the body lies in the frame: one hospital's patients further right than another's, in pixels.

An image's displacement is the shift that best lays its profile (the mean over rows, or over columns) on the mean
profile of its view, by normalised correlation, to a fraction of a pixel by a parabola through the best three shifts.
The centroid of brightness, which asks for less, moves with the exposure: it puts a hospital with another contrast and
the same positioning elsewhere in the frame, where this one does not (tests/judgement/shortcuts/test_position.py).

Groups are compared image by image within views, since a lateral film is no displaced frontal one.

Legend: N images, S side in pixels, R replicates, B permutations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hilum.judgement import stats
from hilum.judgement.shortcuts.attributes import Attribute
from hilum.judgement.shortcuts.permuting import Rows, donors, p_value, together
from hilum.judgement.stats import Floats, Interval
from hilum.progress import track
from hilum.recipe import Shortcuts

REACH: Final = 1 / 6  # of the side: the largest shift that is looked for; a body further off is not placed
LEAST_CORRELATION: Final = 0.5  # of profiles; below, the image does not look like its view and is not placed
ROUNDS: Final = 3  # the mean profile is sharpened by laying the profiles on it; it stands still after two or three
LEAST_SHIFT_PX: Final = 0.5  # a smaller shift of a group is below what one image's displacement is worth
BLOCK: Final = 2_000  # images whose pixels are read at once
AXES: Final = (("right", "left"), ("down", "up"))  # of a positive and of a negative displacement


@dataclass(frozen=True)
class Displacement:
    """How far the images of one level lie from those of the others.

    Attributes:
        attribute: What is compared.
        level: Whose images.
        others: Whom with: the other level's name, or `the others`.
        axis: 0 sideways (positive is right), 1 up and down (positive is down).
        shift_px: In pixels of the stored image.
        p: Of no difference, by permutation of patients.
        p_adjusted: Corrected over all comparisons.
    """

    attribute: Attribute
    level: str
    others: str
    axis: int
    shift_px: Interval
    p: float
    p_adjusted: float


def displacements(images_NSS: NDArray[np.uint8], rows: Rows, view_N: NDArray[Any]) -> Floats:
    """Displacement of each image from the mean of its view, (N, 2) in pixels: to the right, and down.

    Args:
        images_NSS: All images of the dataset.
        rows: Which of them.
        view_N: View of each of these; images of an unknown view are a view of their own.

    Returns:
        NaN where the image does not fit its view.
    """
    size = images_NSS.shape[1]
    profile_ANS = np.empty((2, len(rows), size))
    for start in track(range(0, len(rows), BLOCK), "profiles of images", unit="block"):
        x_BSS = images_NSS[rows[start : start + BLOCK]]
        for axis in (0, 1):
            profile_ANS[axis, start : start + BLOCK] = x_BSS.mean(axis=1 + axis)
    found_N2 = np.full((len(rows), 2), np.nan)
    for view in np.unique(view_N):
        members = np.flatnonzero(view_N == view)
        for axis in (0, 1):
            found_N2[members, axis] = _laid(profile_ANS[axis][members])
    return found_N2


def _laid(profile_NS: Floats) -> Floats:
    """Shift of each profile against their mean, in pixels."""
    size = profile_NS.shape[1]
    reach = max(2, int(size * REACH))
    lags = np.arange(-reach, reach + 1)
    mean_S, place_S = profile_NS.mean(axis=0), np.arange(size)
    shift_N = np.zeros(len(profile_NS))
    for _ in range(ROUNDS):
        fit_NL = np.stack([_correlation(profile_NS, mean_S, int(lag)) for lag in lags], axis=1)
        best_N = fit_NL.argmax(axis=1)
        inner_N = best_N.clip(1, len(lags) - 2)
        below, peak, above = (np.take_along_axis(fit_NL, inner_N[:, None] + k, 1)[:, 0] for k in (-1, 0, 1))
        bend = below - 2 * peak + above
        between = np.divide((below - above) / 2, bend, out=np.zeros_like(bend), where=bend < 0)
        shift_N = lags[inner_N] + between.clip(-0.5, 0.5)
        placed = (best_N == inner_N) & (peak >= LEAST_CORRELATION)
        shift_N[~placed] = np.nan
        if not placed.any():
            break
        laid = [
            np.interp(place_S + by, place_S, row) for by, row in zip(shift_N[placed], profile_NS[placed], strict=True)
        ]
        mean_S = np.mean(laid, axis=0)
    return shift_N - (np.nanmean(shift_N) if np.isfinite(shift_N).any() else 0.0)


def _correlation(profile_NS: Floats, mean_S: Floats, lag: int) -> Floats:
    """Correlation of each profile with the mean profile moved by `lag`, over the pixels that both have."""
    size = len(mean_S)
    a_NS = profile_NS[:, max(0, lag) : size + min(0, lag)]
    b_S = mean_S[max(0, -lag) : size + min(0, -lag)]
    a_NS, b_S = a_NS - a_NS.mean(axis=1, keepdims=True), b_S - b_S.mean()
    norm_N = np.sqrt((a_NS**2).sum(axis=1) * (b_S**2).sum())
    return np.asarray(np.divide(a_NS @ b_S, norm_N, out=np.zeros(len(a_NS)), where=norm_N > 0))


def compare(
    attributes: Sequence[Attribute], moved_N2: Floats, view_N: NDArray[Any], patient_N: Rows, recipe: Shortcuts
) -> list[Displacement]:
    """Displacement of the images of each level against those of the other levels of the same view.

    Of two levels one is compared with the other, of more each with the rest. For chance, patients exchange their
    displacements with patients who have the same views.

    Args:
        attributes: What is compared; every one with levels.
        moved_N2: `displacements`.
        view_N: View of each image.
        patient_N: Number of its patient.
        recipe: `bootstrap`, `permutations`, `seed`.
    """
    rows = np.flatnonzero(np.isfinite(moved_N2).all(axis=1))
    compared = [
        (one, number)
        for one in attributes
        for number in range(1 if len(one.levels) == 2 else 0, len(one.levels) if len(one.levels) > 1 else 0)
    ]
    if len(rows) == 0 or not compared:
        return []
    moved, patient = moved_N2[rows], patient_N[rows]
    view = np.unique(view_N[rows].astype(str), return_inverse=True)[1]
    dealt = [moved, *(moved[donor] for donor in donors(patient, view, recipe.permutations, recipe.seed))]
    found: list[tuple[Attribute, int, int, Interval]] = []
    told = []
    for attribute, number in track(compared, "positions of the body", unit="level"):
        known = np.flatnonzero(np.isfinite(attribute.code_N[rows]))
        is_level = (attribute.code_N[rows] == number)[known]
        seen = np.stack([one[known] for one in dealt])
        for axis in (0, 1):
            shift = stats.patient_bootstrap(
                _shift, patient[known], recipe.bootstrap, recipe.seed, is_level, moved[known, axis], view[known]
            )
            found.append((attribute, number, axis, shift))
            told.append(np.abs(_apart(seen[:, :, axis], is_level, view[known])))
    told_BM = np.stack(told, axis=1)
    corrected = together(told_BM[0], told_BM[1:])
    return [
        Displacement(
            attribute,
            attribute.levels[number],
            attribute.levels[1 - number] if len(attribute.levels) == 2 else "the others",
            axis,
            shift,
            p_value(float(column[0]), column[1:]),
            float(p),
        )
        for (attribute, number, axis, shift), column, p in zip(found, told, corrected, strict=True)
        if shift.bounded
    ]


def _apart(moved_BN: Floats, is_level_N: NDArray[np.bool_], view_N: Rows) -> Floats:
    """`_shift` with all weights one, for many ways to deal out the displacements, (B,)."""
    above, below = np.zeros(len(moved_BN)), 0.0
    for view in np.unique(view_N):
        ours, theirs = is_level_N & (view_N == view), ~is_level_N & (view_N == view)
        a, b = int(ours.sum()), int(theirs.sum())
        if a and b:
            weight = a * b / (a + b)
            above += weight * (moved_BN[:, ours].mean(axis=1) - moved_BN[:, theirs].mean(axis=1))
            below += weight
    return above / below if below else np.full(len(moved_BN), np.nan)


def _shift(w_RN: Floats, is_level_N: NDArray[Any], moved_N: Floats, view_N: Rows) -> Floats:
    """Mean over views of (mean of the level - mean of the rest), weighted as least squares would, (R,)."""
    above, below = np.zeros(len(w_RN)), np.zeros(len(w_RN))
    is_level_N = is_level_N.astype(bool)
    for view in np.unique(view_N):
        ours, theirs = np.flatnonzero(is_level_N & (view_N == view)), np.flatnonzero(~is_level_N & (view_N == view))
        if len(ours) == 0 or len(theirs) == 0:
            continue
        a_R, b_R = w_RN[:, ours].sum(axis=1), w_RN[:, theirs].sum(axis=1)
        both = (a_R > 0) & (b_R > 0)
        apart = w_RN[:, ours] @ moved_N[ours] / np.where(both, a_R, 1) - w_RN[:, theirs] @ moved_N[theirs] / np.where(
            both, b_R, 1
        )
        weight = np.where(both, a_R * b_R / np.maximum(a_R + b_R, 1), 0.0)
        above += weight * np.where(both, apart, 0.0)
        below += weight
    return np.asarray(np.divide(above, below, out=np.full(len(w_RN), np.nan), where=below > 0))
