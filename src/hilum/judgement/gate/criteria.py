"""What is asked of a release, and what the evidence answers: one criterion each, decided on the bounds of an interval.

A criterion passes where its whole interval is on the good side of the tolerance, and fails where the whole interval is
on the bad side. Where the interval holds the tolerance, or there is none, it is "insufficient data". What the recipe
does not ask, and what is asked of a label that this modality never has, is "not asked".

A criterion over groups passes where every group passes. It needs no correction for their number: all of them must be
shown to be good, so the chance of passing one that is not is at most that of one interval (Berger 1982, Technometrics
24, 295-300). It fails where any group fails, which is the side on which an error costs a second look and no patient.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from hilum.judgement.gate.evidence import SENSITIVITY, SHORTCUTS, UNDERDIAGNOSIS, Evidence, Measure, tolerance, worth
from hilum.judgement.probing.tasks import NO_FINDING
from hilum.recipe import Gate

Word = Literal["pass", "fail", "insufficient data", "not asked"]
Bound = Literal["at least", "at most"]

PASS: Final = "pass"
FAIL: Final = "fail"
INSUFFICIENT: Final = "insufficient data"
NOT_ASKED: Final = "not asked"

# What is asked, as a clinician would ask it; `by` is an attribute.
QUESTIONS: Final[Mapping[str, tuple[Bound, str]]] = {
    "auroc": ("at least", "Does it rank patients with {label} above patients without?"),
    "gain": ("at least", "By how much does it rank them better than the plain pixels do?"),
    "sensitivity": ("at least", "Where {label} is present, is it caught in every group by {by}?"),
    "underdiagnosis": ("at most", "How often are the ill called healthy in a group by {by}?"),
    "auroc_gap": ("at most", "How much better does it rank one group by {by} than another?"),
    "ece": ("at most", "How far are its probabilities from what came true?"),
    "group_size": ("at least", "How many patients were seen in the smallest group by {by}?"),
    "shortcut": ("at most", "How far could it go by {by} instead of by signs of {label}?"),
}
# The label `no_finding` is of the healthy, so that "present" and "patients with it" would be said of health.
_OF_HEALTH: Final[Mapping[str, str]] = {
    "auroc": "Does it rank patients without a finding above patients with one?",
    "sensitivity": "Are patients without a finding called so in every group by {by}?",
    "shortcut": "How far could it go by {by} instead of by the absence of findings?",
}
_SPOKEN: Final = {"age_band": "age", "source": "dataset of origin", "": "sex, age and the like"}


class Criterion(BaseModel):
    """One question to a release, and the answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    modality: str
    criterion: str  # such as `auroc` or `sensitivity_sex`
    asks: str
    verdict: Word
    reason: str  # in one sentence
    bound: Bound
    tolerance: float | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    n_patients: int | None = None
    group: str = ""  # whose numbers these are, where a group decided
    note: str = ""  # why something is not known or not asked

    @property
    def follows(self) -> bool:
        """Whether the verdict is one that the numbers allow."""
        if self.verdict in (INSUFFICIENT, NOT_ASKED):
            return True
        if self.tolerance is None:
            return False
        return decide(self.low, self.high, self.tolerance, at_least=self.bound == "at least") == self.verdict


def decide(low: float | None, high: float | None, tolerance: float, *, at_least: bool) -> Word:
    """Judge an interval against a tolerance.

    Args:
        low: Lower bound; None or NaN where there is none.
        high: Upper bound.
        tolerance: Itself on the good side.
        at_least: Whether the score must reach the tolerance, rather than stay within it.
    """
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return INSUFFICIENT
    good, bad = (low >= tolerance, high < tolerance) if at_least else (high <= tolerance, low > tolerance)
    return PASS if good else FAIL if bad else INSUFFICIENT


def overall(verdicts: Sequence[Word]) -> Word:
    """One verdict of many: the worst of them; "not asked" where nothing was."""
    return next((word for word in (FAIL, INSUFFICIENT, PASS) if word in verdicts), NOT_ASKED)


def judge(evidence: Evidence, recipe: Gate, label: str) -> list[Criterion]:
    """Put every question of the recipe to the evidence on one encoder in one modality.

    Raises:
        UsageError: The recipe asks about an attribute that was not audited.
    """
    asked: dict[str, tuple[float | str, Callable[[_Case], list[Criterion]]]] = {
        "auroc": (recipe.min_auroc, _auroc),
        "gain": (recipe.min_gain, _gain),
        "sensitivity": (recipe.min_sensitivity, _sensitivity),
        "underdiagnosis": (recipe.max_underdiagnosis, _underdiagnosis),
        "auroc_gap": (recipe.max_auroc_gap, _gaps),
        "ece": (recipe.max_ece, _ece),
        "group_size": (recipe.min_group, _sizes),
        "shortcut": (recipe.max_shortcut, _shortcuts),
    }
    found: list[Criterion] = []
    if label != NO_FINDING:
        del asked["underdiagnosis"]  # of the label of an illness it is one minus the sensitivity
    for name, (told, answer) in asked.items():
        case = _Case(evidence, recipe, label, name, tolerance(told))
        if case.tolerance is None:
            found.append(case.unanswered(NOT_ASKED, "the recipe does not ask it"))
        elif not evidence.answered and name != "shortcut":
            # A label that the modality never has is not asked; one that it has too little of is not enough data.
            word: Word = INSUFFICIENT if evidence.head.get("n_known") else NOT_ASKED
            found.append(case.unanswered(word, f"the release answers embeddings only, since {evidence.head['why']}"))
        else:
            found += answer(case)
    return found


class _Case:
    """One question of the recipe to one encoder in one modality."""

    def __init__(self, evidence: Evidence, recipe: Gate, label: str, name: str, asked: float | None) -> None:
        self.evidence, self.recipe, self.label, self.name, self.tolerance = evidence, recipe, label, name, asked
        self.bound, self._asks = QUESTIONS[name]
        if label == NO_FINDING:
            self._asks = _OF_HEALTH.get(name, self._asks)

    def word(self, measure: Measure) -> Word:
        """The verdict on one measure."""
        assert self.tolerance is not None, "only what is asked is judged"
        return decide(measure.low, measure.high, self.tolerance, at_least=self.bound == "at least")

    def answered(self, measure: Measure, by: str = "", word: Word | None = None, note: str = "") -> Criterion:
        """The criterion, with what was measured."""
        known = figures(measure.value, measure.low, measure.high, self.name)
        whom = f" ({by.replace('_', ' ')} {measure.group})" if measure.group else ""
        why = "; ".join(part for part in (note, measure.note) if part)
        told = f"{known}{whom}, {self.bound} {self.tolerance:g} is asked for{f' ({why})' if why else ''}"
        return self._criterion(by, word or self.word(measure), told, measure, why)

    def unanswered(self, word: Word, why: str, by: str = "") -> Criterion:
        """The criterion where nothing was measured."""
        return self._criterion(by, word, why, Measure(), why)

    def worst(self, measures: Sequence[Measure], by: str) -> Criterion:
        """The criterion over all groups by one attribute, with the numbers of the group that decides it."""
        if not measures:
            return self.unanswered(INSUFFICIENT, f"no group by {_spoken(by)} is known", by)
        words = [self.word(one) for one in measures]
        small = [one.group for one in measures if one.low is None or one.high is None]
        verdict = overall(words)
        deciding = [one for one, word in zip(measures, words, strict=True) if word == verdict]
        # The group furthest on the bad side; one without an interval only where there is no other.
        worst = min(
            deciding,
            key=lambda one: (one.low is None, (one.low or 0.0) if self.bound == "at least" else -(one.high or 0.0)),
        )
        note = f"too few patients to judge: {', '.join(small)}" if small else ""
        if worst.low is None:
            return self.unanswered(verdict, note, by)
        return self.answered(worst, by, verdict, note)

    def _criterion(self, by: str, word: Word, told: str, measure: Measure, note: str) -> Criterion:
        asks = self._asks.format(label=self.label.replace("_", " "), by=_spoken(by))
        return Criterion(
            modality=self.evidence.modality,
            criterion=f"{self.name}_{by}" if by else self.name,
            asks=asks,
            verdict=word,
            reason=f"{self.evidence.modality}: {asks} {told[:1].upper()}{told[1:]}",
            bound=self.bound,
            tolerance=self.tolerance,
            note=note,
            **{name: getattr(measure, name) for name in ("value", "low", "high", "n", "n_patients", "group")},
        )


def _auroc(case: _Case) -> list[Criterion]:
    return [case.answered(case.evidence.of_everybody("auroc"))]


def _gain(case: _Case) -> list[Criterion]:
    if case.evidence.encoder == "pixels":
        return [case.unanswered(NOT_ASKED, "the release is of the plain pixels themselves")]
    return [case.answered(case.evidence.gain(case.label))]


def _ece(case: _Case) -> list[Criterion]:
    """A calibration error is never below what chance makes of it, so no failure is proven by what chance explains."""
    found = case.evidence.of_everybody("ece")
    if found.low is None or (scatter := case.evidence.scatter(found.n)) == 0.0:
        return [case.answered(found)]
    note = f"chance alone would show up to {scatter:.3f} on as few images, by which the low end is lowered"
    return [case.answered(replace(found, low=max(0.0, found.low - scatter), note=note))]


def _sensitivity(case: _Case) -> list[Criterion]:
    names = case.evidence.attributes(case.recipe)
    found = [case.worst(case.evidence.of_groups(name, SENSITIVITY, case.recipe), name) for name in names]
    return found or [case.unanswered(INSUFFICIENT, "the audit has no groups")]


def _underdiagnosis(case: _Case) -> list[Criterion]:
    names = case.evidence.attributes(case.recipe)
    found = [case.worst(case.evidence.of_groups(name, UNDERDIAGNOSIS, case.recipe), name) for name in names]
    return found or [case.unanswered(INSUFFICIENT, "the audit has no groups")]


def _gaps(case: _Case) -> list[Criterion]:
    found = []
    for name in case.evidence.attributes(case.recipe):
        gap = case.evidence.gaps("auroc", name)
        if case.evidence.is_uniform(name):
            found.append(case.unanswered(NOT_ASKED, f"everybody is of one group by {_spoken(name)}", name))
            continue
        found.append(
            case.answered(gap, name)
            if gap is not None
            else case.unanswered(INSUFFICIENT, f"the audit has no gap of the AUROC by {_spoken(name)}", name)
        )
    return found or [case.unanswered(INSUFFICIENT, "the audit has no groups")]


def _sizes(case: _Case) -> list[Criterion]:
    found = []
    for name in case.evidence.attributes(case.recipe):
        groups = case.evidence.sizes(name, case.recipe)
        if not groups:
            found.append(case.unanswered(INSUFFICIENT, f"no group by {_spoken(name)} is known", name))
            continue
        smallest = min(groups, key=lambda one: one.value or 0)
        # A count has no interval. A small group is no fault of the encoder: it is too little to judge it by.
        word: Word = PASS if case.word(smallest) == PASS else INSUFFICIENT
        found.append(case.answered(smallest, name, word))
    return found or [case.unanswered(INSUFFICIENT, "the audit has no groups")]


def _shortcuts(case: _Case) -> list[Criterion]:
    said = case.evidence.shortcuts
    known = (
        said["label_known"]["n"] if said is not None else case.evidence.answered or case.evidence.head.get("n_known")
    )
    if not known:
        return [case.unanswered(NOT_ASKED, f"{case.label.replace('_', ' ')} is known of no image of this modality")]
    if said is None:
        word: Word = NOT_ASKED if case.recipe.shortcut_audit == NOT_ASKED else INSUFFICIENT
        return [case.unanswered(word, f"no shortcut audit was made (there is no {SHORTCUTS})")]
    wanted = case.recipe.shortcuts
    entries: list[Mapping[str, Any]] = [one for one in said["entries"] if not wanted or one["attribute"] in wanted]
    found = [case.answered(worth(entry), str(entry["attribute"])) for entry in entries]
    missing = [name for name in wanted if name not in {entry["attribute"] for entry in entries}]
    found += [case.unanswered(INSUFFICIENT, "the shortcut audit did not look at it", name) for name in missing]
    return found or [case.unanswered(INSUFFICIENT, "the shortcut audit looked at no attribute")]


def _spoken(attribute: str) -> str:
    return _SPOKEN.get(attribute, attribute.replace("+", " and ").replace("_", " "))


def figures(value: float | None, low: float | None, high: float | None, criterion: str) -> str:
    """What was measured, as people read it: a count, a score with its interval, or that it is not known."""
    if value is None:
        return "not known"
    if criterion.startswith("group_size"):
        return f"{value:,.0f}"
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"
