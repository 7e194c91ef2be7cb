"""Probes: how much of sex, view, site, age and each finding a machine reads from frozen embeddings.

scores.csv            one row per task, kernel and metric, each with a 95% interval over patients, its n, and the level
                      of an answer that does not look at the image (`chance`, with its interval where it has one)
predictions.parquet   one row per image, task and kernel: the held-out score and the truth; of a binary task also the
                      calibrated probability and whether it reaches the threshold, NaN where there is none
probe.json            which encoder, modality, data and recipe

The head of the target label lies in the same folder (hilum.judgement.probing.head).

A probe is not the encoder's best: it is one instrument held to every encoder alike. Every machine is reported, under
`kernel`; the RBF kernel is the headline, named before any test score was seen. Source A's tables (METHOD section 11)
are such probes. Thresholds and calibrations come from training patients that the scoring machine had not seen.
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
from hilum.data.manifest import UncertainPolicy
from hilum.data.store import Dataset, write_json
from hilum.data.vectors import Vectors
from hilum.identity import Run, code_revision
from hilum.judgement import stats
from hilum.judgement.probing import decisions
from hilum.judgement.probing.machines import Machine, fit_and_score
from hilum.judgement.probing.svm import Floats, Kind
from hilum.judgement.probing.tasks import (
    COMPETITION,
    COMPETITION_MEAN,
    FINDINGS_MEAN,
    METRICS,
    NO_FINDING,
    SHORT,
    Part,
    Task,
    ask,
    parts,
)
from hilum.recipe import Probe, digest

SCORES: Final = "scores.csv"
PREDICTIONS: Final = "predictions.parquet"
FACTS: Final = "probe.json"
HEADLINE_KERNEL: Final = "rbf"
COLUMNS: Final = (
    "encoder", "modality", "task", "kind", "kernel", "metric", "value", "low", "high", "n", "n_patients", "n_positive",
    "chance", "note", "chance_low", "chance_high",
)  # fmt: skip


@dataclass(frozen=True)
class Answered:
    """Held-out answers of one task by one kernel.

    Attributes:
        task: The question.
        kernel: Which machine.
        rows: (M,) numbers into the vectors.
        truth: (M,).
        score: (M,), or (M, K) for several classes.
        fold: (M,) the part that held the row out.
        probability: (M,) calibrated; NaN where the task is not binary.
        called: (M,) 1 where it reaches the locked threshold, else 0; NaN where there is none.
        note: What was left out or approximated.
        intervals: Each metric, with the level of an answer that does not look at the image.
    """

    task: Task
    kernel: Machine
    rows: NDArray[np.int64]
    truth: Floats
    score: Floats
    fold: NDArray[np.int64]
    probability: Floats
    called: Floats
    note: str
    intervals: dict[str, tuple[stats.Interval, stats.Interval]]


def run(dataset: Path, vectors: Path, recipe: Probe, out: Path, label: str = "pneumonia") -> pd.DataFrame:
    """Probe one embedding.

    Args:
        dataset: The dataset folder.
        vectors: Embeddings of it.
        recipe: Machines, grids, folds, limits and seed.
        out: Folder to write; files of an earlier probe are replaced.
        label: The label that a release answers; named among the scores even where the dataset lacks it.

    Returns:
        What `scores.csv` holds.

    Raises:
        DatasetError: A folder is not whole, or the embeddings are of another dataset.
    """
    cohort, embedded = Dataset.open(dataset), Vectors.open(vectors)
    table = embedded.joined(cohort)
    ignored: dict[str, UncertainPolicy] = {}
    labels, learnt = (
        cohort.labels(policy).iloc[embedded.rows["row"].to_numpy()].reset_index(drop=True)
        for policy in (ignored, {**ignored, **recipe.uncertain})
    )
    asked = parts(table, recipe.folds, recipe.seed)
    tasks = ask(
        table,
        labels,
        asked,
        recipe.min_cases,
        label,
        learnt=learnt,
        attributes=cohort.facts.attributes,
        covariates=cohort.facts.covariates,
    )
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
            "layout": cohort.facts.layout,
            "run": whole,
            "embedding_run": embedded.facts.run,
            "encoder_weights": embedded.facts.encoder_weights,
        },
    )
    return scores


def _answer_all(
    embedded: Vectors, table: pd.DataFrame, tasks: Sequence[Task], asked: Sequence[Part], recipe: Probe
) -> list[Answered]:
    patients = pd.factorize(table["patient_id"], sort=True)[0]
    todo = [(task, kernel) for task in tasks if not task.short for kernel in recipe.kernels]
    title = f"probe {embedded.facts.encoder} {embedded.facts.modality}"
    # libsvm, L-BFGS and BLAS work without the interpreter lock, so threads use all cores on one copy of the embeddings.
    with (
        ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool,
        progress.bar(title, len(todo), "task") as shown,
    ):

        def one(pair: tuple[Task, Machine]) -> Answered:
            found = _answer(embedded.z_ND, patients, *pair, asked, recipe)
            shown.update()
            return found

        return list(pool.map(one, todo))


def _answer(
    z_ND: NDArray[Any], patients: NDArray[Any], task: Task, kernel: Machine, asked: Sequence[Part], recipe: Probe
) -> Answered:
    answers: list[dict[str, NDArray[Any]]] = []
    settings = []
    notes = [task.note] if task.note else []
    for part in asked:
        fit, held = part.train[np.isfinite(task.fitted_to[part.train])], part.test[np.isfinite(task.y_N[part.test])]
        if len(held) == 0:
            continue
        certain = np.isfinite(task.y_N[fit])
        found = fit_and_score(
            z_ND[fit], task.fitted_to[fit], patients[fit], z_ND[held], task.kind, kernel, recipe, task.judge, certain
        )
        locked = decisions.lock(found.unseen_y, found.unseen_score, recipe)
        nothing = np.full(len(held), math.nan)
        answers.append(
            {
                "rows": held,
                "score": found.score,
                "fold": np.full(len(held), part.fold),
                "baseline": np.full(len(held), task.y_N[fit][certain].mean()),
                "probability": locked.probability(found.score) if locked else nothing,
                "called": locked.called(found.score) if locked else nothing,
            }
        )
        settings.append(found.setting.words(kernel))
        said = [*found.notes, *([] if certain.all() else [f"{int((~certain).sum())} uncertain labels fitted on"])]
        notes += [note for note in said if note not in notes]
    whole = {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}
    # One setting per part; the same one is said once.
    notes.append("chosen in training: " + ", ".join(dict.fromkeys(settings)))
    baseline = whole.pop("baseline")
    truth = task.y_N[whole["rows"]]
    intervals = _intervals(task, truth, whole, baseline, patients[whole["rows"]], recipe)
    return Answered(task=task, kernel=kernel, truth=truth, note="; ".join(notes), intervals=intervals, **whole)


def _intervals(
    task: Task,
    truth: Floats,
    answer: dict[str, NDArray[Any]],
    baseline: Floats,
    patients: NDArray[Any],
    recipe: Probe,
) -> dict[str, tuple[stats.Interval, stats.Interval]]:
    """Every metric of a task, each with the level of an answer that does not look at the image."""
    boot = (patients, recipe.bootstrap, recipe.seed)
    levels = {"auroc": 0.5, "r2": 0.0, "balanced_accuracy": 1 / max(2, len(task.classes))}
    if task.kind == "multiclass":
        levels["auprc"] = 1 / len(task.classes)  # the mean of the classes' shares
    found = {}
    for metric, statistic in METRICS[task.kind].items():
        score = stats.patient_bootstrap(statistic, *boot, truth, answer["score"], answer["fold"])
        if metric in levels:
            found[metric] = (score, stats.Interval(levels[metric], math.nan, math.nan, score.n, score.n_patients))
        else:  # the prevalence, or the error of always answering the mean
            plain = truth if metric == "auprc" else np.abs(truth - baseline)
            found[metric] = (score, stats.patient_bootstrap(stats.weighted_mean, *boot, plain))
    if task.kind == "binary":
        found |= decisions.worth(truth, answer["probability"], answer["called"], baseline, patients, recipe)
    return found


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
                for metric in (*METRICS[task.kind], *(decisions.DECISIONS if task.kind == "binary" else ()))
            ]
        for found in (found for found in answered if found.task is task):
            positive = int(found.truth.sum()) if task.kind == "binary" else None
            rows += [
                _row(task.name, task.kind, found.kernel, metric, interval, positive, chance, found.note)
                for metric, (interval, chance) in found.intervals.items()
            ]
    findings = [name for name in labels if name != NO_FINDING]
    rows += [_mean(FINDINGS_MEAN, findings, answered, kernel, patients, recipe) for kernel in recipe.kernels]
    if set(COMPETITION) <= set(labels):
        rows += [
            _mean(COMPETITION_MEAN, COMPETITION, answered, kernel, patients, recipe, whole=True)
            for kernel in recipe.kernels
        ]
    return rows


def _mean(
    name: str,
    labels: Sequence[str],
    answered: Sequence[Answered],
    kernel: Machine,
    patients: NDArray[Any],
    recipe: Probe,
    whole: bool = False,
) -> dict[str, Any]:
    """Mean AUROC over the labels that were scored, all labels resampled together: (N, L) with NaN where not scored.

    With `whole` there is no mean unless all of them were scored: it would be of other findings than its name says.
    """
    scored = [found for found in answered if found.kernel == kernel and found.task.name in labels]
    missing = [label for label in labels if label not in {found.task.name for found in scored}]
    if not scored or (whole and missing):
        why = f"too few cases of {', '.join(missing)}" if scored else "no label has enough cases"
        return _row(name, "mean", kernel, "auroc", stats.undefined(f"{SHORT}: {why}"))
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
    chance = stats.Interval(0.5, math.nan, math.nan, interval.n, interval.n_patients)
    return _row(name, "mean", kernel, "auroc", interval, None, chance, note)


def _row(
    name: str, kind: Kind | str, kernel: Machine, metric: str, interval: stats.Interval, n_positive: int | None = None,
    chance: stats.Interval | None = None, note: str = "",
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
        "chance": chance.value if chance else math.nan,
        "note": "; ".join(part for part in (interval.note, note) if part),
        "chance_low": chance.low if chance else math.nan,
        "chance_high": chance.high if chance else math.nan,
    }


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
                    "probability": found.probability,
                    "called": found.called,
                }
            )
            for name, truth, score in named
        ]
    columns = ["row", "patient", "task", "kernel", "split", "fold", "score", "truth", "probability", "called"]
    return pd.concat(pieces, ignore_index=True) if pieces else pd.DataFrame(columns=columns)


def _replace(path: Path, write: Any) -> None:
    """Write to a temporary name, then rename: a file is whole or not there."""
    partial = path.with_name(path.name + ".partial")
    write(partial)
    partial.replace(path)
