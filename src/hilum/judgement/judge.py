"""The judgement of a whole run: what the probe, compare and gate steps of the pipeline call."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from hilum.data import parquet
from hilum.data.store import read_json
from hilum.errors import UsageError
from hilum.page import Html, page, table, tag, text, write_page
from hilum.recipe import Recipe

INDEX: Final = "index.html"
PROBE_FACTS: Final = "probe.json"
_REPORTS: Final = {  # what a reader wants of one encoder, and the sentence that leads there
    "map.png": "map of the embedding",
    "fairness.html": "fairness by group",
    "audit.html": "drift and quality (Evidently)",
    "scores.csv": "probe scores",
    "fusion.html": "fine-tuning and fusion",
}
ROC_POINTS: Final = 200  # enough for a smooth curve on a screen


@dataclass(frozen=True)
class Findings:
    """What a probe step shows in the Kubeflow UI.

    Attributes:
        metrics: Finite headline scores by `task_metric`.
        roc: False-positive rates, true-positive rates and thresholds of the label's probe; None where it has none.
    """

    metrics: dict[str, float]
    roc: tuple[list[float], list[float], list[float]] | None


def probe(dataset: Path, vectors: Path, recipe: Recipe, out: Path) -> Findings:
    """Probe an embedding, fit the head of the recipe's label, and draw the map; writes `out` (see `hilum probe`)."""
    from hilum.judgement.explorer import maps as explorer
    from hilum.judgement.probing import head, probes  # each brings a heavy library that only this step needs

    label = recipe.audit.label
    scores = probes.run(dataset, vectors, recipe.probe, out, label=label)
    head.run(dataset, vectors, label, out, recipe.probe)
    explorer.map_picture(dataset, vectors, out, label=label)
    known = scores[scores["value"].notna()]
    metrics = {f"{row.task}_{row.kernel}_{row.metric}": float(row.value) for row in known.itertuples()}
    return Findings(metrics, _roc(parquet.read(out / "predictions.parquet"), label))


def _roc(predictions: pd.DataFrame, label: str) -> tuple[list[float], list[float], list[float]] | None:
    from sklearn.metrics import roc_curve

    chosen = predictions[(predictions["task"] == label) & (predictions["kernel"] == "rbf")].dropna(subset=["truth"])
    if chosen["truth"].nunique() < 2:
        return None
    fpr, tpr, thresholds = roc_curve(chosen["truth"].astype(int), chosen["score"].astype(float))
    kept = np.unique(np.linspace(0, len(fpr) - 1, ROC_POINTS).astype(int))
    thresholds[0] = thresholds[1] + 1.0  # scikit-learn starts at infinity, which is no JSON
    return fpr[kept].tolist(), tpr[kept].tolist(), thresholds[kept].tolist()


def compare(verdict: Path, scores: Sequence[Path], findings: Sequence[Path], tuned: Sequence[Path], out: Path) -> None:
    """Write the leaderboard and gather every report of the run under one index page.

    Args:
        verdict: The validation folder.
        scores: One probe folder per encoder and modality.
        findings: The audit folder of each, in the same order.
        tuned: The fine-tuning folder of each, likewise; empty where none was asked for.
        out: Gets leaderboard.csv, .md and .html, index.html, and one folder per modality and encoder.
    """
    from hilum.judgement.leaderboard import board as leaderboard

    leaderboard.run(list(scores), out)
    shutil.copyfile(verdict / "validation.html", out / "validation.html")
    rows = []
    for probed, audited, fused in zip(scores, findings, tuned, strict=True):
        facts = read_json(probed / PROBE_FACTS)
        folder = out / f"{facts['modality'].lower()}-{facts['encoder']}"
        folder.mkdir(exist_ok=True)
        for source in (probed, audited, fused):
            for name in (*_REPORTS, "fairness.csv", "head.json", "fusion.csv"):
                if (source / name).is_file():
                    shutil.copyfile(source / name, folder / name)
        rows.append((facts["modality"], facts["encoder"], *(_link(folder, name) for name in _REPORTS)))
    write_page(out / INDEX, _index(rows, facts["run"], facts["caution"]))


def _link(folder: Path, name: str) -> Html:
    return (
        Html(f'<a href="{folder.name}/{name}">{text(_REPORTS[name])}</a>') if (folder / name).is_file() else text("-")
    )


def _index(rows: list[tuple[Any, ...]], run: dict[str, str], caution: str) -> str:
    links = Html(
        '<p><a href="leaderboard.html">Leaderboard</a> &middot; <a href="validation.html">Validation of the dataset</a>'
        ' &middot; <a href="leaderboard.csv">leaderboard.csv</a></p>'
    )
    columns = ["modality", "encoder", "map", "fairness", "drift and quality", "scores", "fine-tuning"]
    lead = "Every report of one run: the data's validation, the comparison of encoders, and each encoder's evidence."
    return page("Reports of the run", lead, [links, tag("h2", "By encoder"), table(columns, rows)], run, caution)


def gate(
    encoders: Sequence[Path],
    scores: Sequence[Path],
    findings: Sequence[Path],
    recipe: Recipe,
    candidate: Path,
    verdict: Path,
    *,
    override_by: str = "",
    override_reason: str = "",
) -> bool:
    """Bundle the encoder that is to be released, modality by modality, and judge its evidence.

    Writes `candidate/MODALITY/{encoder,scores,findings}`, `verdict/verdict.json` and `verdict/gate.html`.

    Returns:
        Whether it may be exported: everything that the recipe asks was shown to hold, or somebody answers for it.
    """
    from hilum.judgement.gate import verdict as verdicts
    from hilum.judgement.gate.override import Override

    override = Override.of(override_by, override_reason)
    names = [read_json(scored / PROBE_FACTS) for scored in scores]
    chosen = [number for number, facts in enumerate(names) if facts["encoder"] == recipe.export.encoder]
    if not chosen:
        raise UsageError(
            f"no encoder {recipe.export.encoder!r} was judged; export.encoder must be one that was trained"
        )
    for number in chosen:
        for name, sources in (("encoder", encoders), ("scores", scores), ("findings", findings)):
            shutil.copytree(sources[number], candidate / names[number]["modality"] / name)
    return verdicts.run(
        scores, findings, recipe.gate, recipe.export.encoder, recipe.export.label, verdict, override
    ).allows
