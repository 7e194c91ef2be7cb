"""Covariates of a call: which are known, which are plausible, what the graph takes, and what the answer says of them.

Missing ones are allowed: left out or null. What is not plausible is refused, because it is a slip of the pen or another
unit, and an answer from it would be wrong in silence. What is plausible but was rare in training is used and named.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hilum.delivery.answering.routing import Refusal
from hilum.delivery.card import CovariateCard, FusionCard, ReleaseCard

MAX_NAMED: Final = 40  # characters of the caller's own words that a message repeats
UNITS: Final[dict[str, str]] = {  # by the end of a covariate's name, the longer ends first
    "_1e12_per_l": "10^12/L", "_1e9_per_l": "10^9/L", "_mg_per_dl": "mg/dL", "_g_per_dl": "g/dL", "_mg_per_l": "mg/L",
    "_meq_per_l": "mEq/L", "_mmol_per_l": "mmol/L", "_per_nl": "1/nL", "_per_min": "1/min", "_fahrenheit": "°F",
    "_celsius": "°C", "_mmhg": "mmHg", "_age_hours": "h", "_hours": "h", "_years": "years", "_pct": "%", "_kg": "kg",
    "_cm": "cm", "_fl": "fL", "_pg": "pg",
}  # fmt: skip
Given = Mapping[str, float | None]


def unit_of(name: str) -> str:
    """The unit that a covariate's name ends in; empty where it tells none."""
    return UNITS.get(ending_of(name), "")


def ending_of(name: str) -> str:
    """The end of a covariate's name that tells its unit; empty where none does."""
    return next((end for end in UNITS if name.endswith(end)), "")


def taken(card: ReleaseCard, given: Given | None) -> NDArray[np.float32] | None:
    """What the graph takes beside an image: float32 (C,), NaN where missing; None for a head without covariates.

    Raises:
        Refusal: One has a name that the head does not know, or a value that is not plausible; or none is given, and the
            head does not answer without any.
    """
    known = {name: value for name, value in (given or {}).items() if value is not None}
    fusion = card.head.fusion if card.head is not None else None
    if fusion is None:
        if given:
            raise Refusal("covariates were sent, but no head here uses any", "leave them out")
        return None
    if strange := sorted(set(given or {}) - set(fusion.names)):
        raise Refusal(
            f"the covariate {strange[0][:MAX_NAMED]!r} is not known here", f"send any of {', '.join(fusion.names)}"
        )
    for one in fusion.covariates:
        value = known.get(one.name)
        if value is not None and not one.low <= value <= one.high:
            raise Refusal(
                f"{one.name} is {value:g}, which is not plausible",
                f"give it{' in ' + one.unit if one.unit else ''}, from {one.low:g} to {one.high:g}, or leave it out",
            )
    if not known and not fusion.answers_alone:
        raise Refusal(
            "no covariates were sent, and without any this head is not known to be better than chance "
            f"(AUROC {fusion.auroc})",
            f"send at least one of {', '.join(fusion.names)}",
        )
    return np.array([known.get(name, np.nan) for name in fusion.names], dtype=np.float32)


def body(fusion: FusionCard, given: Given | None) -> dict[str, Any]:
    """What an answer says of them: used, missing, and rare in training."""
    used = {one.name: value for one in fusion.covariates if (value := (given or {}).get(one.name)) is not None}
    rare = [one for one in fusion.covariates if one.name in used and not _usual(one, used[one.name])]
    return {
        "used": used,
        "missing": [name for name in fusion.names if name not in used],
        "unusual": [one.name for one in rare],
        "words": _words(fusion, len(used), rare),
    }


def _words(fusion: FusionCard, n_used: int, rare: list[CovariateCard]) -> str:
    if not n_used:
        return (
            "No covariates were sent: the answer is the image's alone, and its figures are those of held-out images "
            "whose covariates were taken away."
        )
    whole = f"The answer rests on the image and {n_used} of {len(fusion.names)} covariates; its figures are those of "
    whole += "held-out images with the covariates that they happened to have."
    if rare:
        named = ", ".join(f"{one.name} (usual: {one.usual_low:g} to {one.usual_high:g})" for one in rare)
        whole += f" Few training images had such values: {named}."
    return whole


def _usual(one: CovariateCard, value: float) -> bool:
    return one.usual_low <= value <= one.usual_high
