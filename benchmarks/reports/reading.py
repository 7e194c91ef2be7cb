"""What is read of a finished run: the files that the pipeline published, and three that it keeps."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from hilum.data.store import FACTS, Dataset, read_json
from hilum.data.verdict import Verdict as Validation
from hilum.delivery.cards import cohort
from hilum.errors import DatasetError
from hilum.judgement.fairness import mitigation
from hilum.judgement.gate.evidence import AUDIT, FLOOR, SHORTCUTS
from hilum.judgement.gate.verdict import VERDICT, Verdict
from hilum.judgement.leaderboard.board import COMPARISONS as COMPARISONS
from hilum.judgement.probing import efficiency, head, probes
from hilum.recipe import Recipe, digest

GATE: Final = f"gate/{VERDICT}"
TIMING: Final = "timing.json"
PIPELINE: Final = ".pipeline"  # KFP's root: every step's own folder


@dataclass(frozen=True)
class Report:
    """One run on a dataset of one modality.

    Attributes:
        recipe: What was asked.
        cohort: Counts of the dataset (`hilum.delivery.cards.cohort.describe`).
        validation: Its verdict.
        scores: Every encoder's scores.csv, `pixels` first; the headline machine's rows only.
        comparisons: Every two encoders on the same patients, by column of the leaderboard.
        efficiency: Every encoder's efficiency.csv.
        gate: The gate's verdict; its encoder is the one of what follows.
        head: head.json.
        fairness: fairness.csv.
        audit: audit.json.
        shortcuts: shortcuts.json.
        mitigation: mitigation.csv; None where no method was asked for.
        treated: mitigation.json; likewise.
        timing: Seconds and cores of the run; None where it reused steps of an earlier one.
        code: Revisions of the code that wrote these files; one, unless it was changed in the meantime.
    """

    recipe: Recipe
    cohort: Mapping[str, Any]
    validation: Validation
    scores: pd.DataFrame
    comparisons: pd.DataFrame
    efficiency: pd.DataFrame
    gate: Verdict
    head: Mapping[str, Any]
    fairness: pd.DataFrame
    audit: Mapping[str, Any]
    shortcuts: Mapping[str, Any]
    mitigation: pd.DataFrame | None
    treated: Mapping[str, Any] | None
    timing: Mapping[str, Any] | None
    code: tuple[str, ...]

    @classmethod
    def read(cls, out: Path, recipe: Recipe) -> "Report":
        """Read the folder of a run.

        Args:
            out: What `hilum run --out` wrote.
            recipe: The recipe that was given to it.

        Raises:
            DatasetError: A file is missing, or they are of several datasets or another recipe.
        """
        gate = gate_of(out)
        modality, encoders = _of_one_modality(gate), [str(one.name) for one in recipe.encoders]
        folders = {name: out / f"{modality.lower()}-{name}" for name in sorted(encoders, key=lambda n: n != FLOOR)}
        chosen = folders[gate.encoder]
        shortcuts, validation = read_json(chosen / SHORTCUTS), Validation.model_validate(read_json(out / VERDICT))
        audit_code, data = shortcuts["run"]["code_revision"], gate.run["data_digest"]
        told = {
            "shortcuts": (shortcuts["run"], recipe.shortcuts),
            "gate": (gate.run, recipe.gate),
            "head": (head.facts(chosen)["run"], recipe.probe),
        }
        for name, (run, section) in told.items():
            if run["data_digest"] != data or run["recipe_digest"] != digest(section):
                raise DatasetError(f"the {name} in {out} is of another dataset or recipe; make the reports again")

        def of_the_audit(found: Mapping[str, Any]) -> bool:
            # The published shortcuts.json and these are of one step, so of one process, one encoder and one dataset.
            run = found["run"]
            same = (found["encoder"], found["modality"], found["label"]) == (gate.encoder, modality, gate.label)
            return same and run["data_digest"] == data and run["code_revision"] == audit_code

        has_mitigation = (chosen / mitigation.TABLE).is_file()
        audit = kept(out, AUDIT, of_the_audit)
        treated = kept(out, mitigation.FACTS, of_the_audit) if has_mitigation else None
        dataset = kept_at(out, FACTS, lambda facts: facts.get("digest") == data).parent
        timing = read_json(out / TIMING) if (out / TIMING).is_file() else None
        runs = [validation.run, head.facts(chosen)["run"], shortcuts["run"], audit["run"], gate.run]
        return cls(
            recipe=recipe,
            cohort=cohort.describe(Dataset.open(dataset)),
            validation=validation,
            scores=_together(folders, probes.SCORES, lambda one: one[one["kernel"].isin([headline(recipe), "mean"])]),
            comparisons=_table(out / COMPARISONS),
            efficiency=_together(folders, efficiency.CSV),
            gate=gate,
            head=head.facts(chosen),
            fairness=_table(chosen / "fairness.csv"),
            audit=audit,
            shortcuts=shortcuts,
            mitigation=_table(chosen / mitigation.TABLE) if has_mitigation else None,
            treated=treated,
            timing=timing if timing and timing["run"] == gate.run else None,
            code=tuple(dict.fromkeys(run["code_revision"] for run in runs)),
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What dataset.json says."""
        return dict(self.cohort["facts"])

    @property
    def encoders(self) -> list[str]:
        """Names, `pixels` first."""
        return list(dict.fromkeys(self.scores["encoder"]))

    @property
    def label(self) -> str:
        """The label that is judged."""
        return self.gate.label


def headline(recipe: Recipe) -> str:
    """The machine whose scores are shown, named before any was seen."""
    return probes.HEADLINE_KERNEL if probes.HEADLINE_KERNEL in recipe.probe.kernels else recipe.probe.kernels[0]


def gate_of(out: Path) -> Verdict:
    """The gate's verdict in the folder of a run.

    Raises:
        DatasetError: There is none.
    """
    return Verdict.read((out / GATE).parent)


def kept(out: Path, name: str, fits: Callable[[Mapping[str, Any]], bool]) -> dict[str, Any]:
    """A JSON file of a step that is not published; see `kept_at`."""
    return dict(read_json(kept_at(out, name, fits)))


def kept_at(out: Path, name: str, fits: Callable[[Mapping[str, Any]], bool]) -> Path:
    """The newest file of a name in the steps' own folders whose content fits.

    Raises:
        DatasetError: There is none.
    """
    found = [path for path in (out / PIPELINE).rglob(name) if fits(read_json(path))]
    if not found:
        raise DatasetError(f"{out} keeps no {name} that belongs to its gate's verdict; make the reports again")
    return max(found, key=lambda path: path.stat().st_mtime)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _of_one_modality(gate: Verdict) -> str:
    names = list(gate.answered)
    if len(names) != 1:
        raise DatasetError(f"these pages are of datasets with one modality, but this one has {', '.join(names)}")
    return names[0]


def _together(
    folders: Mapping[str, Path], name: str, chosen: Callable[[pd.DataFrame], pd.DataFrame] = lambda one: one
) -> pd.DataFrame:
    return pd.concat([chosen(_table(folder / name)) for folder in folders.values()], ignore_index=True)


def _table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except OSError as error:
        raise DatasetError(f"a report of the run is missing: {error}") from error
