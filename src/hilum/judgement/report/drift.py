"""How far the test split lies from the train split, column by column, and how far chance alone would put it.

A distance has no sampling theory of its own here: with few patients any two random halves differ, and the images of
one patient move together. So the limit of each column is the larger of a fixed distance and what is seen when whole
patients are shuffled between the splits (a permutation test by patient, Good 2005, chapter 3).
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.judgement.fairness.groups import UNKNOWN, attributes
from hilum.progress import track

Floats = NDArray[np.float64]

NUMBERS: Final = ("age_years", "pixel_mean", "pixel_std")
LEVELS: Final = ("sex", "view", "site")
MIN_KNOWN: Final = 20  # values that a column must have in each split to be compared
SHUFFLES: Final = 200  # enough for a 95% quantile to be stable to about 1.5 percentage points
SHUFFLE_QUANTILE: Final = 0.95
LEAST_DEVIATION: Final = 0.001  # Evidently's, so that a constant column does not divide by zero
MAX_ROWS: Final = 20_000  # beyond, chance alone stays far below any limit in use: nothing is shuffled


def columns(manifest: pd.DataFrame, covariates: Sequence[str], label: str | None) -> pd.DataFrame:
    """What is compared: numbers and levels that describe images and patients, none that could name one.

    Args:
        manifest: Rows of a dataset's manifest.
        covariates: Numeric covariates of the dataset.
        label: A label whose prevalence is compared too.

    Returns:
        Numeric columns as float64 with NaN where unknown; others as text in which unknown is a level, so that a
        change in what is missing counts as a change. Rare sites are `other`.
    """
    numbers = [name for name in (*NUMBERS, *covariates) if name in manifest]
    table = manifest[numbers].astype("float64").join(attributes(manifest, LEVELS))
    if label is not None:
        table[label] = manifest[label].map({1.0: "present", 0.0: "absent", -1.0: "uncertain"}).astype("object")
        table[label] = table[label].fillna(UNKNOWN).astype("str")
    return table


def comparable(table: pd.DataFrame, is_test: NDArray[np.bool_]) -> tuple[list[str], dict[str, str]]:
    """Names of the columns with enough known values in both splits, and why each of the others is left out."""
    kept, left = [], {}
    for name in map(str, table.columns):
        known = table[name].notna() & (table[name] != UNKNOWN)
        fewest = min(int((known & is_test).sum()), int((known & ~is_test).sum()))
        if fewest < MIN_KNOWN:
            left[name] = f"insufficient data: {fewest} known values in one split, {MIN_KNOWN} are needed"
        elif table[name].nunique() < 2:
            left[name] = "the same everywhere"
        else:
            kept.append(name)
    return kept, left


def distance(reference: pd.Series, current: pd.Series) -> float:
    """Distance between two samples of one column, as `distances` and Evidently compute it."""
    both = pd.concat([reference, current], ignore_index=True)
    return float(distances(both, (np.arange(len(both)) >= len(reference))[None])[0])


def distances(column: pd.Series, current_RN: NDArray[np.bool_]) -> Floats:
    """Distance between the rows that are current and the rows that are not, for R ways to part the N rows.

    Numbers: first Wasserstein distance, the area between the two distribution functions, over the standard deviation
    of the rows that are not current; unknown values take no part.
    Levels: Jensen-Shannon distance, the square root of the divergence in nats, 0 to 0.83 (Lin 1991).

    Returns:
        (R,); NaN where one side has no known value.
    """
    if not pd.api.types.is_numeric_dtype(column):
        level_NK = pd.get_dummies(column, dtype=float).to_numpy()
        return _jensen_shannon(_shares(~current_RN, level_NK), _shares(current_RN, level_NK))
    value_N = column.to_numpy(dtype=float)
    order = np.argsort(value_N, kind="stable")[: int(column.notna().sum())]  # NaN sorts last
    now_RN, value_N = current_RN[:, order].astype(float), value_N[order]
    before_RN = 1.0 - now_RN
    n_now_R, n_before_R = now_RN.sum(axis=1), before_RN.sum(axis=1)
    defined = (n_now_R > 0) & (n_before_R > 0)
    found_R = np.full(len(current_RN), np.nan)
    now_RN, before_RN = now_RN[defined] / n_now_R[defined, None], before_RN[defined] / n_before_R[defined, None]
    apart_RN = np.abs(np.cumsum(now_RN, axis=1) - np.cumsum(before_RN, axis=1))
    mean_R = before_RN @ value_N
    deviation_R = np.sqrt((before_RN * (value_N[None] - mean_R[:, None]) ** 2).sum(axis=1))
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


def limits(
    table: pd.DataFrame, is_test: NDArray[np.bool_], patients: pd.Series, least: float, seed: int
) -> dict[str, float]:
    """The distance above which each column counts as drifted.

    Args:
        table: Rows of the train and test splits, of `columns`.
        is_test: Which of them are test rows.
        patients: Patient of each row.
        least: No limit is below this distance.
        seed: Of the shuffles.

    Returns:
        Per column the larger of `least` and the 95% quantile of its distance when as many patients as the test split
        has are drawn at random from both splits.
    """
    if len(table) > MAX_ROWS:
        return dict.fromkeys(map(str, table.columns), least)
    codes, names = pd.factorize(patients, sort=True)
    n_test = len(np.unique(codes[is_test]))
    random = np.random.default_rng(seed)
    drawn_RP = np.zeros((SHUFFLES, len(names)), dtype=bool)
    for drawn_P in drawn_RP:
        drawn_P[random.permutation(len(names))[:n_test]] = True
    shuffled_RN = drawn_RP[:, codes]
    found = {}
    for name in track(list(map(str, table.columns)), "drift by chance", unit="column"):
        seen_R = distances(table[name], shuffled_RN)
        found[name] = max(least, float(np.nanquantile(seen_R, SHUFFLE_QUANTILE)))
    return found
