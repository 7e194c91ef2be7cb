"""The probe's machine: a support vector machine on frozen embeddings, its settings chosen inside the training rows.

Legend: N rows to fit on, M rows to score, D width of the embedding, K classes. METHOD: StandardScaler -> SVC or SVR,
linear and RBF; C by cross-validation that keeps a patient's rows together. Scaled embeddings have a mean squared
length of 1, whatever D is: then gamma = 1 is scikit-learn's gamma="scale", and one grid of C serves every encoder and
both kernels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.kernel_approximation import Nystroem
from sklearn.metrics.pairwise import linear_kernel, rbf_kernel
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold
from sklearn.svm import SVC, SVR, LinearSVC, LinearSVR

from hilum.recipe import Probe

Floats = NDArray[np.float64]
Kind = Literal["binary", "multiclass", "regression"]
Kernel = Literal["linear", "rbf"]
Scaling = Literal["feature", "whole"]

INNER_FOLDS: Final = 3  # of the choice of C; more would cost more than the choice is worth
LANDMARKS: Final = 1_000  # of Nystroem's map: error falls as 1/sqrt(landmarks), Williams & Seeger 2001
BLOCK_ROWS: Final = 2_000  # scored at once: bounds the kernel matrix to BLOCK_ROWS x N
EPSILON_SD: Final = 0.1  # SVR's tube, in standard deviations of the target


@dataclass(frozen=True)
class Setting:
    """What is chosen by cross-validation: how embeddings are scaled, and C."""

    scaling: Scaling
    c: float


@dataclass(frozen=True)
class Scored:
    """Scores of the rows that were held out.

    Attributes:
        score: (M,) signed distance from the boundary (binary) or predicted value (regression); (M, K) one-versus-rest
            distances (multiclass).
        setting: What was chosen.
        notes: What was done to keep the fit affordable; empty where it is exact and on all rows.
    """

    score: Floats
    setting: Setting
    notes: tuple[str, ...] = ()


Judge = Callable[[NDArray[Any], Floats, NDArray[Any]], float]  # (truth, score, inner fold) -> the higher, the better


def fit_and_score(
    z_ND: NDArray[Any],
    y_N: NDArray[Any],
    patients_N: NDArray[Any],
    z_MD: NDArray[Any],
    kind: Kind,
    kernel: Kernel,
    recipe: Probe,
    judge: Judge,
) -> Scored:
    """Choose the settings inside the training rows, fit on them, and score the held-out rows.

    Beyond `recipe.max_rows` a sample of patients is fitted on. Beyond `recipe.exact_rows`, where a kernel machine
    (quadratic in N) is out of reach, settings are chosen on a sample of patients, and the fit is a linear machine: on
    the embedding itself, or on Nystroem's approximation of the RBF feature space.

    Args:
        z_ND: Embeddings to fit on.
        y_N: 0 or 1 (binary), 0 to K-1, all present (multiclass), or the value (regression).
        patients_N: One id per row.
        z_MD: Embeddings to score.
        kind: What `y_N` is.
        kernel: Linear or RBF.
        recipe: Grids, limits and seed.
        judge: The score by which settings are compared, on out-of-fold scores of the training rows.
    """
    notes = []
    kept = sample_patients(patients_N, recipe.max_rows, recipe.seed, None if kind == "regression" else y_N)
    if len(kept) < len(y_N):
        notes.append(f"fitted on a sample of {len(kept)} of {len(y_N)} training images")
        z_ND, y_N, patients_N = z_ND[kept], y_N[kept], patients_N[kept]
    small = sample_patients(patients_N, recipe.exact_rows, recipe.seed, None if kind == "regression" else y_N)
    setting = _choose(z_ND[small], y_N[small], patients_N[small], kind, kernel, recipe, judge)
    scale = _scaler(z_ND, setting.scaling)
    if len(small) < len(y_N):
        name = f"Nystroem approximation with {LANDMARKS} landmarks" if kernel == "rbf" else "squared hinge loss"
        notes.append(f"{name}: more than {recipe.exact_rows} training images")
        score = _approximate(scale(z_ND), y_N, scale(z_MD), kind, kernel, setting.c, recipe.seed)
    else:
        (score,) = _exact(scale(z_ND), y_N, scale(z_MD), kind, kernel, (setting.c,))
    return Scored(score, setting, tuple(notes))


def sample_patients(
    patients_N: NDArray[Any], limit: int, seed: int, classes_N: NDArray[Any] | None = None
) -> NDArray[np.int64]:
    """Numbers of about `limit` rows, ascending, whole patients drawn at random; all rows where they fit.

    Args:
        patients_N: One id per row.
        limit: How many rows; the last patient drawn may go beyond.
        seed: Same seed, same rows.
        classes_N: Where given, half of the rows are shared equally among the classes (as far as each has rows), so
            that a rare class is not thinned away with the rest.
    """
    if len(patients_N) <= limit:
        return np.arange(len(patients_N))
    names, codes = np.unique(patients_N, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    taken = np.zeros(len(names), dtype=bool)
    if classes_N is not None:
        kinds = np.unique(classes_N)
        for kind in kinds:
            rows_P = np.bincount(codes[classes_N == kind], minlength=len(names))
            holders = order[rows_P[order] > 0]
            before = np.cumsum(rows_P[holders]) - rows_P[holders]
            taken[holders[before < limit / (2 * len(kinds))]] = True
    rows_P = np.bincount(codes, minlength=len(names))
    rest = order[~taken[order]]
    before = rows_P[taken].sum() + np.cumsum(rows_P[rest]) - rows_P[rest]
    taken[rest[before < limit]] = True
    return np.flatnonzero(taken[codes])


def _choose(
    z_ND: NDArray[Any],
    y_N: NDArray[Any],
    patients_N: NDArray[Any],
    kind: Kind,
    kernel: Kernel,
    recipe: Probe,
    judge: Judge,
) -> Setting:
    """The setting whose out-of-fold scores are best; of equals the first, so the smaller C."""
    grid = sorted(recipe.c_grid)
    settings = [Setting(scaling, c) for scaling in recipe.scalings for c in grid]
    folds = min(INNER_FOLDS, len(np.unique(patients_N)))
    if len(settings) == 1 or folds < 2:
        return settings[0]
    splitter = (
        GroupKFold(folds)
        if kind == "regression"
        else StratifiedGroupKFold(folds, shuffle=True, random_state=recipe.seed)
    )
    n_classes = len(np.unique(y_N))
    shape = (len(settings), len(y_N), n_classes) if kind == "multiclass" else (len(settings), len(y_N))
    score = np.full(shape, math.nan)
    fold_N = np.full(len(y_N), -1)
    # Whole patients go to a part, so a rare class may be absent from the rest: that part is passed over.
    for fold, (fit, held) in enumerate(_splits(splitter, y_N, patients_N, kind)):
        if kind != "regression" and len(np.unique(y_N[fit])) < n_classes:
            continue
        fold_N[held] = fold
        for i, scaling in enumerate(recipe.scalings):
            scale = _scaler(z_ND[fit], scaling)
            for j, found in enumerate(_exact(scale(z_ND[fit]), y_N[fit], scale(z_ND[held]), kind, kernel, grid)):
                score[i * len(grid) + j, held] = found
    used = fold_N >= 0
    worth = [judge(y_N[used], score[s, used], fold_N[used]) if used.any() else math.nan for s in range(len(settings))]
    return settings[int(np.nanargmax(worth))] if np.isfinite(worth).any() else settings[0]


def _splits(splitter: Any, y_N: NDArray[Any], patients_N: NDArray[Any], kind: Kind) -> Any:
    # With fewer rows of a class than folds scikit-learn warns; the stratum is then of no use, the groups still are.
    if kind != "regression" and np.bincount(y_N.astype(int)).min() < splitter.get_n_splits():
        splitter = GroupKFold(splitter.get_n_splits())
    return splitter.split(np.zeros(len(y_N)), y_N, groups=patients_N)


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


def _scaler(z_ND: NDArray[Any], scaling: Scaling) -> Callable[[NDArray[Any]], Floats]:
    mean_D, length_D = centre_and_length(z_ND, scaling)
    return lambda z: (np.asarray(z, dtype=np.float64) - mean_D) / length_D


def _exact(
    z_ND: Floats, y_N: NDArray[Any], z_MD: Floats, kind: Kind, kernel: Kernel, grid: tuple[float, ...] | list[float]
) -> list[Floats]:
    """Scores by a kernel machine for each C; the kernel matrix is computed once for all."""
    gram = _gram(z_ND, z_ND, kernel)
    mean, sd = _location(y_N, kind)
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
            scores.append(_answer(machine, cross, kind, mean, sd))
    return [np.concatenate(scores) for scores in blocks]


def _approximate(
    z_ND: Floats, y_N: NDArray[Any], z_MD: Floats, kind: Kind, kernel: Kernel, c: float, seed: int
) -> Floats:
    """Scores by a linear machine, on the embedding or on Nystroem's map of it; solved in the primal: it converges."""
    if kernel == "rbf":
        mapping = Nystroem(kernel="rbf", gamma=1.0, n_components=min(LANDMARKS, len(z_ND)), random_state=seed)
        z_ND = mapping.fit_transform(z_ND)
        z_MD = mapping.transform(z_MD)
    mean, sd = _location(y_N, kind)
    if kind == "regression":
        machine = LinearSVR(C=c, epsilon=EPSILON_SD, loss="squared_epsilon_insensitive", dual=False, max_iter=10_000)
        machine.fit(z_ND, (y_N - mean) / sd)
    else:
        machine = LinearSVC(C=c, class_weight="balanced", dual=False, max_iter=10_000).fit(z_ND, y_N)
    return _answer(machine, z_MD, kind, mean, sd)


def _gram(a_MD: Floats, b_ND: Floats, kernel: Kernel) -> Floats:
    return np.asarray(linear_kernel(a_MD, b_ND) if kernel == "linear" else rbf_kernel(a_MD, b_ND, gamma=1.0))


def _location(y_N: NDArray[Any], kind: Kind) -> tuple[float, float]:
    """Mean and standard deviation of a regression's target: C and epsilon are then in its units."""
    if kind != "regression":
        return 0.0, 1.0
    return float(y_N.mean()), float(y_N.std()) or 1.0


def _answer(machine: Any, features: Floats, kind: Kind, mean: float, sd: float) -> Floats:
    if kind == "regression":
        return np.asarray(machine.predict(features) * sd + mean)
    score = np.asarray(machine.decision_function(features))
    return np.stack([-score, score], axis=1) if kind == "multiclass" and score.ndim == 1 else score
