"""Support vector machines on frozen embeddings, and how embeddings are scaled for every machine.

Legend: N rows to fit on, M rows to score, D width of the embedding, K classes, L landmarks. METHOD: StandardScaler ->
SVC or SVR, linear and RBF. Scaled embeddings have a mean squared length of 1, whatever D is: then gamma = 1 is
scikit-learn's gamma="scale", and one grid of C serves every encoder and both kernels.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.kernel_approximation import Nystroem
from sklearn.metrics.pairwise import linear_kernel, rbf_kernel
from sklearn.svm import SVC, SVR

Floats = NDArray[np.float64]
Kind = Literal["binary", "multiclass", "regression"]
Kernel = Literal["linear", "rbf"]
Scaling = Literal["feature", "whole"]

LANDMARKS: Final = 1_000  # of Nystroem's map: error falls as 1/sqrt(landmarks), Williams & Seeger 2001
BLOCK_ROWS: Final = 2_000  # mapped or scored at once: bounds a block of the kernel matrix
EPSILON_SD: Final = 0.1  # SVR's tube, in standard deviations of the target


def centre_and_length(z_ND: NDArray[Any], scaling: Scaling) -> tuple[Floats, Floats]:
    """What to subtract and divide by, (D,) each, so that these rows have mean 0 and a mean squared length of 1.

    `feature` standardises each feature. `whole` divides all by one number and keeps the embedding's own proportions:
    to standardise principal components is to whiten them, which raises the noise of the last to the level of the first.
    A feature that never varies becomes 0.
    """
    mean_D = np.asarray(np.mean(z_ND, axis=0, dtype=np.float64))
    variance_D = np.asarray(np.var(z_ND, axis=0, dtype=np.float64))
    alive_D = variance_D > 0
    if scaling == "feature":
        return mean_D, np.where(alive_D, np.sqrt(variance_D * max(1, int(alive_D.sum()))), 1.0)
    return mean_D, np.full_like(variance_D, math.sqrt(variance_D.sum()) if alive_D.any() else 1.0)


def scaled(z_ND: NDArray[Any], mean_D: Floats, length_D: Floats) -> Floats:
    """Embeddings less their mean, over their length, in float64 whatever they are stored in."""
    x_ND = np.array(z_ND, dtype=np.float64)
    x_ND -= mean_D  # in place: of 150,000 embeddings each further copy is half a gigabyte
    x_ND /= length_D
    return x_ND


def scaler(z_ND: NDArray[Any], scaling: Scaling) -> Callable[[NDArray[Any]], Floats]:
    """From raw embeddings to scaled ones, as `centre_and_length` learns it from these rows."""
    mean_D, length_D = centre_and_length(z_ND, scaling)
    return lambda z: scaled(z, mean_D, length_D)


def exact(
    z_ND: Floats, y_N: NDArray[Any], z_MD: Floats, kind: Kind, kernel: Kernel, grid: Sequence[float]
) -> list[Floats]:
    """Scores by a kernel machine for each C; the kernel matrix (N, N) is computed once for all.

    Returns:
        For each C: (M,) signed distances (binary) or values (regression), (M, K) one-versus-rest distances
        (multiclass).
    """
    gram = _gram(z_ND, z_ND, kernel)
    mean, sd = location(y_N, kind)
    machines = [
        SVR(kernel="precomputed", C=c, epsilon=EPSILON_SD).fit(gram, (y_N - mean) / sd)
        if kind == "regression"
        else SVC(kernel="precomputed", C=c, class_weight="balanced").fit(gram, y_N)
        for c in grid
    ]
    blocks: list[list[Floats]] = [[] for _ in machines]
    for start in range(0, len(z_MD), BLOCK_ROWS):
        cross = _gram(z_MD[start : start + BLOCK_ROWS], z_ND, kernel)
        for machine, scores in zip(machines, blocks, strict=True):
            scores.append(answer(machine, cross, kind, mean, sd))
    return [np.concatenate(scores) for scores in blocks]


def approximate(
    z_ND: Floats,
    y_N: NDArray[Any],
    z_MD: Floats,
    kind: Kind,
    kernel: Kernel,
    grid: Sequence[float],
    seed: int,
) -> list[Floats]:
    """Scores by a machine whose cost grows with N, not N squared, for each C; all N rows are fitted on.

    `linear`: on the embedding. `rbf`: on Nystroem's map of it to L features (Williams & Seeger 2001), L rows drawn as
    landmarks. The loss is the squared hinge, or the squared distance beyond SVR's tube: smooth, so the primal is
    minimised directly (Chapelle 2007, "Training a support vector machine in the primal").

    Returns:
        As `exact`.
    """
    if kernel == "rbf":
        mapping = Nystroem(kernel="rbf", gamma=1.0, n_components=min(LANDMARKS, len(z_ND)), random_state=seed).fit(z_ND)
        fit_NL, held_ML = _mapped(mapping, z_ND), _mapped(mapping, z_MD)
    else:
        fit_NL, held_ML = z_ND.astype(np.float32), z_MD.astype(np.float32)
    mean, sd = location(y_N, kind)
    n_classes = 2 if kind == "binary" else int(y_N.max()) + 1 if kind == "multiclass" else 0
    found = []
    for c in grid:
        if kind == "regression":
            found.append(_apply(held_ML, _primal_regressor(fit_NL, (y_N - mean) / sd, c)) * sd + mean)
        elif kind == "binary":
            found.append(_apply(held_ML, _primal_classifier(fit_NL, y_N == 1, c)))
        else:
            each = [_apply(held_ML, _primal_classifier(fit_NL, y_N == k, c)) for k in range(n_classes)]
            found.append(np.stack(each, axis=1))
    return found


def location(y_N: NDArray[Any], kind: Kind) -> tuple[float, float]:
    """Mean and standard deviation of a regression's target: penalties and tubes are then in its units."""
    if kind != "regression":
        return 0.0, 1.0
    return float(y_N.mean()), float(y_N.std()) or 1.0


def answer(machine: Any, features: Floats, kind: Kind, mean: float, sd: float) -> Floats:
    """What a scikit-learn machine scores, in the shapes of `exact`."""
    if kind == "regression":
        return np.asarray(machine.predict(features) * sd + mean)
    score = np.asarray(machine.decision_function(features))
    return np.stack([-score, score], axis=1) if kind == "multiclass" and score.ndim == 1 else score


def _gram(a_MD: Floats, b_ND: Floats, kernel: Kernel) -> Floats:
    return np.asarray(linear_kernel(a_MD, b_ND) if kernel == "linear" else rbf_kernel(a_MD, b_ND, gamma=1.0))


def _mapped(mapping: Nystroem, z_ND: Floats) -> NDArray[np.float32]:
    """Nystroem features (N, L) in float32, block by block: half the memory, and no float64 copy of the whole."""
    features = np.empty((len(z_ND), len(mapping.component_indices_)), dtype=np.float32)
    for start in range(0, len(z_ND), BLOCK_ROWS):
        features[start : start + BLOCK_ROWS] = mapping.transform(z_ND[start : start + BLOCK_ROWS])
    return features


def _primal_classifier(x_NL: NDArray[np.float32], positive_N: NDArray[np.bool_], c: float) -> Floats:
    """Weights and bias (L + 1,) that minimise |w|^2 / 2 + C sum of weight * max(0, 1 - y f)^2; classes weigh alike."""
    sign_N = np.where(positive_N, 1.0, -1.0)
    share = positive_N.mean()
    weight_N = c * np.where(positive_N, 0.5 / share, 0.5 / (1 - share))

    def loss(f_N: Floats) -> tuple[float, Floats]:
        slack_N = np.maximum(1 - sign_N * f_N, 0)
        return float(weight_N @ slack_N**2), -2 * weight_N * sign_N * slack_N

    return _minimised(x_NL, loss)


def _primal_regressor(x_NL: NDArray[np.float32], y_N: Floats, c: float) -> Floats:
    """Weights and bias (L + 1,) that minimise |w|^2 / 2 + C sum of max(0, |y - f| - tube)^2."""

    def loss(f_N: Floats) -> tuple[float, Floats]:
        off_N = f_N - y_N
        slack_N = np.maximum(np.abs(off_N) - EPSILON_SD, 0)
        return c * float(slack_N @ slack_N), 2 * c * np.sign(off_N) * slack_N

    return _minimised(x_NL, loss)


def _minimised(x_NL: NDArray[np.float32], loss: Callable[[Floats], tuple[float, Floats]]) -> Floats:
    """L-BFGS on a penalised smooth loss; products with the features run in float32, sums in float64."""

    def objective(w: Floats) -> tuple[float, Floats]:
        value, slope_N = loss(_apply(x_NL, w))
        slope_L = (slope_N.astype(np.float32) @ x_NL).astype(np.float64)
        return 0.5 * float(w @ w) + value, w + np.r_[slope_L, slope_N.sum()]

    # Stops where the loss changes by less than a billionth: liblinear's scores to about 1e-3, in a fifth of its time.
    options = {"maxiter": 2_000, "ftol": 1e-9, "gtol": 1e-6, "maxcor": 20}
    found = minimize(objective, np.zeros(x_NL.shape[1] + 1), jac=True, method="L-BFGS-B", options=options)
    return np.asarray(found.x)


def _apply(x_ML: NDArray[np.float32], w: Floats) -> Floats:
    return np.asarray((x_ML @ w[:-1].astype(np.float32)).astype(np.float64) + w[-1])
