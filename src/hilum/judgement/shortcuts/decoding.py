"""Can an attribute be told from the embedding among images of the same label, better than chance would?

The decoder is linear discriminant analysis with the shrunk covariance of Ledoit & Wolf (2004): it has a closed form and
no setting to choose, and neither the covariance nor the shrinkage sees the attribute, so that the decoder is fitted
anew for every permutation at the price of a matrix product. Embedding and attribute are both centred within the strata
of the label before the fit, which is the partial regression on both (Frisch & Waugh 1933), and scores are compared
within strata only: what the label gives away is not counted. Patients are on one side of a fit only.

Linear: what only a curved boundary would find is not found. That an attribute can be told does not say that it is used;
what follows from a hit is decided in `verdicts`.

Legend: N rows, D features, K levels, B permutations.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from sklearn.covariance import ledoit_wolf

from hilum.judgement import stats
from hilum.judgement.shortcuts.attributes import Attribute
from hilum.judgement.shortcuts.permuting import Rows, donors, p_value
from hilum.judgement.stats import Floats, Interval
from hilum.recipe import Shortcuts

NULL_QUANTILE: Final = 0.95
CHUNK_ELEMENTS: Final = 4_000_000  # rows x permutations held at once: 32 MB per array

Singles = NDArray[np.float32]


@dataclass(frozen=True)
class Decoding:
    """How well an attribute is told.

    Attributes:
        auroc: Within strata; of several levels the mean of one against the rest.
        balanced_accuracy: Of the nearest level mean; undefined for a number.
        null_95: 95% quantile of the AUROC over permutations; NaN where nothing was asked.
        p: Of the AUROC being chance.
        conditional: Whether the strata are those of the label.
        n: Rows behind it.
        n_patients: Their patients.
        levels: Names of the levels that were told apart.
        short: Why it was not asked; empty where it was.
    """

    auroc: Interval
    balanced_accuracy: Interval
    null_95: float
    p: float
    conditional: bool
    n: int
    n_patients: int
    levels: tuple[str, ...] = ()
    short: str = ""


@dataclass(frozen=True)
class Space:
    """An embedding made ready for decoding: centred within strata and whitened, once for each fold that is held out.

    Attributes:
        stratum_N: Number of each row's stratum; -1 where the row takes no part.
        fold_N: Number of each row's fold.
        patient_N: Number of each row's patient.
        white_FND: For each fold the rows as the others see them, float32, (N, D).
        conditional: Whether the strata are those of the label.
    """

    stratum_N: Rows
    fold_N: Rows
    patient_N: Rows
    white_FND: tuple[Singles, ...]
    conditional: bool

    @classmethod
    def prepare(cls, z_ND: NDArray[Any], stratum_N: Rows, fold_N: Rows, patient_N: Rows, conditional: bool) -> "Space":
        """Whiten by the rows outside of each fold; rows with stratum -1 inform nothing and are not asked."""
        whole = []
        for fold in range(int(fold_N.max()) + 1):
            fit = (fold_N != fold) & (stratum_N >= 0)
            spread_D = z_ND[fit].std(axis=0)
            centred = (z_ND - z_ND[fit].mean(axis=0)) / np.where(spread_D > 0, spread_D, 1.0)
            for stratum in range(int(stratum_N.max()) + 1):
                inside = stratum_N == stratum
                if (inside & fit).any():
                    centred[inside] -= centred[inside & fit].mean(axis=0)
            covariance, _ = ledoit_wolf(centred[fit], assume_centered=True)
            factor = np.linalg.cholesky(covariance)
            whole.append(np.ascontiguousarray(solve_triangular(factor, centred.T, lower=True).T, dtype=np.float32))
        return cls(stratum_N, fold_N, patient_N, tuple(whole), conditional)


def decode(space: Space, attribute: Attribute, recipe: Shortcuts) -> Decoding:
    """Tell an attribute from the embedding within the strata of a space.

    Args:
        space: The embedding.
        attribute: What is to be told.
        recipe: `permutations`, `bootstrap`, `min_group`, `seed`.
    """
    rows, code_N, levels = _comparable(space, attribute, recipe.min_group)
    n_patients = len(np.unique(space.patient_N[rows]))
    if len(levels) < 2:
        where = "with the same label " if space.conditional else ""
        short = (
            f"fewer than two levels can be compared: each needs {recipe.min_group} patients beside patients "
            f"of another level {where}".rstrip()
        )
        none = stats.undefined(f"insufficient data: {short}")
        return Decoding(none, none, math.nan, math.nan, space.conditional, len(rows), n_patients, (), short)
    value_N = attribute.value_N[rows] if attribute.kind == "number" else code_N
    columns = [1] if len(levels) == 2 else list(range(len(levels)))
    within_N = space.fold_N[rows] * (int(space.stratum_N.max()) + 1) + space.stratum_N[rows]
    null_B = _permuted(space, rows, code_N, value_N, columns, attribute.kind == "number", recipe)
    patients = space.patient_N[rows]
    target_NC = _target(code_N[:, None], value_N[:, None], columns, attribute.kind == "number")[:, 0]
    score_NC = held_out_scores(space, rows, target_NC)
    if len(columns) == 1:
        auroc = stats.patient_bootstrap(
            stats.weighted_auroc, patients, recipe.bootstrap, recipe.seed, (code_N == 1).astype(float), score_NC[:, 0],
            within_N,
        )  # fmt: skip
    else:
        auroc = stats.patient_bootstrap(
            stats.weighted_macro_auroc, patients, recipe.bootstrap, recipe.seed, code_N, score_NC, within_N
        )
    accuracy = stats.undefined("a number has no levels to be named")
    if attribute.kind == "category":
        named_N = _named(space, rows, code_N, len(levels))
        accuracy = stats.patient_bootstrap(
            stats.weighted_balanced_accuracy, patients, recipe.bootstrap, recipe.seed, code_N, named_N
        )
    return Decoding(
        auroc,
        accuracy,
        float(np.quantile(null_B[1:], NULL_QUANTILE)),
        p_value(float(null_B[0]), null_B[1:]),
        space.conditional,
        len(rows),
        n_patients,
        levels,
    )


def _comparable(space: Space, attribute: Attribute, min_group: int) -> tuple[Rows, Floats, tuple[str, ...]]:
    """Rows, level numbers and levels that have enough patients beside those of other levels in the same strata."""
    kept = list(range(len(attribute.levels)))
    while True:
        rows = np.flatnonzero((space.stratum_N >= 0) & np.isin(attribute.code_N, kept))
        counts_SK = np.zeros((int(space.stratum_N.max()) + 1, max(len(kept), 1)), dtype=np.int64)
        triples = np.unique(
            np.stack([space.stratum_N[rows], space.patient_N[rows], attribute.code_N[rows].astype(np.int64)]), axis=1
        )
        for place, level in enumerate(kept):
            counts_SK[:, place] = np.bincount(triples[0][triples[2] == level], minlength=len(counts_SK))
        beside_SK = counts_SK.sum(axis=1, keepdims=True) - counts_SK
        pairable_K = np.minimum(counts_SK, beside_SK).sum(axis=0)
        fine = [level for level, count in zip(kept, pairable_K, strict=False) if count >= min_group]
        if fine == kept or len(fine) < 2:
            break
        kept = fine
    if len(fine) < 2:
        return rows, np.empty(0), ()
    code_N = np.searchsorted(kept, attribute.code_N[rows]).astype(float)
    return rows, code_N, tuple(attribute.levels[level] for level in kept)


def _permuted(
    space: Space,
    rows: Rows,
    code_N: Floats,
    value_N: Floats,
    columns: list[int],
    is_number: bool,
    recipe: Shortcuts,
) -> Floats:
    """The AUROC of the attribute as it is, then of each permutation of it, (1 + B,)."""
    shuffled = donors(space.patient_N[rows], space.stratum_N[rows], recipe.permutations, recipe.seed)
    found = [_aurocs(space, rows, code_N[:, None], value_N[:, None], columns, is_number)]
    step = max(1, CHUNK_ELEMENTS // (len(rows) * len(columns)))
    while chunk := list(islice(shuffled, step)):
        index_NB = np.stack(chunk, axis=1)
        found.append(_aurocs(space, rows, code_N[index_NB], value_N[index_NB], columns, is_number))
    return np.concatenate(found)


def _aurocs(space: Space, rows: Rows, code_NB: Floats, value_NB: Floats, columns: list[int], is_number: bool) -> Floats:
    """Mean over `columns` of the AUROC within fold and stratum, for each of B ways to deal out the attribute, (B,)."""
    target_NBC = _target(code_NB, value_NB, columns, is_number)
    n, n_ways, n_columns = target_NBC.shape
    wins, pairs = np.zeros((n_ways, n_columns)), np.zeros((n_ways, n_columns))
    for held, score in _held_out(space, rows, target_NBC.reshape(n, -1)):
        rank = np.argsort(np.argsort(score, axis=0), axis=0).reshape(len(held), n_ways, n_columns) + 1.0
        for place, level in enumerate(columns):
            positive = code_NB[held] == level
            count = positive.sum(axis=0)
            wins[:, place] += (rank[:, :, place] * positive).sum(axis=0) - count * (count + 1) / 2
            pairs[:, place] += count * (len(held) - count)
    counted = pairs > 0  # a permutation may leave a level without its like in every held-out stratum
    each = np.divide(wins, pairs, out=np.zeros_like(wins), where=counted)
    return np.asarray(each.sum(axis=1) / np.maximum(counted.sum(axis=1), 1))


def _target(code_NB: Floats, value_NB: Floats, columns: list[int], is_number: bool) -> Floats:
    """What is regressed on the embedding, (N, B, C): the number, or whether the row is of each level."""
    if is_number:
        return value_NB[:, :, None]
    return np.stack([(code_NB == level).astype(float) for level in columns], axis=2)


def _held_out(space: Space, rows: Rows, target_NC: Floats) -> Iterator[tuple[Rows, Singles]]:
    """Fold by fold and stratum by stratum, which of the rows are held out, and their scores."""
    fold_N, stratum_N = space.fold_N[rows], space.stratum_N[rows]
    for fold, white_ND in enumerate(space.white_FND):
        fit = np.flatnonzero(fold_N != fold)
        weight_DC = white_ND[rows[fit]].T @ _centred(target_NC[fit], stratum_N[fit])
        for stratum in np.unique(stratum_N):
            held = np.flatnonzero((fold_N == fold) & (stratum_N == stratum))
            yield held, white_ND[rows[held]] @ weight_DC


def held_out_scores(space: Space, rows: Rows, target_NC: Floats) -> Floats:
    """Discriminant of each column of `target_NC`, fitted within strata on the patients of the other folds, (N, C)."""
    score_NC = np.empty(target_NC.shape)
    for held, score in _held_out(space, rows, target_NC):
        score_NC[held] = score
    return score_NC


def _named(space: Space, rows: Rows, code_N: Floats, n_levels: int) -> Rows:
    """The level whose mean is nearest in the whitened space, held-out: discriminant analysis with equal priors."""
    named_N = np.empty(len(rows), dtype=np.int64)
    fold_N = space.fold_N[rows]
    for fold, white_ND in enumerate(space.white_FND):
        fit, held = np.flatnonzero(fold_N != fold), np.flatnonzero(fold_N == fold)
        is_KN = np.stack([code_N[fit] == level for level in range(n_levels)]).astype(np.float32)
        mean_KD = (is_KN @ white_ND[rows[fit]]) / np.maximum(is_KN.sum(axis=1, keepdims=True), 1)
        nearness = white_ND[rows[held]] @ mean_KD.T - (mean_KD**2).sum(axis=1) / 2
        named_N[held] = nearness.argmax(axis=1)
    return named_N


def _centred(target_NC: Floats, stratum_N: Rows) -> Singles:
    """Columns less their mean within each stratum, float32."""
    centred = np.array(target_NC, dtype=np.float32)
    for stratum in np.unique(stratum_N):
        inside = stratum_N == stratum
        centred[inside] -= centred[inside].mean(axis=0)
    return centred
