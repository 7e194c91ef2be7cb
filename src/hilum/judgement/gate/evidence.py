"""What the gate reads of one encoder in one modality: head.json, audit.json, shortcuts.json, and the floor's scores.

Metrics are found by their names, whatever else these files hold.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pandas as pd
from numpy.typing import NDArray

from hilum.data import parquet
from hilum.data.store import read_json
from hilum.errors import DatasetError, UsageError
from hilum.judgement import stats
from hilum.judgement.fairness.groups import UNKNOWN
from hilum.judgement.probing import head
from hilum.judgement.probing.probes import FACTS as PROBE
from hilum.judgement.probing.probes import PREDICTIONS
from hilum.recipe.judging import NOT_ASKED, Gate

AUDIT: Final = "audit.json"
SHORTCUTS: Final = "shortcuts.json"
FLOOR: Final = "pixels"
EVERYBODY: Final = "all"  # the audit's name for no group
REPLICATES: Final = 2000
BINS: Final = 10  # of the calibration error, where the head does not say how many
SENSITIVITY: Final = ("tpr", "sensitivity")
UNDERDIAGNOSIS: Final = ("underdiagnosis",)
_COUNTED: Final = dict.fromkeys(SENSITIVITY, "n_positive") | dict.fromkeys(UNDERDIAGNOSIS, "n_negative")
Column = NDArray[Any]


@dataclass(frozen=True)
class Measure:
    """Something measured, with its interval; None where it is not known.

    Attributes:
        value: The estimate.
        low: Lower bound.
        high: Upper bound.
        n: Images behind it.
        n_patients: Patients behind it.
        group: Whom it was measured on, where not everybody.
        note: Why it is not known, or what to know about it.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    n_patients: int | None = None
    group: str = ""
    note: str = ""


@dataclass(frozen=True)
class Evidence:
    """The evidence on one encoder in one modality.

    Attributes:
        modality: XR or MR.
        encoder: Its name.
        head: What head.json says.
        audit: What audit.json says.
        shortcuts: What shortcuts.json says; None where no shortcut audit was made.
        scores: The probe folder.
        floor: The probe folder of `pixels` in the same modality; None where it was not given.
    """

    modality: str
    encoder: str
    head: Mapping[str, Any]
    audit: Mapping[str, Any]
    shortcuts: Mapping[str, Any] | None
    scores: Path
    floor: Path | None = None

    @classmethod
    def read(
        cls, scores: Path, findings: Path, label: str, shortcuts: Path | None = None, floor: Path | None = None
    ) -> "Evidence":
        """Read a probe folder, the audit of it, and the shortcut audit.

        Args:
            scores: What `hilum probe` wrote.
            findings: What `hilum audit` wrote.
            label: What the release answers.
            shortcuts: The folder of shortcuts.json; where None, it is looked for in the other two.
            floor: The probe folder of `pixels`.

        Raises:
            UsageError: Head, audit or shortcut audit is of another label, or the shortcut audit of another encoder.
            DatasetError: A folder lacks its facts.
        """
        said, audit = head.facts(scores), read_json(findings / AUDIT)
        modality = str(read_json(scores / PROBE)["modality"])
        places = (findings, scores) if shortcuts is None else (shortcuts,)
        found = next((path for folder in places if (path := folder / SHORTCUTS).is_file()), None)
        told = read_json(found) if found is not None else None
        labels = {"head": said["label"], "audit": audit.get("label")}
        for what, of in (labels | ({"shortcut audit": told["label"]} if told else {})).items():
            if of != label:
                raise UsageError(
                    f"the gate asks for {label!r}, but the {what} of {modality} is of {of!r}; make it anew"
                )
        encoder = str(said.get("encoder", ""))
        if told and told.get("encoder", encoder) != encoder:
            other = f"the shortcut audit of {modality} is of {told['encoder']}"
            raise UsageError(f"the gate asks for {encoder}, but {other}; make its own")
        if not isinstance(audit.get("gaps"), list) or not isinstance(audit.get("groups"), list):
            raise DatasetError(f"{AUDIT} has no list of groups and gaps; audit again")
        return cls(modality, encoder, said, audit, told, scores, floor)

    @property
    def answered(self) -> bool:
        """Whether the release answers for the label."""
        return bool(self.head["answered"])

    def attributes(self, recipe: Gate) -> list[str]:
        """The attributes whose groups are asked about: those of the recipe, else all that were audited one by one.

        Intersections are asked about where they are named: most of them have too few patients in any test split.

        Raises:
            UsageError: The recipe names one that was not audited.
        """
        audited = [str(row["attribute"]) for row in (*self.audit["groups"], *self.audit["gaps"])]
        names = [name for name in dict.fromkeys(audited) if name != EVERYBODY]
        if strange := [name for name in recipe.groups if name not in names]:
            raise UsageError(
                f"the gate asks about groups by {', '.join(strange)}, but the audit has {', '.join(names) or 'none'}; "
                "name it in audit.groups"
            )
        return [name for name in names if (name in recipe.groups if recipe.groups else "+" not in name)]

    def of_groups(self, attribute: str, metrics: Sequence[str], recipe: Gate) -> list[Measure]:
        """One metric in each group of an attribute, but for those that the release is not for, and the unknown."""
        rows = [row for row in self.audit["groups"] if row["attribute"] == attribute and row["metric"] in metrics]
        return [
            _of_row(row, counted=_COUNTED.get(row["metric"], "n"))
            for row in rows
            if row["group"] != UNKNOWN and f"{attribute}={row['group']}" not in recipe.outside
        ]

    def sizes(self, attribute: str, recipe: Gate) -> list[Measure]:
        """Patients of each group of an attribute; the same groups as in `of_groups`."""
        rows = {str(row["group"]): row for row in self.audit["groups"] if row["attribute"] == attribute}
        return [
            _counted(int(row["n"]), int(row["n_patients"]), group)
            for group, row in rows.items()
            if group != UNKNOWN and f"{attribute}={group}" not in recipe.outside
        ]

    def is_uniform(self, attribute: str) -> bool:
        """Whether the test split has one group of an attribute only, so that there is nothing to compare it with."""
        return len({row["group"] for row in self.audit["groups"] if row["attribute"] == attribute}) == 1

    def of_everybody(self, metric: str) -> Measure:
        """One metric of everybody together: of the head's own test, or of the audit where only that has an interval."""
        tested = self.head["test"]
        said = tested.get(metric)
        if isinstance(said, Mapping):
            return _of_row(said)
        for row in self.audit["groups"]:
            if row["attribute"] == EVERYBODY and row["metric"] == metric:
                return replace(_of_row(row), group="")
        note = "it was measured without an interval" if said is not None else "it was not measured"
        return Measure(_number(said), n=tested.get("n"), n_patients=tested.get("n_patients"), note=note)

    def scatter(self, n: int | None) -> float:
        """The calibration error that a perfectly calibrated score would show on `n` images, at most.

        In a bin of m images of which a share p is ill, the share seen is off by sqrt(2 p (1 - p) / (pi m)) on average,
        and that is largest where all bins have the same p. Images of one patient are taken as independent.
        """
        tested = self.head["test"]
        if not n or not tested.get("n"):
            return 0.0
        share = tested.get("n_positive", tested["n"] / 2) / tested["n"]
        return math.sqrt(2 * tested.get("ece_bins", BINS) / (math.pi * n) * share * (1 - share))

    def gaps(self, metric: str, attribute: str) -> Measure | None:
        """The gap of a metric between groups; None where the audit has none."""
        for row in self.audit["gaps"]:
            if row.get("attribute") == attribute and row.get("metric") == metric:
                return _of_row(row)
        return None

    def gain(self, label: str) -> Measure:
        """AUROC of the label's probe over that of `pixels` on the same patients, by a paired patient bootstrap."""
        if self.floor is None:
            return Measure(note=f"no probe of {FLOOR} was given to compare with")
        mine, other = (_predictions(folder, label) for folder in (self.scores, self.floor))
        both = mine.join(other, how="inner", lsuffix="", rsuffix="_floor")
        if both.empty or len(both) != len(mine) or not both["truth"].equals(both["truth_floor"]):
            return Measure(note=f"the probes of {self.encoder} and {FLOOR} did not score the same images")

        def gained(w_RN: stats.Floats, y_N: Column, a_N: Column, b_N: Column, fold_N: Column) -> stats.Floats:
            return stats.weighted_auroc(w_RN, y_N, a_N, fold_N) - stats.weighted_auroc(w_RN, y_N, b_N, fold_N)

        columns = (both[name].to_numpy() for name in ("truth", "score", "score_floor", "fold"))
        return _of_row(stats.patient_bootstrap(gained, both["patient"], REPLICATES, 0, *columns).facts())


def worth(entry: Mapping[str, Any]) -> Measure:
    """What an attribute is worth as a shortcut to the label: no more than the weaker of its two steps.

    A shortcut first tells the attribute from the image, then takes it for the label. The AUROC of the first step is how
    well the embedding gives the attribute away, that of the second how well the attribute alone ranks the label,
    whichever way round.
    """
    words = str(entry.get("words", "")).rstrip(".")
    told, ranks = _of_row({**entry, "value": entry.get("auroc")}), entry.get("association")
    if told.low is None or told.high is None or not ranks or ranks.get("low") is None or ranks.get("high") is None:
        return Measure(n=told.n, n_patients=told.n_patients, note=words)
    low, high, value = ranks["low"], ranks["high"], ranks.get("auroc", ranks.get("value"))
    folded = (max(low, 1 - high, 0.5), max(high, 1 - low))
    return Measure(
        value=min(told.value or 0.0, max(value, 1 - value)),
        low=min(told.low, folded[0]),
        high=min(told.high, folded[1]),
        n=told.n,
        n_patients=told.n_patients,
        note=words,
    )


def tolerance(asked: float | str) -> float | None:
    """A tolerance as a number; None where it is not asked."""
    return None if asked == NOT_ASKED else float(asked)


def _of_row(row: Mapping[str, Any], counted: str = "n") -> Measure:
    value, low, high = (_number(row.get(name)) for name in ("value", "low", "high"))
    n, n_patients = row.get(counted, row.get("n")), row.get("n_patients" if counted == "n" else f"{counted}_patients")
    return Measure(value, low, high, n, n_patients, str(row.get("group", "")), str(row.get("note", "")))


def _counted(n: int, n_patients: int, group: str) -> Measure:
    """A number of patients, which is known without an interval."""
    return Measure(n_patients, n_patients, n_patients, n, n_patients, group)


def _number(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _predictions(folder: Path, label: str) -> pd.DataFrame:
    """Held-out scores of the label by the headline kernel, by image."""
    kernel = read_json(folder / PROBE)["headline_kernel"]
    table = parquet.read(folder / PREDICTIONS)
    chosen = table[(table["task"] == label) & (table["kernel"] == kernel)]
    return chosen.set_index("row")[["patient", "truth", "score", "fold"]].sort_index()
