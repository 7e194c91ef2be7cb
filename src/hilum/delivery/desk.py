"""The desk of a server: one question, several releases; each image goes to the release of its modality, or is refused.

The modality is what the DICOM header says, else what the caller declares, else what the input limits of the releases
recognise. Where none of these decides, the image is refused with what would help: nothing is answered on a guess.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hilum.data.images import Decoded, decode
from hilum.delivery.card import EMBEDDINGS, NAMES, ReleaseCard
from hilum.delivery.predictor import Predictor, Release
from hilum.errors import ImageError, ReleaseError

CLEARLY: Final = 0.25  # nats per feature by which one release's density must exceed the other's
# On the NIH, Kermany, covid-chestxray and OASIS images the smallest difference was 0.98 and none was wrong.


class Refusal(ImageError):
    """An image is readable, but the desk does not answer for it.

    Attributes:
        right: What would be right, as a sentence to the caller.
    """

    def __init__(self, message: str, right: str) -> None:
        super().__init__(f"{message}; {right}", "refused")
        self.wrong = message
        self.right = right


@dataclass(frozen=True)
class Request:
    """One image, as it came.

    Attributes:
        content: The bytes of a PNG, JPEG or DICOM file.
        modality: `XR` or `MR` where the caller declares it.
        covariates: Vital signs and the like by name, None where unknown.
        neighbours: How many of the nearest training cases the answer names.
        saliency: Whether the answer shows what moved it.
        seen: Whether the answer shows the image as the model saw it.
    """

    content: bytes
    modality: str | None = None
    covariates: Mapping[str, float | None] | None = None
    neighbours: int = 0
    saliency: bool = False
    seen: bool = False


@dataclass(frozen=True)
class Answer:
    """What the desk answers to one image.

    Attributes:
        body: For JSON: the answer, how the modality is known, who answers, and what it means.
        values: The numbers alone: the embedding (D,), or the probability (1,); float32.
        z_D: The embedding, whatever was asked.
    """

    body: dict[str, Any]
    values: NDArray[np.float32]
    z_D: NDArray[np.float32]


class Desk:
    """Answers one question from one release per modality."""

    def __init__(self, releases: Sequence[Release], question: str, threads: int = 1) -> None:
        """Load the graphs of those releases that answer the question; the others only tell what is not answered.

        Raises:
            ReleaseError: None of them answers it, two stand for one modality, or one does not load.
        """
        self.question = question
        self.releases: dict[str, Release] = {release.card.modality: release for release in releases}
        if len(self.releases) < len(releases):
            names = ", ".join(f"{release.card.name} ({release.card.modality})" for release in releases)
            raise ReleaseError(f"one release is served per modality, but there are {names}; name one of each")
        self._predictors: dict[str, Predictor] = {
            release.card.modality: Predictor(release, threads) for release in releases if release.answers(question)
        }
        if not self._predictors:
            names = ", ".join(release.card.name for release in releases) or "none"
            raise ReleaseError(f"no release here answers {question} (there are: {names}); export one with a head")

    @classmethod
    def load(cls, paths: Sequence[Path], question: str, threads: int = 1) -> "Desk":
        """Open release folders and load them.

        Raises:
            ReleaseError: As for the constructor, or a dossier does not hold.
        """
        return cls([Release.open(path) for path in paths], question, threads)

    def answer(self, requests: Sequence[Request]) -> list[Answer | ImageError]:
        """Answer each request; one that is refused does not keep the others from being answered."""
        answers: list[Answer | ImageError | None] = [None] * len(requests)
        waiting: dict[str, list[tuple[int, str, NDArray[np.uint8]]]] = {}
        for number, request in enumerate(requests):
            try:
                release, known_by, image_SS = self._route(request)
            except ImageError as refused:
                answers[number] = refused
            else:
                waiting.setdefault(release.card.modality, []).append((number, known_by, image_SS))
        for modality, group in waiting.items():
            result = self._predictors[modality].run(np.stack([image_SS for _, _, image_SS in group]))
            values = result.z_BD if self.question == EMBEDDINGS else result.probability_B
            assert values is not None, "a release that answers for a label has a head"
            for (number, known_by, _), value, z_D in zip(group, values, result.z_BD, strict=True):
                answers[number] = self._answer(self.releases[modality], known_by, np.atleast_1d(value), z_D)
        return [answer for answer in answers if answer is not None]

    def _route(self, request: Request) -> tuple[Release, str, NDArray[np.uint8]]:
        """The release that answers for a request, how its modality is known, and the image prepared for it."""
        declared = _declared(request.modality)
        decoded = decode(request.content)
        if decoded.modality and declared and decoded.modality != declared:
            raise Refusal(
                f"the image is declared as {declared}, but its DICOM header says {decoded.modality}",
                "declare what it is, or nothing",
            )
        modality = decoded.modality or declared
        if modality is None:
            release, known_by = self._recognise(decoded), "recognised by the input limits"
            self._ask(release.card.modality, known_by)
            return release, known_by, release.prepare(decoded)
        known_by = "DICOM header" if decoded.modality else "declared"
        self._ask(modality, known_by)
        release = self.releases[modality]
        image_SS = release.prepare(decoded)
        if release.limits is not None and not release.limits.accepts(image_SS[None])[0]:
            raise Refusal(
                f"the image does not look like the {NAMES[modality]} images that {release.card.name} was trained on",
                f"send one of these views: {', '.join(release.card.views)}",
            )
        if not decoded.modality and (other := self._likelier(release, decoded)):
            raise Refusal(
                f"the image is declared as {modality}, but looks like an {NAMES[other.card.modality]}",
                "declare what it is, or nothing",
            )
        return release, known_by, image_SS

    def _ask(self, modality: str, known_by: str) -> None:
        """Refuse what no release here answers for a modality."""
        if modality in self._predictors:
            return
        there = " or ".join(f"an {NAMES[name]}" for name in self._predictors)
        if self.question == EMBEDDINGS:
            raise Refusal(
                f"the image is an {NAMES[modality]} ({known_by}), which no release here is for", f"send {there}"
            )
        raise Refusal(
            f"{self.question} is not asked of an {NAMES[modality]}, and the image is one ({known_by})",
            f"send {there}, or ask for the embedding of this image",
        )

    def _likelier(self, release: Release, image: Decoded) -> Release | None:
        """Another release that clearly recognises an image better than `release` does."""
        if release.limits is None:
            return None
        own = float(release.limits.log_densities(release.prepare(image)[None])[0])
        for other in self.releases.values():
            if other is not release and other.limits is not None:
                image_1SS = other.prepare(image)[None]
                nearer = float(other.limits.log_densities(image_1SS)[0]) - own > CLEARLY
                if nearer and other.limits.accepts(image_1SS)[0]:
                    return other
        return None

    def _recognise(self, image: Decoded) -> Release:
        """The one release within whose limits the image clearly lies."""
        with_limits = [(release, release.limits) for release in self.releases.values() if release.limits is not None]
        if len(with_limits) < len(self.releases):
            raise Refusal(
                "the file does not say its modality, and a release was trained on too few images to recognise it",
                f"declare it with the header X-Modality: {' or '.join(self.releases)}",
            )
        fitting: list[tuple[float, Release]] = []
        for release, limits in with_limits:
            image_1SS = release.prepare(image)[None]
            if limits.accepts(image_1SS)[0]:
                fitting.append((float(limits.log_densities(image_1SS)[0]), release))
        fitting.sort(key=lambda pair: pair[0], reverse=True)
        if not fitting:
            known = "; ".join(f"{NAMES[name]}: {', '.join(r.card.views)}" for name, r in self.releases.items())
            raise Refusal(
                "the image does not look like anything that the releases here were trained on",
                f"send one of these ({known})",
            )
        if len(fitting) > 1 and fitting[0][0] - fitting[1][0] < CLEARLY:
            raise Refusal(
                "the file does not say its modality, and the image could be an X-ray or an MRI",
                "declare it with the header X-Modality: XR or MR",
            )
        return fitting[0][1]

    def _answer(self, release: Release, known_by: str, values: NDArray[np.float32], z_D: NDArray[np.float32]) -> Answer:
        card = release.card
        body: dict[str, Any] = {
            "model": {"name": card.name, "version": card.version, "encoder": card.encoder},
            "dossier": release.short_id,
            "run": dict(card.run),
            "gate": card.gate.model_dump(mode="json"),
            "modality": card.modality,
            "modality_known_by": known_by,
        }
        if self.question == EMBEDDINGS:
            body |= {"shape": [len(values)], "embedding": numbers(values)}
        else:
            body |= _verdict(card, float(str(values[0])))
        body |= {"intended_use": card.intended_use, "caution": card.caution}
        return Answer(body, values, z_D)


def numbers(values: NDArray[np.float32]) -> list[float]:
    """Floats whose shortest decimal form gives back the float32 exactly."""
    return [float(str(value)) for value in values]


def _verdict(card: ReleaseCard, probability: float) -> dict[str, Any]:
    """A probability with what it means: the operating point, and how that did on held-out images."""
    assert card.head is not None, "a release that answers for a label has a head in its card"
    point = card.head.operating_point
    caveat = f" {card.head.caveat}" if card.head.caveat else ""
    mitigation = card.head.mitigation
    treated = f" The head was fitted with a mitigation: {mitigation}." if mitigation is not None else ""
    return {
        "label": card.head.label,
        "probability": probability,
        "threshold": point.threshold,
        "decision": "at or above the threshold" if probability >= point.threshold else "below the threshold",
        "meaning": (
            f"The probability is calibrated ({card.head.calibration.method}). At the threshold {point.threshold:.3f} "
            f"({point.rule}) sensitivity was {point.sensitivity} and specificity {point.specificity} on held-out "
            f"images.{treated}{caveat}"
        ),
        "mitigation": mitigation.model_dump() if mitigation is not None else None,
    }


def _declared(modality: str | None) -> str | None:
    """A declared modality, in the manifest's vocabulary."""
    if modality is None or not modality.strip():
        return None
    named = modality.strip().upper()
    if named not in NAMES:
        raise Refusal(f"{modality.strip()[:20]!r} is no modality that hilum knows", "declare XR or MR, or nothing")
    return named
