"""A folder of DICOM files, as an archive or a modality exports them; everything is read from the headers.

Any file that begins as DICOM does is read, whatever its name; others are passed over. X-rays (CR, DX, DR, RG) become
XR, MR becomes MR; other modalities, reports and objects without pixels are passed over and counted.
Labels: headers have none. The option `labels=FILE.csv` names a table with the column `SOPInstanceUID` (or
`StudyInstanceUID`) and one column per label: 1, 0, -1 for uncertain, blank for unknown.
Missing: absent, empty or unreadable attributes are unknown.
Identity: patient, study and image ids are digests (keyed BLAKE2b) of IssuerOfPatientID with PatientID, of
StudyInstanceUID and of SOPInstanceUID, so that no medical record number enters the dataset. Record numbers are few
enough to be tried one by one: the option `key=FILE` names a file whose content keys the digests, and only who has it
can try; without it they are keyed by a constant, which hides but does not protect. Dates give only days since the
patient's first study. A file without PatientID counts its study as a patient.
Quirks: ViewPosition LL and RL are lateral; blank views stay unknown. PatientAge may be 058Y, 006M, or absent, then it
follows from PatientBirthDate. The plane of an MR slice is the one its normal is nearest to (ImageOrientationPatient).
An MR series has many slices: its central one is taken, or all with the option `mr_slices=all`. Institution becomes
`site`; the attribute `scanner` is Manufacturer and model.
Splits: none.

Citation and licence: the owner's of the images.
"""

import hashlib
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from hilum.data import headers, locators, tables
from hilum.data.manifest import Cohort
from hilum.errors import SourceError, UsageError
from hilum.progress import track

OPEN_KEY: Final = b"hilum"  # ids must be stable from one ingest to the next, also where no key is given
KEY_BYTES: Final = 64  # BLAKE2b takes no longer key; longer content is digested to this length
UIDS: Final = ("SOPInstanceUID", "StudyInstanceUID")


def read(source: Path, labels: str = "", key: str = "", mr_slices: str = "central") -> Cohort:
    """Read the headers of all DICOM files below a folder.

    Args:
        source: The folder.
        labels: Path of a table of labels, relative to the folder, or absolute.
        key: Path of a file whose content keys the digests of ids.
        mr_slices: `central`, one slice per MR series, or `all`.

    Raises:
        UsageError: An option names no file or has no meaning.
        SourceError: There is no X-ray or MR image below the folder, or the table of labels is not one.
    """
    if mr_slices not in ("central", "all"):
        raise UsageError(f"mr_slices is central or all, not {mr_slices!r}")
    digest = partial(_digest, _key(key))
    read_headers = [
        (path, headers.facts_of(source / path)) for path in track(tables.files_under(source), "headers", unit="file")
    ]
    dicom = [(path, facts) for path, facts in read_headers if facts is not None]
    images = [{"locator": path, **facts} for path, facts in dicom if facts["modality"] is not None]
    if not images:
        raise SourceError(
            f"{source} holds no X-ray (CR, DX, DR, RG) or MR image: of {len(read_headers)} files {len(dicom)} are DICOM"
        )
    table = pd.DataFrame(images)
    repeated = int(table["sop"].duplicated().sum())
    table = table.drop_duplicates("sop").reset_index(drop=True)
    if mr_slices == "central":
        table = _central(table)
    rows = _identity(table, digest)
    label_names: tuple[str, ...] = ()
    if labels:
        rows, label_names = _labelled(rows, table, _at(source, labels))
    nameless = int(table["patient"].isna().sum())
    passed = len(dicom) - len(images)
    return Cohort(
        rows=rows,
        load=partial(locators.load, source),
        labels=label_names,
        licence="the owner's of the images",
        citation="the owner's of the images",
        caution=tables.sentences(
            "" if key else "Ids are digests without a secret key.",
            f"{nameless} images have no PatientID; each study of theirs counts as a patient." if nameless else "",
            f"{passed} DICOM files that are no X-ray or MR image were passed over." if passed else "",
            f"{repeated} files that repeat an image were passed over." if repeated else "",
        ),
        attributes=("scanner",),
    )


def _digest(key: bytes, *parts: str) -> str:
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=12, key=key).hexdigest()


def _key(path: str) -> bytes:
    if not path:
        return OPEN_KEY
    try:
        content = Path(path).read_bytes().strip()
    except OSError as error:
        raise UsageError(f"key names a file with a secret, but {path} cannot be read: {error.strerror}") from error
    if not content:
        raise UsageError(f"key names a file with a secret, but {path} is empty")
    return content if len(content) <= KEY_BYTES else hashlib.blake2b(content).digest()


def _at(source: Path, name: str) -> Path:
    for path in (source / name, Path(name)):
        if path.is_file():
            return path
    raise UsageError(f"labels names a table, but there is no {name} in {source}")


def _central(table: pd.DataFrame) -> pd.DataFrame:
    """Of each MR series keep the slice in the middle along its normal; X-rays are kept as they are."""
    slices = table[table["modality"].eq("MR")].sort_values(["series", "position_mm", "number", "sop"])
    place = slices.groupby("series", dropna=False).cumcount()
    count = slices.groupby("series", dropna=False)["sop"].transform("size")
    kept = slices[(place == count // 2) | slices["series"].isna()]
    return pd.concat([table[table["modality"].ne("MR")], kept]).sort_values("locator", ignore_index=True)


def _identity(table: pd.DataFrame, digest: "partial[str]") -> pd.DataFrame:
    def person(facts: dict[str, Any]) -> str:
        if isinstance(facts["patient"], str):
            return digest("patient", facts["issuer"], facts["patient"])
        return digest("study", facts["study"] if isinstance(facts["study"], str) else facts["sop"])

    records = table.to_dict("records")
    patient = pd.Series([f"pat-{person(facts)}" for facts in records], dtype="str")
    study = [
        f"stu-{digest('study', facts['study'])}" if isinstance(facts["study"], str) else np.nan for facts in records
    ]
    # Hours order the studies of one day; a study has one time, that of its first image.
    time = table["time_days"].groupby(pd.Series(study, dtype="str").fillna(table["sop"])).transform("min")
    return pd.DataFrame(
        {
            "image_id": [f"img-{digest('image', facts['sop'])}" for facts in records],
            "patient_id": patient,
            "study_id": pd.Series(study, dtype="str"),
            "study_order": tables.order_within(patient, time),
            "days": tables.since_first(patient, np.floor(time)),
            "modality": table["modality"],
            "view": table["view"],
            "site": table["institution"],
            "source": "dicom",
            "age_years": table["age_years"],
            "sex": tables.sex(table["sex"]),
            "scanner": table["scanner"],
            "locator": table["locator"],
        }
    )


def _labelled(rows: pd.DataFrame, table: pd.DataFrame, path: Path) -> tuple[pd.DataFrame, tuple[str, ...]]:
    given = tables.read_table(path, dtype="str", keep_default_na=False)
    uid = next((name for name in UIDS if name in given), None)
    if uid is None:
        raise SourceError(f"{path} has neither of the columns {' and '.join(UIDS)}, by which labels are joined")
    chosen = tables.chosen_columns(given, path, ",".join(name for name in given.columns if name not in UIDS))
    if given[uid].duplicated().any():
        raise SourceError(f"{path} has {int(given[uid].duplicated().sum())} rows that repeat a {uid}; one row for each")
    keys = table["sop" if uid == "SOPInstanceUID" else "study"]
    if not keys.isin(given[uid].str.strip()).any():
        raise SourceError(f"{path} has no {uid} of the images found; labels are joined by it")
    by_uid = given.set_index(given[uid].str.strip())
    labelled = rows.copy()
    for name, published in chosen.items():
        labelled[name] = keys.map(tables.label(by_uid[published], path))
    return labelled, tuple(chosen)
