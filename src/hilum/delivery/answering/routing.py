"""Which release an image goes to, and what is refused or abstained from before a graph is run."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hilum.data.images import Decoded
from hilum.delivery.answering.bodies import Abstention
from hilum.delivery.card import EMBEDDINGS, NAMES
from hilum.delivery.predictor import Release
from hilum.errors import ImageError

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
class _Seen:
    """An image as one release sees it: prepared, and measured against its input limits once."""

    release: Release
    decoded: Decoded

    @cached_property
    def image(self) -> NDArray[np.uint8]:
        return self.release.prepare(self.decoded)

    @cached_property
    def distance(self) -> float:
        """From the training images, as the input limits measure it; 0 where the release has none."""
        limits = self.release.limits
        return 0.0 if limits is None else float(limits.distances(self.image[None])[0])

    @property
    def accepted(self) -> bool:
        limits = self.release.limits
        return limits is None or self.distance <= limits.limit

    @property
    def density(self) -> float:
        """Log density per feature; comparable between releases."""
        limits = self.release.limits
        return -np.inf if limits is None else limits.log_density(self.distance)


class Router:
    """Finds the release of an image's modality, by header, declaration or looks."""

    def __init__(self, releases: Mapping[str, Release], answering: tuple[str, ...], question: str) -> None:
        """By modality; `answering` are the modalities whose releases answer the question."""
        self._releases, self._answering, self._question = releases, answering, question

    def route(self, decoded: Decoded, modality: str | None) -> tuple[Release, str, NDArray[np.uint8]]:
        """The release that answers, how the modality is known, and the image prepared for it.

        Raises:
            ImageError: The image is refused.
            Abstention: The question is a label, and no prediction is given for this image.
        """
        declared = _declared(modality)
        if decoded.modality and declared and decoded.modality != declared:
            raise Refusal(
                f"the image is declared as {declared}, but its DICOM header says {decoded.modality}",
                "declare what it is, or nothing",
            )
        seen = {name: _Seen(release, decoded) for name, release in self._releases.items()}
        stated = decoded.modality or declared
        if stated is None:
            found = self._recognise(seen)
            return found.release, "recognised by the input limits", found.image
        known_by = "DICOM header" if decoded.modality else "declared"
        self._ask(stated, known_by)
        found = seen[stated]
        self._readable(found)
        if not decoded.modality and (other := self._likelier(found, seen)):
            wrong = f"looks like an {NAMES[other]}"
            if self._question != EMBEDDINGS:
                raise Abstention("wrong_modality", f"the image is declared as {stated}, but {wrong}")
            raise Refusal(f"the image is declared as {stated}, but {wrong}", "declare what it is, or nothing")
        if not found.accepted:
            self._unlike(found)
        return found.release, known_by, found.image

    def _ask(self, modality: str, known_by: str) -> None:
        """Refuse what no release here answers for a modality that was stated."""
        if modality in self._answering:
            return
        there = " or ".join(f"an {NAMES[name]}" for name in self._answering)
        if self._question == EMBEDDINGS:
            raise Refusal(
                f"the image is an {NAMES[modality]} ({known_by}), which no release here is for", f"send {there}"
            )
        raise Refusal(
            f"{self._question} is not asked of an {NAMES[modality]}, and the image is one ({known_by})",
            f"send {there}, or ask for the embedding of this image",
        )

    def _readable(self, seen: _Seen) -> None:
        """A view and an exposure that the release was trained on."""
        if (wrong := seen.release.wrong_view(seen.decoded)) is not None:
            if self._question == EMBEDDINGS:
                views = ", ".join(seen.release.card.views)
                raise Refusal(f"the image is refused: {wrong}", f"send one of these views: {views}")
            raise Abstention("wrong_view", wrong)
        if self._question == EMBEDDINGS:
            return  # an embedding makes no claim that the exposure could take away
        cases = seen.release.cases
        fault = cases.exposure.fault(seen.image) if cases is not None else None
        if fault is not None:
            raise Abstention("unreadable_exposure", fault)

    def _unlike(self, seen: _Seen) -> None:
        """Outside the input limits of the release of its modality."""
        card, limits = seen.release.card, seen.release.limits
        assert limits is not None, "without limits everything is accepted"
        words = f"does not look like the {NAMES[card.modality]} images that {card.name} was trained on"
        if self._question != EMBEDDINGS:
            raise Abstention("out_of_distribution", f"it {words}", seen.distance, limits.limit)
        raise Refusal(f"the image {words}", f"send one of these views: {', '.join(card.views)}")

    def _likelier(self, own: _Seen, seen: Mapping[str, _Seen]) -> str | None:
        """The modality of another release that clearly recognises an image better than its own does."""
        if own.release.limits is None:
            return None
        return next(
            (
                name
                for name, other in seen.items()
                if other is not own and other.density - own.density > CLEARLY and other.accepted
            ),
            None,
        )

    def _recognise(self, seen: Mapping[str, _Seen]) -> _Seen:
        """The one release within whose limits the image clearly lies, if it answers the question."""
        if any(one.release.limits is None for one in seen.values()):
            raise Refusal(
                "the file does not say its modality, and a release was trained on too few images to recognise it",
                f"declare it with the header X-Modality: {' or '.join(self._releases)}",
            )
        fitting = sorted((one for one in seen.values() if one.accepted), key=lambda one: one.density, reverse=True)
        if not fitting:
            if self._question != EMBEDDINGS:
                asked = seen[self._answering[0]]
                self._readable(asked)
                self._unlike(asked)
            known = "; ".join(f"{NAMES[name]}: {', '.join(r.card.views)}" for name, r in self._releases.items())
            raise Refusal(
                "the image does not look like anything that the releases here were trained on",
                f"send one of these ({known})",
            )
        if len(fitting) > 1 and fitting[0].density - fitting[1].density < CLEARLY:
            raise Refusal(
                "the file does not say its modality, and the image could be an X-ray or an MRI",
                "declare it with the header X-Modality: XR or MR",
            )
        found = fitting[0]
        modality = found.release.card.modality
        if modality not in self._answering:
            if self._question == EMBEDDINGS:
                self._ask(modality, "recognised by the input limits")
            label = self._question.replace("_", " ")
            raise Abstention("wrong_modality", f"it looks like an {NAMES[modality]}, of which {label} is not asked")
        self._readable(found)
        return found


def _declared(modality: str | None) -> str | None:
    """A declared modality, in the manifest's vocabulary."""
    if modality is None or not modality.strip():
        return None
    named = modality.strip().upper()
    if named not in NAMES:
        raise Refusal(f"{modality.strip()[:20]!r} is no modality that hilum knows", "declare XR or MR, or nothing")
    return named
