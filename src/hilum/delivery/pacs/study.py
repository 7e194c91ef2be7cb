"""The images of a study, from files; which of them are asked, and what of their headers a report needs.

A report goes back to the patient whose images it is about, so it carries what tells an archive where it belongs, and
no more of the header: the attributes in KEPT. They are kept in memory for as long as the report is being made.
"""

import io
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydicom import Dataset, dcmread
from pydicom.multival import MultiValue
from pydicom.uid import MediaStorageDirectoryStorage

from hilum.data.dicom_pixels import MODALITIES
from hilum.data.images import is_dicom
from hilum.errors import SourceError
from hilum.progress import track

# Type 1 and 2 attributes of the patient and general study modules (PS3.3 C.7.1.1, C.7.2.1), the issuer without whom a
# patient's id is ambiguous, and what names the image.
TEXTS: Final = (
    *("PatientName", "PatientID", "IssuerOfPatientID", "ReferringPhysicianName", "StudyID", "AccessionNumber"),
    "StudyDescription",
)
DATES: Final = ("PatientBirthDate", "StudyDate")
UIDS: Final = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
KEPT: Final = (*TEXTS, *DATES, *UIDS, "StudyTime", "PatientSex", "Modality", "SpecificCharacterSet")
OPTIONAL: Final = ("IssuerOfPatientID", "StudyDescription")  # type 3: absent where the source has none
_UID: Final = re.compile(r"[0-9.]{1,64}")
_DATE: Final = re.compile(r"\d{8}")
_TIME: Final = re.compile(r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?")


@dataclass(frozen=True)
class Listed:
    """An instance of a study that is known of and not yet read.

    Attributes:
        modality: As the header has it: `DX`.
        series: UID of its series.
        instance: Its own UID.
        load: Reads or fetches the whole file.
    """

    modality: str
    series: str
    instance: str
    load: Callable[[], bytes] = field(repr=False)


@dataclass(frozen=True)
class Chosen:
    """What a release is asked of a study.

    Attributes:
        asked: Images of the release's modality.
        others: Series of another modality, or of no images.
        slices: Images that are slices of a volume: a head answers for single images, and a series of many slices
            would be as many answers to one question.
    """

    asked: Sequence[Listed]
    others: int
    slices: int


@dataclass(frozen=True)
class Files:
    """Files that were named, by study.

    Attributes:
        studies: By UID, in the order found.
        passed_over: Files that are no DICOM instances, or have no UIDs to refer to.
        repeated: Files of instances that were there already.
    """

    studies: Mapping[str, Sequence[Listed]]
    passed_over: int
    repeated: int


def choose(listed: Iterable[Listed], modality: str) -> Chosen:
    """The instances of a study that a release of this modality (`XR`, `MR`) is asked about."""
    series: dict[str, list[Listed]] = {}
    for one in listed:
        series.setdefault(one.series, []).append(one)
    asked: list[Listed] = []
    others = slices = 0
    for members in series.values():
        images = [one for one in members if MODALITIES.get(one.modality) == modality]
        if not images:
            others += 1
        elif modality == "MR" and len(images) > 1:
            slices += len(images)
        else:
            asked += images
    return Chosen(asked, others, slices)


def of_files(paths: Iterable[Path]) -> Files:
    """The studies of DICOM files, and of those below folders.

    Raises:
        SourceError: There is no DICOM instance among them.
    """
    files = [found for path in paths for found in _files(path)]
    studies: dict[str, dict[str, Listed]] = {}
    passed_over = repeated = 0
    for path in track(files, "headers", unit="file"):
        header = _header_of(path)
        if header is None:
            passed_over += 1
            continue
        study = studies.setdefault(header.StudyInstanceUID, {})
        if header.SOPInstanceUID in study:
            repeated += 1
            continue
        study[header.SOPInstanceUID] = Listed(
            header.Modality, header.SeriesInstanceUID, header.SOPInstanceUID, path.read_bytes
        )
    if not studies:
        raise SourceError(
            f"none of the {len(files)} files is a DICOM instance with the UIDs of its study, series and instance; "
            "name DICOM files as an archive exports them"
        )
    return Files({uid: list(study.values()) for uid, study in studies.items()}, passed_over, repeated)


def kept(header: Any) -> Dataset | None:
    """The attributes in KEPT, as text without the encoding that they came in; None where a UID is missing.

    Dates, times and sexes that the standard does not allow are taken as unknown: the archive has the image itself, and
    a report that no archive stores would help nobody. Names and ids stay as they are, also where they are too long:
    cut, they would be somebody else's.
    """
    clean = Dataset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote the values
        for name in UIDS:
            uid = _text(header, name)
            if not _UID.fullmatch(uid):
                return None
            setattr(clean, name, uid)
        for name in TEXTS:
            value = _text(header, name)
            if value or name not in OPTIONAL:
                setattr(clean, name, value)
        for name in DATES:
            date = _text(header, name).replace(".", "")  # dots were the separator before 1993, PS3.5 section 6.2
            setattr(clean, name, date if _DATE.fullmatch(date) else "")
        time = _text(header, "StudyTime").replace(":", "")
        clean.StudyTime = time if _TIME.fullmatch(time) else ""
        sex = _text(header, "PatientSex").upper()
        clean.PatientSex = sex if sex in ("M", "F", "O") else ""
        clean.Modality = _text(header, "Modality").upper()
    return clean


def header_of(content: bytes) -> Dataset | None:
    """The kept attributes of a DICOM file's bytes; None where it is none, or has no UIDs."""
    return _read(io.BytesIO(content))


def _header_of(path: Path) -> Dataset | None:
    try:
        with path.open("rb") as stream:
            if not is_dicom(stream.read(132)):
                return None
            stream.seek(0)
            return _read(stream)
    except OSError:
        return None


def _read(stream: Any) -> Dataset | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            header = dcmread(stream, stop_before_pixels=True, specific_tags=list(KEPT), force=True)
            if header.get("SOPClassUID") == MediaStorageDirectoryStorage:
                return None
            return kept(header)
        except Exception:  # pydicom raises nearly anything on a damaged file
            return None


def _text(header: Any, name: str) -> str:
    """A value as text, several joined as DICOM joins them; empty where there is none or it cannot be read."""
    try:
        value = header.get(name, None)
    except Exception:
        return ""
    if value is None:
        return ""
    if isinstance(value, MultiValue):
        return "\\".join(str(part) for part in value)
    return str(value).strip("\0 ")


def _files(path: Path) -> list[Path]:
    return sorted(found for found in path.rglob("*") if found.is_file()) if path.is_dir() else [path]
