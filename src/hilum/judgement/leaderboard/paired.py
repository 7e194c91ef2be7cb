"""Is one encoder better than another on the same patients: the difference of two scores, resampled as one.

Legend: M held-out rows, K classes, L labels, R bootstrap replicates.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.judgement import stats
from hilum.judgement.probing.svm import Floats
from hilum.judgement.probing.tasks import METRICS, SMALLER_IS_BETTER

REPLICATES: Final = 1000
PERMUTATIONS: Final = 10_000
SEED: Final = 0


def gain(ours: pd.DataFrame, theirs: pd.DataFrame, kind: str, metric: str) -> stats.Interval:
    """What ours scores above theirs, with the interval of a patient bootstrap that keeps rows paired.

    Args:
        ours: Predictions of one task by one kernel (`predictions.parquet`): for a task of several classes the rows of
            all its `task=class` names, for a mean over labels the rows of all these labels.
        theirs: The same rows by another encoder.
        kind: Kind of the task, or `mean` for a mean over labels.
        metric: Name of the metric.

    Returns:
        Above 0 where ours is better; for an error (`mae`) that is theirs minus ours.
    """
    pair = _paired(ours, theirs, kind)
    if pair is None:
        return stats.undefined("not comparable: the two probes did not score the same rows")
    statistic, sign = METRICS[kind][metric], -1 if metric in SMALLER_IS_BETTER else 1

    def gained(w_RN: Floats, truth: NDArray[Any], a: Floats, b: Floats, fold: NDArray[Any]) -> Floats:
        return np.asarray(sign * (statistic(w_RN, truth, a, fold) - statistic(w_RN, truth, b, fold)))

    arrays = pair.truth, pair.ours, pair.theirs, pair.folds
    return stats.patient_bootstrap(gained, pair.patients, REPLICATES, SEED, *arrays)


def p_value(
    ours: pd.DataFrame, theirs: pd.DataFrame, kind: str, metric: str, permutations: int = PERMUTATIONS
) -> float:
    """Two-sided p-value of ours and theirs being equally good, by swapping them patient by patient.

    Not corrected for other comparisons (`stats.holm`). Scores are ranked within a fold for an AUROC; for other metrics
    they are compared as they are, since a decision or an error reads values.

    Args:
        ours: As for `gain`.
        theirs: As for `gain`.
        kind: As for `gain`.
        metric: As for `gain`.
        permutations: How many.

    Returns:
        NaN where the rows differ or the metric is undefined.
    """
    pair = _paired(ours, theirs, kind)
    if pair is None:
        return math.nan
    return stats.swap_test(
        METRICS[kind][metric], pair.patients, pair.truth, pair.ours, pair.theirs, permutations, SEED,
        ranked=metric == "auroc", stratum_N=pair.folds,
    )  # fmt: skip


@dataclass(frozen=True)
class _Pair:
    """The same rows by two encoders; scores are (M,), or (M, K) or (M, L)."""

    patients: NDArray[Any]
    folds: NDArray[Any]
    truth: NDArray[Any]
    ours: Floats
    theirs: Floats


def _paired(ours: pd.DataFrame, theirs: pd.DataFrame, kind: str) -> _Pair | None:
    mine, other = _wide(ours), _wide(theirs)
    if not (mine.index.equals(other.index) and mine["truth"].equals(other["truth"])):
        return None
    patients, folds = (mine.index.get_level_values(name).to_numpy() for name in ("patient", "fold"))
    truth, score, reference = (frame.to_numpy() for frame in (mine["truth"], mine["score"], other["score"]))
    if kind == "multiclass":
        truth = truth.argmax(axis=1)
    elif kind != "mean":
        truth, score, reference = truth[:, 0], score[:, 0], reference[:, 0]
    return _Pair(patients, folds, truth, score, reference)


def _wide(predictions: pd.DataFrame) -> pd.DataFrame:
    """One line per row, one column per class or label under `truth` and `score`, in an order that both sides share."""
    return predictions.pivot(index=["row", "patient", "fold"], columns="task", values=["truth", "score"]).sort_index()
