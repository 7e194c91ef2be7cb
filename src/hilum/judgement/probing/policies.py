"""What uncertain training labels should count as: ignored, negative or positive, compared label by label.

policies.csv    one row per label and policy: AUROC on certain test labels with its interval, and what it gains over
                `ignore`, paired by patient
policies.html   the same for reading
policies.json   the facts of the run, and the words

Policies U-Ignore, U-Zeros and U-Ones of Irvin et al. 2019 (CheXpert), section 3. Uncertain labels are -1 in the
manifest; a dataset that was ingested with them resolved has none left to compare. A policy changes training labels
alone: settings are chosen, and every score is made, on labels that are certain, so the same test rows judge all three.
"""

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.data.manifest import UNCERTAIN
from hilum.data.store import Dataset, write_json
from hilum.data.vectors import Vectors
from hilum.identity import Run, code_revision
from hilum.judgement import stats
from hilum.judgement.probing.machines import Machine, fit_and_score
from hilum.judgement.probing.svm import Floats
from hilum.judgement.probing.tasks import Part, Task, ask, parts
from hilum.page import page, table, write_page
from hilum.progress import bar
from hilum.recipe import Probe, digest

CSV: Final = "policies.csv"
PAGE: Final = "policies.html"
FACTS: Final = "policies.json"
HEADLINE: Final = "rbf"
Policy = Literal["ignore", "zeros", "ones"]
POLICIES: Final[tuple[Policy, ...]] = ("ignore", "zeros", "ones")
COLUMNS: Final = (
    "encoder", "modality", "label", "policy", "used", "kernel", "metric", "value", "low", "high", "gain", "gain_low",
    "gain_high", "n", "n_patients", "n_positive", "n_train", "n_uncertain", "note",
)  # fmt: skip


@dataclass(frozen=True)
class _Asked:
    """One label: its task on certain labels, and which of its rows are uncertain."""

    task: Task
    uncertain_N: NDArray[np.bool_]

    def learnt(self, policy: Policy) -> Floats:
        """What is fitted to, (N,)."""
        value = {"ignore": math.nan, "zeros": 0.0, "ones": 1.0}[policy]
        return np.where(self.uncertain_N, value, self.task.y_N)


def compare(dataset: Path, vectors: Path, recipe: Probe, out: Path) -> pd.DataFrame:
    """Compare the three policies for every label that holds uncertain values.

    Args:
        dataset: The dataset folder.
        vectors: Embeddings of it.
        recipe: Machine (RBF where it is among them, else the first), grids, folds, limits and seed; its `uncertain`
            says which policy the probes use.
        out: Folder to write.

    Returns:
        What `policies.csv` holds; no rows where no label is uncertain.

    Raises:
        DatasetError: A folder is not whole, or the embeddings are of another dataset.
    """
    cohort, embedded = Dataset.open(dataset), Vectors.open(vectors)
    manifest = embedded.joined(cohort)
    raw = manifest[list(cohort.facts.labels)]
    held = [name for name in raw if (raw[name] == UNCERTAIN).any()]
    certain = raw[held].where(raw[held] != UNCERTAIN)
    sides = parts(manifest, recipe.folds, recipe.seed)
    tasks = [task for task in ask(manifest, certain, sides, recipe.min_cases) if task.name in held]
    asked = [_Asked(task, (raw[task.name] == UNCERTAIN).to_numpy()) for task in tasks]
    kernel: Machine = HEADLINE if HEADLINE in recipe.kernels else recipe.kernels[0]
    patients = pd.factorize(manifest["patient_id"], sort=True)[0]
    # The machines work without the interpreter lock, so threads use all cores on one copy of the embeddings.
    with (
        ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool,
        bar(f"uncertain labels {embedded.facts.encoder}", len(asked), "label") as shown,
    ):

        def of(one: _Asked) -> list[dict[str, Any]]:
            found = _label(embedded.z_ND, patients, one, kernel, sides, recipe)
            shown.update()
            return found

        rows = [row for found in pool.map(of, asked) for row in found]
    scores = pd.DataFrame(rows, columns=list(COLUMNS[2:]))
    scores.insert(0, "modality", embedded.facts.modality)
    scores.insert(0, "encoder", embedded.facts.encoder)
    run = Run(
        code_revision=code_revision(), data_digest=embedded.facts.run["data_digest"], recipe_digest=digest(recipe)
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / FACTS).unlink(missing_ok=True)  # written last: a folder that has it is whole
    partial = out / f"{CSV}.partial"
    scores.to_csv(partial, index=False)
    partial.replace(out / CSV)
    said = words(scores)
    write_page(out / PAGE, _page(scores, said, run, cohort.facts.caution))
    facts = {"encoder": embedded.facts.encoder, "modality": embedded.facts.modality, "kernel": kernel}
    write_json(out / FACTS, {**facts, "words": said, "caution": cohort.facts.caution, "run": run})
    return scores


def words(scores: pd.DataFrame) -> list[str]:
    """What the comparison shows, a sentence per label, and how to read it."""
    if scores.empty:
        return ["No label of this dataset is uncertain: there is nothing to compare."]
    said = []
    for label, rows in scores.groupby("label", sort=False):
        name = str(label).replace("_", " ")
        scored = rows[rows["value"].notna()]
        if scored.empty:
            said.append(f"{name}: {rows['note'].iloc[0]}.")
            continue
        found = [
            f"U-{str(row.policy).capitalize()} {row.gain:+.3f} [{row.gain_low:+.3f}, {row.gain_high:+.3f}], "
            + ("better" if row.gain_low > 0 else "worse" if row.gain_high < 0 else "not told apart")
            for row in scored[(scored["policy"] != "ignore") & scored["gain_low"].notna()].itertuples()
        ]
        used = scored.loc[scored["used"], "policy"].iloc[0]
        said.append(
            f"{name}: against ignoring {int(rows['n_uncertain'].iloc[0]):,} uncertain training labels, "
            f"{'; '.join(found) or 'no comparison has an interval'}. The probes use U-{str(used).capitalize()}."
        )
    compared = int(((scores["policy"] != "ignore") & scores["gain_low"].notna()).sum())
    said.append(
        f"Intervals are of {compared} comparisons and not corrected for their number: where policies do not differ, "
        "about one in twenty excludes 0 by chance."
    )
    return said


def _label(
    z_ND: NDArray[Any],
    patients: NDArray[Any],
    one: _Asked,
    kernel: Machine,
    sides: Sequence[Part],
    recipe: Probe,
) -> list[dict[str, Any]]:
    task, train = one.task, np.unique(np.concatenate([part.train for part in sides]))
    common = {"label": task.name, "kernel": kernel, "metric": "auroc", "n_uncertain": int(one.uncertain_N[train].sum())}
    used = recipe.uncertain.get(task.name, "ignore")
    nothing = stats.undefined(task.short, int(np.isfinite(task.y_N).sum()))
    if task.short:
        return [_row(common, policy, policy == used, nothing, nothing, 0, 0) for policy in POLICIES]
    held_M, truth_M, fold_M = _held(task, sides)
    score_of = {policy: _score(z_ND, patients, one, policy, kernel, sides, recipe) for policy in POLICIES}
    boot = (patients[held_M], recipe.bootstrap, recipe.seed)
    rows = []
    for policy, score_M in score_of.items():
        value = stats.patient_bootstrap(stats.weighted_auroc, *boot, truth_M, score_M, fold_M)
        gain = stats.undefined("")
        if policy != "ignore":
            gain = stats.patient_bootstrap(_gained, *boot, truth_M, score_M, score_of["ignore"], fold_M)
        n_train = int(np.isfinite(one.learnt(policy)[train]).sum())
        rows.append(_row(common, policy, policy == used, value, gain, int(truth_M.sum()), n_train))
    return rows


def _held(task: Task, sides: Sequence[Part]) -> tuple[NDArray[np.int64], Floats, NDArray[np.int64]]:
    """Rows whose certain label is scored, these labels, and the part that holds each out: the same for all policies."""
    held = [part.test[np.isfinite(task.y_N[part.test])] for part in sides]
    rows_M = np.concatenate(held)
    folds = [np.full(len(rows), part.fold) for rows, part in zip(held, sides, strict=True)]
    return rows_M, task.y_N[rows_M], np.concatenate(folds)


def _score(
    z_ND: NDArray[Any],
    patients: NDArray[Any],
    one: _Asked,
    policy: Policy,
    kernel: Machine,
    sides: Sequence[Part],
    recipe: Probe,
) -> Floats:
    """Scores of the held-out rows by machines that learnt by a policy."""
    task, learnt_N, scores = one.task, one.learnt(policy), []
    for part in sides:
        fit, held = part.train[np.isfinite(learnt_N[part.train])], part.test[np.isfinite(task.y_N[part.test])]
        if len(held) == 0:
            continue
        certain = np.isfinite(task.y_N[fit])
        data = (z_ND[fit], learnt_N[fit], patients[fit], z_ND[held])
        scores.append(fit_and_score(*data, task.kind, kernel, recipe, task.judge, certain).score)
    return np.concatenate(scores)


def _gained(w_RN: Floats, truth: Floats, ours: Floats, ignoring: Floats, fold: NDArray[Any]) -> Floats:
    return np.asarray(stats.weighted_auroc(w_RN, truth, ours, fold) - stats.weighted_auroc(w_RN, truth, ignoring, fold))


def _row(
    common: dict[str, Any],
    policy: Policy,
    used: bool,
    value: stats.Interval,
    gain: stats.Interval,
    n_positive: int,
    n_train: int,
) -> dict[str, Any]:
    return {
        **common,
        "policy": policy,
        "used": used,
        "value": value.value,
        "low": value.low,
        "high": value.high,
        "gain": gain.value,
        "gain_low": gain.low,
        "gain_high": gain.high,
        "n": value.n,
        "n_patients": value.n_patients,
        "n_positive": n_positive,
        "n_train": n_train,
        "note": "; ".join(dict.fromkeys(part for part in (value.note, gain.note) if part)),
    }


def _page(scores: pd.DataFrame, said: Sequence[str], run: Run, caution: str) -> str:
    columns = (
        "label", "policy", "AUROC [95% interval]", "gain over U-Ignore", "images", "positive", "patients",
        "training labels", "of them uncertain", "used",
    )  # fmt: skip
    lines = [
        (
            str(row.label).replace("_", " "),
            f"U-{str(row.policy).capitalize()}",
            row.note if math.isnan(row.value) else f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]",
            "" if math.isnan(row.gain) else f"{row.gain:+.3f} [{row.gain_low:+.3f}, {row.gain_high:+.3f}]",
            f"{row.n:,}",
            f"{row.n_positive:,}",
            f"{row.n_patients:,}",
            f"{row.n_train:,}",
            f"{0 if row.policy == 'ignore' else row.n_uncertain:,}",
            "yes" if row.used else "",
        )
        for row in scores.itertuples()
    ]
    lead = (
        "What uncertain labels of training images count as: nothing (U-Ignore), absent (U-Zeros) or present (U-Ones). "
        "Every policy is scored on the same test images, whose labels are certain, with intervals over patients."
    )
    sections = [table(columns, lines, columns[4:9]), *said] if lines else list(said)
    return page("Uncertain labels", lead, sections, {name: str(value) for name, value in run.items()}, caution)
