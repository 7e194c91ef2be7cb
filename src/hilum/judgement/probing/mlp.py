"""A small multilayer perceptron on frozen embeddings: one hidden layer, its training length chosen beforehand.

Legend: N rows to fit on, M rows to score, D width of the embedding, K classes. scikit-learn's own early stopping would
split rows, and a patient's other images would then tell it when to stop. Here the number of epochs is a setting like
any other: scores are taken after each of a few budgets, and the budget is chosen where settings are, by
cross-validation that keeps patients whole.
"""

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.neural_network import MLPClassifier, MLPRegressor

from hilum.judgement.probing.svm import Floats, Kind, location

ALPHAS: Final = (0.01, 1.0)  # L2 penalty, as scikit-learn has it: per batch
HIDDEN: Final = 128
BATCH: Final = 128
RATE: Final = 1e-3  # Adam's, as its authors propose
EPOCHS: Final = (1, 2, 5, 10, 20, 50, 100)
MAX_STEPS: Final = 3_200  # beyond, small heads on frozen features learn the training rows by heart
NEAR: Final = 1e-12  # probabilities are kept this far from 0 and 1 before their log odds are taken


def budgets(n: int) -> tuple[int, ...]:
    """Numbers of epochs to choose from for N rows, ascending; at least one."""
    steps = math.ceil(n / BATCH)
    return tuple(epochs for epochs in EPOCHS if epochs == 1 or epochs * steps <= MAX_STEPS)


def scores(
    z_ND: Floats,
    y_N: NDArray[Any],
    z_MD: Floats,
    kind: Kind,
    grid: Sequence[tuple[float, int]],
    seed: int,
) -> list[Floats]:
    """Scores of the held-out rows for each pair of penalty and epochs; budgets of one penalty share one training.

    Returns:
        In the order of `grid`: (M,) log odds (binary) or values (regression), (M, K) log probabilities (multiclass).
        Classes are weighed alike, so a log odds of 0 is an undecided row whatever the prevalence.
    """
    width = math.sqrt(z_ND.shape[1])  # a network starts best from features of unit variance
    fit_ND, held_MD = ((z * width).astype(np.float32) for z in (z_ND, z_MD))  # half the time of float64
    mean, sd = location(y_N, kind)
    classes, counts = np.unique(y_N, return_counts=True)
    found: dict[tuple[float, int], Floats] = {}
    for alpha in dict.fromkeys(alpha for alpha, _ in grid):
        wanted = {epochs for other, epochs in grid if other == alpha}
        shape = {"hidden_layer_sizes": (HIDDEN,), "alpha": alpha, "batch_size": min(BATCH, len(y_N))}
        kept = {"learning_rate_init": RATE, "random_state": seed}
        machine = MLPRegressor(**shape, **kept) if kind == "regression" else MLPClassifier(**shape, **kept)
        for epoch in range(1, max(wanted) + 1):
            if kind == "regression":
                machine.partial_fit(fit_ND, (y_N - mean) / sd)
            else:
                weight_N = (len(y_N) / (len(classes) * counts))[np.searchsorted(classes, y_N)]
                machine.partial_fit(fit_ND, y_N, sample_weight=weight_N, classes=classes if epoch == 1 else None)
            if epoch in wanted:
                found[alpha, epoch] = _scored(machine, held_MD, kind) * sd + mean
    return [found[point] for point in grid]


def _scored(machine: Any, z_MD: NDArray[np.float32], kind: Kind) -> Floats:
    if kind == "regression":
        return np.asarray(machine.predict(z_MD), dtype=np.float64)
    p_MK = np.clip(machine.predict_proba(z_MD).astype(np.float64), NEAR, 1 - NEAR)
    return np.asarray(np.log(p_MK[:, 1] / p_MK[:, 0]) if kind == "binary" else np.log(p_MK))
