"""Evidence that tests write for themselves: what probe, audit and shortcut audit write, as far as the gate reads it."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

RUN = {"code_revision": "c", "data_digest": "d" * 64, "recipe_digest": "r"}
BLANK = (None, None, None)


def interval(low, value, high, n=200, n_patients=90, **more):
    return {"value": value, "low": low, "high": high, "n": n, "n_patients": n_patients, "note": "", **more}


def group(attribute, name, sensitivity, n_patients=60, n_positive=40):
    """The rows of one group: (low, value, high) of its sensitivity, or BLANK for one that is too small."""
    sizes = {"n": 100, "n_patients": n_patients, "n_positive": n_positive, "n_negative": 60}
    low, value, high = sensitivity
    note = "" if value is not None else "insufficient data: 3 patients with the finding"
    scored = {"tpr": (low, value, high), "auroc": BLANK if value is None else (0.8, 0.85, 0.9)}
    return [
        {"attribute": attribute, "group": name, **sizes, "metric": metric, "note": note}
        | dict(zip(("low", "value", "high"), bounds, strict=True))
        for metric, bounds in scored.items()
    ]


def gap(attribute, low, value, high, metric="auroc"):
    return {"attribute": attribute, "metric": metric, **interval(low, value, high), "n_groups": 2, "note": ""}


def entry(attribute, told, ranks, words="words of the audit"):
    """A shortcut audit's entry: AUROC of the attribute from the embedding, and of the label from the attribute."""
    low, value, high = told
    association = None if ranks is None else {"auroc": ranks[1], "low": ranks[0], "high": ranks[2], "n": 200}
    return {
        "attribute": attribute, "auroc": value, "low": low, "high": high, "n": 200, "n_patients": 90,
        "association": association, "verdict": "shortcut", "words": words,
    }  # fmt: skip


GOOD = (0.85, 0.9, 0.95)
HARMLESS = (entry("sex", (0.6, 0.65, 0.7), (0.45, 0.5, 0.55)),)
SEXES = [*group("sex", "F", GOOD), *group("sex", "M", GOOD), *group("sex", "unknown", (0.1, 0.2, 0.3), n_patients=2)]
SEX_GAP = gap("sex", 0.0, 0.01, 0.04)
TESTED = {
    "n": 200,
    "n_patients": 90,
    "auroc": interval(0.8, 0.85, 0.9),
    "ece": interval(0.01, 0.02, 0.04),
}


def write(
    folder: Path,
    *,
    encoder="moco",
    modality="XR",
    label="pneumonia",
    tested=TESTED,
    groups=SEXES,
    gaps=(SEX_GAP,),
    shortcuts=HARMLESS,
    known=200,
    why=None,
) -> tuple[Path, Path]:
    """Folders of a probe and its audit; `why` for a head that does not answer, of `known` images with the label.

    `shortcuts` are the entries of the shortcut audit; None where there was none.
    """
    scores, findings = folder / "scores", folder / "findings"
    for path in (scores, findings):
        path.mkdir(parents=True)
    said = {"label": label, "encoder": encoder, "modality": modality, "n_known": known, "run": RUN}
    head = {**said, "answered": why is None} | ({"test": tested} if why is None else {"why": why})
    (scores / "head.json").write_text(json.dumps(head))
    facts = {"encoder": encoder, "modality": modality, "run": RUN, "caution": "made by a test"}
    (scores / "probe.json").write_text(json.dumps({**facts, "headline_kernel": "rbf"}))
    (findings / "audit.json").write_text(json.dumps({"label": label, "groups": list(groups), "gaps": list(gaps)}))
    if shortcuts is not None:
        told = {"encoder": encoder, "modality": modality, "label": label, "label_known": {"n": known}}
        (findings / "shortcuts.json").write_text(json.dumps({**told, "entries": list(shortcuts)}))
    return scores, findings


def write_predictions(scores: Path, signal: float, label="pneumonia", patients=60) -> None:
    """Held-out scores of two images of each patient, the ill ones `signal` standard deviations higher."""
    random = np.random.default_rng(5)
    patient = np.repeat(np.arange(patients), 2)
    truth = (patient % 2).astype(float)
    noise = random.normal(size=len(patient))
    pd.DataFrame(
        {
            "row": np.arange(len(patient)),
            "patient": patient,
            "task": label,
            "kernel": "rbf",
            "fold": 0,
            "truth": truth,
            "score": noise + signal * truth,
        }
    ).to_parquet(scores / "predictions.parquet")
