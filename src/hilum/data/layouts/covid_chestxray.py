"""covid-chestxray-dataset (Cohen et al.): films of COVID-19 and other pneumonias, collected from publications.

Counts: 950 images of 480 patients in the last release (866 of them X-rays); no institution's consecutive cases, but
figures that authors chose to publish, so nothing may be concluded about prevalence, and site and disease go together.
Labels: the diagnosis of the publication, mostly by laboratory test. The last release writes a hierarchy
(`Pneumonia/Viral/COVID-19`), earlier ones a list (`COVID-19, ARDS`); both are read. Every named pneumonia is 1 for
`pneumonia`; its cause is 1 for its own label and 0 for the others; `Pneumonia` alone leaves the cause unknown. ARDS,
tuberculosis and other findings leave `pneumonia` unknown unless a pneumonia is named beside them.
Missing: blanks are unknown. `todo` and `Unknown` findings keep their image with all labels unknown, so that an encoder
may still learn from it. Clinical columns are mostly blank (temperature and saturation in fewer than one row in five).
Quirks: bytes that are not UTF-8; CT slices (left out here); view PA, AP, AP Supine, AP Erect, L; `offset` counts days
from the onset of symptoms or admission and may be negative, here it gives days since the patient's first image;
`pO2_saturation` mixes saturations in percent with partial pressures in mmHg: values outside 60-100 are unknown here,
and some of those within are pressures. Two cases were entered twice under different patient ids with the same image
files: such rows are taken once and the ids are merged. Patients 78 and 201, two published cases, have one film under
two names, pixel for pixel; their ids are merged too, so that the film cannot be in two splits. `site` is the last part
of `location`, the country.

Citation: Cohen et al. 2020, arXiv:2006.11988. Licence: per image (column `license`: CC BY-NC-SA, CC BY, none stated).
To get it: the GitHub repository ieee8023/covid-chestxray-dataset.
"""

from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from hilum.data import locators, tables
from hilum.data.manifest import Cohort

TABLE: Final = "metadata.csv"
ORIGIN: Final = "it lies at the top of the GitHub repository ieee8023/covid-chestxray-dataset"
VIEW: Final = {"PA": "PA", "AP": "AP", "AP Supine": "AP", "AP Erect": "AP", "L": "LATERAL"}
COLUMNS: Final = ("patientid", "offset", "sex", "age", "finding", "view", "modality", "location", "folder", "filename")

# Pneumonias by cause, in lower case; a finding is looked up part by part.
CAUSE: Final = {
    **dict.fromkeys(("covid-19", "sars", "mers-cov", "mers", "varicella", "influenza", "h1n1", "herpes"), "viral"),
    "viral": "viral",
    **dict.fromkeys(
        (
            "bacterial", "streptococcus", "klebsiella", "legionella", "e.coli", "mycoplasma", "nocardia",
            "mycoplasma bacterial pneumonia", "chlamydophila", "staphylococcus", "mrsa",
        ),
        "bacterial",
    ),
    **dict.fromkeys(("fungal", "pneumocystis", "aspergillosis"), "fungal"),
    **dict.fromkeys(("lipoid", "aspiration"), "other"),
    "pneumonia": "",  # a pneumonia of unknown cause, unless another part names one
}  # fmt: skip
LABELS: Final = (
    "no_finding", "pneumonia", "viral_pneumonia", "bacterial_pneumonia", "fungal_pneumonia", "covid_19", "ards",
)  # fmt: skip
# Column, its name here and the plausible range: what lies outside is another unit or a typing error, so unknown.
COVARIATES: Final = {
    "temperature": ("temperature_celsius", 30.0, 45.0),
    "pO2_saturation": ("o2_saturation_pct", 60.0, 100.0),
    "leukocyte_count": ("leukocytes_1e9_per_l", 0.1, 100.0),
    "neutrophil_count": ("neutrophils_1e9_per_l", 0.05, 60.0),
    "lymphocyte_count": ("lymphocytes_1e9_per_l", 0.05, 30.0),
}
SAME_PERSON: Final = {"201": "78"}  # see above; later id, earlier id
OUTCOMES: Final = {"survival": "survived", "intubated": "intubated", "went_icu": "went_icu"}  # Y, N or blank


def read(source: Path) -> Cohort:
    """Read the X-rays of the repository's `metadata.csv`.

    Raises:
        SourceError: The table or every image is missing, or the table is not as published.
    """
    path = tables.find_file(source, (TABLE,), ORIGIN)
    table = tables.read_table(path, COLUMNS, encoding_errors="replace")
    films = table[table["modality"].eq("X-ray")].reset_index(drop=True)
    rows = rows_of(films)
    n_listed = len(rows)
    rows = rows[~rows["locator"].duplicated()].reset_index(drop=True)
    twice = n_listed - len(rows)
    folders = films["folder"].dropna().unique()
    present = [name for folder in folders for name in tables.files_under(source, folder)]
    rows, left_out = tables.keep_present(rows, present, source, TABLE)
    return Cohort(
        rows=rows,
        load=partial(locators.load, source),
        labels=LABELS,
        licence="per image, attribute `license`: mostly CC BY-NC-SA or CC BY, unstated for many",
        citation="Cohen J. P. et al. 2020, COVID-19 Image Data Collection: Prospective Predictions Are the Future, "
        "arXiv:2006.11988",
        covariates=tuple(name for name, _, _ in COVARIATES.values()),
        caution=tables.sentences(
            "Figures from publications: diagnosis, site and image quality go together.",
            "Some saturations are partial pressures in mmHg.",
            f"{twice} rows that repeat another row's image were left out." if twice else "",
            left_out,
        ),
        attributes=("finding_raw", "days_since_onset", "license", *OUTCOMES.values()),
    )


def rows_of(films: pd.DataFrame) -> pd.DataFrame:
    """The manifest's columns from the X-ray rows of the table; a row for each, also where two name one image."""
    locator = films["folder"] + "/" + films["filename"]
    patient = _merged(tables.text(films["patientid"].astype("str").str.removesuffix(".0")), locator)
    onset_days = tables.number(films["offset"])
    day = onset_days.map(lambda days: f"day{days:g}", na_action="ignore").astype("str")
    findings = pd.DataFrame([labels_of(finding) for finding in films["finding"]], index=films.index)
    covariates = {
        name: tables.number(films[published], low, high) if published in films else np.nan
        for published, (name, low, high) in COVARIATES.items()
    }
    outcomes = {
        name: films[published].map({"Y": 1.0, "N": 0.0}) if published in films else np.nan
        for published, name in OUTCOMES.items()
    }
    facts = {
        "image_id": films["filename"],
        "patient_id": patient,
        "study_id": (patient + "-" + day).fillna(films["filename"]),
        "study_order": tables.order_within(patient, onset_days),
        "days": tables.since_first(patient, onset_days),
        "modality": "XR",
        "view": films["view"].map(VIEW),
        "site": tables.text(films["location"].str.rpartition(",")[2]),
        "source": "covid_chestxray",
        "age_years": tables.age_years(films["age"]),
        "sex": tables.sex(films["sex"]),
        "locator": locator,
        "finding_raw": tables.text(films["finding"]),
        "days_since_onset": onset_days,
        "license": tables.text(films["license"]) if "license" in films else np.nan,
    }
    return pd.concat([pd.DataFrame({**facts, **covariates, **outcomes}), findings], axis=1)


def labels_of(finding: object) -> dict[str, float]:
    """Labels from one cell of the column `finding`: 1 named, 0 excluded by what is named, NaN unknown.

    Args:
        finding: `Pneumonia/Viral/COVID-19`, `COVID-19, ARDS`, `No Finding`, `todo`, NaN, ...
    """
    unknown: dict[str, float] = dict.fromkeys(LABELS, np.nan)
    if not isinstance(finding, str):
        return unknown
    parts = {part.strip().lower() for part in finding.replace(",", "/").split("/")}
    if parts == {"no finding"}:
        return {**dict.fromkeys(LABELS, 0.0), "no_finding": 1.0}
    if parts <= {"todo", "unknown", ""}:
        return unknown
    causes = {CAUSE[part] for part in parts if part in CAUSE}
    labels = {**unknown, "no_finding": 0.0}
    if "ards" in parts:
        labels["ards"] = 1.0
    if causes:
        labels["pneumonia"] = 1.0
    if causes - {""}:
        for cause in ("viral", "bacterial", "fungal"):
            labels[f"{cause}_pneumonia"] = float(cause in causes)
        labels["covid_19"] = float("covid-19" in parts)
        # `Pneumonia/Viral` alone does not say which virus.
        if causes - {""} == {"viral"} and parts <= {"pneumonia", "viral", "ards"}:
            labels["covid_19"] = np.nan
    return labels


def _merged(patient: pd.Series, locator: pd.Series) -> pd.Series:
    """Patient ids where those that share an image file are one: the id that comes first stands for all of them."""
    first = patient.groupby(locator).transform("first")
    alias = dict(SAME_PERSON)

    def root(name: str) -> str:
        while name in alias:
            name = alias[name]
        return name

    for later, earlier in zip(patient[patient != first], first[patient != first], strict=True):
        if root(later) != root(earlier):
            alias[root(later)] = root(earlier)
    return patient.map(root, na_action="ignore")
