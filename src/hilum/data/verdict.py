"""The verdict of validation: what was checked and what came out, as JSON for programs and as a page for people.

Failing rows are named by their number in `manifest.parquet`, counted from 0, and never by an id: an image id may hold
a patient's. Who has the dataset can look them up; who has only the page cannot.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict

from hilum.data.manifest import SPLITS, UNCERTAIN
from hilum.data.rules import counted
from hilum.data.store import MANIFEST, DatasetFacts
from hilum.errors import CheckFailed
from hilum.page import Html, page, table, tag

_LOOK_UP: Final = f'import pandas as pd\npd.read_parquet("DATASET/{MANIFEST}").iloc[[ROW, ROW]]'


class Check(BaseModel):
    """One question put to a dataset, and the answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    asks: str
    ok: bool
    severity: Literal["critical", "warning"]
    observed: str
    expected: str
    n_failing: int = 0
    counted: str = "image"  # what n_failing counts
    examples: tuple[int, ...] = ()  # numbers of failing rows in manifest.parquet, from 0; the first few

    @property
    def sentence(self) -> str:
        """The check in one line, for an error or a log."""
        rows = f"; rows {_rows(self)}" if self.examples else ""
        return f"{self.name}: {self.observed}, where right is: {self.expected}{rows}"


class Verdict(BaseModel):
    """What `verdict.json` says; `ok` is false where a critical check failed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ok: bool
    n_images: int
    n_patients: int
    checks: tuple[Check, ...]
    caution: str = ""
    run: dict[str, str]  # a hilum.identity.Run

    @property
    def failed(self) -> list[Check]:
        """The critical checks that failed."""
        return [check for check in self.checks if not check.ok and check.severity == "critical"]

    @property
    def warnings(self) -> list[Check]:
        """The checks that failed without stopping anything."""
        return [check for check in self.checks if not check.ok and check.severity == "warning"]

    @property
    def sentence(self) -> str:
        """The outcome in a sentence or two; names the failing checks and rows."""
        counts = f"{counted(self.n_images, 'image')} of {counted(self.n_patients, 'patient')}"
        if self.ok:
            remarks = f", with {counted(len(self.warnings), 'remark')}" if self.warnings else ""
            return f"{counts}: all critical checks passed{remarks}"
        faults = " | ".join(check.sentence for check in self.failed)
        return f"{counts}: {counted(len(self.failed), 'critical check')} failed: {faults}"

    def require(self) -> None:
        """Do nothing if the dataset passed.

        Raises:
            CheckFailed: It did not; the message names the failing checks and rows.
        """
        if not self.ok:
            raise CheckFailed(self.sentence)


@dataclass(frozen=True)
class Composition:
    """What a dataset is made of: counts only.

    Attributes:
        splits: One row per modality: its images and patients per split.
        labels: One row per label: images present, absent, uncertain, unknown.
    """

    splits: list[list[object]]
    labels: list[list[object]]


def composition(manifest: pd.DataFrame, labels: Sequence[str]) -> Composition:
    """Count a manifest's images and patients by modality and split, and its labels by value."""
    splits: list[list[object]] = []
    if {"modality", "split", "patient_id"} <= set(manifest.columns):
        for modality, rows in manifest.groupby("modality"):
            in_split = [rows.loc[rows["split"] == split, "patient_id"] for split in SPLITS]
            cells = [f"{len(one):,} of {one.nunique():,}" for one in in_split]
            splits.append([modality, *cells, f"{len(rows):,} of {rows['patient_id'].nunique():,}"])
    found: list[list[object]] = []
    for name in labels:
        if name in manifest:
            values = manifest[name]
            present, absent = int((values == 1.0).sum()), int((values == 0.0).sum())
            share = f"{present / (present + absent):.1%}" if present + absent else "not known"
            counts = (present, absent, int((values == UNCERTAIN).sum()), int(values.isna().sum()))
            found.append([name, *(f"{count:,}" for count in counts), share])
    return Composition(splits, found)


def render(verdict: Verdict, facts: DatasetFacts, made_of: Composition) -> str:
    """The verdict as a self-contained page, for whoever keeps the data."""
    failed, warnings = verdict.failed, verdict.warnings
    passed = [check for check in verdict.checks if check.ok]
    counts = f"{counted(verdict.n_images, 'image')} of {counted(verdict.n_patients, 'patient')}"
    if verdict.ok:
        title, css, word = "Validation: the dataset may be used", "good", "Passed"
        lead = f"{counts}. {len(passed)} of {len(verdict.checks)} checks passed; none of the critical ones failed."
    else:
        title, css, word = "Validation: the dataset is refused", "bad", "Refused"
        lead = f"{counts}. {counted(len(failed), 'critical check')} failed, so nothing will be trained on it."
    sections: list[object] = [
        tag(
            "p",
            Html(
                f"{tag('span', word, css)} &middot; {len(failed)} to put right &middot; "
                f"{len(warnings)} worth a look &middot; {len(passed)} in order"
            ),
        )
    ]
    if failed:
        sections += [tag("h2", "To put right"), _faults(failed, "bad")]
    if warnings:
        sections += [
            tag("h2", "Worth a look"),
            "These do not stop the pipeline. Each may have a good reason; somebody who knows the data should say so.",
            _faults(warnings, "doubt"),
        ]
    if any(check.examples for check in (*failed, *warnings)):
        sections += [
            tag("h2", "How to find the rows"),
            "Rows are named by their number in the manifest, counted from 0, because an id may name a patient. Whoever "
            "has the dataset finds them so:",
            tag("pre", tag("code", _LOOK_UP)),
        ]
    sections += [
        tag("h2", "In order"),
        table(["Question", "Found"], [[check.asks, check.observed] for check in passed]),
        tag("h2", "What the dataset is made of"),
        table(["Modality", *SPLITS, "All"], made_of.splits, numeric=[*SPLITS, "All"]),
        tag("p", "Images of patients, per modality and split."),
    ]
    if made_of.labels:
        columns = ["Label", "Present", "Absent", "Uncertain", "Unknown", "Present among known"]
        sections.append(table(columns, made_of.labels, numeric=columns[1:]))
    sections += [
        tag("h2", "Where it comes from"),
        table(
            ["", ""],
            [
                ["Layout", facts.layout],
                ["Source revision", facts.source_revision],
                ["Image size", f"{facts.preprocessing.size} x {facts.preprocessing.size} pixels"],
                ["Left out when reading", f"{counted(facts.n_rejected, 'image')}; see rejected.csv in the dataset"],
                ["Licence", facts.licence],
                ["Citation", facts.citation],
            ],
        ),
    ]
    return page(title, lead, sections, verdict.run, verdict.caution)


def _faults(checks: Sequence[Check], css: str) -> Html:
    rows = [
        [
            tag("span", check.asks, css),
            check.observed,
            check.expected,
            counted(check.n_failing, check.counted),
            _rows(check),
        ]
        for check in checks
    ]
    return table(["Question", "Found", "Right would be", "How many", "Rows"], rows, numeric=["How many"])


def _rows(check: Check) -> str:
    if not check.examples:
        return ""
    more = ", ..." if check.n_failing > len(check.examples) else ""
    return ", ".join(str(row) for row in check.examples) + more
