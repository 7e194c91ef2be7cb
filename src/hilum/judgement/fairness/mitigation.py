"""What can be done against a gap between groups, what it does on unseen patients, and what it costs.

balanced_sampling   training patients are drawn until every group has as many as the largest
reweighting         training images weigh P(group) P(label) / P(group, label), so that in the weighted sample the label
                    does not depend on the group (Kamiran & Calders 2012, Knowledge and Information Systems 33, eq. 4)
group_thresholds    a threshold for each group, chosen on scores of training patients that the scoring model had not
                    seen (hilum.judgement.fairness.thresholds); the score stays as it is
leace               the attribute is erased linearly from the embedding (hilum.judgement.fairness.erasure)

Everything is learnt on train and val; the test split only says what it is worth. `run` reports, and changes nothing;
`apply` refits a head by the one method that the recipe names, and says so in `head.json`.

mitigation.csv     one row per method and metric: before, after, and the difference with a paired interval; `p_holm` is
                   corrected over all rows of a method
mitigation.html    the same to be read
mitigation.json    what each method did: weights, thresholds, what was erased; or why it could not be done
METHOD/            the head that it gives, a folder like that of a probe (not for group_thresholds: it needs the group)

Legend: N images.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from hilum.data.store import Dataset, write_json
from hilum.data.vectors import Vectors
from hilum.errors import CheckFailed, UsageError
from hilum.identity import Run, code_revision
from hilum.judgement import stats
from hilum.judgement.fairness import comparison, groups
from hilum.judgement.fairness import mitigation_page as page
from hilum.judgement.fairness.remedies import METHODS, Material, Treated, untreated
from hilum.judgement.probing import head
from hilum.page import write_page
from hilum.progress import track
from hilum.recipe import Recipe, digest

TABLE: Final = "mitigation.csv"
PAGE: Final = "mitigation.html"
FACTS: Final = "mitigation.json"


def run(dataset: Path, vectors: Path, recipe: Recipe, out: Path) -> pd.DataFrame:
    """Try each method of `recipe.mitigation` against the head as it is; writes what is listed above.

    Args:
        dataset: Dataset folder.
        vectors: Embeddings of it.
        recipe: `mitigation` for the methods; `audit` for label, limits and replicates; `probe` for the fit of a head.
        out: Folder to write into; `mitigation.json` comes last.

    Returns:
        What `mitigation.csv` holds (comparison.COLUMNS); empty where no head can be fitted, which the page says.

    Raises:
        UsageError: The dataset has no such attribute, or no method is named.
        DatasetError: The folders do not belong together.
    """
    if not recipe.mitigation.methods:
        raise UsageError("the recipe names no mitigation; mitigation.methods takes any of " + ", ".join(METHODS))
    material, common = _material(dataset, vectors, recipe)
    out.mkdir(parents=True, exist_ok=True)
    (out / FACTS).unlink(missing_ok=True)
    did: dict[str, Any] = {}
    tables = []
    try:
        before = untreated(material)
    except CheckFailed as refusal:
        did = {method: {"done": False, "why": str(refusal)} for method in recipe.mitigation.methods}
    else:
        for method in track(recipe.mitigation.methods, "mitigation", unit="method"):
            try:
                after = METHODS[method](material, before)
            except CheckFailed as refusal:
                did[method] = {"done": False, "why": str(refusal)}
                continue
            did[method] = {"done": True, **after.did}
            tables.append(_compare(method, material, before, after))
            if method != "group_thresholds":
                _save(after, method, material, common, out / method)
    found = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(comparison.COLUMNS))
    partial = out / f"{TABLE}.partial"
    found.to_csv(partial, index=False)
    partial.replace(out / TABLE)
    facts = {
        "label": recipe.audit.label,
        "attribute": recipe.mitigation.attribute,
        "encoder": common["encoder"],
        "modality": common["modality"],
        "methods": did,
        "run": common["run"],
    }
    write_page(out / PAGE, page.page_of(facts, found, common["caution"]))
    write_json(out / FACTS, facts)
    return found


def apply(dataset: Path, vectors: Path, recipe: Recipe, out: Path) -> dict[str, Any]:
    """Refit the head of a probe folder by `recipe.mitigation.applied`, and say so in `head.json`.

    Where the recipe says "none", or the head does not answer, nothing is changed. Where the method cannot be carried
    out, the head no longer answers, and says why: an untreated head never stands in for a treated one.

    Args:
        dataset: Dataset folder.
        vectors: Embeddings of it.
        recipe: As for `run`.
        out: The probe folder, with its head.

    Returns:
        What `head.json` says.
    """
    said, method = head.facts(out), recipe.mitigation.applied
    if method == "none" or not said["answered"]:
        return said
    material, common = _material(dataset, vectors, recipe)
    try:
        treated = METHODS[method](material, untreated(material))
    except CheckFailed as refusal:
        (out / head.WEIGHTS).unlink(missing_ok=True)
        why = f"{page.SPOKEN[method]} could not be carried out: {refusal}"
        n_known = int(np.isfinite(material.y_N).sum())
        refused = {"answered": False, "label": recipe.audit.label, "why": why, "n_known": n_known, **common}
        write_json(out / head.FACTS, refused)
        return refused
    _save(treated, method, material, common, out)
    return head.facts(out)


def _material(dataset: Path, vectors: Path, recipe: Recipe) -> tuple[Material, dict[str, Any]]:
    cohort, embedded = Dataset.open(dataset), Vectors.open(vectors)
    table = embedded.joined(cohort)
    label, labels = recipe.audit.label, cohort.labels()
    if label not in labels:
        raise UsageError(f"the dataset has no label {label!r}; it has {', '.join(labels) or 'none'}")
    attribute = recipe.mitigation.attribute
    level_N = groups.attributes(table, [attribute], cohort.facts.attributes)[attribute].to_numpy(dtype=str)
    y_N = labels[label].to_numpy(dtype=float)[embedded.rows["row"].to_numpy()]
    known, split = np.isfinite(y_N), table["split"].to_numpy()
    material = Material(
        np.asarray(embedded.z_ND, dtype=np.float64),
        y_N,
        np.asarray(pd.factorize(table["patient_id"], sort=True)[0], dtype=np.int64),
        level_N,
        np.flatnonzero(known & np.isin(split, ["train", "val"])),
        np.flatnonzero(known & (split == "test")),
        recipe,
    )
    run = Run(
        code_revision=code_revision(), data_digest=embedded.facts.run["data_digest"], recipe_digest=digest(recipe)
    )
    facts = embedded.facts
    return material, {
        "encoder": facts.encoder,
        "modality": facts.modality,
        "dim": facts.dim,
        "run": run,
        "caution": cohort.facts.caution,
    }


def _compare(method: str, material: Material, before: Treated, after: Treated) -> pd.DataFrame:
    rows = material.tested
    sides = []
    for treated in (before, after):
        probability_N = treated.head.predict(material.z_ND[rows])
        sides.append((probability_N, treated.called(probability_N, material.level_N[rows])))
    judged = (material.y_N[rows], material.patient_N[rows], material.level_N[rows])
    found = comparison.table(*judged, sides[0], sides[1], material.recipe.audit, material.recipe.mitigation.attribute)
    if after.erased is not None:
        told = comparison.told(
            material.z_ND, after.erased(material.z_ND), material.level_N, material.patient_N,
            material.known(material.fitted), material.known(rows), material.recipe.audit,
        )  # fmt: skip
        found = pd.concat([found, told], ignore_index=True)
    found["p_holm"] = stats.holm(found["p"].to_numpy(dtype=float))
    found.insert(0, "method", method)
    found.insert(1, "attribute", material.recipe.mitigation.attribute)
    return found[list(comparison.COLUMNS)]


def _save(treated: Treated, method: str, material: Material, common: Mapping[str, Any], out: Path) -> None:
    rows, probe = material.tested, material.recipe.probe
    test = head.judge(
        treated.head, material.z_ND[rows], material.y_N[rows], material.patient_N[rows], probe.bootstrap, probe.seed
    )
    said = {"method": method, "attribute": material.recipe.mitigation.attribute, **treated.did}
    facts = {**treated.head.facts, "test": test, "mitigation": said, **common}
    replace(treated.head, label=material.recipe.audit.label, facts=facts).save(out)
