"""DICOM studies that tests make: drawn images with the headers that an archive wants, and people who do not exist."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

CLASSES = {
    "DX": DigitalXRayImageStorageForPresentation,
    "CR": ComputedRadiographyImageStorage,
    "MR": MRImageStorage,
    "CT": CTImageStorage,
}
PATIENT = {
    "PatientName": "Müllerová^Žofie",
    "PatientID": "MRN-4711-geheim",
    "IssuerOfPatientID": "Klinikum Nirgendwo",
    "PatientBirthDate": "19571224",
    "PatientSex": "F",
    "AccessionNumber": "ACC-0815",
    "StudyID": "S-42",
    "StudyDate": "20260203",
    "StudyTime": "101112.5",
    "ReferringPhysicianName": "Überweiser^Uwe",
    "StudyDescription": "Thorax in zwei Ebenen",
}


@dataclass
class Study:
    """A study of one patient, to which images are added."""

    uid: str = field(default_factory=lambda: generate_uid(prefix=None))
    patient: Mapping[str, Any] = field(default_factory=lambda: dict(PATIENT))
    files: list[bytes] = field(default_factory=list)

    def add(
        self,
        pixels: np.ndarray,
        modality: str = "DX",
        view: str = "PA",
        series: str | None = None,
        **attributes: Any,
    ) -> FileDataset:
        """One more image, in a series of its own unless one is named; returns its header."""
        uid = generate_uid(prefix=None)
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CLASSES[modality], UID(uid)
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        made = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        made.SpecificCharacterSet = "ISO_IR 192"
        made.SOPClassUID, made.SOPInstanceUID = CLASSES[modality], uid
        made.StudyInstanceUID, made.SeriesInstanceUID = self.uid, series or generate_uid(prefix=None)
        made.Modality, made.SeriesNumber, made.InstanceNumber = modality, len(self.files) + 1, 1
        if view:
            made.ViewPosition = view
        made.Rows, made.Columns = pixels.shape
        made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
        made.BitsAllocated = made.BitsStored = 8
        made.HighBit, made.PixelRepresentation = 7, 0
        made.PixelData = pixels.tobytes()
        for name, value in {**self.patient, **attributes}.items():
            setattr(made, name, value)
        self.files.append(encoded(made))
        return made

    def write(self, folder: Path) -> Path:
        """As files of a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for number, content in enumerate(self.files):
            (folder / f"IM{number:04d}").write_bytes(content)
        return folder

    @property
    def secrets(self) -> list[str]:
        """Everything that names the patient, the study or an image of it, as it would stand in a log."""
        uids = [
            str(getattr(header, name))
            for header in map(headers, self.files)
            for name in ("SOPInstanceUID", "SeriesInstanceUID")
        ]
        return [*map(str, self.patient.values()), "Müllerová", "Überweiser", self.uid, *uids]


def headers(content: bytes) -> FileDataset:
    """The header of a file's bytes."""
    return pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True)


def encoded(made: FileDataset) -> bytes:
    """As the bytes of a file."""
    stream = io.BytesIO()
    made.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def walk(items: Sequence[Any], above: str = "") -> list[tuple[str, str, Any]]:
    """Every content item below a ContentSequence: (path of meanings, value type, value), depth first.

    A naive walk by the tables of PS3.3 C.17.3, which knows nothing of the library that wrote the report.
    """
    found: list[tuple[str, str, Any]] = []
    for item in items:
        name = item.ConceptNameCodeSequence[0].CodeMeaning if "ConceptNameCodeSequence" in item else ""
        path = f"{above}/{name}"
        kind = item.ValueType
        if kind == "NUM":
            value = float(item.MeasuredValueSequence[0].NumericValue)
        elif kind == "CODE":
            code = item.ConceptCodeSequence[0]
            value = (code.CodeValue if "CodeValue" in code else code.LongCodeValue, code.CodingSchemeDesignator)
        elif kind == "TEXT":
            value = item.TextValue
        elif kind == "IMAGE":
            value = str(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
        elif kind == "UIDREF":
            value = str(item.UID)
        else:
            value = None
        found.append((path, kind, value))
        found += walk(item.get("ContentSequence", []), path)
    return found
