"""What a dataset is made of, in counts: cohort.json of a release's evidence, from which its dataset card is written.

Counts of images and patients only; no id, no free text, and no value of one patient. Groups are those of the fairness
audit, which names rare sites and the like together.
"""

from typing import Any, Final

import pandas as pd

from hilum.data.ingest import RECORD
from hilum.data.manifest import SPLITS, UNCERTAIN
from hilum.data.store import Dataset, read_json
from hilum.judgement.fairness import groups

GROUPS: Final = ("sex", "age_band", "view", "site")
_OF_THE_RECIPE: Final = ("uncertain", "split_shares", "seed", "views", "limit")  # `options` may hold paths


def describe(dataset: Dataset) -> dict[str, Any]:
    """Count a dataset: `facts`, `splits`, `labels`, `groups`, `missing`, and the `recipe` of its ingest where known."""
    manifest, facts = dataset.manifest, dataset.facts
    named = [*GROUPS, *(name for name in ("race",) if name in facts.attributes)]
    member = groups.attributes(manifest, named, facts.attributes)
    record = dataset.path / RECORD
    said = read_json(record)["recipe"] if record.is_file() else None
    return {
        "facts": facts.model_dump(mode="json"),
        "splits": [
            {"modality": modality, "split": split, **_counts(manifest[rows])}
            for modality in dataset.modalities
            for split in SPLITS
            if (rows := (manifest["modality"] == modality) & (manifest["split"] == split)).any()
        ],
        "labels": [{"label": name, **_label(manifest[name])} for name in facts.labels],
        "groups": [
            {"attribute": name, "group": str(group), **_counts(rows)}
            for name in named
            for group, rows in manifest.groupby(member[name])
        ],
        "missing": [
            {"column": name, **_missing(manifest[name])}
            for name in ("sex", "age_years", "view", "site", *facts.covariates)
        ],
        "recipe": {name: said[name] for name in _OF_THE_RECIPE if name in said} if said is not None else None,
    }


def _counts(rows: pd.DataFrame) -> dict[str, int]:
    return {"n": len(rows), "n_patients": int(rows["patient_id"].nunique())}


def _label(values: pd.Series) -> dict[str, int]:
    return {
        "present": int((values == 1.0).sum()),
        "absent": int((values == 0.0).sum()),
        "uncertain": int((values == UNCERTAIN).sum()),
        "unknown": int(values.isna().sum()),
    }


def _missing(values: pd.Series) -> dict[str, Any]:
    count = int(values.isna().sum())
    return {"n": count, "share": count / len(values) if len(values) else None}
