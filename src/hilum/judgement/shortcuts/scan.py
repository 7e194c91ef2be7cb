"""The shortcut audit of one embedding: every question asked, and what was found written down.

shortcuts.json    the figures and verdicts, for the gate and the model card
shortcuts.html    the same for readers
clusters.png      images of the groups that lie apart; not there where there are none

Legend: N rows of the embedding.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.data import parquet
from hilum.data.store import Dataset, read_json, write_json
from hilum.data.vectors import Vectors
from hilum.errors import DatasetError
from hilum.identity import Run, code_revision
from hilum.judgement import stats
from hilum.judgement.fairness.groups import UNKNOWN
from hilum.judgement.probing.probes import FACTS as PROBE
from hilum.judgement.probing.probes import PREDICTIONS
from hilum.judgement.probing.tasks import fold_of
from hilum.judgement.shortcuts import (
    association,
    clusters,
    decoding,
    explaining,
    markers,
    modes,
    page,
    pictures,
    position,
    shape,
    verdicts,
)
from hilum.judgement.shortcuts.attributes import ABSENT, MARKER, PRESENT, SHAPE, Attribute, gather
from hilum.judgement.shortcuts.permuting import Rows
from hilum.judgement.stats import Floats
from hilum.page import write_page
from hilum.progress import track
from hilum.recipe import Shortcuts, digest

SHORTCUTS: Final = "shortcuts.json"
PAGE: Final = "shortcuts.html"
SHEET: Final = "clusters.png"
MEASURES_KEPT: Final = 5  # of a cluster, in the JSON


def run(dataset: Path, vectors: Path, probe: Path | None, recipe: Shortcuts, out: Path, label: str) -> dict[str, Any]:
    """Audit one embedding for shortcuts to one label.

    Args:
        dataset: The dataset folder.
        vectors: Embeddings of it.
        probe: Its probe folder, whose held-out scores of the label are looked at inside strata; where None, or where it
            has none of this label, scores of a linear discriminant cross-fitted here.
        recipe: What is asked, and when it is called what.
        out: Folder to write; files of an earlier audit are replaced.
        label: To what a shortcut would lead.

    Returns:
        What `shortcuts.json` holds.

    Raises:
        DatasetError: A folder is not whole, or they are not of one dataset.
    """
    cohort, embedded = Dataset.open(dataset), Vectors.open(vectors)
    table = embedded.joined(cohort)
    chosen = _sampled(table["patient_id"], recipe)
    table, z_ND = table.iloc[chosen].reset_index(drop=True), np.asarray(embedded.z_ND[chosen], dtype=np.float64)
    rows = embedded.rows["row"].to_numpy()[chosen]
    patient_N, fold_N = (
        pd.factorize(table["patient_id"], sort=True)[0],
        fold_of(table["patient_id"], recipe.folds, recipe.seed),
    )
    y_N = _label(cohort, label, rows)
    view_N = table["view"].astype("object").fillna(UNKNOWN).to_numpy(dtype=object)
    asked, left = _asked(cohort, table, rows, embedded.facts.modality, recipe)

    findings, score_said = _findings(z_ND, asked, y_N, patient_N, fold_N, _score_of(probe, label, rows), recipe)
    moved = _displaced(cohort.images, rows, view_N, patient_N, asked, recipe)
    state_N = np.where(np.isnan(y_N), UNKNOWN, y_N.astype(str))
    along = modes.differ(
        modes.principal(z_ND, modes.MODES), asked, state_N, view_N, patient_N, recipe.min_group, recipe.seed
    )
    search = clusters.find(z_ND, view_N, patient_N, fold_N, recipe)
    known = [*(one for one in asked if one.name != "view"), *_labels(cohort, rows)]
    explained = [
        explaining.explain(one, known, patient_N, fold_N, recipe)
        for one in track(search.clusters, "what explains the clusters", unit="cluster")
    ]
    facts = {
        "encoder": embedded.facts.encoder,
        "modality": embedded.facts.modality,
        "label": label,
        "label_known": _known(y_N, patient_N),
        "n_images": len(table),
        "n_patients": int(patient_N.max()) + 1,
        "n_left_out": embedded.facts.n - len(table),
        "image_size": int(cohort.images.shape[1]),
        "score": score_said,
        "entries": [verdicts.entry(one, label, recipe) for one in findings],
        "not_asked": left,
        "strata": [_stratum(one.attribute, s) for one in findings if one.inside for s in one.inside.strata],
        "positions": moved,
        "modes": [{**vars(one), "found": one.p_by <= recipe.alpha} for one in along],
        "clusters": {
            "n_images": search.n_images,
            "n_noise": search.n_noise,
            "n_blurred": search.n_blurred,
            "found": [_cluster(*pair, patient_N, table) for pair in zip(search.clusters, explained, strict=True)],
        },
        "tolerances": recipe.model_dump(mode="json"),
        "run": Run(
            code_revision=code_revision(), data_digest=embedded.facts.run["data_digest"], recipe_digest=digest(recipe)
        ),
        "embedding_run": embedded.facts.run,
        "caution": cohort.facts.caution,
    }
    _write(out, facts, findings, cohort.images, rows, search.clusters, table)
    return facts


def _sampled(patients: pd.Series, recipe: Shortcuts) -> NDArray[np.int64]:
    """Row numbers of whole patients, drawn at random until the next would pass `max_rows`; all rows where they fit."""
    codes, names = pd.factorize(patients, sort=True)
    if len(patients) <= recipe.max_rows:
        return np.arange(len(patients))
    order = np.random.default_rng(recipe.seed).permutation(len(names))
    fitting = order[np.cumsum(np.bincount(codes)[order]) <= recipe.max_rows]
    return np.flatnonzero(np.isin(codes, fitting))


def _label(cohort: Dataset, label: str, rows: Rows) -> Floats:
    """The label of each row; uncertain and unknown are NaN, all of them where the dataset has no such label."""
    if label not in cohort.facts.labels:
        return np.full(len(rows), math.nan)
    return np.asarray(cohort.labels()[label].to_numpy(dtype=float)[rows])


def _labels(cohort: Dataset, rows: Rows) -> list[Attribute]:
    """Every label of the dataset as something that may explain a cluster."""
    found = []
    for name, values in cohort.labels().items():
        code_N = values.to_numpy(dtype=float)[rows]
        band_N = np.where(np.isnan(code_N), UNKNOWN, np.where(code_N == 1, PRESENT, ABSENT)).astype(object)
        found.append(Attribute(str(name), "category", (ABSENT, PRESENT), code_N, code_N, band_N))
    return found


def _asked(
    cohort: Dataset, table: pd.DataFrame, rows: Rows, modality: str, recipe: Shortcuts
) -> tuple[list[Attribute], dict[str, str]]:
    """Attributes that can be asked, and why others cannot; looks at the pixels for what no column tells."""
    size = int(cohort.images.shape[1])
    why = {}
    if MARKER in recipe.attributes and MARKER not in table:
        if modality != "XR":
            why[MARKER] = "letters are looked for on X-rays only"
        elif size < markers.MIN_SIZE:
            why[MARKER] = f"letters cannot be read in images of {size} px; at least {markers.MIN_SIZE} are needed"
        else:
            found = markers.marked(cohort.images, rows)
            table[MARKER] = np.where(found == 1, PRESENT, ABSENT)
    if modality != "XR":
        why[SHAPE] = "around a head black is air as well as padding"
    elif SHAPE in recipe.attributes and SHAPE not in table:
        table[SHAPE] = shape.proportions(cohort.images, rows, cohort.facts.preprocessing.pad_value)
    asked, left = gather(table, recipe.attributes, cohort.facts.attributes, recipe.min_group)
    return asked, left | {name: reason for name, reason in why.items() if name in left}


def _findings(
    z_ND: Floats,
    asked: Sequence[Attribute],
    y_N: Floats,
    patient_N: Rows,
    fold_N: Rows,
    scored: tuple[Floats, Rows, str] | None,
    recipe: Shortcuts,
) -> tuple[list[verdicts.Finding], str]:
    """What was measured of each attribute, and which score of the label was looked at inside strata."""
    labelled = bool(np.isfinite(y_N).any())
    plain_N = np.where(np.isfinite(y_N) | (not labelled), 0, -1)
    plain = decoding.Space.prepare(z_ND, plain_N, fold_N, patient_N, conditional=False)
    score_N, by_N, said = scored or (np.full(len(y_N), math.nan), fold_N, "")
    space = plain
    if labelled:
        stratum_N = np.where(np.isfinite(y_N), y_N, -1).astype(np.int64)
        space = decoding.Space.prepare(z_ND, stratum_N, fold_N, patient_N, conditional=True)
        if scored is None:
            known = np.flatnonzero(np.isfinite(y_N))
            score_N[known] = decoding.held_out_scores(plain, known, y_N[known][:, None])[:, 0]
            said = "that of a linear discriminant on this embedding, each patient's from a fit on others"
    # Holm's correction multiplies the least p-value that B permutations can give by the number of attributes.
    dealt = recipe.model_copy(update={"permutations": max(recipe.permutations, int(len(asked) / recipe.alpha))})
    measured = []
    for one in track(asked, "what the embedding tells", unit="attribute"):
        ranks = association.association(one, y_N, patient_N, fold_N, recipe) if labelled else None
        told = decoding.decode(space, one, dealt)
        if told.short and verdicts.confounded(ranks, recipe):
            told = decoding.decode(plain, one, dealt)  # hardly an image with the other label: nothing to condition on
        within = association.inside(one, y_N, score_N, by_N, patient_N, recipe) if labelled else None
        measured.append((one, told, ranks, within))
    corrected = stats.holm([told.p for _, told, _, _ in measured])
    found = [
        verdicts.Finding(one, told, float(p), ranks, within)
        for (one, told, ranks, within), p in zip(measured, corrected, strict=True)
    ]
    return found, said


def _score_of(probe: Path | None, label: str, rows: Rows) -> tuple[Floats, Rows, str] | None:
    """Held-out score and fold of each row by the probe's headline machine; None where there is none of the label."""
    if probe is None:
        return None
    kernel = read_json(probe / PROBE)["headline_kernel"]
    table = parquet.read(probe / PREDICTIONS)
    table = table[(table["task"] == label) & (table["kernel"] == kernel)].set_index("row")
    if table.empty:
        return None
    if not table.index.is_unique:
        raise DatasetError(f"{probe / PREDICTIONS} scores an image twice; probe again")
    score_N = table["score"].reindex(rows).to_numpy(dtype=float)
    fold_N = table["fold"].reindex(rows).fillna(0).to_numpy(dtype=np.int64)
    return score_N, fold_N, f"the probe's ({kernel}), on the images that it was not fitted on"


def _displaced(
    images_NSS: NDArray[np.uint8],
    rows: Rows,
    view_N: NDArray[Any],
    patient_N: Rows,
    asked: Sequence[Attribute],
    recipe: Shortcuts,
) -> list[dict[str, Any]]:
    """Where the images of each level lie, for every attribute that is a property of the patient or the place."""
    compared = [one for one in asked if one.kind == "category" and one.name not in ("view", MARKER)]
    if not compared:
        return []
    moved_N2 = position.displacements(images_NSS, rows, view_N)
    entries = []
    for one in position.compare(compared, moved_N2, view_N, patient_N, recipe):
        clear = verdicts.displaced(one, recipe)
        entries.append(
            {
                "attribute": one.attribute.name,
                "level": one.level,
                "others": one.others,
                "axis": position.AXES[one.axis][0],
                **verdicts.bounds(one.shift_px, "shift_px"),
                "p": one.p,
                "p_adjusted": one.p_adjusted,
                "found": clear,
                "n": one.shift_px.n,
                "n_patients": one.shift_px.n_patients,
                "words": verdicts.displacement_words(one, clear),
            }
        )
    return entries


def _known(y_N: Floats, patient_N: Rows) -> dict[str, int]:
    known = np.isfinite(y_N)
    return {
        "n": int(known.sum()),
        "n_patients": len(np.unique(patient_N[known])),
        "n_positive": int((y_N == 1).sum()),
    }


def _stratum(attribute: Attribute, stratum: association.Stratum) -> dict[str, Any]:
    auroc = stratum.auroc
    return {
        "attribute": attribute.name,
        "level": stratum.level,
        **verdicts.bounds(auroc),
        "n": auroc.n,
        "n_patients": auroc.n_patients,
        "n_positive": stratum.n_positive,
        "note": auroc.note,
    }


def _cluster(
    cluster: clusters.Cluster, explanation: explaining.Explanation, patient_N: Rows, table: pd.DataFrame
) -> dict[str, Any]:
    grey_N = table["pixel_mean"].to_numpy(dtype=float) if "pixel_mean" in table else np.full(len(table), math.nan)
    measures = {
        one.attribute.name: {
            **verdicts.bounds(one.auroc, "auroc"),
            "p_adjusted": one.p_adjusted,
            "adjusted_mutual_information": one.adjusted_mutual_information,
            "commonest": one.commonest,
            "purity": one.purity,
        }
        for one in explanation.measures[:MEASURES_KEPT]
    }
    return {
        "cluster": cluster.name,
        "view": cluster.view,
        "n": len(cluster.members),
        "n_patients": len(np.unique(patient_N[cluster.members])),
        "explained": explanation.explained,
        "because": [{"attribute": one.name, "levels": list(levels)} for one, levels in explanation.because],
        "measures": measures,
        "words": explaining.words(cluster, explanation, grey_N),
    }


def _write(
    out: Path,
    facts: Mapping[str, Any],
    findings: Sequence[verdicts.Finding],
    images_NSS: NDArray[np.uint8],
    rows: Rows,
    found: Sequence[clusters.Cluster],
    table: pd.DataFrame,
) -> None:
    """Write the folder; `shortcuts.json` comes last, so that a folder with it is whole."""
    out.mkdir(parents=True, exist_ok=True)
    for name in (SHORTCUTS, SHEET):
        (out / name).unlink(missing_ok=True)
    drawn: bytes | None = None
    if found:
        marked = (table[MARKER] == PRESENT).to_numpy() if MARKER in table else np.zeros(len(table), dtype=bool)
        drawn = pictures.sheet(images_NSS, rows, found, marked)
        partial = out / f"{SHEET}.partial"
        partial.write_bytes(drawn)
        partial.replace(out / SHEET)
    write_page(out / PAGE, page.render(facts, findings, drawn))
    write_json(out / SHORTCUTS, dict(facts))
