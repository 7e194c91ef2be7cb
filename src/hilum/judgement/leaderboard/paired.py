"""Is one encoder better than another on the same patients: the difference of two scores, resampled as one.

Legend: M held-out rows, K classes, L labels, R bootstrap replicates.
"""

from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.judgement import stats
from hilum.judgement.probing.svm import Floats
from hilum.judgement.probing.tasks import METRICS, SMALLER_IS_BETTER

REPLICATES: Final = 1000
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
    mine, other = _wide(ours), _wide(theirs)
    if not (mine.index.equals(other.index) and mine["truth"].equals(other["truth"])):
        return stats.undefined("not comparable: the two probes did not score the same rows")
    patients = mine.index.get_level_values("patient").to_numpy()
    folds = mine.index.get_level_values("fold").to_numpy()
    truth, score, reference = (frame.to_numpy() for frame in (mine["truth"], mine["score"], other["score"]))
    statistic = METRICS[kind][metric]
    if kind == "multiclass":
        truth = truth.argmax(axis=1)
    elif kind != "mean":
        truth, score, reference = truth[:, 0], score[:, 0], reference[:, 0]

    sign = -1 if metric in SMALLER_IS_BETTER else 1

    def gained(w_RN: Floats, truth: NDArray[Any], a: Floats, b: Floats, fold: NDArray[Any]) -> Floats:
        return np.asarray(sign * (statistic(w_RN, truth, a, fold) - statistic(w_RN, truth, b, fold)))

    return stats.patient_bootstrap(gained, patients, REPLICATES, SEED, truth, score, reference, folds)


def _wide(predictions: pd.DataFrame) -> pd.DataFrame:
    """One line per row, one column per class or label under `truth` and `score`, in an order that both sides share."""
    return predictions.pivot(index=["row", "patient", "fold"], columns="task", values=["truth", "score"]).sort_index()
