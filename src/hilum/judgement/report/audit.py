"""The audit of one encoder's answers: drift between the splits, quality on the test split, and fairness by group.

Evidently's `GroupBy` gives every group the value of the whole set for classification metrics, and its
`EmbeddingsDrift` draws a t-SNE on each call, so neither is used: see `group_metrics` and `embedding_drift`.

audit.html     Evidently's report, self-contained, with the run's identity and the dataset's caution
fairness.csv   quality by group, and the gaps between groups
fairness.html  the same to be read
fairness_groups, fairness_gaps    forest plots, each .png and .svg, where there is something to draw
audit.json     all of it for programs
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from hilum.data import parquet
from hilum.data.store import Dataset, read_json, write_json
from hilum.data.vectors import Vectors
from hilum.errors import DatasetError, UsageError
from hilum.identity import Run, code_revision
from hilum.judgement.fairness import gaps as between
from hilum.judgement.fairness import groups, regressions
from hilum.judgement.fairness import pages as fairness_page
from hilum.judgement.fairness import tables as fairness
from hilum.judgement.fusion import head as fused
from hilum.judgement.probing import head, probes
from hilum.judgement.report import drift, embedding_drift, evidently_page, group_part, parts
from hilum.judgement.report.evidently_page import Part
from hilum.judgement.report.sides import Sides
from hilum.page import write_page
from hilum.recipe import Audit, digest

PAGE: Final = "audit.html"
TABLE: Final = "fairness.csv"
FAIRNESS_PAGE: Final = "fairness.html"
FACTS: Final = "audit.json"


def run(dataset: Path, vectors: Path, head_folder: Path, recipe: Audit, out: Path) -> None:
    """Audit the answers of one encoder's head on the test split; writes the files above, `audit.json` last.

    Where the head does not answer (the label is not known for this modality, or of too few patients), there are no
    scores by group: the pages say so and give what can be said, drift and the sizes of the groups.

    Args:
        dataset: Dataset folder.
        vectors: Embeddings of it.
        head_folder: Folder with `head.json`, and `head.npz` where the head answers.
        recipe: Label, groups (all that the test split has where none is named) and tolerances.
        out: Folder to write into.

    Raises:
        DatasetError: The folders do not belong together, or there are no test images.
        UsageError: The head is of another label than the recipe's, or an attribute is not in the dataset.
    """
    opened, embedded = Dataset.open(dataset), Vectors.open(vectors)
    table = embedded.joined(opened)
    said = head.facts(head_folder)
    if said["label"] != recipe.label:
        raise UsageError(f"the head answers for {said['label']!r}, but the audit is asked of {recipe.label!r}")
    if (made_with := said.get("encoder")) not in (None, embedded.facts.encoder):
        raise DatasetError(f"the head belongs to {made_with}, the embeddings to {embedded.facts.encoder}")
    is_test = (table["split"] == "test").to_numpy()
    if not is_test.any():
        raise DatasetError(f"the dataset has no {embedded.facts.modality} image in its test split; nothing to audit")
    identity = Run(code_revision=code_revision(), data_digest=opened.facts.digest, recipe_digest=digest(recipe))
    subject = fairness_page.Subject(
        label=recipe.label,
        encoder=embedded.facts.encoder,
        modality=embedded.facts.modality,
        caution=opened.facts.caution,
        run=identity,
        mitigation=said.get("mitigation"),
    )
    test = table[is_test].reset_index(drop=True)
    known = opened.facts.attributes
    member = groups.attributes(test, recipe.groups or groups.coverage(test, known), known)
    out.mkdir(parents=True, exist_ok=True)
    (out / FACTS).unlink(missing_ok=True)
    read = _regressions(head_folder, table, embedded, opened, recipe)
    if said["answered"]:
        answering = fused.load(head_folder)
        truth = opened.labels()[recipe.label].to_numpy()[embedded.rows["row"].to_numpy()][is_test]
        probability = fused.predict(answering, np.asarray(embedded.z_ND)[is_test], test)
        found = fairness.judge(truth, probability, answering.threshold, member, test["patient_id"], recipe)
        corrected = between.corrected({"": found.gaps} | {name: one.gaps for name, one in read.items()})
        judged, gaps = found.groups, corrected[""]
        read = {name: fairness.Judged(one.groups, corrected[name]) for name, one in read.items()}
        drawn = fairness_page.pictures(judged, gaps, recipe.label)
        page = fairness_page.judged_page(subject, judged, gaps, answering.threshold, recipe.min_group, drawn, read)
        quality = parts.quality(truth, probability, answering.threshold, recipe.label)
        by_group = group_part.by_group(
            truth, probability, answering.threshold, member, test["patient_id"], fairness.Judged(judged, gaps), recipe
        )
    else:
        judged = pd.DataFrame(columns=list(fairness.GROUP_COLUMNS))
        gaps = pd.DataFrame(columns=list(fairness.GAP_COLUMNS))
        corrected = between.corrected({name: one.gaps for name, one in read.items()})
        read = {name: fairness.Judged(one.groups, corrected[name]) for name, one in read.items()}
        drawn = {}
        page = fairness_page.sizes_page(subject, groups.sizes(member, test["patient_id"]), str(said["why"]), read)
        quality = Part("", f"There is no part on quality: {said['why']}.", {})
        by_group = Part("", "There is no part on groups either; their sizes are in fairness.html.", {"tests": []})
    drifted, moved = _drift(table, embedded, opened, recipe)
    title = f"Drift and quality: {subject.label.replace('_', ' ')}, {subject.encoder}, {subject.spoken_modality}"
    write_page(
        out / PAGE, evidently_page.page(title, subject.caution, [drifted, moved, quality, by_group], subject.foot)
    )
    write_page(out / FAIRNESS_PAGE, page)
    _write_table(out / TABLE, recipe.label, judged, gaps, read)
    for name in fairness_page.PICTURES:
        for ending in ("png", "svg"):
            (out / f"{name}.{ending}").unlink(missing_ok=True)  # of an earlier audit
    for name, one in drawn.items():
        one.write(out / name)
    facts = {
        "label": recipe.label,
        "answered": bool(said["answered"]),
        "encoder": embedded.facts.encoder,
        "modality": embedded.facts.modality,
        "groups": _records(judged),
        "gaps": _records(gaps),
        "regressions": {
            name: {"groups": _records(one.groups), "gaps": _records(one.gaps)} for name, one in read.items()
        },
        "mitigation": said.get("mitigation"),
        "drift": {**drifted.facts, "embedding": moved.facts},
        "quality": quality.facts,
        "gap_tests": by_group.facts["tests"],
        "run": identity,
    }
    write_json(out / FACTS, facts if said["answered"] else {**facts, "why": said["why"]})


def _regressions(
    probe: Path, table: pd.DataFrame, embedded: Vectors, dataset: Dataset, recipe: Audit
) -> dict[str, fairness.Judged]:
    """Errors by group of the quantities that the probe read from unseen images, on all that it held out."""
    if not ((probe / probes.PREDICTIONS).is_file() and (probe / probes.FACTS).is_file()):
        return {}  # a head alone
    facts = read_json(probe / probes.FACTS)
    if facts["run"]["data_digest"] != dataset.facts.digest:
        raise DatasetError(f"the probe's predictions in {probe} are of another dataset; probe this one first")
    held = parquet.read(probe / probes.PREDICTIONS)
    held = held[held["kernel"] == facts["headline_kernel"]]
    place = pd.Series(np.arange(len(table)), index=embedded.rows["row"].to_numpy())
    found = {}
    for task in recipe.regressions:
        asked = held[held["task"] == task]
        if asked.empty:
            continue
        rows = table.iloc[place[asked["row"]].to_numpy()].reset_index(drop=True)
        known = dataset.facts.attributes
        member = groups.attributes(rows, recipe.groups or groups.coverage(rows, known), known)
        truth, read = (asked[name].to_numpy(dtype=float) for name in ("truth", "score"))
        own = "age_band" if task == "age" else ""
        found[task] = regressions.judge(truth, read, member, rows["patient_id"], recipe, own)
    return found


def _drift(table: pd.DataFrame, embedded: Vectors, dataset: Dataset, recipe: Audit) -> tuple[Part, Part]:
    """Test split (current) against train split (reference): columns that name no image or patient, and embeddings."""
    chosen = np.flatnonzero(table["split"].isin(["train", "test"]))
    rows = table.iloc[chosen].reset_index(drop=True)
    sides = Sides.parted((rows["split"] == "test").to_numpy(), rows["patient_id"])
    labels = [recipe.label] if recipe.label in dataset.facts.labels else []
    title, said = "Drift: test split against train split", "Drift of the test split from the train split"
    columns = parts.columns(drift.columns(rows, dataset.facts.covariates, labels), sides, recipe, title, said)
    found = embedding_drift.compare(lambda drawn: embedded.z_ND[chosen[drawn]], sides, recipe.bootstrap, recipe.seed)
    return columns, Part("", found.words, found.facts)


def _write_table(
    path: Path, label: str, judged: pd.DataFrame, gaps: pd.DataFrame, read: Mapping[str, fairness.Judged]
) -> None:
    """Groups and gaps in one CSV: `kind` and `target` tell them apart; blank where there is no value."""
    frames = [("group", label, judged), ("gap", label, gaps)]
    for task, one in read.items():
        frames += [("regression group", task, one.groups), ("regression gap", task, one.gaps)]
    every = pd.concat([frame.assign(kind=kind, target=of).astype("object") for kind, of, frame in frames])
    columns = ["kind", "target", *fairness.GROUP_COLUMNS, "n_groups", "p", "p_holm"]
    partial = path.with_name(path.name + ".partial")
    every.reindex(columns=columns).to_csv(partial, index=False)
    partial.replace(path)


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON values: NaN becomes None."""
    return [
        {name: None if isinstance(value, float) and np.isnan(value) else value for name, value in row.items()}
        for row in frame.astype("object").to_dict("records")
    ]
