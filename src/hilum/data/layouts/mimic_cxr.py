"""MIMIC-CXR-JPG: 377,110 chest films in 227,827 studies of 65,379 patients of Beth Israel Deaconess Medical Center.

Labels: the 14 observations of CheXpert, mined from the reports by CheXpert's labeller (default) or by NegBio (option
`labeller=negbio`), keyed by study: all films of a study share them. -1 is an uncertain mention, kept as -1.
Missing: blank is "not mentioned": unknown, not absent. Studies without a report have no label.
Quirks: tables are joined by id, never by row order; the split says `validate` (here `val`); StudyTime is `HHMMSS.fff`
as a number, so leading zeros are lost; dates are shifted by patient, so intervals hold within a patient only; views
other than PA, AP, LATERAL, LL and RL are rare and taken as unknown.
With MIMIC-IV (option `mimic_iv=DIR`, the folder with `hosp/` and `icu/`): age, sex, race, and vital signs and
laboratory values of the 48 hours before the study; with MIMIC-IV-ED (`mimic_iv_ed=DIR`, the folder with `ed/`) those of
the emergency department (hilum.data.covariates). Age is anchor_age plus the years from anchor_year; above 89 it is
recorded as 91. Race is the one entered most often; it is entered by staff, and differs between admissions.
Splits: as published, by patient. Part of the test set was also read by a radiologist; those labels are not read here.

Citation: Johnson et al. 2019, MIMIC-CXR-JPG, arXiv:1901.07042; MIMIC-IV: Johnson et al. 2023, Scientific Data 10.
Licence: PhysioNet Credentialed Health Data License. To get it: physionet.org, mimic-cxr-jpg 2.0.0 or later, mimiciv,
mimic-iv-ed, after training and a signed agreement.
"""

from functools import partial
from pathlib import Path
from typing import Final

import pandas as pd

from hilum.data import covariates, locators, tables
from hilum.data.manifest import Cohort
from hilum.data.vocabulary import CHEXPERT_FINDINGS
from hilum.errors import SourceError, UsageError

PREFIX: Final = "mimic-cxr-2.0.0-"
LABELLERS: Final = ("chexpert", "negbio")
ORIGIN: Final = "it comes with MIMIC-CXR-JPG on PhysioNet, beside the folder files/"
VIEW: Final = {"PA": "PA", "AP": "AP", "LATERAL": "LATERAL", "LL": "LATERAL", "RL": "LATERAL"}
SPLIT: Final = {"train": "train", "validate": "val", "test": "test"}
DAY: Final = pd.Timedelta(days=1)
UNKNOWN_RACE: Final = ("UNKNOWN", "UNABLE TO OBTAIN", "PATIENT DECLINED TO ANSWER")


def read(source: Path, labeller: str = "chexpert", mimic_iv: str = "", mimic_iv_ed: str = "") -> Cohort:
    """Read MIMIC-CXR-JPG; images that were not downloaded are left out, and the caution counts them.

    Args:
        source: The folder with `files/` and the tables.
        labeller: `chexpert` or `negbio`.
        mimic_iv: Folder of MIMIC-IV, for age, sex, race and covariates.
        mimic_iv_ed: Folder of MIMIC-IV-ED, for more covariates.

    Raises:
        UsageError: The labeller is unknown, or an option names no folder.
        SourceError: A table or every image is missing, or a table is not as published.
    """
    if labeller not in LABELLERS:
        raise UsageError(f"labeller is one of {', '.join(LABELLERS)}, not {labeller!r}")
    films = _films(source, labeller)
    present = tables.files_under(source, "files", suffixes=(".jpg",))
    films, left_out = tables.keep_present(films, present, source, f"{PREFIX}metadata")
    names: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    absent = ""
    if mimic_iv:
        films = films.join(_people(Path(mimic_iv), films))
        attributes = ("race",)
    if mimic_iv or mimic_iv_ed:
        values, absent = _covariates(films, mimic_iv, mimic_iv_ed)
        names = tuple(name for name in values.columns if values[name].notna().any())
        films = films.join(values[list(names)], on="study_number")
    return Cohort(
        rows=films,
        load=partial(locators.load, source),
        labels=tuple(CHEXPERT_FINDINGS.values()),
        licence="PhysioNet Credentialed Health Data License: no redistribution",
        citation="Johnson A. E. W. et al. 2019, MIMIC-CXR-JPG, arXiv:1901.07042",
        covariates=names,
        caution=tables.sentences(
            f"Labels were mined from report text ({labeller}); what a report does not mention is unknown.",
            left_out,
            absent,
        ),
        attributes=attributes,
    )


def _films(source: Path, labeller: str) -> pd.DataFrame:
    """The manifest's columns from the three tables, joined by id, without looking at any image."""
    described, path = _table(source, "metadata", ("dicom_id", "subject_id", "study_id", "ViewPosition", "StudyDate"))
    split, split_path = _table(source, "split", ("dicom_id", "split"))
    labels, label_path = _table(source, labeller, ("subject_id", "study_id", *CHEXPERT_FINDINGS))
    for table, keys, where in (
        (described, ["dicom_id"], path),
        (split, ["dicom_id"], split_path),
        (labels, ["subject_id", "study_id"], label_path),
    ):
        if table.duplicated(keys).any():
            raise SourceError(f"{where} repeats a {' and '.join(keys)}; the published table has each once")
    films = described.merge(split[["dicom_id", "split"]], on="dicom_id", how="left")
    keys = ["subject_id", "study_id"]
    films = films.merge(labels[[*keys, *CHEXPERT_FINDINGS]], on=keys, how="left")
    subject, study = films["subject_id"].astype("str"), films["study_id"].astype("str")
    rows = pd.DataFrame(
        {
            "image_id": films["dicom_id"],
            "patient_id": subject,
            "study_id": study,
            "modality": "XR",
            "view": films["ViewPosition"].map(VIEW),
            "site": "Beth Israel Deaconess Medical Center",
            "source": "mimic_cxr",
            "split": films["split"].map(SPLIT),
            "locator": "files/p" + subject.str[:2] + "/p" + subject + "/s" + study + "/" + films["dicom_id"] + ".jpg",
            "subject_number": films["subject_id"],
            "study_number": films["study_id"],
            "time": study_time(films),
        }
    )
    # A study has one time: its films may be a few minutes apart.
    start = rows.groupby("study_id")["time"].transform("min")
    elapsed_days = (start - pd.Timestamp(0)) / DAY
    rows["study_order"] = tables.order_within(rows["patient_id"], elapsed_days)
    rows["days"] = tables.since_first(rows["patient_id"], elapsed_days)
    for published, name in CHEXPERT_FINDINGS.items():
        rows[name] = tables.label(films[published], label_path)
    return rows


def study_time(films: pd.DataFrame) -> pd.Series:
    """Date and time of each film from StudyDate (`21800506`) and StudyTime (`213014.531`, `133.0` is 00:01:33)."""
    date = pd.to_numeric(films["StudyDate"], errors="coerce").astype("Int64").astype("str")
    clock = pd.Series(0.0, index=films.index)
    if "StudyTime" in films:
        clock = pd.to_numeric(films["StudyTime"], errors="coerce").fillna(0.0)
    digits = clock.astype("int64").astype("str").str.zfill(6)
    return pd.to_datetime(date + digits, format="%Y%m%d%H%M%S", errors="coerce")


def _table(source: Path, name: str, required: tuple[str, ...]) -> tuple[pd.DataFrame, Path]:
    path = tables.find_file(source, (f"{PREFIX}{name}.csv.gz", f"{PREFIX}{name}.csv"), ORIGIN)
    return tables.read_table(path, required), path


def _people(mimic_iv: Path, films: pd.DataFrame) -> pd.DataFrame:
    """Age, sex and race of each film's patient at the time of the film; index as `films`."""
    if not mimic_iv.is_dir():
        raise UsageError(f"mimic_iv names a folder, but {mimic_iv} is none")
    path = covariates.locate(mimic_iv, "hosp", "patients")
    if path is None:
        raise SourceError(f"{mimic_iv} has no hosp/patients.csv.gz; it comes with MIMIC-IV on PhysioNet")
    patients = tables.read_table(path, ("subject_id", "gender", "anchor_age", "anchor_year"))
    patients = patients.drop_duplicates("subject_id").set_index("subject_id")
    subject = films["subject_number"]
    age = subject.map(patients["anchor_age"]) + films["time"].dt.year - subject.map(patients["anchor_year"])
    people = pd.DataFrame({"age_years": tables.age_years(age), "sex": tables.sex(subject.map(patients["gender"]))})
    people["race"] = pd.Series(float("nan"), index=films.index, dtype="str")
    admitted = covariates.locate(mimic_iv, "hosp", "admissions")
    if admitted is not None:
        admissions = tables.read_table(admitted, ("subject_id",))
        entered = pd.DataFrame(
            {
                "subject_id": admissions["subject_id"],
                "race": tables.text(tables.column(admissions, admitted, "race", "ethnicity")).str.upper(),
            }
        )
        known = entered[entered["race"].notna() & ~entered["race"].isin(UNKNOWN_RACE)]
        # Most frequent first; among equals the one entered first, so that a second run says the same.
        counted = known.groupby(["subject_id", "race"], sort=False).size().sort_values(ascending=False, kind="stable")
        race = counted.reset_index().drop_duplicates("subject_id").set_index("subject_id")["race"]
        people["race"] = subject.map(race).astype("str")
    return people


def _covariates(films: pd.DataFrame, mimic_iv: str, mimic_iv_ed: str) -> tuple[pd.DataFrame, str]:
    timed = films[films["time"].notna()]
    studies = pd.DataFrame(
        {"subject_id": timed["subject_number"], "study_id": timed["study_number"], "time": timed["time"]}
    )
    # The earliest film of a study ends its window: what was measured between its films may follow the first one.
    studies = studies.sort_values("time", kind="stable").drop_duplicates("study_id")
    return covariates.before_studies(
        studies, Path(mimic_iv) if mimic_iv else None, Path(mimic_iv_ed) if mimic_iv_ed else None
    )
