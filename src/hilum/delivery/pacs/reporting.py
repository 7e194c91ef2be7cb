"""From a study to its structured report: each image is answered by itself, and what became of all of them is counted.

Nothing that names a patient, a study or a file is said on the way: counts are. The report alone knows whom it is about.
"""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydicom import Dataset

from hilum.delivery.card import GateCard
from hilum.delivery.desk import Desk, Request
from hilum.delivery.engines import DEFAULT
from hilum.delivery.pacs import report
from hilum.delivery.pacs.report import Answered, Author
from hilum.delivery.pacs.study import Chosen, header_of
from hilum.delivery.predictor import Release
from hilum.errors import HilumError, ImageError, ReleaseError, SourceError
from hilum.progress import track

SUFFIX: Final = ".dcm"


@dataclass
class Tally:
    """What became of the images of one study.

    Attributes:
        predicted: Images with a probability.
        abstained: Readable images for which no prediction is given.
        refused: Readable images that are not answered for.
        unreadable: Images that cannot be read; they have no place in the report but this count.
        slices: Images of volumes, which were not asked.
        others: Series of another modality, or of no images.
    """

    predicted: int = 0
    abstained: int = 0
    refused: int = 0
    unreadable: int = 0
    slices: int = 0
    others: int = 0

    @property
    def images(self) -> int:
        """All that were asked, and the slices that were not."""
        return self.predicted + self.abstained + self.refused + self.unreadable + self.slices

    def __str__(self) -> str:
        parts = [f"{self.predicted} answered"]
        for count, words in (
            (self.abstained, "without a prediction (abstained)"),
            (self.refused, "refused"),
            (self.unreadable, "that cannot be read"),
            (self.slices, "not asked, as slices of a volume"),
        ):
            if count:
                parts.append(f"{count} {words}")
        told = f"{self.images} image{'s' if self.images != 1 else ''}: {', '.join(parts)}"
        series = f"; {self.others} other series left alone" if self.others else ""
        return told + series


@dataclass(frozen=True)
class Reported:
    """A study that was gone through.

    Attributes:
        tally: What became of its images.
        document: Its report; None where not one image could be read.
    """

    tally: Tally
    document: Dataset | None = field(repr=False)


class Reporter:
    """Answers studies by one release with a head."""

    def __init__(self, release: Release, engine: str = DEFAULT) -> None:
        """Load the release's graph and prove it.

        Raises:
            ReleaseError: It does not load, or has no head: an embedding is nothing that a report can say.
        """
        card = release.card
        if card.head is None:
            raise ReleaseError(
                f"{card.name} answers embeddings only ({card.why_no_head or 'it has no head'}); a structured report "
                "says a probability and its operating point, so export a release with a head (--probe)"
            )
        self.modality = card.modality
        self._desk = Desk([release], card.head.label, engine=engine)
        self._author = Author(
            name=card.name,
            version=card.version,
            modality=card.modality,
            label=card.head.label,
            dossier_id=release.dossier_id,
            engine=f"{engine} ({card.engine(engine).precision})",
            gate=_gate(card.gate),
            mitigation=str(card.mitigation) if card.mitigation is not None else "",
            intended_use=card.intended_use,
            caution=card.caution,
        )

    def report(self, chosen: Chosen) -> Reported:
        """Answer the images of one study, and make its report.

        Raises:
            SourceError: The images name more than one patient or study.
        """
        tally = Tally(slices=chosen.slices, others=chosen.others)
        answers: list[Answered] = []
        for listed in track(chosen.asked, "images", unit="image"):
            try:
                content = listed.load()
            except OSError:
                tally.unreadable += 1
                continue
            header, body = header_of(content), self._answer(content)
            if header is None or (isinstance(body, ImageError) and body.fault != "refused"):
                tally.unreadable += 1
                continue
            _count(tally, body)
            answers.append(Answered(header, body))
        _of_one(one.header for one in answers)
        return Reported(tally, report.make(answers, self._author, str(tally)) if answers else None)

    def _answer(self, content: bytes) -> dict[str, Any] | ImageError:
        [answer] = self._desk.answer([Request(content)])
        return answer if isinstance(answer, ImageError) else answer.body


def write(document: Dataset, out: Path) -> Path:
    """Write a report into a folder under its own UID, whole or not at all; returns its path.

    Raises:
        HilumError: The folder cannot be written to.
    """
    path = out / f"{document.SOPInstanceUID}{SUFFIX}"
    partial = path.with_suffix(".partial")
    try:
        out.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(report.encode(document))
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise HilumError(f"no report can be written to {out} ({error.strerror}); name another --out") from error
    return path


def _count(tally: Tally, body: dict[str, Any] | ImageError) -> None:
    if isinstance(body, ImageError):
        tally.refused += 1
    elif body["probability"] is None:
        tally.abstained += 1
    else:
        tally.predicted += 1


def _of_one(headers: Iterable[Dataset]) -> None:
    """Refuse images of several patients or studies: a report would be filed under one of them."""
    named = {(one.PatientID, one.get("IssuerOfPatientID", ""), one.StudyInstanceUID) for one in headers}
    if len(named) > 1:
        raise SourceError(
            "the images of one study name more than one patient; nothing is reported of it, since a report belongs to "
            "one: have the archive correct the study first"
        )


def _gate(card: GateCard) -> str:
    by = card.override
    return card.verdict if by is None else f"{card.verdict}; {by}"
