"""The judgement of a whole run: what the probe, audit, compare and gate steps of the pipeline call."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from hilum.data import parquet
from hilum.data.manifest import UNCERTAIN
from hilum.data.store import Dataset, read_json
from hilum.errors import UsageError
from hilum.page import Html, page, table, tag, text, write_page
from hilum.recipe import Recipe

INDEX: Final = "index.html"
PROBE_FACTS: Final = "probe.json"
_REPORTS: Final = {  # what a reader wants of one encoder, and the sentence that leads there
    "explore.html": "walk through it",
    "map.png": "map",
    "fairness.html": "fairness by group",
    "shortcuts.html": "shortcuts",
    "mitigation.html": "mitigations",
    "audit.html": "drift and quality (Evidently)",
    "scores.csv": "probe scores",
    "policies.html": "uncertain labels",
    "fusion.html": "fine-tuning and fusion",
}
_BESIDE: Final = (  # what these pages lead to
    "fairness.csv", "fairness_groups.png", "fairness_groups.svg", "fairness_gaps.png", "fairness_gaps.svg",
    "shortcuts.json", "clusters.png", "mitigation.csv", "efficiency.csv", "head.json", "fusion.csv", "audit.json",
    "mitigation.json",
)  # fmt: skip
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


def probe(dataset: Path, vectors: Path, recipe: Recipe, out: Path, tuned: Path | None = None) -> Findings:
    """Everything that is read from an embedding alone; writes `out`.

    Probes, the head of the recipe's label, label-efficiency curves, uncertain labels where there are any, the map and
    the page to walk through it.

    Args:
        dataset: The dataset folder.
        vectors: Embeddings of it.
        recipe: The whole recipe.
        out: The folder that is written.
        tuned: A fine-tuning of the encoder, which becomes the label's head in the place of the linear one.

    Raises:
        HilumError: A folder is not what it should be, or they do not belong together.
    """
    # Each brings a heavy library that only this step needs.
    from hilum.judgement.explorer import explore, maps
    from hilum.judgement.fairness import mitigation
    from hilum.judgement.fusion import head as fused
    from hilum.judgement.probing import efficiency, head, policies, probes

    label = recipe.audit.label
    scores = probes.run(dataset, vectors, recipe.probe, out, label=label)
    head.run(dataset, vectors, label, out, recipe.probe)
    mitigation.apply(dataset, vectors, recipe, out)
    if tuned is not None:
        fused.adopt(dataset, vectors, tuned, out, recipe.probe)
    efficiency.run(dataset, vectors, recipe.probe, out)
    cohort = Dataset.open(dataset)
    if (cohort.manifest[list(cohort.facts.labels)] == UNCERTAIN).any(axis=None):
        policies.compare(dataset, vectors, recipe.probe, out)
    maps.map_picture(dataset, vectors, out, label=label)
    explore.run(dataset, vectors, out / "explore.html", recipe.explore, out)
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


def audit(dataset: Path, vectors: Path, probed: Path, recipe: Recipe, out: Path) -> None:
    """Whom the answers serve worse, what else the embedding gives away, and what the named mitigations change."""
    from hilum.judgement.fairness import mitigation
    from hilum.judgement.report import audit as report
    from hilum.judgement.shortcuts import scan

    report.run(dataset, vectors, probed, recipe.audit, out)
    scan.run(dataset, vectors, probed, recipe.shortcuts, out, recipe.audit.label)
    if recipe.mitigation.methods:
        mitigation.run(dataset, vectors, recipe, out)


def compare(verdict: Path, scores: Sequence[Path], findings: Sequence[Path], tuned: Sequence[Path], out: Path) -> None:
    """Write the leaderboard and gather every report of the run under one index page.

    Args:
        verdict: The validation folder.
        scores: One probe folder per encoder and modality.
        findings: The audit folder of each, in the same order.
        tuned: The fine-tuning folder of each, likewise; empty where none was asked for.
        out: Gets leaderboard.csv, .md, .html, comparisons.csv, index.html, one folder per modality and encoder, and a
            picture of label-efficiency curves per modality in which a label left enough cases.
    """
    from hilum.judgement.leaderboard import board as leaderboard
    from hilum.judgement.leaderboard.answers import LADDER

    leaderboard.run(scores, out, [fused for fused in tuned if (fused / LADDER).is_file()])
    shutil.copyfile(verdict / "validation.html", out / "validation.html")
    curves = _curves(scores, out)
    rows = []
    for probed, audited, fused in zip(scores, findings, tuned, strict=True):
        facts = read_json(probed / PROBE_FACTS)
        folder = out / f"{facts['modality'].lower()}-{facts['encoder']}"
        folder.mkdir(exist_ok=True)
        for source in (probed, audited, fused):
            for name in (*_REPORTS, *_BESIDE):
                if (source / name).is_file():
                    shutil.copyfile(source / name, folder / name)
        rows.append((facts["modality"], facts["encoder"], *(_link(folder, name) for name in _REPORTS)))
    write_page(out / INDEX, _index(rows, curves, facts))


def _curves(scores: Sequence[Path], out: Path) -> list[str]:
    """Draw the label-efficiency curves of each modality; names of the pictures."""
    from hilum.judgement.probing import efficiency, efficiency_plot

    by_modality: dict[str, list[Path]] = {}
    for folder in scores:
        if pd.read_csv(folder / efficiency.CSV)["mean"].notna().any():
            by_modality.setdefault(str(read_json(folder / PROBE_FACTS)["modality"]).lower(), []).append(folder)
    for modality, folders in by_modality.items():
        efficiency_plot.plot(folders, out / f"efficiency-{modality}")
    return [f"efficiency-{modality}/{efficiency_plot.PNG}" for modality in by_modality]


def _link(folder: Path, name: str) -> Html:
    if not (folder / name).is_file():
        return text("-")
    said = text(f"{_REPORTS[name]}: {folder.name}")  # for those who hear the page: a column of "open" says nothing
    return Html(f'<a href="{folder.name}/{name}" aria-label="{said}">open</a>')


def _index(rows: list[tuple[Any, ...]], curves: list[str], facts: dict[str, Any]) -> str:
    named = {
        "leaderboard.html": "Leaderboard",
        "validation.html": "Validation of the dataset",
        "leaderboard.csv": "leaderboard.csv",
        "comparisons.csv": "comparisons.csv",
        "gate/gate.html": "The gate's verdict, once it has judged",
        **{name: f"Few labels ({name.split('/')[0].rpartition('-')[2].upper()})" for name in curves},
    }
    links = Html(" &middot; ".join(f'<a href="{to}">{text(word)}</a>' for to, word in named.items()))
    columns = ["modality", "encoder", *_REPORTS.values()]
    label = facts["label"].replace("_", " ")
    lead = "Every report of one run: the data's validation, the comparison of encoders, and each encoder's evidence."
    return page(
        f"Reports of the run: {label}, {facts['layout']}",
        lead,
        [Html(f"<p>{links}</p>"), tag("h2", "By encoder"), table(columns, rows)],
        facts["run"],
        facts["caution"],
    )


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
