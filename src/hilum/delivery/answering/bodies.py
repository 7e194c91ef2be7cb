"""What an answer says, as the JSON of its body: who answers, what is answered, what it means, what speaks against it.

"What does 0.5 mean?" has its answer here: among held-out images with such a probability, how many had the finding, with
an interval; at which threshold it becomes a decision; and how often that decision was right.
"""

import base64
import io
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hilum.delivery.answering.neighbours import Case, Neighbours
from hilum.delivery.card import HeadCard, Measured, ReleaseCard, ReliabilityBin
from hilum.delivery.predictor import Release

ABSTAINED: Final = "abstained"
REASONS: Final = ("wrong_modality", "wrong_view", "unreadable_exposure", "out_of_distribution")


class Abstention(Exception):
    """An image that can be read, but for which no prediction is given.

    Attributes:
        reason: One of REASONS.
        words: Why, as a clause: "it looks like an MRI".
        score: What was measured, where something was.
        limit: What it would have had to be at most.
    """

    def __init__(self, reason: str, words: str, score: float | None = None, limit: float | None = None) -> None:
        super().__init__(words)
        self.reason, self.words, self.score, self.limit = reason, words, score, limit

    def body(self) -> dict[str, Any]:
        """For JSON."""
        return {"reason": self.reason, "words": self.words, "score": _finite(self.score), "limit": _finite(self.limit)}


def identity(release: Release, engine: dict[str, str], known_by: str) -> dict[str, Any]:
    """Who answers, and what stands behind it."""
    card = release.card
    return {
        "model": {"name": card.name, "version": card.version, "encoder": card.encoder},
        "engine": engine,
        "dossier": release.short_id,
        "run": dict(card.run),
        "gate": release.gate,
        "modality": card.modality,
        "modality_known_by": known_by,
    }


def closing(card: ReleaseCard) -> dict[str, Any]:
    """What every answer ends with."""
    return {"intended_use": card.intended_use, "caution": card.caution}


def prediction(head: HeadCard, probability: float) -> dict[str, Any]:
    """A probability, its decision, and what both mean."""
    point = head.operating_point
    reached = probability >= point.threshold
    found = bin_of(head, probability)
    return {
        "label": head.label,
        "probability": probability,
        "interval": None if found is None else _interval(found, head),
        "threshold": point.threshold,
        "decision": "at or above the threshold" if reached else "below the threshold",
        "abstention": None,
        **_standing(head),
        "meaning": _meaning(head, probability, found),
    }


def abstained(head: HeadCard, why: Abstention) -> dict[str, Any]:
    """No probability, and why."""
    return {
        "label": head.label,
        "probability": None,
        "interval": None,
        "threshold": head.operating_point.threshold,
        "decision": ABSTAINED,
        "abstention": why.body(),
        **_standing(head),
        "meaning": f"No prediction is given: {why.words}. Nothing is said about {head.label.replace('_', ' ')}.",
    }


def out_of_distribution(cases: Neighbours | None, score: float | None) -> dict[str, Any] | None:
    """How unlike the training images an image is; None where the release cannot say."""
    if cases is None or score is None or cases.limit is None:
        return None
    return {"score": score, "limit": cases.limit, "percentile": cases.percentile(score)}


def nearest(modality: str, found: list[Case]) -> list[dict[str, Any]]:
    """Training cases by opaque id, the nearest first."""
    return [
        {"case": case_id(modality, one.number), "distance": round(one.distance, 6), "label": one.label} for one in found
    ]


def case_id(modality: str, number: int) -> str:
    """The opaque id of a training case: `xr-004217`."""
    return f"{modality.lower()}-{number:06d}"


def png(image_HW: NDArray[np.uint8]) -> str:
    """An image as base64 of a PNG."""
    stream = io.BytesIO()
    Image.fromarray(image_HW).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def bin_of(head: HeadCard, probability: float) -> ReliabilityBin | None:
    """The held-out images with about this probability; None where there were too few for any bin."""
    return next((one for one in head.reliability if probability <= one.high), None)


def _standing(head: HeadCard) -> dict[str, Any]:
    return {
        "operating_point": head.operating_point.model_dump(mode="json"),
        "mitigation": head.mitigation.model_dump() if head.mitigation is not None else None,
    }


def _interval(found: ReliabilityBin, head: HeadCard) -> dict[str, Any]:
    observed = found.observed
    return {
        "low": observed.low,
        "high": observed.high,
        "observed": observed.value,
        "n": observed.n,
        "n_positive": found.n_positive,
        "what": (
            f"share of held-out images with {head.label.replace('_', ' ')} among the {observed.n} to which this model "
            f"gave a probability from {found.low:.3f} to {found.high:.3f}, with its 95% interval"
        ),
    }


def _meaning(head: HeadCard, probability: float, found: ReliabilityBin | None) -> str:
    point, label = head.operating_point, head.label.replace("_", " ")
    sentences = [f"The probability is calibrated ({head.calibration.method})."]
    if found is None:
        sentences.append("There were too few held-out images to say how often such a probability was right.")
    else:
        observed = found.observed
        sentences.append(
            f"What does {probability:.2f} mean? Of the {observed.n} held-out images to which this model gave between "
            f"{found.low:.2f} and {found.high:.2f}, {found.n_positive} had {label}: {_share(observed)}."
        )
    if head.prevalence is not None and head.prevalence.value is not None:
        sentences.append(
            f"Among all held-out images it was {_share(head.prevalence)}; where it is rarer or more frequent than "
            "that, the same probability means less or more."
        )
    sentences.append(
        f"At the threshold {point.threshold:.3f} ({point.rule}) sensitivity was {point.sensitivity} and specificity "
        f"{point.specificity} on held-out images."
    )
    if head.mitigation is not None:
        sentences.append(f"The head was fitted with a mitigation: {head.mitigation}.")
    if head.caveat:
        sentences.append(f"{head.caveat[0].upper()}{head.caveat[1:].rstrip('.')}.")
    return " ".join(sentences)


def _share(measured: Measured) -> str:
    if measured.value is None or measured.low is None or measured.high is None:
        return "insufficient data"
    return f"{100 * measured.value:.0f}% [{100 * measured.low:.0f}%, {100 * measured.high:.0f}%]"


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None
