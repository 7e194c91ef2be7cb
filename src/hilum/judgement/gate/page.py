"""The gate's verdict for a clinician: what was asked, what was measured and on how many, and what follows from it."""

from typing import TYPE_CHECKING, Final

from hilum.judgement.gate.criteria import FAIL, INSUFFICIENT, NOT_ASKED, PASS, Criterion, Word, figures
from hilum.judgement.probing.tasks import NO_FINDING
from hilum.page import Html, page, table, tag, text

if TYPE_CHECKING:
    from hilum.judgement.gate.verdict import Verdict

PAGE: Final = "gate.html"
_CSS: Final = {PASS: "good", FAIL: "bad", INSUFFICIENT: "doubt", NOT_ASKED: ""}
_MODALITIES: Final = {"XR": "X-ray", "MR": "MRI"}
# What a tolerance asks, in words: `t` is the tolerance, `h` the same in a hundred.
_MUST: Final = {
    "auroc": "Of a patient with {label} and one without, the first is ranked higher at least {h} times in 100.",
    "gain": "The AUROC is higher than that of plain pixels by at least {t}.",
    "sensitivity": "In every group at least {h} of 100 images with {label} are caught.",
    "underdiagnosis": "In no group more than {h} of 100 images with a finding are called healthy.",
    "auroc_gap": "Between any two groups the AUROC differs by at most {t}.",
    "ece": "Of 100 patients who are given the same probability, the number of ill ones is off by at most {h}, on "
    "average.",
    "group_size": "Every group has at least {t} patients in the test split.",
    "shortcut": "Going by that alone, as far as the image gives it away, would rank at most {h} of 100 pairs rightly.",
}
# The label `no_finding` is of the healthy.
_MUST_OF_HEALTH: Final = {
    "auroc": "Of a patient without a finding and one with, the first is ranked higher at least {h} times in 100.",
    "sensitivity": "In every group at least {h} of 100 images without a finding are called so.",
    "ece": "Of 100 patients who are given the same probability, the number of healthy ones is off by at most {h}, on "
    "average.",
}
_SHOWN: Final[dict[tuple[Word, str], str]] = {
    ("pass", "at least"): "Shown: even the low end of the interval is good enough.",
    ("pass", "at most"): "Shown: even the high end of the interval is small enough.",
    ("fail", "at least"): "Shown not to hold: even the high end of the interval is too low.",
    ("fail", "at most"): "Shown not to hold: even the low end of the interval is too high.",
}
_BOTH: Final = "Cannot be told: the interval holds values that would do and values that would not."


def render(verdict: "Verdict") -> str:
    """The verdict as a self-contained page."""
    label = verdict.label.replace("_", " ")
    asked = [one for one in verdict.criteria if one.verdict != NOT_ASKED]
    counts = {word: sum(one.verdict == word for one in asked) for word in (PASS, FAIL, INSUFFICIENT)}
    lead = (
        f"{'Yes' if verdict.passes else 'No'}. Of {_counted(len(asked), 'question')} that the recipe asks, "
        f"{counts[PASS]} {'was' if counts[PASS] == 1 else 'were'} shown to hold, {counts[FAIL]} shown not to hold, and "
        f"{counts[INSUFFICIENT]} could not be told with the patients there are."
    )
    said = tag("span", verdict.verdict, _CSS[verdict.verdict])
    sections: list[object] = [tag("p", Html(f"Verdict: {said}. {text(_consequence(verdict))}"))]
    if verdict.override is not None:
        by = verdict.override
        sections.append(
            tag(
                "div",
                Html(
                    f"{tag('strong', 'Released under an override.')} {text(by.by)} answers for it, since "
                    f"{text(by.on)}: {tag('q', by.reason)} This stands in the release's card and dossier, and in every "
                    "answer of a server."
                ),
                "caution",
            )
        )
    for modality, answered in verdict.answered.items():
        sections.append(tag("h2", f"{_MODALITIES.get(modality, modality)}: {verdict.of(modality)}"))
        if not answered:
            sections.append(f"This release answers embeddings only; it is not asked for {label}.")
        of_it = [one for one in verdict.criteria if one.modality == modality]
        sections.append(_table(sorted(of_it, key=lambda one: one.verdict == NOT_ASKED), label))
    sections += [
        tag("h2", "How to read this"),
        Html(
            f"<p>{tag('span', PASS, 'good')}: the whole interval of what the data allow is on the good side. "
            f"{tag('span', FAIL, 'bad')}: the whole interval is on the bad side. "
            f"{tag('span', INSUFFICIENT, 'doubt')}: both sides fit the data, or there were too few patients to measure "
            "at all; it is no pass, and holds a release back as a failure does. Not asked: the recipe does not ask it, "
            "or it cannot be asked of these images.</p>"
        ),
        "Intervals are of 95%. They come from patients whom neither the encoder nor its threshold has seen, drawn "
        "again and again, each with all their images. A question about groups is decided by the worst of them; those "
        "of whom it is not known where they belong are left out.",
        *_outside(verdict),
        "A pass says that these tolerances are met on this test split. It does not make a medical device: nothing here "
        "is for clinical use.",
    ]
    title = f"May {verdict.encoder} be released for {label}?"
    return page(title, lead, sections, {**verdict.run, "encoder": verdict.encoder}, verdict.caution)


def _consequence(verdict: "Verdict") -> str:
    if verdict.passes:
        return "The release may be exported."
    if verdict.override is not None:
        return "The evidence does not let the release through; it is exported on somebody's word."
    return "The release is not exported, unless somebody answers for it by name and with a reason."


def _table(criteria: list[Criterion], label: str) -> Html:
    rows = []
    must_of = _MUST | (_MUST_OF_HEALTH if label == NO_FINDING.replace("_", " ") else {})
    for one in criteria:
        kind = next(name for name in sorted(_MUST, key=len, reverse=True) if one.criterion.startswith(name))
        must = ""
        if one.tolerance is not None:
            must = must_of[kind].format(label=label, t=f"{one.tolerance:g}", h=f"{100 * one.tolerance:g}")
        rows.append(
            [
                Html(f"{tag('strong', one.asks)}<br>{text(must)}"),
                Html(text(_measured(one)).replace(" [", "<br>[")),
                _seen(one),
                tag("span", one.verdict, _CSS[one.verdict]),
                _meaning(one),
            ]
        )
    return table(["What was asked", "Measured, 95% interval", "On", "Verdict", "What it means"], rows)


def _measured(one: Criterion) -> str:
    return "" if one.verdict == NOT_ASKED else figures(one.value, one.low, one.high, one.criterion)


def _seen(one: Criterion) -> str:
    counts = [_counted(number, name) for number, name in ((one.n, "image"), (one.n_patients, "patient")) if number]
    return f"{' of '.join(counts)}{f', group {one.group}' if one.group else ''}"


def _meaning(one: Criterion) -> str:
    said = (
        one.note.removeprefix(f"{INSUFFICIENT}: ")
        .removeprefix(f"{INSUFFICIENT.capitalize()}: ")
        .replace("auroc", "AUROC")
    )
    note = f"{said[:1].upper()}{said[1:]}." if said else ""
    if one.verdict in (PASS, FAIL) and one.criterion.startswith("group_size"):
        return "There are enough."
    if one.verdict in (PASS, FAIL):
        return f"{_SHOWN[one.verdict, one.bound]} {note}".strip()
    if one.verdict == INSUFFICIENT and one.criterion.startswith("group_size"):
        return note or "Too few patients to say much of this group."
    if one.verdict == INSUFFICIENT and one.low is not None:
        return f"{_BOTH} {note}".strip()
    return note


def _outside(verdict: "Verdict") -> list[str]:
    named = [name.replace("_", " ").replace("=", " ") for name in verdict.tolerances.get("outside", ())]
    return [f"The release is not for these groups, which were not asked about: {', '.join(named)}."] if named else []


def _counted(number: int, name: str) -> str:
    return f"{number:,} {name}{'' if number == 1 else 's'}"
