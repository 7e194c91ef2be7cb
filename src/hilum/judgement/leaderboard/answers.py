"""What goes on the leaderboard: the answers of probe folders and of fine-tuning folders, in one form.

An encoder answers in several ways: by a probe on its frozen embedding, or fine-tuned with a linear layer or end to end,
from the image alone or with covariates.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pandas as pd

from hilum.data import parquet
from hilum.data.store import read_json
from hilum.errors import DatasetError
from hilum.judgement import stats
from hilum.judgement.probing.probes import FACTS, PREDICTIONS, SCORES
from hilum.judgement.probing.tasks import ATTRIBUTES, COMPETITION, COMPETITION_MEAN, FINDINGS_MEAN, NO_FINDING

PROBE: Final = "probe"
COVARIATES: Final = "covariates only"
MODES: Final = {"linear": "linear", "end_to_end": "end-to-end"}
WAYS: Final = (PROBE, "linear", "linear, stacked", "end-to-end", "end-to-end, stacked", COVARIATES)
LADDER: Final = "fusion.json"  # of `hilum fusion`, and of the pipeline's step
LADDER_SCORES: Final = "fusion.csv"
CARD: Final = "card.json"  # of a fine-tuning
ONE_SCORE: Final = "test.json"  # of `hilum finetune`


@dataclass(frozen=True)
class Answer:
    """One score of one encoder.

    Attributes:
        encoder: Its name; empty for what looks at no image.
        way: One of WAYS.
        task: Name of the question.
        kind: `binary`, `multiclass`, `regression`, or `mean` for a mean over labels.
        metric: The one that stands for the task.
        covariates: Whether covariates were looked at.
        score: With its interval; where undefined, why.
        n_positive: Rows with the finding; NaN where there is no such thing.
        chance: What is reached without looking; NaN where not known.
        predictions: What is compared: one line per row, or per row and class or label; empty where undefined.
        fusion: How covariates were joined to the image; empty where none were.
    """

    encoder: str
    way: str
    task: str
    kind: str
    metric: str
    covariates: bool
    score: stats.Interval
    n_positive: float
    chance: float
    predictions: pd.DataFrame
    fusion: str = ""


@dataclass(frozen=True)
class Source:
    """One folder of answers.

    Attributes:
        facts: What it says of itself: `modality`, `encoder`, `label`, `run`, `caution`, and what is its own.
        answers: Its scores.
        encoder_recipe: Digest of the recipe by which its encoder was trained.
        weights: Digest of its encoder's weights; empty where the folder does not say.
        recipes: By mode and fusion the digest of the recipe of each fine-tuning; none for a probe.
    """

    facts: dict[str, Any]
    answers: tuple[Answer, ...]
    encoder_recipe: str
    weights: str = ""
    recipes: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def cohort(self) -> str:
        """Digest of the dataset."""
        return str(self.facts["run"]["data_digest"])

    @property
    def modality(self) -> str:
        """XR or MR."""
        return str(self.facts["modality"])

    @property
    def encoder(self) -> str:
        """Name of the encoder."""
        return str(self.facts["encoder"])


def headline(task: str, kind: str) -> str:
    """The metric that stands for a task of a kind: named here once, not chosen by its value."""
    if kind == "regression":
        return "mae"
    return "balanced_accuracy" if kind == "multiclass" or task in ATTRIBUTES else "auroc"


def read_probe(folder: Path) -> Source:
    """Read a probe folder: its headline kernel, each task's headline metric.

    Raises:
        DatasetError: The folder is none.
    """
    if not (folder / FACTS).is_file():
        raise DatasetError(f"{folder} holds no probe: it has no {FACTS}; `hilum probe` writes one")
    facts = read_json(folder / FACTS)
    try:
        scores = pd.read_csv(folder / SCORES)
        predictions = parquet.read(folder / PREDICTIONS)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{folder} is not a whole probe; probe again: {error}") from error
    kernel = facts["headline_kernel"]
    asked = [headline(task, kind) for task, kind in zip(scores["task"], scores["kind"], strict=True)]
    scores = scores[(scores["kernel"] == kernel) & (scores["metric"] == asked)]
    predictions = predictions[predictions["kernel"] == kernel]
    answers = tuple(
        Answer(
            encoder=str(facts["encoder"]), way=PROBE, task=str(row["task"]), kind=str(row["kind"]),
            metric=str(row["metric"]), covariates=False, score=_interval(row), n_positive=_number(row["n_positive"]),
            chance=_number(row["chance"]), predictions=_of_task(predictions, scores, row),
        )
        for _, row in scores.iterrows()
    )  # fmt: skip
    weights = str(facts.get("encoder_weights", ""))
    return Source(facts, answers, str(facts["embedding_run"]["recipe_digest"]), weights)


def read_tuned(folder: Path) -> Source | str:
    """Read what `hilum fusion` or `hilum finetune` wrote, or the pipeline's step of the same name.

    Returns:
        The sentence that says why where the step was refused.

    Raises:
        DatasetError: The folder is none, or not whole.
    """
    try:
        if (folder / LADDER).is_file():
            facts = read_json(folder / LADDER)
            return _ladder(folder, facts) if facts["answered"] else f"{_words(facts['label'])}: {facts['why']}"
        if (folder / ONE_SCORE).is_file():
            return _single(folder)
    except (OSError, ValueError, KeyError) as error:
        raise DatasetError(f"{folder} is not a whole fine-tuning; fine-tune again: {error}") from error
    raise DatasetError(
        f"{folder} holds no scored fine-tuning: it has neither {LADDER} nor {ONE_SCORE}; `hilum fusion` and "
        "`hilum finetune` write them"
    )


def _ladder(folder: Path, facts: dict[str, Any]) -> Source:
    scores = pd.read_csv(folder / LADDER_SCORES)
    scores = scores[(scores["rows"] == "all") & (scores["metric"] == "auroc")]
    predictions = parquet.read(folder / PREDICTIONS)
    fusions = {mode: set(part["fusion"]) for mode, part in scores.groupby("mode")}
    answers = []
    for _, row in scores.iterrows():
        mode, fusion = str(row["mode"]), str(row["fusion"])
        if fusion == "concatenation" and "gated" in fusions[mode]:
            continue  # a row has one fusion: gated where it was asked for; the ladder's own page compares them
        kernel = fusion if fusion == "tabular_only" else f"{mode}_{fusion}"
        answers.append(_answer(facts, mode, fusion, row, predictions[predictions["kernel"] == kernel]))
    cards = {(mode, fusion): folder / mode / fusion / CARD for mode in fusions for fusion in fusions[mode]}
    found = {key: read_json(path) for key, path in cards.items() if path.is_file()}
    weights = next((str(card["encoder_weights"]) for card in found.values()), "")
    recipes = {key: str(card["run"]["recipe_digest"]) for key, card in found.items()}
    return Source(facts, tuple(answers), str(facts["encoder_run"]["recipe_digest"]), weights, recipes)


def _single(folder: Path) -> Source:
    facts, card = read_json(folder / ONE_SCORE), read_json(folder / CARD)
    mode, fusion = str(facts["mode"]), str(facts["fusion"])
    row = pd.Series({**facts["auroc"], "n_positive": facts["n_positive"]})
    answer = _answer(facts, mode, fusion, row, parquet.read(folder / PREDICTIONS))
    recipes = {(mode, fusion): str(card["run"]["recipe_digest"])}
    return Source(facts, (answer,), str(card["encoder_run"]["recipe_digest"]), str(card["encoder_weights"]), recipes)


def _answer(facts: dict[str, Any], mode: str, fusion: str, row: "pd.Series[Any]", predictions: pd.DataFrame) -> Answer:
    way = COVARIATES if fusion == "tabular_only" else MODES[mode] + (", stacked" if fusion == "stacking" else "")
    return Answer(
        encoder="" if way == COVARIATES else str(facts["encoder"]), way=way, task=str(facts["label"]), kind="binary",
        metric="auroc", covariates=fusion != "image_only", score=_interval(row),
        n_positive=_number(row["n_positive"]), chance=0.5, predictions=predictions,
        fusion="" if fusion in ("image_only", "tabular_only") else fusion,
    )  # fmt: skip


def _of_task(predictions: pd.DataFrame, scores: pd.DataFrame, row: "pd.Series[Any]") -> pd.DataFrame:
    task, kind, names = str(row["task"]), str(row["kind"]), predictions["task"]
    if pd.isna(row["value"]):
        return predictions[:0]
    if kind == "multiclass":
        return predictions[names.str.startswith(f"{task}=")]
    if task == COMPETITION_MEAN:
        return predictions[names.isin(COMPETITION)]
    if kind == "mean":
        scored = scores.loc[(scores["metric"] == "auroc") & scores["value"].notna(), "task"]
        return predictions[names.isin(set(scored) - {NO_FINDING, FINDINGS_MEAN})]
    return predictions[names == task]


def _interval(row: "pd.Series[Any]") -> stats.Interval:
    value, low, high = (_number(row[name]) for name in ("value", "low", "high"))
    note = "" if pd.isna(row["note"]) else str(row["note"])
    return stats.Interval(value, low, high, int(row["n"]), int(row["n_patients"]), note=note)


def _number(value: Any) -> float:
    return math.nan if pd.isna(value) else float(value)


def _words(name: str) -> str:
    return name.replace("_", " ")
