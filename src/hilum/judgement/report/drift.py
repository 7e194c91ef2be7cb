"""How far one set of images lies from another, column by column, and how far chance alone would put it.

A distance has no sampling theory of its own here: with few patients any two random halves differ, and the images of
one patient move together. So the limit of each column is the larger of a fixed distance and what is seen when whole
patients are dealt out anew between the sets (`sides`).
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.judgement.fairness.groups import UNKNOWN, attributes
from hilum.judgement.report.sides import Bools, Sides
from hilum.progress import track

Floats = NDArray[np.float64]

NUMBERS: Final = ("age_years", "pixel_mean", "pixel_std")
LEVELS: Final = ("sex", "view", "site")
MIN_KNOWN: Final = 20  # values that a column must have in each set to be compared
SHUFFLES: Final = 200  # enough for a 95% quantile to be stable to about 1.5 percentage points
SHUFFLE_QUANTILE: Final = 0.95
LEAST_DEVIATION: Final = 0.001  # Evidently's, so that a constant column does not divide by zero
BEYOND: Final = 1 + 1e-9  # a distance that merely equals what deals show is not beyond it, whatever the rounding
MAX_ROWS: Final = 20_000  # beyond, chance alone stays far below any limit in use: nothing is shuffled


def columns(
    manifest: pd.DataFrame, covariates: Sequence[str], labels: Sequence[str], levels: Sequence[str] = LEVELS
) -> pd.DataFrame:
    """What is compared: numbers and levels that describe images and patients, none that could name one.

    Args:
        manifest: Rows of a dataset's manifest.
        covariates: Numeric covariates of the dataset.
        labels: Labels whose prevalence is compared too.
        levels: Columns of names, such as the site.

    Returns:
        Numeric columns as float64 with NaN where unknown; others as text in which unknown is a level, so that a
        change in what is missing counts as a change. Rare sites are `other`.
    """
    numbers = [name for name in (*NUMBERS, *covariates) if name in manifest]
    table = manifest[numbers].astype("float64").join(attributes(manifest, levels))
    for label in labels:
        table[label] = manifest[label].map({1.0: "present", 0.0: "absent", -1.0: "uncertain"}).astype("object")
        table[label] = table[label].fillna(UNKNOWN).astype("str")
    return table


def comparable(table: pd.DataFrame, sides: Sides) -> tuple[list[str], dict[str, str]]:
    """Names of the columns with enough known values in both sets, and why each of the others is left out."""
    kept, left = [], {}
    for name in map(str, table.columns):
        known = (table[name].notna() & (table[name] != UNKNOWN)).to_numpy()
        fewest = min(int((known & sides.before_N).sum()), int((known & sides.now_N).sum()))
        if fewest < MIN_KNOWN:
            left[name] = f"insufficient data: {fewest} known values in one set, {MIN_KNOWN} are needed"
        elif table[name].nunique() < 2:
            left[name] = "the same everywhere"
        else:
            kept.append(name)
    return kept, left


def distance(column: pd.Series, sides: Sides) -> float:
    """Distance between the reference's and the current values of one column, as Evidently computes it."""
    return float(distances(column, sides.before_N[None], sides.now_N[None])[0])


def distances(column: pd.Series, before_RN: Bools, now_RN: Bools) -> Floats:
    """Distance between two sets of the N rows, for R ways to part them; a row may lie in both.

    Numbers: first Wasserstein distance, the area between the two distribution functions, over the standard deviation
    of the rows of `before`; unknown values take no part.
    Levels: Jensen-Shannon distance, the square root of the divergence in nats, 0 to 0.83 (Lin 1991).

    Returns:
        (R,); NaN where one side has no known value.
    """
    if not pd.api.types.is_numeric_dtype(column):
        level_NK = pd.get_dummies(column, dtype=float).to_numpy()
        return _jensen_shannon(_shares(before_RN, level_NK), _shares(now_RN, level_NK))
    value_N = column.to_numpy(dtype=float)
    order = np.argsort(value_N, kind="stable")[: int(column.notna().sum())]  # NaN sorts last
    value_N, before, now = value_N[order], before_RN[:, order].astype(float), now_RN[:, order].astype(float)
    n_before_R, n_now_R = before.sum(axis=1), now.sum(axis=1)
    found_R = np.full(len(before), np.nan)
    defined = (n_now_R > 0) & (n_before_R > 0)
    now, before = now[defined] / n_now_R[defined, None], before[defined] / n_before_R[defined, None]
    apart_RN = np.abs(np.cumsum(now, axis=1) - np.cumsum(before, axis=1))
    mean_R = before @ value_N
    deviation_R = np.sqrt((before * (value_N[None] - mean_R[:, None]) ** 2).sum(axis=1))
    found_R[defined] = (apart_RN[:, :-1] @ np.diff(value_N)) / np.maximum(deviation_R, LEAST_DEVIATION)
    return found_R


def _shares(chosen_RN: NDArray[np.bool_], level_NK: Floats) -> Floats:
    """Share of each level among the chosen rows, (R, K); NaN where none is chosen."""
    count_R = chosen_RN.sum(axis=1, keepdims=True).astype(float)
    return chosen_RN.astype(float) @ level_NK / np.where(count_R > 0, count_R, np.nan)


def _jensen_shannon(p_RK: Floats, q_RK: Floats) -> Floats:
    middle_RK = (p_RK + q_RK) / 2
    divergence_R = np.zeros(len(p_RK))
    for share_RK in (p_RK, q_RK):
        ratio_RK = np.divide(share_RK, middle_RK, out=np.ones_like(share_RK), where=share_RK > 0)
        divergence_R += (share_RK * np.log(ratio_RK)).sum(axis=1) / 2
    return np.asarray(np.sqrt(np.maximum(divergence_R, 0.0)))  # rounding can leave it below zero


def limits(table: pd.DataFrame, sides: Sides, least: float, seed: int) -> dict[str, float]:
    """The distance above which each column counts as drifted.

    Args:
        table: Rows of both sets, of `columns`.
        sides: Which set each row belongs to.
        least: No limit is below this distance.
        seed: Of the deals.

    Returns:
        Per column the larger of `least` and the 95% quantile of its distance when the patients of both sets are dealt
        out anew between them.
    """
    if len(table) > MAX_ROWS:
        return dict.fromkeys(map(str, table.columns), least)
    before_RN, now_RN = sides.deals(SHUFFLES, seed)
    found = {}
    for name in track(list(map(str, table.columns)), "drift by chance", unit="column"):
        seen_R = distances(table[name], before_RN, now_RN)
        found[name] = max(least, BEYOND * float(np.nanquantile(seen_R, SHUFFLE_QUANTILE)))
    return found
