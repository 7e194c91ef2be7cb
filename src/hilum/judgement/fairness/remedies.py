"""The methods against a gap between groups: what each learns from train and val, and the answers that it gives.

Legend: N images, D width of the embedding.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hilum.errors import CheckFailed
from hilum.judgement.fairness import erasure, thresholds
from hilum.judgement.fairness.groups import INSUFFICIENT, UNKNOWN
from hilum.judgement.probing import head
from hilum.judgement.probing.head import Head
from hilum.recipe import Recipe

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Material:
    """What a method may see (`fitted`), and what it is judged on (`tested`); both with a known label.

    Attributes:
        z_ND: Embeddings.
        y_N: 1, 0, or NaN unknown.
        patient_N: Number of each image's patient.
        level_N: Its group, UNKNOWN where the dataset does not say.
        fitted: Rows of train and val.
        tested: Rows of test.
        recipe: Of the whole run.
    """

    z_ND: Floats
    y_N: Floats
    patient_N: NDArray[np.int64]
    level_N: NDArray[np.str_]
    fitted: NDArray[np.int64]
    tested: NDArray[np.int64]
    recipe: Recipe

    def fit(self, z_ND: Floats, weight_N: Floats | None = None) -> Head:
        """A head on these embeddings, by the recipe's rules; weights are of the fitted rows."""
        probe, rows = self.recipe.probe, self.fitted
        return head.fit(
            z_ND[rows],
            self.y_N[rows],
            self.patient_N[rows],
            probe.seed,
            rule=probe.threshold,
            min_sensitivity=probe.min_sensitivity,
            replicates=probe.bootstrap,
            weight_N=weight_N,
        )

    def known(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of the rows whose group is known."""
        chosen: NDArray[np.int64] = rows[self.level_N[rows] != UNKNOWN]
        return chosen


@dataclass(frozen=True)
class Treated:
    """What a method gave.

    Attributes:
        head: The head, on raw embeddings.
        called: From probability and group of rows to the probability that they are called positive.
        did: For people and programs: what was done.
        erased: From raw embeddings to those without the attribute, where that is what it does.
    """

    head: Head
    called: Callable[[Floats, NDArray[np.str_]], Floats]
    did: dict[str, Any]
    erased: erasure.Eraser | None = None


def untreated(material: Material) -> Treated:
    """The head as it is, to compare with."""
    found = material.fit(material.z_ND)
    return Treated(found, _one_threshold(found), {})


def _one_threshold(found: Head) -> Callable[[Floats, NDArray[np.str_]], Floats]:
    return lambda probability_N, _: (probability_N >= found.threshold).astype(float)


def _weighted(material: Material, weight_N: Floats, did: dict[str, Any]) -> Treated:
    found = material.fit(material.z_ND, weight_N)
    return Treated(found, _one_threshold(found), did)


def _balanced_sampling(material: Material, _: Treated) -> Treated:
    rows = material.fitted
    level_N, patient_N = material.level_N[rows], material.patient_N[rows]
    random = np.random.default_rng(material.recipe.probe.seed)
    patients = {name: np.unique(patient_N[level_N == name]) for name in np.unique(level_N) if name != UNKNOWN}
    if len(patients) < 2:
        raise CheckFailed(f"{INSUFFICIENT}: the training rows have {len(patients)} known group(s), 2 are needed")
    largest = max(map(len, patients.values()))
    weight_N = np.ones(len(rows))
    for name, of_group in patients.items():
        times_P, rest = divmod(largest, len(of_group))
        counts = np.full(len(of_group), times_P, dtype=float)
        counts[random.permutation(len(of_group))[:rest]] += 1  # nobody is drawn twice more often than another
        mine = np.flatnonzero(level_N == name)
        weight_N[mine] = counts[np.searchsorted(of_group, patient_N[mine])]
    did = {"patients": {str(name): len(of_group) for name, of_group in patients.items()}, "drawn_to": largest}
    return _weighted(material, weight_N, did)


def _reweighting(material: Material, _: Treated) -> Treated:
    rows = material.known(material.fitted)
    place = np.searchsorted(material.fitted, rows)
    level_N, y_N = material.level_N[rows], material.y_N[rows]
    if len(np.unique(level_N)) < 2:
        raise CheckFailed(f"{INSUFFICIENT}: the training rows have fewer than two known groups")
    weight_N, said = np.ones(len(material.fitted)), {}
    for name in np.unique(level_N):
        for value in (0, 1):
            both = (level_N == name) & (y_N == value)
            if both.any():
                weight = float((level_N == name).mean() * (y_N == value).mean() / both.mean())
                weight_N[place[both]] = weight
                said[f"{name}, {'with' if value else 'without'} the label"] = weight
    return _weighted(material, weight_N, {"weights": said})


def _group_thresholds(material: Material, before: Treated) -> Treated:
    rows = material.fitted
    fitted = (material.z_ND[rows], material.y_N[rows], material.patient_N[rows], material.recipe.probe.seed)
    score_N, level_N = head.held_out(before.head, *fitted), material.level_N[rows]
    enough = [
        name
        for name in np.unique(level_N)
        if name != UNKNOWN
        and min(len(np.unique(fitted[2][(level_N == name) & (fitted[1] == value)])) for value in (0, 1))
        >= material.recipe.audit.min_group
    ]
    if len(enough) < 2:
        raise CheckFailed(
            f"{INSUFFICIENT}: fewer than two groups have {material.recipe.audit.min_group} training patients with and "
            "without the label"
        )
    chosen = np.isin(level_N, enough)
    constraint = material.recipe.mitigation.constraint
    rules = thresholds.fit(fitted[1][chosen], score_N[chosen], level_N[chosen], constraint)

    def called(probability_N: Floats, level_N: NDArray[np.str_]) -> Floats:
        call_N = (probability_N >= before.head.threshold).astype(float)  # where the group is unknown, or too small
        for name, rule in rules.items():
            call_N[level_N == name] = rule(probability_N[level_N == name])
        return call_N

    did = {"constraint": constraint, "rules": {name: rule.facts() for name, rule in rules.items()}}
    return Treated(before.head, called, did)


def _leace(material: Material, _: Treated) -> Treated:
    rows = material.known(material.fitted)
    eraser = erasure.fit(material.z_ND[rows], material.level_N[rows])
    found = material.fit(eraser(material.z_ND))
    weight, bias = eraser.folded(found.weight, found.bias)
    folded = replace(found, weight=weight, bias=bias)
    did = {"rank": eraser.left_Dk.shape[1], "n": len(rows), "dim": material.z_ND.shape[1]}
    return Treated(folded, _one_threshold(folded), did, eraser)


METHODS: Final[Mapping[str, Callable[[Material, Treated], Treated]]] = {
    "balanced_sampling": _balanced_sampling,
    "reweighting": _reweighting,
    "group_thresholds": _group_thresholds,
    "leace": _leace,
}
