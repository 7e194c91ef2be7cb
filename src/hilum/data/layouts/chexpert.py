"""CheXpert: 224,316 chest films of 65,240 patients of Stanford Hospital.

Counts: 223,414 images of 64,540 patients in `train.csv`, 234 of 200 in `valid.csv`; the test set of 500 studies is
published apart and not read here.
Labels: 14 observations, in `train.csv` by a rule-based labeller that reads the impression section of the report (its
F1 on reports is above 0.9 for most, lower for uncertain mentions); in `valid.csv` by three radiologists, without
uncertain or missing values. -1 is an uncertain mention, kept as -1 until a policy resolves it (`ingest.uncertain`).
Missing: blank is "not mentioned": unknown (NaN), not absent; many works read it as 0.
Quirks: the path column begins with `CheXpert-v1.0/` or `CheXpert-v1.0-small/`, which may or may not be a folder here;
one sex is `Unknown`; age 0 (3 rows) means missing and ages are capped at 90; `AP/PA` has 17 frontal rows with LL or RL,
lateral positions both, and is blank for lateral films; there are no dates, so studies are ordered by their number.
Splits: `valid.csv` is the only set read by radiologists, so it becomes `test`; of the training patients 1/8 are `val`.
Race and ethnicity are in `CHEXPERT DEMO.xlsx`, published apart; where it lies beside the tables it becomes the
attribute `race` (reading it needs the package openpyxl; a copy saved as `CHEXPERT DEMO.csv` needs nothing).

Citation: Irvin et al. 2019, AAAI. Licence: Stanford University Dataset Research Use Agreement, non-commercial, no
redistribution. To get it: register with Stanford AIMI (Shared Datasets, CheXpert); `CHEXPERT DEMO.xlsx` lies there too.
"""

import importlib.util
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from hilum.data import locators, tables
from hilum.data.manifest import UNCERTAIN, Cohort
from hilum.data.vocabulary import CHEXPERT_FINDINGS
from hilum.errors import SourceError

PREFIX: Final = r"^CheXpert-v1\.0[^/]*/"
ROOTS: Final = ("", "CheXpert-v1.0-small/", "CheXpert-v1.0/")  # below the source, where train/ and valid/ may lie
ORIGIN: Final = "it comes with CheXpert-v1.0 or CheXpert-v1.0-small from Stanford AIMI, beside the folder train/"
DEMOGRAPHICS: Final = "CHEXPERT DEMO"
COLUMNS: Final = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_FINDINGS)
VIEW: Final = {"AP": "AP", "PA": "PA", "LL": "LATERAL", "RL": "LATERAL"}


def read(source: Path) -> Cohort:
    """Read CheXpert from the folder with `train.csv`, or the one that holds `CheXpert-v1.0[-small]/`.

    Raises:
        SourceError: The table or every image is missing, or the table is not as published.
    """
    root = next((root for root in ROOTS if (source / root / "train.csv").is_file()), "")
    path = tables.find_file(source / root, ("train.csv",), ORIGIN)
    parts = [rows_of(tables.read_table(path), path)]
    valid = source / root / "valid.csv"
    if valid.is_file():
        parts.append(rows_of(tables.read_table(valid), valid))
    rows = pd.concat(parts, ignore_index=True)
    if valid.is_file():
        in_test = pd.Series(np.arange(len(rows)) >= len(parts[0]), index=rows.index)
        rows["split"] = tables.official_split(rows["patient_id"], in_test)
    rows["locator"] = root + rows["locator"]
    present = [
        name
        for folder in ("train", "valid")
        for name in tables.files_under(source, root + folder, suffixes=(".jpg", ".png"))
    ]
    rows, left_out = tables.keep_present(rows, present, source, "train.csv")
    race, about_race = _race(source, root)
    if race is not None:
        rows["race"] = rows["patient_id"].map(race)
    return Cohort(
        rows=rows,
        load=partial(locators.load, source),
        labels=tuple(CHEXPERT_FINDINGS.values()),
        licence="Stanford University Dataset Research Use Agreement: non-commercial, no redistribution",
        citation="Irvin J. et al. 2019, CheXpert: A Large Chest Radiograph Dataset with Uncertainty Labels, AAAI",
        caution=tables.sentences(
            "Training labels were mined from report text; what a report does not mention is unknown.",
            left_out,
            about_race,
        ),
        attributes=("race",) if race is not None else (),
    )


def rows_of(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The manifest's columns, and a locator below the folder of `train/`, without looking at any image.

    Args:
        table: `train.csv` or `valid.csv` as read; a row per image.
        path: Where it came from, for messages.

    Raises:
        SourceError: A column is missing, or a path or label is not as published.
    """
    tables.require_columns(table, path, COLUMNS)
    locator = table["Path"].str.replace(PREFIX, "", regex=True)
    parts = locator.str.extract(r"(?P<patient>patient\d+)/study(?P<study>\d+)/(?P<image>[^/]+)\.\w+$")
    odd = parts["image"].isna()
    if odd.any():
        raise SourceError(
            f"{path} has the path {table.loc[odd, 'Path'].iloc[0]!r}; CheXpert's are like "
            "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg"
        )
    lateral = table["Frontal/Lateral"].eq("Lateral")
    age = tables.age_years(table["Age"])
    rows = pd.DataFrame(
        {
            "image_id": parts["patient"] + "_study" + parts["study"] + "_" + parts["image"],
            "patient_id": parts["patient"],
            "study_id": parts["patient"] + "_study" + parts["study"],
            "study_order": tables.order_within(parts["patient"], parts["study"].astype("float64")),
            "modality": "XR",
            "view": table["AP/PA"].map(VIEW).mask(lateral, "LATERAL"),
            "site": "Stanford Hospital",
            "source": "chexpert",
            "age_years": age.where(age > 0),
            "sex": tables.sex(table["Sex"]),
            "locator": locator,
        }
    )
    for published, name in CHEXPERT_FINDINGS.items():
        rows[name] = pd.to_numeric(table[published], errors="coerce").astype("float64")
        known = rows[name].dropna()
        bad = known[~known.isin((0.0, 1.0, UNCERTAIN))]
        if len(bad):
            raise SourceError(f"{path} has {bad.iloc[0]:g} under {published}; CheXpert's labels are 1, 0, -1 or blank")
    return rows


def _race(source: Path, root: str) -> tuple[pd.Series | None, str]:
    """Race by patient id, if the demographics are there and can be read, and what the caution should say of it."""
    for folder in (source / root, source):
        saved, published = folder / f"{DEMOGRAPHICS}.csv", folder / f"{DEMOGRAPHICS}.xlsx"
        if saved.is_file():
            table, path = tables.read_table(saved), saved
        elif published.is_file():
            if importlib.util.find_spec("openpyxl") is None:
                return None, f"{published.name} was not read: install openpyxl, or save the sheet as {saved.name}."
            table, path = pd.read_excel(published), published
        else:
            continue
        tables.require_columns(table, path, ("PATIENT", "PRIMARY_RACE"))
        once = table.drop_duplicates("PATIENT")
        return pd.Series(tables.text(once["PRIMARY_RACE"]).to_numpy(), index=once["PATIENT"]), ""
    return None, ""
