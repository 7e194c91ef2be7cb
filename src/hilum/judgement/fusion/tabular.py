"""What the covariates say without the image, and the late stacking of both: two rungs of the fusion ladder.

Legend: N rows to fit on, M rows to score, C covariates. METHOD section 9. No test row, and no logit of a row that the
model behind it was fitted on, takes part in a fit:

tabular_only   gradient-boosted trees on the train rows; their settings by cross-validation over patients inside train
stacking       a logistic regression of two logits, the image's and the trees'. It is fitted on val, which neither saw
               while its weights moved; the penalty is chosen by cross-validation over patients inside val
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from threadpoolctl import threadpool_limits

from hilum.judgement.probing.calibration import cross_entropy

Floats = NDArray[np.float64]

FOLDS: Final = 5
# Learning rate, trees, leaves per tree, least rows per leaf. Few leaves and many rows for hundreds of patients, more
# for tens of thousands; the choice is by log loss, because the logits are stacked and calibrated afterwards.
SETTINGS: Final[tuple[dict[str, float | int], ...]] = tuple(
    {"learning_rate": rate, "max_iter": trees, "max_leaf_nodes": leaves, "min_samples_leaf": least}
    for rate, trees in ((0.1, 50), (0.05, 200))
    for leaves, least in ((4, 20), (24, 50))
)
PENALTIES: Final = (0.01, 0.1, 1.0, 10.0, 100.0)  # inverse strengths of the L2 penalty on two standardised logits


@dataclass(frozen=True)
class Trees:
    """Gradient-boosted trees (Ke et al. 2017, histogram-based) that take NaN as a value of its own.

    Attributes:
        model: Fitted on all train rows.
        setting: What was chosen.
        log_losses: Out-of-fold log loss per row of each of SETTINGS.
    """

    model: Any
    setting: dict[str, float | int]
    log_losses: tuple[float, ...]

    def logits(self, raw_MC: Floats) -> Floats:
        """Log odds (M,) of rows of covariates, NaN where unknown."""
        return np.asarray(self.model.decision_function(raw_MC), dtype=np.float64)


@dataclass(frozen=True)
class Stack:
    """A weighted sum of logits.

    Attributes:
        weight_2: Of the image's logit and of the trees'.
        bias: Of the sum.
        penalty: The C that was chosen.
    """

    weight_2: Floats
    bias: float
    penalty: float

    def logits(self, logit_M2: Floats) -> Floats:
        """Log odds (M,) of rows of two logits."""
        return np.asarray(logit_M2 @ self.weight_2 + self.bias)


def fit_trees(raw_NC: Floats, y_N: NDArray[Any], patients_N: NDArray[Any], seed: int) -> Trees:
    """Choose settings out of fold, then fit on all rows.

    Args:
        raw_NC: Covariates of the train rows, NaN where unknown.
        y_N: 1 or 0.
        patients_N: One id per row; a patient is never on both sides of a fold.
        seed: Of the folds.
    """
    folds = _folds(y_N, patients_N, seed)
    losses = []
    for setting in SETTINGS:
        logit_N = np.zeros(len(y_N))
        for rest, held in folds:
            logit_N[held] = _grow(raw_NC[rest], y_N[rest], setting, seed).decision_function(raw_NC[held])
        losses.append(cross_entropy(logit_N, y_N) / len(y_N))
    best = SETTINGS[int(np.argmin(losses))]
    return Trees(_grow(raw_NC, y_N, best, seed), best, tuple(losses))


def fit_stack(logit_N2: Floats, y_N: NDArray[Any], patients_N: NDArray[Any], seed: int) -> Stack:
    """Fit the weights of two logits on val.

    Args:
        logit_N2: Logits of the val rows by the image's network and by the trees.
        y_N: 1 or 0.
        patients_N: One id per row.
        seed: Of the folds.
    """
    folds = _folds(y_N, patients_N, seed)
    losses = []
    for penalty in PENALTIES:
        stacked_N = np.zeros(len(y_N))
        for rest, held in folds:
            stacked_N[held] = _weigh(logit_N2[rest], y_N[rest], penalty).logits(logit_N2[held])
        losses.append(cross_entropy(stacked_N, y_N))
    return _weigh(logit_N2, y_N, PENALTIES[int(np.argmin(losses))])


def _grow(raw_NC: Floats, y_N: NDArray[Any], setting: dict[str, float | int], seed: int) -> Any:
    # Its own early stopping would split rows, not patients.
    trees = HistGradientBoostingClassifier(**setting, early_stopping=False, random_state=seed)
    # Beside torch's threads those of the trees wait for one another actively, and a fit takes many times as long.
    with threadpool_limits(1, user_api="openmp"):
        return trees.fit(raw_NC, y_N)


def _weigh(logit_N2: Floats, y_N: NDArray[Any], penalty: float) -> Stack:
    mean_2, sd_2 = logit_N2.mean(axis=0), logit_N2.std(axis=0)
    sd_2 = np.where(sd_2 > 0, sd_2, 1.0)
    model = LogisticRegression(C=penalty, max_iter=1_000).fit((logit_N2 - mean_2) / sd_2, y_N)
    weight_2 = model.coef_[0] / sd_2
    return Stack(weight_2, float(model.intercept_[0] - mean_2 @ weight_2), penalty)


def _folds(y_N: NDArray[Any], patients_N: NDArray[Any], seed: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Parts of rows by patient, such that both classes are in every fit; fewer folds where a class has few patients."""
    rarer = min(len(np.unique(patients_N[y_N == value])) for value in (0, 1))
    split = StratifiedGroupKFold(max(2, min(FOLDS, rarer)), shuffle=True, random_state=seed)
    parts = [(rest, held) for rest, held in split.split(patients_N, y_N, patients_N) if len(held)]
    return [(rest, held) for rest, held in parts if len(np.unique(y_N[rest])) == 2]
