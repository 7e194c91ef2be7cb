"""What the header of a DICOM file says of a row of the manifest; no pixels are read."""

import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import MediaStorageDirectoryStorage

from hilum.data.manifest import VIEWS

MODALITY: Final = {"CR": "XR", "DX": "XR", "DR": "XR", "RG": "XR", "MR": "MR"}
VIEW: Final = {"PA": "PA", "AP": "AP", "LL": "LATERAL", "RL": "LATERAL", "LATERAL": "LATERAL", "LAT": "LATERAL"}
# The patient axis that a slice's normal lies along (x to the left, y to the back, z to the head), and its plane.
PLANE_OF_NORMAL: Final = ("SAGITTAL", "CORONAL", "AXIAL")
DAYS_PER_YEAR: Final = 365.25
SECONDS_PER_DAY: Final = 86400.0
OLDEST_YEARS: Final = 120.0
YEARS_PER: Final = {"Y": 1.0, "M": 1 / 12, "W": 7 / DAYS_PER_YEAR, "D": 1 / DAYS_PER_YEAR}
TAGS: Final = [
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "InstanceNumber", "Modality",
    "PatientID", "IssuerOfPatientID", "PatientSex", "PatientAge", "PatientBirthDate", "StudyDate", "StudyTime",
    "ViewPosition", "ImageOrientationPatient", "ImagePositionPatient", "InstitutionName", "Manufacturer",
    "ManufacturerModelName", "Rows",
]  # fmt: skip


def facts_of(path: Path) -> dict[str, Any] | None:
    """What a file's header says; None where the file is no DICOM file with an instance UID.

    Returns:
        `modality` and `view` (of the manifest's vocabulary; modality None where it is no X-ray or MR image), `sop`,
        `study`, `series`, `patient`, `issuer` (as in the header), `number` (of the instance), `position_mm` (along the
        slice's normal), `institution`, `scanner`, `sex`, `age_years`, `time_days` (days since an epoch, with the time
        of day as fraction); unknown values are NaN.
    """
    try:
        # pydicom warns of values that break the standard; they are unknown here, and the warning would name them.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = dcmread(path, stop_before_pixels=True, specific_tags=TAGS)
            return _facts(header)
    except (InvalidDicomError, OSError, ValueError, TypeError, AttributeError, KeyError, NotImplementedError):
        return None


def _facts(header: Dataset) -> dict[str, Any] | None:
    sop = _text(header, "SOPInstanceUID")
    if not isinstance(sop, str) or header.get("SOPClassUID") == MediaStorageDirectoryStorage:
        return None
    modality = MODALITY.get(str(header.get("Modality", "")).strip().upper()) if header.get("Rows") else None
    plane, position_mm = _plane(header)
    view = VIEW.get(str(header.get("ViewPosition", "")).strip().upper(), np.nan)
    study_day = _date(header, "StudyDate")
    maker = [name for tag in ("Manufacturer", "ManufacturerModelName") if isinstance(name := _text(header, tag), str)]
    return {
        "modality": modality,
        "view": plane if modality == "MR" else view,
        "sop": sop,
        "study": _text(header, "StudyInstanceUID"),
        "series": _text(header, "SeriesInstanceUID"),
        "patient": _text(header, "PatientID"),
        "issuer": str(header.get("IssuerOfPatientID") or ""),
        "number": _number(header.get("InstanceNumber")),
        "position_mm": position_mm,
        "institution": _text(header, "InstitutionName"),
        "scanner": " ".join(maker) or np.nan,
        "sex": _text(header, "PatientSex"),
        "age_years": _age_years(header, study_day),
        "time_days": study_day + _day_share(header),
    }


def _text(header: Dataset, tag: str) -> str | float:
    value = str(header.get(tag) or "").strip()
    return value or np.nan


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return np.nan


def _date(header: Dataset, tag: str) -> float:
    """Days since 1970-01-01 of a DICOM date (`20240131`, or `2024.01.31` as before 1993)."""
    written = str(header.get(tag) or "").replace(".", "").strip()
    date = pd.to_datetime(written[:8], format="%Y%m%d", errors="coerce")
    return np.nan if pd.isna(date) else (date - pd.Timestamp(0)) / pd.Timedelta(days=1)


def _day_share(header: Dataset) -> float:
    """Time of day as a share of the day; 0 where the header has none."""
    written = str(header.get("StudyTime") or "").replace(":", "").strip()
    if len(written) < 4 or not written[:4].isdigit():
        return 0.0
    seconds = written[4:6] if written[4:6].isdigit() else "0"
    return (int(written[:2]) * 3600 + int(written[2:4]) * 60 + int(seconds)) / SECONDS_PER_DAY


def _age_years(header: Dataset, study_day: float) -> float:
    """PatientAge, else the time from birth to study."""
    written = str(header.get("PatientAge") or "").strip().upper()
    if len(written) > 1 and written[:-1].isdigit() and written[-1] in YEARS_PER:
        years = int(written[:-1]) * YEARS_PER[written[-1]]
    else:
        years = (study_day - _date(header, "PatientBirthDate")) / DAYS_PER_YEAR
    return years if 0 <= years <= OLDEST_YEARS else np.nan


def _plane(header: Dataset) -> tuple[str | float, float]:
    """The plane of a slice and its place along its normal, by the cross product of its row and column directions."""
    cosines = [_number(value) for value in header.get("ImageOrientationPatient") or ()]
    if len(cosines) != 6 or not np.isfinite(cosines).all():
        return np.nan, np.nan
    normal = np.cross(cosines[:3], cosines[3:])
    if np.linalg.norm(normal) < 0.5:  # the two directions must be perpendicular unit vectors
        return np.nan, np.nan
    plane = PLANE_OF_NORMAL[int(np.argmax(np.abs(normal)))]
    assert plane in VIEWS["MR"]
    position = [_number(value) for value in header.get("ImagePositionPatient") or ()]
    return plane, float(np.dot(normal, position)) if len(position) == 3 else np.nan
