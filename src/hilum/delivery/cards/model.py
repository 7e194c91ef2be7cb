"""MODEL_CARD.md: what a release is for and not for, how well it does and for whom, and who let it out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from hilum.delivery.card import NAMES, Measured, ReleaseCard
from hilum.delivery.cards import markdown
from hilum.judgement.gate.criteria import figures

CARD: Final = "MODEL_CARD.md"
# Of the fairness audit, those that are shown; the others are in evidence/fairness.csv.
BY_GROUP: Final = {
    "auroc": "AUROC", "tpr": "sensitivity", "sensitivity": "sensitivity", "fpr": "false-positive rate",
    "ppv": "PPV", "underdiagnosis": "underdiagnosis rate", "ece": "ECE", "brier": "Brier score", "mae": "MAE",
}  # fmt: skip
GAPS: Final = {
    "auroc": "AUROC", "demographic_parity": "share called positive", "equal_opportunity": "sensitivity",
    "equalized_odds": "sensitivity or false-positive rate", "predictive_parity": "PPV", "calibration": "ECE",
    "underdiagnosis": "underdiagnosis rate",
}  # fmt: skip
HEADLINES: Final = {  # of a probe's task, the first that it has
    "balanced_accuracy": "balanced accuracy", "auroc": "AUROC", "mae": "MAE",
}  # fmt: skip
_TYPES: Final = {  # of model-index, as Hugging Face names metrics
    "AUROC": "roc_auc",
    "sensitivity": "recall",
    "specificity": "specificity",
    "Brier score": "brier_score",
    "expected calibration error": "expected_calibration_error",
}
Rows = Sequence[Mapping[str, Any]]


def write(release: Path, card: ReleaseCard, evidence: Mapping[str, Any], scores: pd.DataFrame | None) -> None:
    """Write the card of a release.

    Args:
        release: The folder.
        card: Its card.json.
        evidence: Its evidence by file name, read; a file that is not there is not among it.
        scores: Its evidence/scores.csv; None where there is none.
    """
    audit, gate = evidence.get("audit.json"), evidence["verdict.json"]
    overall = _overall(card)
    criteria = [one for one in gate["criteria"] if one["modality"] == card.modality]
    told = {
        "card": card,
        "modality": NAMES[card.modality],
        "overall": overall,
        "audit": audit,
        "groups": _groups(audit["groups"]) if audit else None,
        "gaps": _gaps(audit["gaps"]) if audit else [],
        "drift": audit.get("drift") if audit else None,
        "shortcuts": evidence.get("shortcuts.json"),
        "probes": _probes(scores),
        "gate": gate,
        "criteria": [
            {**one, "figures": figures(one["value"], one["low"], one["high"], one["criterion"])} for one in criteria
        ],
        "outside": [_group(*name.split("=", 1)) for name in gate["tolerances"].get("outside", ())],
        "unjudged": _unjudged(audit["groups"]) if audit else [],
    }
    markdown.write(release / CARD, "model_card.md.j2", _front(card, overall), told)


def _overall(card: ReleaseCard) -> list[tuple[str, Measured]]:
    """What the head's own test measured, by name."""
    if card.head is None:
        return []
    point, calibration = card.head.operating_point, card.head.calibration
    return [
        ("AUROC", card.head.auroc),
        ("sensitivity", point.sensitivity),
        ("specificity", point.specificity),
        ("Brier score", calibration.brier),
        ("expected calibration error", calibration.expected_calibration_error),
    ]


def _groups(rows: Rows) -> dict[str, Any]:
    """Metrics by group as a table: its columns, and one row per group."""
    metrics = [name for name in BY_GROUP if any(row["metric"] == name for row in rows)]
    table: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        group = table.setdefault((str(row["attribute"]), str(row["group"])), {"scores": {}, **row})
        group["scores"][row["metric"]] = row
    return {
        "columns": [BY_GROUP[name] for name in metrics],
        "rows": [{**group, "cells": [group["scores"].get(name) for name in metrics]} for group in table.values()],
    }


def _gaps(rows: Rows) -> list[dict[str, Any]]:
    return [{**row, "of": GAPS[row["metric"]]} for row in rows if row["metric"] in GAPS]


def _unjudged(rows: Rows) -> list[str]:
    """Groups too small to be judged."""
    small = [(row["attribute"], row["group"]) for row in rows if row["metric"] == "auroc" and row["value"] is None]
    return [_group(attribute, group) for attribute, group in dict.fromkeys(small) if attribute != "all"]


def _group(attribute: str, group: str) -> str:
    return f"{markdown.spoken(attribute)}: {markdown.plain(group)}"


def _probes(scores: pd.DataFrame | None) -> list[dict[str, Any]]:
    """What an SVM reads from the embedding: the headline metric of each task, by the RBF kernel where there is one."""
    if scores is None or not {"task", "metric", "value", "low", "high", "n"} <= set(scores.columns):
        return []
    found = []
    for task, rows in scores[scores["value"].notna()].groupby("task", sort=False):
        for column, wanted in (("kernel", "rbf"), ("machine", "rbf")):
            if column in rows and (rows[column] == wanted).any():
                rows = rows[rows[column] == wanted]
        named = next((rows[rows["metric"] == name] for name in HEADLINES if (rows["metric"] == name).any()), None)
        if named is not None:
            first = named.iloc[0].astype("object").where(named.iloc[0].notna(), None)
            found.append({**first.to_dict(), "task": str(task), "metric": HEADLINES[first["metric"]]})
    return found


def _front(card: ReleaseCard, overall: Sequence[tuple[str, Measured]]) -> dict[str, Any]:
    front: dict[str, Any] = {
        "library_name": "onnx",
        "pipeline_tag": "image-feature-extraction",
        "license": "unknown",  # of the weights: whoever exports them has not said
        "tags": ["medical", {"XR": "x-ray", "MR": "mri"}[card.modality], "embeddings", "not-for-clinical-use", "hilum"],
    }
    known = [(name, measured) for name, measured in overall if measured.value is not None]
    if card.head is None or not known:
        return front
    front["metrics"] = [_TYPES[name] for name, _ in known]
    result = {
        "task": {"type": "image-classification", "name": card.head.label.replace("_", " ")},
        "dataset": {"type": card.training.layout, "name": card.training.layout, "split": "test"},
        "metrics": [
            {"type": _TYPES[name], "name": name, "value": round(float(m.value or 0.0), 4)} for name, m in known
        ],
    }
    return {**front, "model-index": [{"name": card.name, "results": [result]}]}
