"""Label-efficiency curves: what a probe reaches with 0.1%, 1%, 10% and all of the training patients.

efficiency.csv     one row per label, share and draw: its AUROC on the whole test split, and the mean over the draws
                   with its interval; a share that leaves too few cases is one row that says so
efficiency.json    which encoder, modality, data, recipe and draws

Every encoder learns from the same draws of patients (hilum.judgement.probing.draws) and is scored on the same test
images. One machine is held to all shares, its settings chosen inside each draw, since with few labels there are no
others to choose them on.

Legend: N rows, M test rows, J draws, R bootstrap replicates.
"""

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import t as student

from hilum import progress
from hilum.data.manifest import UncertainPolicy
from hilum.data.store import Dataset, write_json
from hilum.data.vectors import Vectors
from hilum.errors import UsageError
from hilum.identity import Run, code_revision
from hilum.judgement import stats
from hilum.judgement.probing.draws import Draw, digest_of, draws
from hilum.judgement.probing.machines import fit_and_score
from hilum.judgement.probing.svm import Floats
from hilum.judgement.probing.tasks import SHORT, Part, Task, ask
from hilum.recipe import Probe, digest

CSV: Final = "efficiency.csv"
FACTS: Final = "efficiency.json"
COLUMNS: Final = (
    "encoder", "modality", "label", "kernel", "fraction", "draw", "n_images", "n_patients", "n_positive",
    "n_positive_patients", "auroc", "mean", "low", "high", "draws_sd", "n_draws", "n_test", "n_test_patients",
    "n_test_positive", "note",
)  # fmt: skip


def run(dataset: Path, vectors: Path, recipe: Probe, out: Path) -> pd.DataFrame:
    """Fit one machine to growing shares of the training patients, label by label.

    Args:
        dataset: The dataset folder; its split counts, whatever `recipe.folds` says.
        vectors: Embeddings of it.
        recipe: `efficiency` (labels, machine, shares, draws), grids, limits and seed.
        out: Folder to write.

    Returns:
        What `efficiency.csv` holds.

    Raises:
        DatasetError: A folder is not whole, or the embeddings are of another dataset.
        UsageError: A label is asked for that the dataset lacks.
    """
    cohort, embedded = Dataset.open(dataset), Vectors.open(vectors)
    wanted = recipe.efficiency.labels or cohort.facts.labels
    if strange := sorted(set(wanted) - set(cohort.facts.labels)):
        raise UsageError(f"the dataset has no label {strange[0]!r}; it has {', '.join(cohort.facts.labels)}")
    table = embedded.joined(cohort)
    train, test = (np.flatnonzero(table["split"] == split) for split in ("train", "test"))
    ignored: dict[str, UncertainPolicy] = {}
    number = embedded.rows["row"].to_numpy()
    labels, learnt = (
        cohort.labels(policy)[list(wanted)].iloc[number].reset_index(drop=True)
        for policy in (ignored, {**ignored, **recipe.uncertain})
    )
    asked = ask(table, labels, [Part(train, test, 0)], recipe.min_cases, learnt=learnt)
    tasks = [task for task in asked if task.name in wanted]
    drawn = draws(table["patient_id"], train, recipe.efficiency.fractions, recipe.efficiency.draws, recipe.seed)
    patients = pd.factorize(table["patient_id"], sort=True)[0]
    rows = _curves(embedded.z_ND, patients, tasks, drawn, test, recipe, embedded)
    scores = pd.DataFrame(rows, columns=list(COLUMNS[2:]))
    scores.insert(0, "modality", embedded.facts.modality)
    scores.insert(0, "encoder", embedded.facts.encoder)
    out.mkdir(parents=True, exist_ok=True)
    (out / FACTS).unlink(missing_ok=True)  # written last: a folder that has it is whole
    partial = out / f"{CSV}.partial"
    scores.to_csv(partial, index=False)
    partial.replace(out / CSV)
    run_of = Run(
        code_revision=code_revision(), data_digest=embedded.facts.run["data_digest"], recipe_digest=digest(recipe)
    )
    left_out = scores[scores["auroc"].isna()]
    write_json(
        out / FACTS,
        {
            "encoder": embedded.facts.encoder,
            "modality": embedded.facts.modality,
            "kernel": recipe.efficiency.kernel,
            "fractions": sorted(set(recipe.efficiency.fractions)),
            "n_draws": recipe.efficiency.draws,
            "draws_digest": digest_of(drawn, number),
            "draws": "of patients, by a hash of seed, draw and patient; the shares of one draw are nested",
            "n_train_patients": int(table["patient_id"].iloc[train].nunique()),
            "left_out": [
                {"label": row.label, "fraction": None if math.isnan(row.fraction) else row.fraction, "why": row.note}
                for row in left_out.itertuples()
            ],
            "caution": cohort.facts.caution,
            "run": run_of,
            "embedding_run": embedded.facts.run,
        },
    )
    return scores


def plot(folders: Sequence[Path], out: Path) -> None:
    """Draw the curves of several encoders (hilum.judgement.probing.efficiency_plot, which brings matplotlib)."""
    from hilum.judgement.probing import efficiency_plot

    efficiency_plot.plot(folders, out)


def over_draws(
    truth_M: Floats, score_JM: Floats, patients_M: NDArray[Any], replicates: int, seed: int
) -> tuple[stats.Interval, float]:
    """Mean AUROC over draws of the training patients, its interval, and the standard deviation between draws.

    Two things are chance: which patients the test split has, and which patients were drawn to learn from. The first is
    the patient bootstrap of the mean, all draws scored on the same resample. The second is t * sd / sqrt(J), with J - 1
    degrees of freedom. They are joined as variance estimates are recovered from intervals (Zou & Donner 2008, equation
    4): low = mean - sqrt((mean - low_test)^2 + half_draws^2), and high likewise. So the interval keeps the bootstrap's
    skewness, and five draws count as five. Draws from one training split overlap, the more so at large shares; what
    another training split would do is not in it. A single draw leaves the test part alone.

    Args:
        truth_M: 1 or 0.
        score_JM: Scores of the same rows after each draw.
        patients_M: One id per row.
        replicates: Of the bootstrap.
        seed: Of it.
    """

    def mean(w_RM: Floats, truth_M: Floats, score_MJ: Floats) -> Floats:
        return np.asarray(np.mean([stats.weighted_auroc(w_RM, truth_M, one) for one in score_MJ.T], axis=0))

    each = mean_each(truth_M, score_JM)
    found = stats.patient_bootstrap(mean, patients_M, replicates, seed, truth_M, score_JM.T)
    if len(score_JM) < 2:
        note = "; ".join(part for part in (found.note, "one draw: how the training patients vary is not in it") if part)
        return stats.Interval(**{**vars(found), "note": note}), math.nan
    sd = float(np.std(each, ddof=1))
    half = float(student.ppf((1 + stats.CONFIDENCE) / 2, len(each) - 1)) * sd / math.sqrt(len(each))
    low = found.value - math.hypot(found.value - found.low, half)
    high = found.value + math.hypot(found.high - found.value, half)
    return stats.Interval(**{**vars(found), "low": max(0.0, low), "high": min(1.0, high)}), sd


def mean_each(truth_M: Floats, score_JM: Floats) -> Floats:
    """The AUROC after each draw, (J,)."""
    ones = np.ones((1, len(truth_M)))
    return np.array([stats.weighted_auroc(ones, truth_M, score_M)[0] for score_M in score_JM])


def _curves(
    z_ND: NDArray[Any],
    patients: NDArray[Any],
    tasks: Sequence[Task],
    drawn: Sequence[Draw],
    test: NDArray[np.int64],
    recipe: Probe,
    embedded: Vectors,
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    shares = list(dict.fromkeys(draw.fraction for draw in drawn))
    todo = [(task, share) for task in tasks if not task.short for share in shares]
    title = f"label efficiency {embedded.facts.encoder} {embedded.facts.modality}"
    with (
        ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool,
        progress.bar(title, len(todo), "share") as shown,
    ):

        def one(pair: tuple[Task, float]) -> list[dict[str, Any]]:
            task, share = pair
            found = _share(z_ND, patients, task, [draw for draw in drawn if draw.fraction == share], test, recipe)
            shown.update()
            return found

        by_pair = dict(zip([(task.name, share) for task, share in todo], pool.map(one, todo), strict=True))
    for task in tasks:
        if task.short:
            rows.append(_row(task, recipe, math.nan, note=task.short))
        else:
            rows += [row for share in shares for row in by_pair[task.name, share]]
    return rows


def _share(
    z_ND: NDArray[Any],
    patients: NDArray[Any],
    task: Task,
    drawn: Sequence[Draw],
    test: NDArray[np.int64],
    recipe: Probe,
) -> list[dict[str, Any]]:
    """The rows of one label and share: one per draw, or one that says why there is none."""
    fraction, least = drawn[0].fraction, recipe.efficiency.min_cases
    known = [draw.rows[np.isfinite(task.fitted_to[draw.rows])] for draw in drawn]
    # Of certain labels: a draw with hardly any of them cannot choose its settings.
    cases = [min(len(np.unique(patients[rows[task.y_N[rows] == value]])) for value in (0, 1)) for rows in known]
    if min(cases) < least:
        # The whole share, not the poor draws alone: those left would be the ones that happened to find more cases.
        some = f"{min(cases)} to {max(cases)}" if min(cases) < max(cases) else f"{min(cases)}"
        why = f"{SHORT}: patients of the rarer class in a draw: {some}, needed in each: {least}"
        return [_row(task, recipe, fraction, note=why)]
    held = test[np.isfinite(task.y_N[test])]
    truth, scores, notes = task.y_N[held], [], []
    for rows in known:
        data = (z_ND[rows], task.fitted_to[rows], patients[rows], z_ND[held])
        certain = np.isfinite(task.y_N[rows])
        found = fit_and_score(*data, "binary", recipe.efficiency.kernel, recipe, task.judge, certain)
        scores.append(found.score)
        notes.append("; ".join([*found.notes, found.setting.words(recipe.efficiency.kernel)]))
    score_JM = np.stack(scores)
    mean, sd = over_draws(truth, score_JM, patients[held], recipe.bootstrap, recipe.seed)
    counts = {
        "n_test": len(held),
        "n_test_patients": mean.n_patients,
        "n_test_positive": int(truth.sum()),
        "mean": mean.value,
        "low": mean.low,
        "high": mean.high,
        "draws_sd": sd,
        "n_draws": len(drawn),
    }
    return [
        _row(
            task,
            recipe,
            fraction,
            draw=draw.number,
            n_images=len(rows),
            n_patients=len(np.unique(patients[rows])),
            n_positive=int((task.fitted_to[rows] == 1).sum()),
            n_positive_patients=len(np.unique(patients[rows[task.fitted_to[rows] == 1]])),
            auroc=auroc,
            note="; ".join(part for part in (mean.note, note) if part),
            **counts,
        )
        for draw, rows, auroc, note in zip(drawn, known, mean_each(truth, score_JM), notes, strict=True)
    ]


def _row(task: Task, recipe: Probe, fraction: float, **found: Any) -> dict[str, Any]:
    blank = dict.fromkeys(COLUMNS[5:-1], math.nan)
    return {**blank, "label": task.name, "kernel": recipe.efficiency.kernel, "fraction": fraction, **found}
