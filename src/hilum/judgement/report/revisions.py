"""Drift between two revisions of a dataset, or between any two datasets: what they say of images, and embeddings.

drift.html    Evidently's report, self-contained, with the identity of both and the caution of both
drift.json    the same for programs

Images that both have alike tell nothing apart; what chance would show is dealt out patient by patient (`sides`).
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.data.store import Dataset, write_json
from hilum.data.vectors import Vectors
from hilum.errors import DatasetError
from hilum.identity import Run, code_revision
from hilum.judgement.report import drift, embedding_drift, evidently_page, parts
from hilum.judgement.report.evidently_page import Part
from hilum.judgement.report.sides import Rows, united
from hilum.page import write_page
from hilum.recipe import Audit, digest

PAGE: Final = "drift.html"
FACTS: Final = "drift.json"
LEVELS: Final = (*drift.LEVELS, "source")


def run(
    reference: Path, current: Path, recipe: Audit, out: Path, vectors: tuple[Path, Path] | None = None
) -> dict[str, Any]:
    """Compare two dataset folders, and their embeddings where given; writes the files above, `drift.json` last.

    Args:
        reference: Dataset folder from which drift is measured.
        current: The other one.
        recipe: Distances and shares that count as drift, bootstrap, seed.
        out: Folder to write into.
        vectors: Embeddings of the reference and of the current dataset, by one encoder.

    Returns:
        What `drift.json` holds.

    Raises:
        DatasetError: A folder is not whole, the embeddings are of other datasets, or they are of two encoders.
    """
    before, now = Dataset.open(reference), Dataset.open(current)
    embedded = (Vectors.open(vectors[0]), Vectors.open(vectors[1])) if vectors else None
    moved = Part("", "Embeddings were not compared: none were given.", {"verdict": "not asked"})
    if embedded:
        moved = _embeddings((before, now), embedded, recipe)
    counts = _images(before.manifest, now.manifest)
    columns = _columns(before, now, recipe)
    identity = Run(code_revision=code_revision(), data_digest=now.facts.digest, recipe_digest=digest(recipe))
    cautions = dict.fromkeys(one.facts.caution for one in (before, now) if one.facts.caution)
    caution = " ".join(cautions)
    foot = {name: str(value) for name, value in identity.items()} | {"reference_data_digest": before.facts.digest}
    if embedded:
        foot["encoder"] = embedded[0].facts.encoder
    title = f"Drift: {_name(now)} against {_name(before)}"
    facts = {
        "reference": _identity(before),
        "current": _identity(now),
        "images": counts,
        **columns.facts,
        "embedding": moved.facts,
        "run": identity,
        "caution": caution,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / FACTS).unlink(missing_ok=True)
    shown = [Part("", _counted(counts), {}), columns, moved]
    write_page(out / PAGE, evidently_page.page(title, caution, shown, foot))
    write_json(out / FACTS, facts)
    return facts


def _name(dataset: Dataset) -> str:
    return f"{dataset.facts.layout} {dataset.facts.digest[:8]}"


def _identity(dataset: Dataset) -> dict[str, Any]:
    facts = dataset.facts
    return {
        "layout": facts.layout,
        "source_revision": facts.source_revision,
        "data_digest": facts.digest,
        "n_images": facts.n_images,
        "n_patients": facts.n_patients,
    }


def _images(before: pd.DataFrame, now: pd.DataFrame) -> dict[str, int]:
    """How many images and patients are in both, new and gone; of those in both, how many have other pixels."""
    both = before[["image_id", "pixel_digest"]].merge(now[["image_id", "pixel_digest"]], on="image_id")
    patients_before, patients_now = set(before["patient_id"]), set(now["patient_id"])
    return {
        "in_both": len(both),
        "changed": int((both["pixel_digest_x"] != both["pixel_digest_y"]).sum()),
        "added": len(now) - len(both),
        "removed": len(before) - len(both),
        "patients_in_both": len(patients_before & patients_now),
        "patients_added": len(patients_now - patients_before),
        "patients_removed": len(patients_before - patients_now),
    }


def _counted(counts: dict[str, int]) -> str:
    said = {name: f"{count:,}" for name, count in counts.items()}
    return (
        f"{said['in_both']} images are in both ({said['changed']} of them with other pixels), {said['added']} were "
        f"added and {said['removed']} removed; {said['patients_in_both']} patients are in both, "
        f"{said['patients_added']} were added and {said['patients_removed']} removed."
    )


def _columns(before: Dataset, now: Dataset, recipe: Audit) -> Part:
    """Covariates, labels and what every manifest has; what only one of the two has is named, not compared."""
    asked: dict[str, list[str]] = {}
    elsewhere: dict[str, str] = {}
    for kind in ("covariates", "labels"):
        theirs, ours = getattr(before.facts, kind), getattr(now.facts, kind)
        asked[kind] = [name for name in theirs if name in ours]
        elsewhere |= {name: "only in the reference" for name in theirs if name not in ours}
        elsewhere |= {name: "only in the current set" for name in ours if name not in theirs}
    both = pd.concat([before.manifest, now.manifest], ignore_index=True)
    table = drift.columns(both, asked["covariates"], asked["labels"], LEVELS)
    named = table.assign(image_id=both["image_id"], patient_id=both["patient_id"])
    n = len(before.manifest)
    chosen, sides = united(named.iloc[:n], named.iloc[n:], list(table.columns))
    title = "Drift: current revision against reference"
    said = f"Drift of {_name(now)} from {_name(before)}"
    return parts.columns(table.iloc[chosen].reset_index(drop=True), sides, recipe, title, said, elsewhere)


def _embeddings(datasets: tuple[Dataset, Dataset], embedded: tuple[Vectors, Vectors], recipe: Audit) -> Part:
    for name in ("encoder", "encoder_weights", "modality", "dim"):
        theirs, ours = (getattr(one.facts, name) for one in embedded)
        if theirs != ours:
            raise DatasetError(
                f"the two sets of embeddings have another {name.replace('_', ' ')} ({theirs or 'unknown'} and "
                f"{ours or 'unknown'}); embed both datasets with one encoder"
            )
    content = ["image_id", "patient_id", "pixel_digest"]
    tables = [one.joined(dataset)[content] for one, dataset in zip(embedded, datasets, strict=True)]
    chosen, sides = united(tables[0], tables[1], ["pixel_digest"])
    before, now = embedded
    found = embedding_drift.compare(
        lambda drawn: picked(before.z_ND, now.z_ND, chosen[drawn]), sides, recipe.bootstrap, recipe.seed
    )
    return Part("", found.words, {"encoder": embedded[0].facts.encoder, **found.facts})


def picked(before_ND: NDArray[np.float32], now_ND: NDArray[np.float32], rows: Rows) -> NDArray[np.float32]:
    """Rows of two arrays put one after the other, which is not done: they may be larger than memory.

    Args:
        before_ND: The first, (N, D).
        now_ND: The second, (M, D).
        rows: Numbers from 0 to N + M - 1, ascending.
    """
    n = len(before_ND)
    return np.concatenate([before_ND[rows[rows < n]], now_ND[rows[rows >= n] - n]])
