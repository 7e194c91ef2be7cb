"""The audit of one encoder's answers: drift between the splits, quality on the test split, and fairness by group.

The only file that imports Evidently. Its `GroupBy` gives every group the value of the whole set for classification
metrics, and its `EmbeddingsDrift` draws a t-SNE on each call, so neither is used: see hilum.judgement.fairness.

audit.html     Evidently's report, self-contained, with the run's identity and the dataset's caution
fairness.csv   quality by group, and the gaps between groups
fairness.html  the same to be read
fairness_groups, fairness_gaps    forest plots, each .png and .svg, where there is something to draw
audit.json     all of it for programs
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.data import parquet
from hilum.data.store import Dataset, read_json, write_json
from hilum.data.vectors import Vectors
from hilum.errors import DatasetError, UsageError
from hilum.identity import Run, code_revision
from hilum.judgement.fairness import gaps as between
from hilum.judgement.fairness import groups, regressions
from hilum.judgement.fairness import pages as fairness_page
from hilum.judgement.fairness import tables as fairness
from hilum.judgement.probing import head, probes
from hilum.judgement.report import drift
from hilum.page import table as html_table
from hilum.page import tag, text, write_page
from hilum.progress import bar
from hilum.recipe import Audit, digest

with warnings.catch_warnings():
    # Evidently's own imports use names that numpy and litestar deprecate: nothing that a reader could act on.
    warnings.simplefilter("ignore", DeprecationWarning)
    from evidently import BinaryClassification, DataDefinition, Report
    from evidently import Dataset as EvidentlyDataset
    from evidently.core.metric_types import render_widgets
    from evidently.legacy.renderers.html_widgets import group_widget
    from evidently.presets import ClassificationPreset, DataDriftPreset

PAGE: Final = "audit.html"
TABLE: Final = "fairness.csv"
FAIRNESS_PAGE: Final = "fairness.html"
FACTS: Final = "audit.json"

_BANNER_STYLE: Final = (
    "<style>.hilum{font:16px/1.55 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1.2rem 1rem;color:#1b2430;"
    "background:#fff;overflow-wrap:anywhere}.hilum h1{font-size:1.6rem;margin:0 0 .4rem}.hilum p{margin:.4rem 0}"
    ".hilum .caution{border-left:3px solid #8a5a00;background:#f4f6f9;padding:.5rem .9rem}"
    ".hilum table{border-collapse:collapse;font-size:.92rem}"
    ".hilum th,.hilum td{text-align:left;padding:.2rem 1.2rem .2rem 0;border-bottom:1px solid #d9dfe7}"
    ".hilum .number{text-align:right}"
    ".hilum.foot{font-size:.85rem;color:#5b6778}</style>"
)


@dataclass(frozen=True)
class _Part:
    """One part of Evidently's report: its widgets, what to say of it in words, its facts, and a table (HTML)."""

    widgets: list[Any]
    said: str
    facts: dict[str, Any]
    shown: str = ""


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
        answering = head.Head.load(head_folder)
        truth = opened.labels()[recipe.label].to_numpy()[embedded.rows["row"].to_numpy()][is_test]
        probability = answering.predict(np.asarray(embedded.z_ND)[is_test])
        found = fairness.judge(truth, probability, answering.threshold, member, test["patient_id"], recipe)
        corrected = between.corrected({"": found.gaps} | {name: one.gaps for name, one in read.items()})
        judged, gaps = found.groups, corrected[""]
        read = {name: fairness.Judged(one.groups, corrected[name]) for name, one in read.items()}
        drawn = fairness_page.pictures(judged, gaps, recipe.label)
        page = fairness_page.judged_page(subject, judged, gaps, answering.threshold, recipe.min_group, drawn, read)
        quality = _quality(truth, probability, answering.threshold, recipe.label)
    else:
        judged = pd.DataFrame(columns=list(fairness.GROUP_COLUMNS))
        gaps = pd.DataFrame(columns=list(fairness.GAP_COLUMNS))
        corrected = between.corrected({name: one.gaps for name, one in read.items()})
        read = {name: fairness.Judged(one.groups, corrected[name]) for name, one in read.items()}
        drawn = {}
        page = fairness_page.sizes_page(subject, groups.sizes(member, test["patient_id"]), str(said["why"]), read)
        quality = _Part([], f"There is no part on quality: {said['why']}.", {})
    drifted = _drift(table, opened, recipe)
    write_page(out / PAGE, _evidently_page(subject, [drifted, quality]))
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
        "drift": drifted.facts,
        "quality": quality.facts,
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


def _drift(table: pd.DataFrame, dataset: Dataset, recipe: Audit) -> _Part:
    """Test split (current) against train split (reference), without any column that names an image or a patient."""
    rows = table[table["split"].isin(["train", "test"])].reset_index(drop=True)
    is_test = (rows["split"] == "test").to_numpy()
    label = recipe.label if recipe.label in dataset.facts.labels else None
    compared = drift.columns(rows, dataset.facts.covariates, label)
    kept, left = drift.comparable(compared, is_test)
    omitted = f" Left out: {'; '.join(f'{name} ({why})' for name, why in left.items())}." if left else ""
    skipped = {name: {"distance": None, "limit": None, "drifted": None, "note": why} for name, why in left.items()}
    if not kept:
        return _Part([], f"Drift could not be measured.{omitted}", {"share": None, "drifted": None, "columns": skipped})
    compared = _harmless(compared[kept])
    limits = drift.limits(compared, is_test, rows["patient_id"], recipe.drift_distance, recipe.seed)
    numbers = [name for name in kept if pd.api.types.is_numeric_dtype(compared[name])]
    definition = DataDefinition(
        numerical_columns=numbers, categorical_columns=[name for name in kept if name not in numbers]
    )
    preset = DataDriftPreset(
        columns=kept,
        drift_share=recipe.drift_share,
        num_method="wasserstein",
        cat_method="jensenshannon",
        per_column_threshold=limits,
    )
    with bar("Evidently: drift", total=1, unit="report") as shown:
        snapshot = Report([preset]).run(
            EvidentlyDataset.from_pandas(compared[is_test], definition),
            EvidentlyDataset.from_pandas(compared[~is_test], definition),
        )
        shown.update()
    columns = {}
    for name in kept:
        measured = drift.distance(compared.loc[~is_test, name], compared.loc[is_test, name])
        columns[name] = {"distance": measured, "limit": limits[name], "drifted": bool(measured >= limits[name])}
    changed = [name for name, column in columns.items() if column["drifted"]]
    share = len(changed) / len(kept)
    verdict = f"{len(changed)} of {len(kept)} columns differ{': ' + ', '.join(changed) if changed else ''}"
    said = (
        f"Drift of the test split (current, {int(is_test.sum()):,} images) from the train split (reference, "
        f"{int((~is_test).sum()):,} images): {verdict}. A column differs where its distance is at least "
        f"{recipe.drift_distance:g} and at least what 95 of 100 random exchanges of patients between the splits stay "
        f"below; the dataset counts as drifted from a share of {recipe.drift_share:.0%}.{omitted}"
    )
    facts = {"share": share, "drifted": share >= recipe.drift_share, "columns": columns | skipped}
    rows = [
        (name, f"{found['distance']:.3f}", f"{found['limit']:.3f}", "yes" if found["drifted"] else "no")
        for name, found in columns.items()
    ]
    shown_table = html_table(["column", "distance", "limit", "differs"], rows, numeric=["distance", "limit"])
    # `_widgets` is the only way to set two of Evidently's reports on one page.
    return _Part(list(snapshot._widgets), said, facts, shown_table)


def _quality(truth: NDArray[np.float64], probability: NDArray[np.float64], threshold: float, label: str) -> _Part:
    """Quality of the head's decisions on the test split; left out, in words, where it has one class only."""
    known = ~np.isnan(truth)
    n_positive = int((truth[known] == 1).sum())
    counts = f"{int(known.sum()):,} test images with a known label, {n_positive:,} of them with {label}"
    facts = {"n": int(known.sum()), "n_positive": n_positive}
    if n_positive in (0, int(known.sum())):
        why = f"There is no part on quality: of {counts}, so one class is missing."
        return _Part([], why, facts)
    frame = pd.DataFrame({"probability": probability[known]})
    frame["label"] = np.where(truth[known] == 1, "present", "absent")
    task = BinaryClassification(target="label", prediction_probas="probability", pos_label="present")
    definition = DataDefinition(numerical_columns=["probability"], categorical_columns=["label"], classification=[task])
    with bar("Evidently: quality", total=1, unit="report") as shown:
        # No reference: on the train split the head would be marked on what it learnt from.
        snapshot = Report([ClassificationPreset(probas_threshold=threshold)]).run(
            EvidentlyDataset.from_pandas(frame, definition)
        )
        shown.update()
    said = (
        f"Quality on {counts}, at the threshold {threshold:.3g} that was locked before. The figures of this part have "
        "no intervals; those with intervals are in fairness.html and on the leaderboard."
    )
    return _Part(list(snapshot._widgets), said, facts)


def _harmless(table: pd.DataFrame) -> pd.DataFrame:
    """Levels without `<`: Evidently writes values into a script element without escaping them."""
    shown = table.copy()
    for name in shown.columns:
        if not pd.api.types.is_numeric_dtype(shown[name]):
            shown[name] = shown[name].str.replace("<", "(", regex=False)
    return shown


def _evidently_page(subject: fairness_page.Subject, parts: Sequence[_Part]) -> str:
    """Evidently's page under a heading that says what it is, and over a foot that says which run made it."""
    title = f"Drift and quality: {subject.label.replace('_', ' ')}, {subject.encoder}, {subject.spoken_modality}"
    names = ("Drift: test split against train split", "Quality on the test split")
    widgets = [
        group_widget(title=name, widgets=part.widgets) for name, part in zip(names, parts, strict=True) if part.widgets
    ]
    html = str(render_widgets(widgets))
    head_end, body, foot = html.index("</head>"), html.index("<body>") + len("<body>"), html.rindex("</body>")
    warned = tag("div", subject.caution, "caution") if subject.caution else ""
    spoken = "".join(f"{tag('p', part.said)}{part.shown}" for part in parts)
    banner = f"{_BANNER_STYLE}<div class='hilum'>{tag('h1', title)}{warned}{spoken}</div>"
    identity = " &middot; ".join(f"{text(k.replace('_', ' '))} <code>{text(v)}</code>" for k, v in subject.foot.items())
    return (
        f"{html[:head_end]}<title>{text(title)} - hilum</title>{html[head_end:body]}{banner}{html[body:foot]}"
        f"<div class='hilum foot'>{identity}</div>{html[foot:]}"
    )


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
