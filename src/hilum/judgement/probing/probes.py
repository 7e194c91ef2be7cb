"""Probes: how much of sex, view, site, age and each finding a support vector machine reads from frozen embeddings.

scores.csv            one row per task, kernel and metric, each with a patient-bootstrap 95% interval and its n
predictions.parquet   one row per image, task and kernel: the held-out score and the truth
probe.json            which encoder, modality, data and recipe

The head of the target label lies in the same folder (hilum.judgement.probing.head).

A probe is not the encoder's best: it is one instrument held to every encoder alike. Both kernels are reported; the RBF
kernel is the headline, named before any test score was seen. Source A's tables (METHOD section 11) are such probes.
"""

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum import progress
from hilum.data import parquet
from hilum.data.store import Dataset, write_json
from hilum.data.vectors import Vectors
from hilum.identity import Run, code_revision
from hilum.judgement import stats
from hilum.judgement.probing.svm import Floats, Kernel, Kind, fit_and_score
from hilum.judgement.probing.tasks import FINDINGS_MEAN, METRICS, NO_FINDING, SHORT, Part, Task, ask, parts
from hilum.recipe import Probe, digest

SCORES: Final = "scores.csv"
PREDICTIONS: Final = "predictions.parquet"
FACTS: Final = "probe.json"
HEADLINE_KERNEL: Final = "rbf"
COLUMNS: Final = (
    "encoder", "modality", "task", "kind", "kernel", "metric", "value", "low", "high", "n", "n_patients", "n_positive",
    "chance", "note",
)  # fmt: skip


@dataclass(frozen=True)
class Answered:
    """Held-out answers of one task by one kernel.

    Attributes:
        task: The question.
        kernel: Of the machine.
        rows: (M,) numbers into the vectors.
        truth: (M,).
        score: (M,), or (M, K) for several classes.
        fold: (M,) the part that held the row out.
        baseline: (M,) for a regression, the mean of the values that were fitted on.
        note: What was left out or approximated.
        intervals: Each metric of the task's kind.
    """

    task: Task
    kernel: Kernel
    rows: NDArray[np.int64]
    truth: Floats
    score: Floats
    fold: NDArray[np.int64]
    baseline: Floats
    note: str
    intervals: dict[str, stats.Interval]


def run(dataset: Path, vectors: Path, recipe: Probe, out: Path, label: str = "pneumonia") -> pd.DataFrame:
    """Probe one embedding.

    Args:
        dataset: The dataset folder.
        vectors: Embeddings of it.
        recipe: Kernels, grids, folds, limits and seed.
        out: Folder to write; files of an earlier probe are replaced.
        label: The label that a release answers; named among the scores even where the dataset lacks it.

    Returns:
        What `scores.csv` holds.

    Raises:
        DatasetError: A folder is not whole, or the embeddings are of another dataset.
    """
    cohort, embedded = Dataset.open(dataset), Vectors.open(vectors)
    table = embedded.joined(cohort)
    labels = cohort.labels().iloc[embedded.rows["row"].to_numpy()].reset_index(drop=True)
    asked = parts(table, recipe.folds, recipe.seed)
    tasks = ask(table, labels, asked, recipe.min_cases, label)
    answered = _answer_all(embedded, table, tasks, asked, recipe)
    facts = {"encoder": embedded.facts.encoder, "modality": embedded.facts.modality}
    scores = pd.DataFrame(_scores(tasks, answered, table, list(labels), recipe), columns=list(COLUMNS[2:]))
    for column, value in reversed(facts.items()):
        scores.insert(0, column, value)
    out.mkdir(parents=True, exist_ok=True)
    (out / FACTS).unlink(missing_ok=True)  # written last: a folder that has it is whole
    _replace(out / SCORES, lambda path: scores.to_csv(path, index=False))
    predictions = _predictions(answered, embedded, table, recipe.folds)
    _replace(out / PREDICTIONS, lambda path: parquet.write(predictions, path))
    whole = Run(
        code_revision=code_revision(), data_digest=embedded.facts.run["data_digest"], recipe_digest=digest(recipe)
    )
    counts = {split: int((table["split"] == split).sum()) for split in ("train", "val", "test")}
    write_json(
        out / FACTS,
        {
            **facts,
            "dim": embedded.facts.dim,
            "label": label,
            "folds": recipe.folds,
            "headline_kernel": HEADLINE_KERNEL if HEADLINE_KERNEL in recipe.kernels else recipe.kernels[0],
            "n_images": len(table),
            "n_patients": int(table["patient_id"].nunique()),
            "n_by_split": counts,
            "caution": cohort.facts.caution,
            "run": whole,
            "embedding_run": embedded.facts.run,
        },
    )
    return scores


def _answer_all(
    embedded: Vectors, table: pd.DataFrame, tasks: Sequence[Task], asked: Sequence[Part], recipe: Probe
) -> list[Answered]:
    z_ND = np.asarray(embedded.z_ND, dtype=np.float64)
    patients = pd.factorize(table["patient_id"], sort=True)[0]
    todo = [(task, kernel) for task in tasks if not task.short for kernel in recipe.kernels]
    title = f"probe {embedded.facts.encoder} {embedded.facts.modality}"
    # libsvm and liblinear work without the interpreter lock, so threads use all cores on one copy of the embeddings.
    with (
        ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool,
        progress.bar(title, len(todo), "task") as shown,
    ):

        def one(pair: tuple[Task, Kernel]) -> Answered:
            found = _answer(z_ND, patients, *pair, asked, recipe)
            shown.update()
            return found

        return list(pool.map(one, todo))


def _answer(
    z_ND: Floats, patients: NDArray[Any], task: Task, kernel: Kernel, asked: Sequence[Part], recipe: Probe
) -> Answered:
    rows, scores, folds, baselines, settings = [], [], [], [], []
    notes = [task.note] if task.note else []
    for part in asked:
        fit, held = (side[np.isfinite(task.y_N[side])] for side in (part.train, part.test))
        if len(held) == 0:
            continue
        found = fit_and_score(
            z_ND[fit], task.y_N[fit], patients[fit], z_ND[held], task.kind, kernel, recipe, task.judge
        )
        rows.append(held)
        scores.append(found.score)
        folds.append(np.full(len(held), part.fold))
        baselines.append(np.full(len(held), task.y_N[fit].mean()))
        settings.append(f"{found.setting.scaling} C={found.setting.c:g}")
        notes += [note for note in found.notes if note not in notes]
    held, score, fold = np.concatenate(rows), np.concatenate(scores), np.concatenate(folds)
    truth = task.y_N[held]
    # One setting per part; the same one is said once.
    notes.append("chosen in training: " + ", ".join(dict.fromkeys(settings)))
    intervals = {
        metric: stats.patient_bootstrap(statistic, patients[held], recipe.bootstrap, recipe.seed, truth, score, fold)
        for metric, statistic in METRICS[task.kind].items()
    }
    return Answered(task, kernel, held, truth, score, fold, np.concatenate(baselines), "; ".join(notes), intervals)


def _scores(
    tasks: Sequence[Task], answered: Sequence[Answered], table: pd.DataFrame, labels: Sequence[str], recipe: Probe
) -> list[dict[str, Any]]:
    patients = pd.factorize(table["patient_id"], sort=True)[0]
    rows: list[dict[str, Any]] = []
    for task in tasks:
        if task.short:
            known = np.isfinite(task.y_N)
            nothing = stats.undefined(task.short, int(known.sum()), len(np.unique(patients[known])))
            positive = int((task.y_N == 1).sum()) if task.kind == "binary" else None
            rows += [
                _row(task.name, task.kind, kernel, metric, nothing, positive)
                for kernel in recipe.kernels
                for metric in METRICS[task.kind]
            ]
        for found in (found for found in answered if found.task is task):
            positive = int(found.truth.sum()) if task.kind == "binary" else None
            rows += [
                _row(task.name, task.kind, found.kernel, metric, interval, positive, _chance(found, metric), found.note)
                for metric, interval in found.intervals.items()
            ]
    rows += [_findings_mean(answered, kernel, patients, labels, recipe) for kernel in recipe.kernels]
    return rows


def _findings_mean(
    answered: Sequence[Answered], kernel: Kernel, patients: NDArray[Any], labels: Sequence[str], recipe: Probe
) -> dict[str, Any]:
    """Mean AUROC over the labels that were scored, all labels resampled together: (N, L) with NaN where not scored."""
    scored = [
        found for found in answered
        if found.kernel == kernel and found.task.name in labels and found.task.name != NO_FINDING
    ]  # fmt: skip
    if not scored:
        why = stats.undefined(f"{SHORT}: no label has enough cases")
        return _row(FINDINGS_MEAN, "mean", kernel, "auroc", why)
    truth_NL = np.full((len(patients), len(scored)), math.nan)
    score_NL = np.zeros_like(truth_NL)
    fold_N = np.zeros(len(patients), dtype=np.int64)
    for column, found in enumerate(scored):
        truth_NL[found.rows, column] = found.truth
        score_NL[found.rows, column] = found.score
        fold_N[found.rows] = found.fold
    known = np.isfinite(truth_NL).any(axis=1)

    interval = stats.patient_bootstrap(
        METRICS["mean"]["auroc"],
        patients[known],
        recipe.bootstrap,
        recipe.seed,
        truth_NL[known],
        score_NL[known],
        fold_N[known],
    )
    note = f"mean over {len(scored)} labels: {', '.join(found.task.name for found in scored)}"
    return _row(FINDINGS_MEAN, "mean", kernel, "auroc", interval, None, 0.5, note)


def _row(
    name: str, kind: Kind | str, kernel: Kernel, metric: str, interval: stats.Interval, n_positive: int | None = None,
    chance: float = math.nan, note: str = "",
) -> dict[str, Any]:  # fmt: skip
    return {
        "task": name,
        "kind": kind,
        "kernel": kernel,
        "metric": metric,
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "n": interval.n,
        "n_patients": interval.n_patients,
        "n_positive": n_positive,
        "chance": chance,
        "note": "; ".join(part for part in (interval.note, note) if part),
    }


def _chance(found: Answered, metric: str) -> float:
    """What is reached without looking at the embedding."""
    if metric == "mae":
        return float(np.abs(found.truth - found.baseline).mean())
    if metric == "r2":
        return 0.0
    return 1 / max(2, len(found.task.classes)) if metric == "balanced_accuracy" else 0.5


def _predictions(answered: Sequence[Answered], embedded: Vectors, table: pd.DataFrame, folds: int) -> pd.DataFrame:
    """Long: a class of several is a task of its own, `view=PA`. `patient` is a number, the same for every encoder."""
    patient = pd.factorize(table["patient_id"], sort=True)[0]
    row = embedded.rows["row"].to_numpy()
    pieces = []
    for found in answered:
        named = (
            [
                (f"{found.task.name}={name}", found.truth == k, found.score[:, k])
                for k, name in enumerate(found.task.classes)
            ]
            if found.task.kind == "multiclass"
            else [(found.task.name, found.truth, found.score)]
        )
        pieces += [
            pd.DataFrame(
                {
                    "row": row[found.rows],
                    "patient": patient[found.rows],
                    "task": name,
                    "kernel": found.kernel,
                    "split": "fold" if folds else "test",
                    "fold": found.fold,
                    "score": score,
                    "truth": truth.astype(float),
                }
            )
            for name, truth, score in named
        ]
    columns = ["row", "patient", "task", "kernel", "split", "fold", "score", "truth"]
    return pd.concat(pieces, ignore_index=True) if pieces else pd.DataFrame(columns=columns)


def _replace(path: Path, write: Any) -> None:
    """Write to a temporary name, then rename: a file is whole or not there."""
    partial = path.with_name(path.name + ".partial")
    write(partial)
    partial.replace(path)
