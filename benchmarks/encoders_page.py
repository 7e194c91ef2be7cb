"""What benchmarks/encoders.py compares, and how its page says it.

R: bootstrap replicates, N: held-out images, K: classes. Every encoder answers for the same images, and every statistic
is resampled over the same patients, so a difference of two encoders is the difference of their replicates.

Which encoder is best in a column is chosen on the data that then compares it with the others. The p-values are
therefore corrected over all pairs of encoders of a column (Holm 1979), not over the pairs with the best one alone.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch

from hilum.data.store import Dataset
from hilum.errors import DatasetError
from hilum.identity import code_revision
from hilum.judgement import stats
from hilum.judgement.probing.svm import Floats
from hilum.judgement.probing.tasks import METRICS, SMALLER_IS_BETTER
from hilum.recipe import Recipe, digest

FLOOR: Final = "pixels"
SEED: Final = 0  # of the resamples of patients
LABEL: Final = "no_finding"
LEVEL: Final = 0.05
LABELS_OF: Final = {"supervised": "labels", "discern": "weight_labels"}  # where a section names what it learns from
BY_HAND: Final = "<!-- What follows is written by hand; the command keeps it. -->"


@dataclass(frozen=True)
class Column:
    """One question of the table."""

    task: str
    metric: str
    title: str
    kind: str

    @property
    def is_label(self) -> bool:
        """Whether a label is asked for, not an attribute of the person or the film."""
        return self.task not in ("sex", "view", "age")

    @property
    def sign(self) -> int:
        """1 where more is better, -1 for an error."""
        return -1 if self.metric in SMALLER_IS_BETTER else 1

    @property
    def digits(self) -> int:
        """Decimal places that are shown."""
        return 2 if self.metric == "mae" else 3


SEX = Column("sex", "balanced_accuracy", "sex, balanced accuracy", "binary")
AGE = Column("age", "mae", "age, mean absolute error in years", "regression")
COLUMNS: Final = {
    "nih": (
        SEX,
        Column("view", "balanced_accuracy", "view, balanced accuracy", "multiclass"),
        AGE,
        Column("no_finding", "auroc", "finding or none, AUROC", "binary"),
        Column("pleural_effusion", "auroc", "effusion, AUROC", "binary"),
        Column("cardiomegaly", "auroc", "cardiomegaly, AUROC", "binary"),
    ),
    "oasis": (Column("view", "balanced_accuracy", "plane, balanced accuracy", "multiclass"), SEX, AGE),
}


@dataclass(frozen=True)
class Compared:
    """One column, all encoders.

    Attributes:
        column: The question.
        values: By encoder, (1 + R,): the score on all held-out images, then on each resample of patients.
        by_seed: By encoder, the score of each training seed.
        n_images: Held-out images that were asked about.
        n_patients: Their patients.
        n_positive: Images with the finding, or of women; None for other questions.
    """

    column: Column
    values: dict[str, Floats]
    by_seed: dict[str, list[float]]
    n_images: int
    n_patients: int
    n_positive: int | None

    @property
    def best(self) -> str:
        """The encoder with the best score."""
        return max(self.values, key=lambda name: self.column.sign * self.values[name][0])

    def p_values(self) -> dict[frozenset[str], float]:
        """For each pair of encoders the two-sided p-value of their difference, corrected over all pairs."""
        pairs = [frozenset(pair) for pair in combinations(self.values, 2)]
        raw = [stats.two_sided((self.values[a] - self.values[b])[1:]) for a, b in map(sorted, pairs)]
        # A difference that no resample defines shows nothing.
        return dict(zip(pairs, stats.holm(np.nan_to_num(raw, nan=1.0)).tolist(), strict=True))

    def facts(self) -> dict[str, Any]:
        """For a program: every figure of the column."""
        p = self.p_values()
        return {
            "metric": self.column.metric,
            "n_images": self.n_images,
            "n_patients": self.n_patients,
            "n_positive": self.n_positive,
            "scores": {name: _known(bounds(values)) for name, values in self.values.items()},
            "by_seed": {name: _known(each) for name, each in self.by_seed.items()},
            "p_holm": {" - ".join(sorted(pair)): value for pair, value in p.items()},
        }


@dataclass(frozen=True)
class Told:
    """What the page says beside the scores."""

    dataset: str
    command: str
    folds: int
    seeds: int
    replicates: int
    minutes: float
    cohort: Dataset
    others: tuple[Dataset, ...]
    recipe: Recipe
    cards: dict[str, list[dict[str, Any]]]
    left_out: dict[str, str]


def compare(column: Column, found: Mapping[str, Sequence[pd.DataFrame]], replicates: int) -> Compared:
    """Score every encoder on one question, on the same resamples of patients.

    Args:
        column: The question.
        found: By encoder, the held-out answers of each training seed (`predictions.parquet`).
        replicates: R.
    """
    wide = {name: [_wide(answers, column) for answers in each] for name, each in found.items()}
    first = next(iter(wide.values()))[0]
    truth = first["truth"].to_numpy()
    truth_N = truth.argmax(axis=1).astype(float) if column.kind == "multiclass" else truth[:, 0]
    patients_N, fold_N = (first.index.get_level_values(name).to_numpy() for name in ("patient", "fold"))
    statistic = METRICS[column.kind][column.metric]
    values, by_seed = {}, {}
    for name, each in wide.items():
        assert all(one["truth"].equals(first["truth"]) for one in each), "all encoders answer for the same images"
        scores = [one["score"].to_numpy() for one in each]
        if column.kind != "multiclass":
            scores = [score[:, 0] for score in scores]
        kept: list[Floats] = []

        def mean_over_seeds(w_RN: Floats, scores: list[Floats] = scores, kept: list[Floats] = kept) -> Floats:
            kept.append(np.mean([statistic(w_RN, truth_N, score, fold_N) for score in scores], axis=0))
            return kept[-1]

        stats.patient_bootstrap(mean_over_seeds, patients_N, replicates, SEED)
        values[name] = np.concatenate(kept)
        once = np.ones((1, len(truth_N)))
        by_seed[name] = [float(statistic(once, truth_N, score, fold_N)[0]) for score in scores]
    positive = int(truth_N.sum()) if column.kind == "binary" else None
    return Compared(column, values, by_seed, len(truth_N), len(np.unique(patients_N)), positive)


def _known(values: Sequence[float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]


def _wide(answers: pd.DataFrame, column: Column) -> pd.DataFrame:
    """One line per image, one column per class under `truth` and `score`."""
    names = answers["task"]
    one = answers[names.str.startswith(f"{column.task}=") if column.kind == "multiclass" else names == column.task]
    if one.empty:
        raise DatasetError(f"no probe could be asked for {column.task}: too few patients of one class in every part")
    return one.pivot(index=["row", "patient", "fold"], columns="task", values=["truth", "score"]).sort_index()


def bounds(values: Floats) -> tuple[float, float, float]:
    """The score with its 95% percentile interval; without bounds where half of the resamples leave it undefined."""
    drawn = values[1:][np.isfinite(values[1:])]
    if not len(drawn) or len(drawn) < stats.MIN_DEFINED_SHARE * (len(values) - 1):
        return float(values[0]), math.nan, math.nan
    low, high = np.quantile(drawn, [(1 - stats.CONFIDENCE) / 2, (1 + stats.CONFIDENCE) / 2])
    return float(values[0]), float(low), float(high)


def write(told: Told, columns: Sequence[Compared]) -> str:
    """The page, in Markdown."""
    names = list(columns[0].values)
    title = {"nih": "Encoders on the NIH sample", "oasis": "Encoders on OASIS-1"}[told.dataset]
    header = ("encoder", *(one.column.title for one in columns))
    blocks = [
        f"# {title}, {told.cohort.facts.preprocessing.size} pixels",
        f"{_cohort(told)} {_protocol(told)}",
        f"```sh\n{told.command}\n```",
        "## Scores",
        "On held-out patients, with 95% intervals from resampling patients. **Bold**: better than `pixels`, the paired "
        "difference's interval excludes 0; *italic*: worse. The lines stand in no order of merit. An interval without "
        "width says that no resample erred, not that none could.",
        _table(
            header,
            [
                ("images / patients", *(f"{one.n_images:,} / {one.n_patients:,}" for one in columns)),
                ("positive images", *("" if one.n_positive is None else f"{one.n_positive:,}" for one in columns)),
                ("chance", *(_chance(told, one) for one in columns)),
                *((f"`{name}`", *(_score(one, name) for one in columns)) for name in names),
            ],
        ),
        "## What each gains over the pixels",
        "Encoder minus `pixels` on the same resamples; an age error that falls is a gain. "
        f"These are {len(columns) * (len(names) - 1)} comparisons without a correction: of encoders that gain nothing, "
        "one difference in twenty is marked by chance.",
        _table(header, [(f"`{n}`", *(_against(one, n, FLOOR) for one in columns)) for n in names if n != FLOOR]),
        "## Against the best of each column",
        "Difference to the best score of the column, and the p-value of the paired comparison, corrected over all "
        f"{len(names) * (len(names) - 1) // 2} pairs of encoders of the column (Holm), since the best is chosen on the "
        f"same patients. **Bold**: below {LEVEL:g}, so this one is worse than the best. Where it is not, no order "
        "between the two is claimed.",
        _table(header, [(f"`{name}`", *(_against_best(one, name) for one in columns)) for name in names]),
        "## The trainings",
        _table(TRAININGS, [_training(told, name) for name in names]),
        TRAININGS_WORDS + (f" {_seed_words(columns)}" if told.seeds > 1 else ""),
        *(f"`{name}` is left out: {reason}." for name, reason in told.left_out.items()),
        "## What was run",
        _origin(told),
        BY_HAND,
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


TRAININGS: Final = (
    "encoder", "trainings", "minutes each, mean (most)", "epochs", "images / patients", "parameters", "width",
    "effective rank", "pairs that fall back",
)  # fmt: skip
TRAININGS_WORDS: Final = (
    "Minutes are wall time. Parameters are those of the embedder, which is what is kept. The effective rank (Roy and "
    "Vetterli 2007) is of embeddings of training images, least of all trainings: 1 is a collapse to a line. Pairs fall "
    "back to two views of one image where the patient has no other that the rule admits."
)


def _training(told: Told, name: str) -> tuple[str, ...]:
    cards = told.cards[name]
    minutes = [card["seconds"] / 60 for card in cards]
    killed = any(card["killed"] for card in cards)
    fallback = cards[0]["pair_fallback_share"]
    return (
        f"`{name}`",
        str(len(cards)),
        f"{'at least ' if killed else ''}{np.mean(minutes):.1f} ({max(minutes):.1f})",
        str(cards[0]["epochs"] or "none"),
        f"{np.mean([c['n_images'] for c in cards]):,.0f} / {np.mean([c['n_patients'] for c in cards]):,.0f}",
        f"{cards[0]['parameters'] / 1e6:.2f} M",
        str(cards[0]["dim"]),
        f"{min(card['collapse']['effective_rank'] for card in cards):.1f}"
        + (" (collapsed)" if any(card["collapse"]["warning"] for card in cards) else ""),
        "" if fallback is None else f"{np.mean([card['pair_fallback_share'] for card in cards]):.0%}",
    )


def _cohort(told: Told) -> str:
    facts = told.cohort.facts
    words = f"{facts.n_images:,} images of {facts.n_patients:,} patients are asked about. {facts.caution}"
    if told.others:
        more = " and ".join(
            f"all {other.facts.n_images:,} images of {other.facts.n_patients:,} patients of {other.facts.layout}"
            for other in told.others
        )
        words += f" Encoders learn from the images of the training patients, and from {more} (`hilum unite`)."
    return words


def _protocol(told: Told) -> str:
    way = (
        f"There are {told.folds} patient-disjoint parts; each encoder is trained {told.folds} times without one of "
        "them, and a probe fitted on the training patients answers for the part that was left out, so that every image "
        "is answered for by an encoder and a probe that have not seen its patient. AUROCs compare images of one part "
        "only."
        if told.folds > 1
        else "Encoders and probes see the train split of the dataset; the probe answers for the test split."
    )
    seeds = (
        f" Each is trained with {told.seeds} seeds, and scores are the mean over the seeds' scores."
        if told.seeds > 1
        else " One training seed."
    )
    return (
        f"{way}{seeds} That no held-out patient or picture is among the training images is checked by id and by "
        "pixels. Probes are support vector machines with an RBF kernel, named beforehand, their settings chosen inside "
        f"the training patients. {_learned_from(told)}"
    )


def _learned_from(told: Told) -> str:
    """Which encoders have seen labels of the training patients, and which labels."""
    seen = {
        encoder.name: labels
        for encoder in told.recipe.encoders
        if encoder.name in told.cards and (labels := getattr(encoder, LABELS_OF.get(encoder.name, ""), ()))
    }
    words = [f"`{name}` has learned from labels of the training patients: {', '.join(seen[name])}." for name in seen]
    return " ".join([*words, "The other encoders have seen no label." if seen else "No encoder has seen a label."])


def _score(one: Compared, name: str) -> str:
    value, low, high = (f"{bound:.{one.column.digits}f}" for bound in bounds(one.values[name]))
    cell = f"{value} [{low}, {high}]"
    if name == FLOOR:
        return cell
    _, below, above = bounds(one.column.sign * (one.values[name] - one.values[FLOOR]))
    return f"**{cell}**" if below > 0 else f"*{cell}*" if above < 0 else cell


def _against(one: Compared, name: str, other: str) -> str:
    value, low, high = bounds(one.values[name] - one.values[other])
    digits = one.column.digits
    cell = f"{value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
    if one.column.sign < 0:
        low, high = -high, -low
    return f"**{cell}**" if low > 0 else f"*{cell}*" if high < 0 else cell


def _against_best(one: Compared, name: str) -> str:
    if name == one.best:
        return "best score"
    p = one.p_values()[frozenset((name, one.best))]
    value, low, high = (f"{b:+.{one.column.digits}f}" for b in bounds(one.values[name] - one.values[one.best]))
    cell = f"{value} [{low}, {high}], p {'< 0.001' if p < 0.001 else f'{p:.3f}'}"
    return f"**{cell}**" if p < LEVEL else cell


def _chance(told: Told, one: Compared) -> str:
    """What is reached without looking: for age, by answering the mean age of the training patients."""
    chances = {card["fold"]: card["chance"] for card in told.cards[FLOOR]}
    found = [each[one.column.task] for each in chances.values() if each.get(one.column.task) is not None]
    return f"{np.nanmean(found):.{one.column.digits - 1}f}" if found else ""


def _seed_words(columns: Sequence[Compared]) -> str:
    """How far apart the training seeds are, beside the intervals, which are about patients."""
    told = ", ".join(
        f"{one.column.task} {np.mean([np.std(each, ddof=1) for each in one.by_seed.values() if len(each) > 1]):.3f}"
        for one in columns
        if any(len(each) > 1 for each in one.by_seed.values())
    )
    return f"Standard deviation between training seeds, mean over the encoders: {told}."


def _origin(told: Told) -> str:
    sources = ", ".join(f"{one.facts.layout} `{one.facts.digest[:12]}`" for one in (told.cohort, *told.others))
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
    precisions = sorted({str(card["precision"]) for cards in told.cards.values() for card in cards})
    recipe = f"recipe `{digest(told.recipe)[:12]}` (pipelines/recipes/encoders-{told.dataset}.yaml)"
    return (
        f"Code `{code_revision()}`, {recipe}, data {sources}. {len(os.sched_getaffinity(0))} CPU cores, {device}, "
        f"torch {torch.__version__}, trained in {' and '.join(precisions)}. {told.replicates:,} resamples."
    )


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["-"] * len(header), *lines))


def replace(path: Path, text: str) -> None:
    """Write the page whole, keeping what was written by hand below the old one."""
    kept = path.read_text(encoding="utf-8").partition(BY_HAND)[2] if path.is_file() else ""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text.rstrip("\n") + (kept or "\n"), encoding="utf-8")
    partial.replace(path)
