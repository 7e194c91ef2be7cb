"""The leaderboard: every encoder by modality on the same questions, beside the floor that `pixels` sets.

leaderboard.csv    one row per modality and encoder; for each task its value, bounds, n, chance level and what it gains
                   over the floor
leaderboard.md, leaderboard.html    the same for reading (hilum.judgement.leaderboard.standings)

Encoders are scored on the same patients, so overlapping intervals do not say that two are equal, and intervals side by
side do not say which is better: only a paired comparison does. The one made here is with the floor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from hilum import progress
from hilum.data import parquet
from hilum.data.manifest import MODALITIES
from hilum.data.store import read_json
from hilum.errors import DatasetError, UsageError
from hilum.judgement import stats
from hilum.judgement.leaderboard import paired, standings
from hilum.judgement.probing.probes import FACTS, PREDICTIONS, SCORES
from hilum.judgement.probing.tasks import ATTRIBUTES, COMPETITION, COMPETITION_MEAN, FINDINGS_MEAN, NO_FINDING

FLOOR: Final = "pixels"
CSV: Final = "leaderboard.csv"


@dataclass(frozen=True)
class Probed:
    """A probe folder, read: its facts, its headline scores by task, and the headline kernel's predictions."""

    facts: dict[str, Any]
    scores: pd.DataFrame
    predictions: pd.DataFrame

    @property
    def name(self) -> tuple[str, str]:
        """Modality and encoder."""
        return str(self.facts["modality"]), str(self.facts["encoder"])


def run(probes: list[Path], out: Path) -> pd.DataFrame:
    """Gather probes of one dataset into a leaderboard.

    Args:
        probes: Probe folders, one per modality and encoder; each modality has `pixels` among them.
        out: Folder to write into.

    Returns:
        What `leaderboard.csv` holds.

    Raises:
        UsageError: A modality has no floor, an encoder is there twice, or the probes are not of one dataset and recipe.
        DatasetError: A folder is no probe.
    """
    read = sorted((read_probe(folder) for folder in probes), key=lambda one: _order(one.name))
    _comparable(read)
    floors = {probed.name[0]: probed for probed in read if probed.name[1] == FLOOR}
    gains = {
        probed.name: _gains(probed, floors[probed.name[0]])
        for probed in progress.track(read, "compare", unit="encoder")
        if probed.name[1] != FLOOR
    }
    board = pd.DataFrame([_row(probed, gains.get(probed.name, {}), _tasks(read)) for probed in read])
    out.mkdir(parents=True, exist_ok=True)
    partial = out / f"{CSV}.partial"
    board.to_csv(partial, index=False)
    partial.replace(out / CSV)
    standings.write([(probed.facts, probed.scores) for probed in read], gains, _tasks(read), out)
    return board


def read_probe(folder: Path) -> Probed:
    """Read a probe folder, its headline kernel and each task's headline metric only.

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
    shown = (scores["kernel"] == kernel) & (scores["metric"] == asked)
    return Probed(facts, scores[shown].set_index("task"), predictions[predictions["kernel"] == kernel])


def headline(task: str, kind: str) -> str:
    """The metric that stands for a task of a kind: named here once, not chosen by its value."""
    if kind == "regression":
        return "mae"
    return "balanced_accuracy" if kind == "multiclass" or task in ATTRIBUTES else "auroc"


def _comparable(read: Sequence[Probed]) -> None:
    names = [probed.name for probed in read]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"{twice[0][1]!r} is there twice for {twice[0][0]}; a leaderboard takes each encoder once")
    bare = sorted({modality for modality, _ in names} - {modality for modality, encoder in names if encoder == FLOOR})
    if bare or not names:
        raise UsageError(
            f"there is no `{FLOOR}` among the probes{' of ' + ', '.join(bare) if bare else ''}: it is the floor that "
            "every encoder must beat, and no leaderboard is made without it"
        )
    for what, said in (("dataset", "data_digest"), ("probe recipe", "recipe_digest")):
        digests = {probed.facts["run"][said] for probed in read}
        if len(digests) > 1:
            raise UsageError(
                f"these probes differ in their {what} ({', '.join(sorted(digest[:12] for digest in digests))}); "
                "only probes of one dataset by one recipe compare"
            )


def _order(name: tuple[str, str]) -> tuple[int, bool, str]:
    """X-rays before MRI; the floor first, the others by name: the order of lines says nothing of quality."""
    return MODALITIES.index(name[0]), name[1] != FLOOR, name[1]


def _tasks(read: Sequence[Probed]) -> list[str]:
    """All tasks: attributes, age and the summary first, then labels as the dataset names them."""
    first = [*ATTRIBUTES, "age", FINDINGS_MEAN, COMPETITION_MEAN, NO_FINDING]
    found = list(dict.fromkeys(str(task) for probed in read for task in probed.scores.index))
    return [task for task in first if task in found] + [task for task in found if task not in first]


def _gains(ours: Probed, floor: Probed) -> dict[str, stats.Interval]:
    """What an encoder gains over the floor, by task that both answered; above 0 means better, also for errors."""
    gains = {}
    for task, score in ours.scores.iterrows():
        if pd.isna(score["value"]) or task not in floor.scores.index or pd.isna(floor.scores.loc[task, "value"]):
            continue
        mine, other = (_predictions(probed, str(task), str(score["kind"])) for probed in (ours, floor))
        gains[str(task)] = paired.gain(mine, other, str(score["kind"]), str(score["metric"]))
    return gains


def _predictions(probed: Probed, task: str, kind: str) -> pd.DataFrame:
    names = probed.predictions["task"]
    if kind == "multiclass":
        return probed.predictions[names.str.startswith(f"{task}=")]
    if task == COMPETITION_MEAN:
        return probed.predictions[names.isin(COMPETITION)]
    if kind == "mean":
        scored = probed.scores[(probed.scores["metric"] == "auroc") & probed.scores["value"].notna()].index
        return probed.predictions[names.isin(set(scored) - {NO_FINDING, FINDINGS_MEAN})]
    return probed.predictions[names == task]


def _row(probed: Probed, gains: dict[str, stats.Interval], tasks: Sequence[str]) -> dict[str, Any]:
    modality, encoder = probed.name
    row: dict[str, Any] = {"modality": modality, "encoder": encoder, "dim": probed.facts["dim"]}
    for task in tasks:
        if task not in probed.scores.index:
            continue  # not asked of this modality: the cell stays empty
        score = probed.scores.loc[task]
        stem = f"{task}_{score['metric']}"
        row[stem] = score["value"]
        row |= {f"{stem}_{name}": score[name] for name in ("low", "high", "n", "n_patients", "chance", "note")}
        if gain := gains.get(task):
            row |= {f"{stem}_gain": gain.value, f"{stem}_gain_low": gain.low, f"{stem}_gain_high": gain.high}
    return row
