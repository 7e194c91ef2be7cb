"""The desk of a server: one question, several releases; each image goes to the release of its modality, or is refused.

The modality is what the DICOM header says, else what the caller declares, else what the input limits of the releases
recognise. Where none of these decides, the image is refused with what would help: nothing is answered on a guess.

A refusal and an abstention are two things. What cannot be read, or is not what the caller or its header says it is, is
refused. An image that can be read but should not be given a prediction (it looks like another modality, shows another
view, is black, or is unlike the training images) gets an answer that abstains, with the reason in words. An embedding
is given or refused; it makes no claim to abstain from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hilum.data.images import Decoded, decode
from hilum.data.nifti import is_nifti
from hilum.delivery.answering import bodies, covariates, saliency, volume
from hilum.delivery.answering.bodies import Abstention
from hilum.delivery.answering.neighbours import MAX_ASKED
from hilum.delivery.answering.routing import Refusal, Router
from hilum.delivery.card import EMBEDDINGS, HeadCard
from hilum.delivery.engines import DEFAULT
from hilum.delivery.predictor import Predictor, Release, Result
from hilum.errors import ImageError, ReleaseError


@dataclass(frozen=True)
class Request:
    """One image, as it came.

    Attributes:
        content: The bytes of a PNG, JPEG or DICOM file, or of a NIfTI volume, which is answered plane by plane.
        modality: `XR` or `MR` where the caller declares it.
        covariates: Vital signs and the like by name, None where unknown.
        neighbours: How many of the nearest training cases the answer names.
        saliency: Whether the answer shows what moved it.
        seen: Whether the answer shows the image as the model saw it.
        bare: The body goes without the numbers of an embedding, which the answer's `values` hold: who takes them from
            there is spared writing some hundred decimals, and the out-of-distribution score.
        pixels: In place of `content`, an image that the caller has decoded: uint8 in 0-255 or float32 in 0-1, (H, W).
    """

    content: bytes
    modality: str | None = None
    covariates: Mapping[str, float | None] | None = None
    neighbours: int = 0
    saliency: bool = False
    seen: bool = False
    bare: bool = False
    pixels: NDArray[Any] | None = None


@dataclass(frozen=True)
class Answer:
    """What the desk answers to one image.

    Attributes:
        body: For JSON: the answer, how the modality is known, who answers, and what it means.
        values: The numbers alone: the embedding (D,), or the probability (1,), NaN where abstained; float32. Of a
            volume the embeddings of its planes (P, D).
        z_D: The embedding, whatever was asked; empty where the image did not come as far as the graph. Of a volume
            those of its planes, one after the other.
    """

    body: dict[str, Any]
    values: NDArray[np.float32]
    z_D: NDArray[np.float32]


@dataclass(frozen=True)
class _Waiting:
    """An image on its way to the graph."""

    number: int
    request: Request
    release: Release
    known_by: str
    image_SS: NDArray[np.uint8]
    covariates_C: NDArray[np.float32] | None


class Desk:
    """Answers one question from one release per modality."""

    def __init__(
        self,
        releases: Sequence[Release],
        question: str,
        threads: int = 1,
        engine: str = DEFAULT,
        predictors: Mapping[str, Predictor] | None = None,
    ) -> None:
        """Load the graphs of those releases that answer the question; the others only tell what is not answered.

        Args:
            releases: One per modality.
            question: `embeddings`, or the label of a head.
            threads: Of a graph, per image.
            engine: That runs the graphs.
            predictors: Graphs that are loaded already, by modality.

        Raises:
            ReleaseError: None of them answers it, two stand for one modality, or one does not load.
        """
        self.question = question
        self.releases: dict[str, Release] = {release.card.modality: release for release in releases}
        if len(self.releases) < len(releases):
            names = ", ".join(f"{release.card.name} ({release.card.modality})" for release in releases)
            raise ReleaseError(f"one release is served per modality, but there are {names}; name one of each")
        loaded = predictors or {}
        self._predictors: dict[str, Predictor] = {
            modality: loaded[modality] if modality in loaded else Predictor(release, threads, engine)
            for modality, release in self.releases.items()
            if release.answers(question)
        }
        if not self._predictors:
            names = ", ".join(release.card.name for release in releases) or "none"
            raise ReleaseError(f"no release here answers {question} (there are: {names}); export one with a head")
        self._router = Router(self.releases, tuple(self._predictors), question)

    @classmethod
    def load(cls, paths: Sequence[Path], question: str, threads: int = 1, engine: str = DEFAULT) -> "Desk":
        """Open release folders and load them.

        Raises:
            ReleaseError: As for the constructor, or a dossier does not hold.
        """
        return cls([Release.open(path) for path in paths], question, threads, engine)

    def answer(self, requests: Sequence[Request]) -> list[Answer | ImageError]:
        """Answer each request; one that is refused does not keep the others from being answered."""
        answers: list[Answer | ImageError | None] = [None] * len(requests)
        waiting: dict[str, list[_Waiting]] = {}
        for number, request in enumerate(requests):
            try:
                self._check(request)
                if request.pixels is None and is_nifti(request.content):
                    answers[number] = self._of_volume(request)
                    continue
                decoded = decode(request.content) if request.pixels is None else Decoded(request.pixels, None, None)
                release, known_by, image_SS = self._router.route(decoded, request.modality)
                covariates_C = covariates.taken(release.card, request.covariates)
            except Abstention as why:
                answers[number] = self._abstained(request, decoded, why)
            except ImageError as refused:
                answers[number] = refused
            else:
                one = _Waiting(number, request, release, known_by, image_SS, covariates_C)
                waiting.setdefault(release.card.modality, []).append(one)
        for modality, group in waiting.items():
            measured = [one.covariates_C for one in group if one.covariates_C is not None]  # of all, or of none
            images_BSS = np.stack([one.image_SS for one in group])
            result = self._predictors[modality].run(images_BSS, np.stack(measured) if measured else None)
            for row, one in enumerate(group):
                answers[one.number] = self._answer(one, result, row)
        return [answer for answer in answers if answer is not None]

    def _of_volume(self, request: Request) -> Answer:
        """The answers for all planes of a volume, as one."""
        planes = volume.cut(request.content, self.releases, self.question)
        asked = [replace(request, content=b"", pixels=plane.pixels) for plane in planes]
        body, z_PD = volume.joined(planes, self.answer(asked))
        return Answer(body, z_PD, z_PD.ravel())

    def _check(self, request: Request) -> None:
        """Refuse what is asked beside the answer, where it cannot be had; it is never passed over."""
        if request.covariates and self.question == EMBEDDINGS:
            raise Refusal("covariates were sent, and an embedding is the image's alone", "leave them out")
        if request.neighbours > MAX_ASKED:
            raise Refusal(f"{request.neighbours} neighbours were asked for", f"ask for {MAX_ASKED} at most")
        if request.saliency and self.question == EMBEDDINGS:
            raise Refusal("a saliency map shows what moved a probability; embeddings have none", "ask a label for it")

    def _answer(self, one: _Waiting, result: Result, row: int) -> Answer:
        release, request, z_D = one.release, one.request, result.z_BD[row]
        predictor, card = self._predictors[release.card.modality], release.card
        body = bodies.identity(release, predictor.engine, one.known_by)
        told = self.question != EMBEDDINGS or not request.bare  # an embedding's numbers alone carry no score
        score = release.cases.score(z_D) if told and release.cases is not None else None
        unlike = bodies.out_of_distribution(release.cases, score)
        if self.question == EMBEDDINGS:
            values = z_D
            body["shape"] = [len(z_D)]
            if not request.bare:
                body["embedding"] = numbers(z_D)
            body["out_of_distribution"] = unlike
        else:
            assert card.head is not None, "a release that answers for a label has a head in its card"
            assert result.probability_B is not None, "and its graph gives a probability"
            if unlike is not None and unlike["score"] > unlike["limit"]:
                words = f"it is unlike the {card.training.n_images} images that {card.name} was trained on"
                said = bodies.abstained(
                    card.head, Abstention("out_of_distribution", words, unlike["score"], unlike["limit"])
                )
                values = np.full(1, np.nan, dtype=np.float32)
            else:
                said = _predicted(card.head, float(str(result.probability_B[row])), request)
                values = result.probability_B[row : row + 1]
            body |= said | {"out_of_distribution": unlike}
        if request.neighbours:
            cases = release.cases.nearest(z_D, request.neighbours) if release.cases is not None else []
            body["nearest"] = bodies.nearest(card.modality, cases)
        if request.saliency:
            asked = partial(_probabilities, predictor, one.covariates_C)
            body["saliency"] = saliency.explain(asked, one.image_SS).body()
        if request.seen:
            body["seen"] = bodies.png(one.image_SS)
        return Answer(body | bodies.closing(card), values, z_D)

    def _abstained(self, request: Request, decoded: Decoded, why: Abstention) -> Answer:
        """Before the graph: no number at all."""
        modality = next(iter(self._predictors))
        release = self.releases[modality]
        head: HeadCard | None = release.card.head
        assert head is not None, "only a label's desk abstains"
        body = bodies.identity(release, self._predictors[modality].engine, "not established")
        body |= bodies.abstained(head, why) | {"out_of_distribution": None}
        if request.neighbours:
            body["nearest"] = []
        if request.saliency:
            body["saliency"] = None
        if request.seen:
            body["seen"] = bodies.png(release.prepare(decoded))
        return Answer(body | bodies.closing(release.card), np.full(1, np.nan, np.float32), np.zeros(0, np.float32))


def desks(releases: Sequence[Release], threads: int = 1, engine: str = DEFAULT) -> dict[str, Desk]:
    """A desk for each question that a release answers, each graph loaded once.

    Raises:
        ReleaseError: As for `Desk`.
    """
    predictors: dict[str, Predictor] = {
        release.card.modality: Predictor(release, threads, engine) for release in releases
    }
    questions = dict.fromkeys(question for release in releases for question in release.card.answers)
    return {question: Desk(releases, question, threads, engine, predictors) for question in questions}


def numbers(values: NDArray[np.float32]) -> list[float]:
    """Floats whose shortest decimal form gives back the float32 exactly."""
    return [float(str(value)) for value in values]


def _predicted(head: HeadCard, probability: float, request: Request) -> dict[str, Any]:
    """A prediction, and of a head that fuses covariates what it rests on; its figures are of that case."""
    if head.fusion is None:
        return bodies.prediction(head, probability)
    told = covariates.body(head.fusion, request.covariates)
    said = bodies.prediction(head if told["used"] else head.alone(), probability)
    return {**said, "meaning": f"{said['meaning']} {told['words']}", "covariates": told}


def _probabilities(
    predictor: Predictor, covariates_C: NDArray[np.float32] | None, images_BSS: NDArray[np.uint8]
) -> NDArray[np.float32]:
    same = None if covariates_C is None else np.tile(covariates_C, (len(images_BSS), 1))
    found = predictor.run(images_BSS, same).probability_B
    assert found is not None, "a saliency map is asked of a release with a head"
    return found
