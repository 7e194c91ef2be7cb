"""The same rows by several encoders, and what one scores above another with the two resampled as one.

Legend: M held-out rows, K classes, L labels, R bootstrap replicates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.judgement import stats
from hilum.judgement.probing.svm import Floats
from hilum.judgement.probing.tasks import METRICS, SMALLER_IS_BETTER

REPLICATES: Final = 1000
SEED: Final = 0


@dataclass(frozen=True)
class Aligned:
    """The same rows, answered several times.

    Attributes:
        patients_M: Number of each row's patient.
        fold_M: The fold that it was held out in; scores compare within one only.
        truth: (M,) a class's number or a value; for a mean over labels (M, L), NaN where unknown.
        scores: One array for each that answered: (M,), or (M, K) or (M, L).
    """

    patients_M: NDArray[Any]
    fold_M: NDArray[Any]
    truth: NDArray[Any]
    scores: tuple[Floats, ...]


def align(answers: Sequence[pd.DataFrame], kind: str) -> Aligned | None:
    """Put predictions of one task into one order of rows.

    Args:
        answers: Predictions of one task by one machine (`predictions.parquet`): for a task of several classes the rows
            of all its `task=class` names, for a mean over labels the rows of all these labels.
        kind: Kind of the task, or `mean` for a mean over labels.

    Returns:
        None where they did not answer for the same rows with the same truth.
    """
    first, *others = (_wide(one) for one in answers)
    truth = first["truth"]
    if not all(other.index.equals(first.index) and other["truth"].equals(truth) for other in others):
        return None
    patients_M, fold_M = (first.index.get_level_values(name).to_numpy() for name in ("patient", "fold"))
    scores = tuple(frame["score"].to_numpy() for frame in (first, *others))
    known = truth.to_numpy()
    if kind == "multiclass":
        known = known.argmax(axis=1)
    elif kind != "mean":
        known, scores = known[:, 0], tuple(score[:, 0] for score in scores)
    return Aligned(patients_M, fold_M, known, scores)


def gain(ours: pd.DataFrame, theirs: pd.DataFrame, kind: str, metric: str) -> stats.Interval:
    """What ours scores above theirs, with the interval of a patient bootstrap that keeps rows paired.

    Args:
        ours: As for `align`.
        theirs: The same rows by another encoder.
        kind: As for `align`.
        metric: Name of the metric.

    Returns:
        Above 0 where ours is better; for an error (`mae`) that is theirs minus ours.
    """
    pair = align((ours, theirs), kind)
    if pair is None:
        return stats.undefined("not comparable: the two probes did not score the same rows")
    statistic, sign = METRICS[kind][metric], -1 if metric in SMALLER_IS_BETTER else 1

    def gained(w_RN: Floats, truth: NDArray[Any], a: Floats, b: Floats, fold: NDArray[Any]) -> Floats:
        return np.asarray(sign * (statistic(w_RN, truth, a, fold) - statistic(w_RN, truth, b, fold)))

    arrays = pair.truth, *pair.scores, pair.fold_M
    return stats.patient_bootstrap(gained, pair.patients_M, REPLICATES, SEED, *arrays)


def _wide(predictions: pd.DataFrame) -> pd.DataFrame:
    """One line per row, one column per class or label under `truth` and `score`, in an order that all share."""
    return predictions.pivot(index=["row", "patient", "fold"], columns="task", values=["truth", "score"]).sort_index()
