"""The machines that read an embedding, held to one protocol: settings chosen inside the training rows, then one fit.

linear, rbf    support vector machines (hilum.judgement.probing.svm)
logistic       L2 logistic regression; ridge regression for a number
knn            k nearest neighbours
mlp            one hidden layer

Legend: N rows to fit on, M rows to score, D width of the embedding, K classes, S settings. Whatever is chosen is chosen
by cross-validation that keeps a patient's rows together; the same out-of-fold scores later calibrate the machine.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

from hilum.judgement.probing import knn, logistic, mlp, svm
from hilum.judgement.probing.svm import Floats, Kind, Scaling, scaler
from hilum.recipe import Probe

Machine = Literal["linear", "rbf", "logistic", "knn", "mlp"]
Judge = Callable[[NDArray[Any], Floats, NDArray[Any]], float]  # (truth, score, inner fold) -> the higher, the better

INNER_FOLDS: Final = 3  # of the choice of settings; more would cost more than the choice is worth
HELD_ROWS: Final = 10_000  # of large data, to calibrate on: one part held out once is enough of them


@dataclass(frozen=True)
class Setting:
    """What is chosen by cross-validation.

    Attributes:
        scaling: How embeddings are scaled.
        c: C of a support vector machine or of logistic regression, k of knn, alpha of mlp.
        epochs: Of mlp; 0 for the others.
    """

    scaling: Scaling
    c: float
    epochs: int = 0

    def words(self, machine: Machine) -> str:
        """For a reader of scores.csv: `feature C=1`."""
        name = {"knn": "k", "mlp": "alpha"}.get(machine, "C")
        return f"{self.scaling} {name}={self.c:g}" + (f" {self.epochs} epochs" if self.epochs else "")


@dataclass(frozen=True)
class Scored:
    """Scores of the rows that were held out.

    Attributes:
        score: (M,) signed distance from the boundary, 0 being undecided (binary), or predicted value (regression);
            (M, K) one score per class (multiclass).
        setting: What was chosen.
        notes: What was done to keep the fit affordable; empty where it is exact and on all rows.
        unseen_y: Labels of training rows whose patients the scoring machine had not seen; empty where there are none.
        unseen_score: Their scores by the chosen setting: what calibration and threshold are made from.
    """

    score: Floats
    setting: Setting
    notes: tuple[str, ...] = ()
    unseen_y: Floats = field(default_factory=lambda: np.empty(0))
    unseen_score: Floats = field(default_factory=lambda: np.empty(0))


@dataclass(frozen=True)
class _Unseen:
    """Scores (S, N) or (S, N, K) of rows by machines that had not seen their patients; `fold` is -1 without one."""

    settings: Sequence[Setting]
    score: Floats
    fold: NDArray[np.int64]

    def best(self, y_N: NDArray[Any], usable_N: NDArray[np.bool_], judge: Judge) -> int:
        """Which setting is judged best; of equals the first, so the smaller C."""
        used = (self.fold >= 0) & usable_N
        if len(self.settings) == 1 or not used.any():
            return 0
        worth = [judge(y_N[used], self.score[s, used], self.fold[used]) for s in range(len(self.settings))]
        return int(np.nanargmax(worth)) if np.isfinite(worth).any() else 0


def fit_and_score(
    z_ND: NDArray[Any],
    y_N: NDArray[Any],
    patients_N: NDArray[Any],
    z_MD: NDArray[Any],
    kind: Kind,
    machine: Machine,
    recipe: Probe,
    judge: Judge,
    certain_N: NDArray[np.bool_] | None = None,
) -> Scored:
    """Choose the settings inside the training rows, fit on them, and score the held-out rows.

    Beyond `recipe.exact_rows`, where a kernel machine (quadratic in N) is out of reach, settings are chosen on a sample
    of patients. The fit is on all rows all the same: of a support vector machine in the primal, on the embedding itself
    or on Nystroem's approximation of the RBF feature space; of the others as it is.

    Args:
        z_ND: Embeddings to fit on.
        y_N: 0 or 1 (binary), 0 to K-1, all present (multiclass), or the value (regression).
        patients_N: One id per row.
        z_MD: Embeddings to score.
        kind: What `y_N` is.
        machine: Which.
        recipe: Grids, limits and seed.
        judge: The score by which settings are compared, on out-of-fold scores of the training rows.
        certain_N: Rows whose label is certain; all where not given. The others are fitted on, but take no part in the
            choice of settings, in calibration or in the threshold.
    """
    notes = ["ridge regression"] if machine == "logistic" and kind == "regression" else []
    certain_N = np.ones(len(y_N), dtype=bool) if certain_N is None else certain_N
    classes_N = None if kind == "regression" else y_N
    if recipe.max_rows is not None and len(y_N) > recipe.max_rows:
        kept = sample_patients(patients_N, recipe.max_rows, recipe.seed, classes_N)
        notes.append(f"fitted on a sample of {len(kept)} of {len(y_N)} training images")
        z_ND, y_N, patients_N, certain_N = z_ND[kept], y_N[kept], patients_N[kept], certain_N[kept]
        classes_N = None if kind == "regression" else y_N
    small = sample_patients(patients_N, recipe.exact_rows, recipe.seed, classes_N)
    large = len(small) < len(y_N)
    settings = _settings(machine, recipe, len(small))
    tried = None
    if len(settings) > 1 or (kind == "binary" and not large):
        tried = _out_of_fold(z_ND[small], y_N[small], patients_N[small], kind, machine, settings, recipe)
    at = tried.best(y_N[small], certain_N[small], judge) if tried else 0
    setting = settings[at]
    if large:
        notes.append(_cost(machine, recipe.exact_rows))
        settings = [s for s in _settings(machine, recipe, len(y_N)) if (s.scaling, s.c) == (setting.scaling, setting.c)]
        tried, at = None, 0
        if len(settings) > 1 or kind == "binary":
            tried = _held_out(z_ND, y_N, patients_N, kind, machine, settings, recipe)
            at = tried.best(y_N, certain_N, judge) if tried else 0
        setting = settings[at]
    scale = scaler(z_ND, setting.scaling)
    (score,) = _scores(scale(z_ND), y_N, scale(z_MD), kind, machine, [setting], recipe.seed, large)
    if kind != "binary" or tried is None:
        return Scored(score, setting, tuple(notes))
    rows = np.arange(len(y_N)) if large else small
    told = (tried.fold >= 0) & certain_N[rows]
    return Scored(score, setting, tuple(notes), y_N[rows][told].astype(float), tried.score[at, told])


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


def _settings(machine: Machine, recipe: Probe, n: int) -> list[Setting]:
    """What is tried, in the order in which equals are preferred."""
    if machine == "mlp":
        points = [(alpha, epochs) for alpha in mlp.ALPHAS for epochs in mlp.budgets(n)]
    else:
        grid = {"logistic": logistic.C_GRID, "knn": knn.K_GRID}.get(machine, recipe.c_grid)
        points = [(float(c), 0) for c in sorted(grid)]
    return [Setting(scaling, c, epochs) for scaling in recipe.scalings for c, epochs in points]


def _scores(
    z_ND: Floats, y_N: NDArray[Any], z_MD: Floats, kind: Kind, machine: Machine, settings: Sequence[Setting],
    seed: int, large: bool,
) -> list[Floats]:  # fmt: skip
    """Scores by each of some settings of one scaling, the embeddings being scaled already."""
    grid = [setting.c for setting in settings]
    if machine == "logistic":
        return logistic.scores(z_ND, y_N, z_MD, kind, grid)
    if machine == "knn":
        return knn.scores(z_ND, y_N, z_MD, kind, grid)
    if machine == "mlp":
        return mlp.scores(z_ND, y_N, z_MD, kind, [(setting.c, setting.epochs) for setting in settings], seed)
    if large:
        return svm.approximate(z_ND, y_N, z_MD, kind, machine, grid, seed)
    return svm.exact(z_ND, y_N, z_MD, kind, machine, grid)


def _cost(machine: Machine, exact_rows: int) -> str:
    """What was done differently because there are more training images than `exact_rows`."""
    name = {
        "rbf": f"Nystroem approximation with {svm.LANDMARKS} landmarks",
        "linear": "squared hinge loss",
    }.get(machine, "settings chosen on a sample")
    return f"{name}: more than {exact_rows} training images"


def _out_of_fold(
    z_ND: NDArray[Any], y_N: NDArray[Any], patients_N: NDArray[Any], kind: Kind, machine: Machine,
    settings: Sequence[Setting], recipe: Probe,
) -> _Unseen | None:  # fmt: skip
    """Scores of every row by machines that were fitted on other patients; None where there is one patient only."""
    folds = min(INNER_FOLDS, len(np.unique(patients_N)))
    if folds < 2:
        return None
    splitter = (
        GroupKFold(folds)
        if kind == "regression"
        else StratifiedGroupKFold(folds, shuffle=True, random_state=recipe.seed)
    )
    # Whole patients go to a part, so a rare class may be absent from the rest: that part is passed over.
    return _tried(z_ND, y_N, _splits(splitter, y_N, patients_N, kind), kind, machine, settings, recipe.seed, False)


def _held_out(
    z_ND: NDArray[Any], y_N: NDArray[Any], patients_N: NDArray[Any], kind: Kind, machine: Machine,
    settings: Sequence[Setting], recipe: Probe,
) -> _Unseen:  # fmt: skip
    """The same of large data, for one part that is held out once: a third of the rows, `HELD_ROWS` at most."""
    # Drawn without regard to class: a calibration is of the prevalence that it has seen.
    held = sample_patients(patients_N, min(len(y_N) // 3, HELD_ROWS), recipe.seed)
    rest = np.setdiff1d(np.arange(len(y_N)), held)
    return _tried(z_ND, y_N, [(rest, held)], kind, machine, settings, recipe.seed, True)


def _tried(
    z_ND: NDArray[Any], y_N: NDArray[Any], splits: Any, kind: Kind, machine: Machine, settings: Sequence[Setting],
    seed: int, large: bool,
) -> _Unseen:  # fmt: skip
    n_classes = len(np.unique(y_N))
    shape = (len(settings), len(y_N), n_classes) if kind == "multiclass" else (len(settings), len(y_N))
    score = np.full(shape, math.nan)
    fold_N = np.full(len(y_N), -1)
    for fold, (fit, held) in enumerate(splits):
        if kind != "regression" and len(np.unique(y_N[fit])) < n_classes:
            continue
        fold_N[held] = fold
        for scaling in dict.fromkeys(setting.scaling for setting in settings):
            alike = [s for s, setting in enumerate(settings) if setting.scaling == scaling]
            scale = scaler(z_ND[fit], scaling)
            found = _scores(
                scale(z_ND[fit]), y_N[fit], scale(z_ND[held]), kind, machine, [settings[s] for s in alike], seed, large
            )
            for s, one in zip(alike, found, strict=True):
                score[s, held] = one
    return _Unseen(settings, score, fold_N)


def _splits(splitter: Any, y_N: NDArray[Any], patients_N: NDArray[Any], kind: Kind) -> Any:
    # With fewer rows of a class than folds scikit-learn warns; the stratum is then of no use, the groups still are.
    if kind != "regression" and np.bincount(y_N.astype(int)).min() < splitter.get_n_splits():
        splitter = GroupKFold(splitter.get_n_splits())
    return splitter.split(np.zeros(len(y_N)), y_N, groups=patients_N)
