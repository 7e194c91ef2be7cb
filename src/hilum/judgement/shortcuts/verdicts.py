"""From figures to a verdict on each attribute, in words that a clinician can weigh.

shortcut            it can be told, it ranks the label, and the label's score loses where it is held fixed; or the
                    label nearly is the attribute, so that no score on this dataset can tell the two apart
decodable           it can be told from the embedding; nothing here shows that the answer comes from it
not found           it cannot be told better than chance allows
insufficient data   too few patients, or too few exceptions, to say
"""

import math
from dataclasses import dataclass
from typing import Any, Final, Literal

from hilum.judgement import stats
from hilum.judgement.shortcuts.association import Inside
from hilum.judgement.shortcuts.attributes import Attribute
from hilum.judgement.shortcuts.decoding import Decoding
from hilum.judgement.shortcuts.position import AXES, LEAST_SHIFT_PX, Displacement
from hilum.judgement.stats import Interval
from hilum.recipe import Shortcuts

SHORTCUT, DECODABLE, NOT_FOUND, INSUFFICIENT = VERDICTS = (
    "shortcut", "decodable", "not found", "insufficient data",
)  # fmt: skip
Verdict = Literal["shortcut", "decodable", "not found", "insufficient data"]
ALL_PAIRS: Final = 0.995  # from here on, 100 of 100 pairs


@dataclass(frozen=True)
class Finding:
    """Everything that was measured of one attribute.

    Attributes:
        attribute: What.
        decoding: How well the embedding tells it.
        p_holm: The decoding's p, corrected over the attributes.
        association: How well it ranks the label by itself; None where no label is known.
        inside: The label's score at each of its levels; None where there is none.
    """

    attribute: Attribute
    decoding: Decoding
    p_holm: float
    association: Interval | None
    inside: Inside | None

    def decodable(self, recipe: Shortcuts) -> bool:
        """Whether the embedding tells it better than chance allows."""
        return self.p_holm <= recipe.alpha and self.decoding.auroc.low > 0.5

    def confounded(self, recipe: Shortcuts) -> bool:
        """Whether the label nearly is the attribute."""
        return confounded(self.association, recipe)

    def associated(self, recipe: Shortcuts) -> bool | None:
        """Whether it says something about the label; None where that is not known."""
        if self.association is None or not self.association.bounded:
            return None
        return self.association.low > 0.5 and self.association.value >= recipe.min_association

    def loses(self, recipe: Shortcuts) -> bool:
        """Whether the label's score loses where the attribute is held fixed."""
        drop = self.inside.drop if self.inside is not None else stats.undefined("")
        return drop.bounded and drop.low > 0 and drop.value >= recipe.min_drop

    def verdict(self, recipe: Shortcuts) -> Verdict:
        """One of VERDICTS."""
        if not self.decoding.auroc.bounded:
            return "insufficient data"
        if not self.decodable(recipe):
            return "insufficient data" if self.confounded(recipe) else "not found"
        if self.confounded(recipe) or (self.associated(recipe) and self.loses(recipe)):
            return "shortcut"
        return "decodable"

    def words(self, label: str, recipe: Shortcuts) -> str:
        """The verdict and its reasons, in sentences."""
        spoken = label.replace("_", " ")
        match self.verdict(recipe):
            case "shortcut":
                said = _shortcut(self, spoken, recipe)
            case "decodable":
                said = _decodable(self, spoken, recipe)
            case "not found":
                said = _not_found(self)
            case "insufficient data":
                said = _insufficient(self)
        return " ".join(said)


def confounded(association: Interval | None, recipe: Shortcuts) -> bool:
    """Whether the attribute alone ranks the label so well that the label nearly is the attribute."""
    return association is not None and association.bounded and association.low >= recipe.confounded


def _shortcut(found: Finding, label: str, recipe: Shortcuts) -> list[str]:
    name = found.attribute.spoken
    assert found.association is not None, "a shortcut is one to a label"
    if found.confounded(recipe):
        exactly = "is" if found.association.value >= ALL_PAIRS else "is nearly"
        said = [
            f"The label {exactly} {name}: whoever knows only {name}, and sees no image, ranks "
            f"{_of_100(found.association)} pairs of an image with {label} and one without rightly "
            f"(AUROC {_bounds(found.association)}).",
            _told(found),
            f"A model that scores well here may have learnt {name} instead of {label}, and no score on this dataset "
            "can tell which.",
        ]
        if found.inside is not None and not found.inside.drop.bounded:
            said.append(
                f"How well it would rank {label} where {name} is the same cannot be judged: too few patients with and "
                "without it share a level."
            )
        return [*said, *_lost(found, label, recipe)]
    return [
        _told(found),
        f"It goes with {label}: by itself it ranks {_of_100(found.association)} pairs rightly "
        f"(AUROC {_bounds(found.association)}).",
        *_lost(found, label, recipe),
        f"Part of the score for {label} may therefore come from {name}.",
    ]


def _decodable(found: Finding, label: str, recipe: Shortcuts) -> list[str]:
    said = [_told(found)]
    associated = found.associated(recipe)
    if associated is None:
        said.append(f"Whether it goes with {label} is not known.")
    elif not associated:
        assert found.association is not None
        said.append(
            f"It says little about {label} in this dataset (AUROC {_bounds(found.association)} by itself), so that "
            "nothing is won here by using it; where it does, that may change."
        )
    else:
        assert found.association is not None
        said.append(f"It also goes with {label} (AUROC {_bounds(found.association)} by itself).")
        drop = found.inside.drop if found.inside is not None else stats.undefined("")
        if drop.bounded:
            said.append(
                f"The score for {label} does not clearly lose where it is held fixed ({_bounds(drop, sign=True)}), "
                "so that nothing shows its use."
            )
        else:
            said.append("Too few patients share a level to tell whether the score uses it.")
    return said


def _not_found(found: Finding) -> list[str]:
    return [
        f"{_upper(found.attribute.spoken)} cannot be told from the embedding{_where(found)} better than chance allows "
        f"(AUROC {_bounds(found.decoding.auroc)}; chance reaches {found.decoding.null_95:.2f} in 1 of 20 cases)."
    ]


def _insufficient(found: Finding) -> list[str]:
    if not found.decoding.auroc.bounded:
        return [f"Insufficient data: {found.decoding.short or found.decoding.auroc.note}."]
    return [
        f"Insufficient data: {found.attribute.spoken} nearly is the label, and among the few images of either label "
        f"that are exceptions it cannot be told (AUROC {_bounds(found.decoding.auroc)}), which says little."
    ]


def _told(found: Finding) -> str:
    among = _where(found)
    what = found.attribute.spoken
    if found.attribute.kind == "number":
        what += f" ({' or '.join(found.attribute.levels)})"
    return (
        f"{_upper(what)} can be told from the embedding{among} (AUROC {_bounds(found.decoding.auroc)}; chance reaches "
        f"{found.decoding.null_95:.2f} in 1 of 20 cases)."
    )


def _where(found: Finding) -> str:
    if found.decoding.conditional:
        return " among images with the same label"
    return "" if found.association is None else ", the label left aside since too few images are exceptions"


def _lost(found: Finding, label: str, recipe: Shortcuts) -> list[str]:
    inside = found.inside
    if inside is None or not inside.drop.bounded or not found.loses(recipe):
        return []
    return [
        f"The AUROC for {label} is {inside.pooled.value:.2f} over all pairs and {inside.within.value:.2f} over pairs "
        f"in which it is the same: {_bounds(inside.drop)} less."
    ]


def displaced(found: Displacement, recipe: Shortcuts) -> bool:
    """Whether the images of a level lie elsewhere, by more than chance and by enough to matter."""
    shift = found.shift_px
    beyond = shift.bounded and (shift.low > 0 or shift.high < 0)
    return found.p_adjusted <= recipe.alpha and beyond and abs(shift.value) >= LEAST_SHIFT_PX


def displacement_words(found: Displacement, clear: bool) -> str:
    """Such as "Images of site south lie 2.5 px (2.3 to 2.7) further right than those of north, view by view."."""
    shift = found.shift_px
    ours = f"{found.attribute.name} {found.level}"
    if not clear:
        return (
            f"Images of {ours} do not clearly lie further {' or '.join(AXES[found.axis])} than those of {found.others}."
        )
    side = AXES[found.axis][0 if shift.value > 0 else 1]
    low, high = sorted((abs(shift.low), abs(shift.high)))
    return (
        f"Images of {ours} lie {abs(shift.value):.1f} px ({low:.1f} to {high:.1f}) further {side} than those of "
        f"{found.others}, view by view."
    )


def entry(found: Finding, label: str, recipe: Shortcuts) -> dict[str, Any]:
    """What shortcuts.json says of an attribute; what is unknown is None."""
    decoding = found.decoding
    asked = decoding.auroc.bounded
    return {
        "attribute": found.attribute.name,
        "kind": found.attribute.kind,
        "levels": list(decoding.levels),
        "conditional": decoding.conditional if asked else None,
        **bounds(decoding.auroc, "auroc"),
        "balanced_accuracy": bounds(decoding.balanced_accuracy) if decoding.balanced_accuracy.bounded else None,
        "null_95": number(decoding.null_95),
        "p": number(decoding.p),
        "p_holm": number(found.p_holm),
        "n": decoding.n,
        "n_patients": decoding.n_patients,
        "association": _counted(found.association, "auroc"),
        "associated_with_label": found.associated(recipe),
        "pooled": _counted(found.inside.pooled) if found.inside is not None else None,
        "within": _counted(found.inside.within) if found.inside is not None else None,
        "drop": _counted(found.inside.drop) if found.inside is not None else None,
        "note": found.attribute.note,
        "verdict": found.verdict(recipe),
        "words": found.words(label, recipe),
    }


def bounds(interval: Interval, value: str = "value") -> dict[str, float | None]:
    """An interval for JSON, its value under a name."""
    return {value: number(interval.value), "low": number(interval.low), "high": number(interval.high)}


def number(value: float) -> float | None:
    """A number for JSON."""
    return float(value) if math.isfinite(value) else None


def _counted(interval: Interval | None, value: str = "value") -> dict[str, Any] | None:
    if interval is None:
        return None
    return {**bounds(interval, value), "n": interval.n, "n_patients": interval.n_patients, "note": interval.note}


def _bounds(interval: Interval, sign: bool = False) -> str:
    form = "+.3f" if sign else ".2f"
    if abs(interval.value) < 0.1:
        form = "+.3f" if sign else ".3f"
    return f"{interval.value:{form}}, {interval.low:{form}} to {interval.high:{form}}"


def _of_100(interval: Interval) -> str:
    return f"{round(100 * interval.value)} of 100"


def _upper(words: str) -> str:
    return words[:1].upper() + words[1:]
