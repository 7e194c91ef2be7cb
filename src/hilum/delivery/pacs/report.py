"""A structured report of a study: what a release answered to each image, after TID 1500; the only door to highdicom.

One measurement group (TID 1501) per image that was asked: the finding asked about, the decision, and where there is one
the probability, its interval and what it means; the operating point with its sensitivity and specificity; who answered
(TID 4019). An image for which no prediction is given has a group too, which says why. docs/pacs.md lists the items.

The finding asked about is not encoded as a "Finding" (121071, DCM): a reader that shows findings would show pneumonia
for every image of which it was asked, also where the answer is no.
"""

import io
import logging
import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from highdicom import sr
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from hilum import __version__
from hilum.delivery.pacs import codes
from hilum.errors import ImageError

MANUFACTURER: Final = "hilum"
SERIES_NUMBER: Final = 990  # beyond those of the images, so that lists show it last
CHARACTERS: Final = "ISO_IR 192"  # UTF-8: names come in whatever encoding the source has, and leave in this one
_CONTAINS: Final = sr.RelationshipTypeValues.CONTAINS
_PROPERTIES: Final = sr.RelationshipTypeValues.HAS_PROPERTIES

logging.getLogger("highdicom").setLevel(logging.CRITICAL + 1)  # its lines quote UIDs and names


@dataclass(frozen=True)
class Answered:
    """What was answered to one image.

    Attributes:
        header: Its kept attributes (hilum.delivery.pacs.study.KEPT).
        body: The answer as JSON, or the refusal of a readable image.
    """

    header: Dataset
    body: Mapping[str, Any] | ImageError


@dataclass(frozen=True)
class Author:
    """The release that answers.

    Attributes:
        name: Of the card.
        version: Of the card.
        modality: `XR` or `MR`.
        label: The question.
        dossier_id: In hex, whole.
        engine: Name and precision.
        gate: What the gate said, with its override.
        mitigation: What the head was fitted with against a gap between groups; empty where with nothing.
        intended_use: Of the card.
        caution: Of the training data; may be empty.
    """

    name: str
    version: str
    modality: str
    label: str
    dossier_id: str
    engine: str
    gate: str
    mitigation: str
    intended_use: str
    caution: str


def make(answers: Sequence[Answered], author: Author, images: str) -> Dataset:
    """The report of one study, with new UIDs of series and instance; preliminary and unverified.

    Args:
        answers: To the images of one study and patient, one at least.
        author: Who answered.
        images: How many images the study has and what became of them, in words.
    """
    assert answers, "a report without an image refers to nothing"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries' warnings quote values of the header
        context = sr.ObservationContext(
            sr.ObserverContext(
                sr.CodedConcept("121007", "DCM", "Device"),
                sr.DeviceObserverIdentifyingAttributes(
                    uid=f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, author.dossier_id).int}",  # of a release always the same
                    name=author.name,
                    manufacturer_name=MANUFACTURER,
                    model_name=f"{author.name} {author.version}",
                    serial_number=author.dossier_id[:16],
                ),
            )
        )
        groups = [_group(number, one, author) for number, one in enumerate(answers, start=1)]
        content = sr.MeasurementReport(context, codes.PROCEDURES[author.modality], groups)
        content[0].ContentSequence.append(_whole(author, images))
        return sr.ComprehensiveSR(
            evidence=[one.header for one in answers],
            content=content,
            series_instance_uid=generate_uid(prefix=None),
            series_number=SERIES_NUMBER,
            series_description=f"hilum: {author.label.replace('_', ' ')}, not for clinical use"[:64],
            sop_instance_uid=generate_uid(prefix=None),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=author.name[:64],
            device_serial_number=author.dossier_id[:16],
            software_versions=f"hilum {__version__}",
            is_complete=True,
            is_final=False,
            is_verified=False,
            coding_schemes=[CodingSchemeIdentificationItem(codes.SCHEME, codes.SCHEME_NAME)],
            specific_character_set=CHARACTERS,
        )


def encode(document: Dataset) -> bytes:
    """As the bytes of a DICOM file."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        document.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _group(number: int, one: Answered, author: Author) -> sr.MeasurementsAndQualitativeEvaluations:
    """What is said of one image, as a measurement group."""
    body = one.body
    said = [_evaluated(codes.QUESTION, codes.finding(author.label))]
    numbers: list[sr.Measurement] = []
    texts: list[sr.TextContentItem] = []
    if isinstance(body, ImageError):
        said += [
            _evaluated(codes.DECISION, codes.DECISIONS["refused"]),
            _evaluated(codes.REASON, codes.REASONS["refused"]),
        ]
        texts.append(_text(codes.WORDS, str(body)))
    else:
        said.append(_evaluated(codes.DECISION, codes.DECISIONS[body["decision"]]))
        if body["probability"] is not None:
            numbers.append(_measured(codes.PROBABILITY, body["probability"]))
            numbers += _with_interval(codes.OBSERVED, body.get("interval"), "observed")
        why = body.get("abstention")
        if why is not None:
            said.append(_evaluated(codes.REASON, codes.REASONS[why["reason"]]))
            texts.append(_text(codes.WORDS, why["words"]))
        unlike = body.get("out_of_distribution") or why or {}
        if unlike.get("score") is not None and unlike.get("limit") is not None:
            numbers += [_measured(codes.SCORE, unlike["score"]), _measured(codes.LIMIT, unlike["limit"])]
        point = body["operating_point"]
        numbers.append(_measured(codes.THRESHOLD, point["threshold"]))
        numbers += _with_interval(codes.SENSITIVITY, point["sensitivity"], "value")
        numbers += _with_interval(codes.SPECIFICITY, point["specificity"], "value")
        texts += [_text(codes.OPERATING_POINT, point["rule"]), _text(codes.MEANING, body["meaning"])]
    header = one.header
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=generate_uid(prefix=None), identifier=f"Image {number}"),
        algorithm_id=_algorithm(author),
        measurements=numbers,
        qualitative_evaluations=said,
        source_images=[sr.SourceImageForMeasurementGroup(header.SOPClassUID, header.SOPInstanceUID)],
    )
    group[0].ContentSequence.extend(texts)
    return group


def _algorithm(author: Author) -> sr.AlgorithmIdentification:
    told = {"dossier": author.dossier_id[:16], "engine": author.engine, "label": author.label}
    if author.mitigation:
        told["mitigation"] = author.mitigation
    return sr.AlgorithmIdentification(
        name=author.name,
        version=author.version,
        parameters=[f"{name}: {value}" for name, value in told.items()],
    )


def _whole(author: Author, images: str) -> sr.ContainerContentItem:
    """What is said of the report as a whole: qualitative evaluations of TID 1500."""
    container = sr.ContainerContentItem(codes.EVALUATIONS, relationship_type=_CONTAINS)
    texts = [
        _text(codes.INTENDED_USE, author.intended_use),
        _text(codes.GATE, author.gate),
        _text(codes.IMAGES, images),
    ]
    if author.caution:
        texts.append(_text(codes.CAUTION, author.caution))
    container.ContentSequence = sr.ContentSequence(texts)
    return container


def _evaluated(name: Code, value: Code) -> sr.QualitativeEvaluation:
    return sr.QualitativeEvaluation(name, value)


def _text(name: Code, words: str) -> sr.TextContentItem:
    return sr.TextContentItem(name, words, _CONTAINS)


def _measured(name: Code, value: float) -> sr.Measurement:
    return sr.Measurement(name, float(value), codes.ONE)


def _with_interval(name: Code, measured: Mapping[str, Any] | None, key: str) -> list[sr.Measurement]:
    """A number with its 95% interval and what it was measured on; none where it is undefined."""
    if measured is None or measured[key] is None:
        return []
    found = _measured(name, measured[key])
    bounds = [
        sr.NumContentItem(bound, float(measured[end]), codes.ONE, relationship_type=_PROPERTIES)
        for bound, end in ((codes.LOWER, "low"), (codes.UPPER, "high"))
        if measured[end] is not None
    ]
    count = sr.NumContentItem(codes.COUNT, int(measured["n"]), codes.COUNTS, relationship_type=_PROPERTIES)
    count.MeasuredValueSequence[0].NumericValue = str(measured["n"])  # 39, where the library writes 39.0
    found[0].ContentSequence = sr.ContentSequence([*bounds, count])
    return [found]
