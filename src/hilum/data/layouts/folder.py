"""One's own data: images and a table that says what they are.

The table (option `table`, by default the only CSV at the top of the folder) has one row per image and these columns:
  image        path of the image, relative to the folder: PNG, JPEG, DICOM, or NIfTI (MR only)
  patient_id   any text; images of one person share it: it decides the splits
  modality     XR or MR
and, where known, any of `image_id, study_id, study_order, days, view, site, source, age_years, sex, split`. Further
columns are named by options: `labels=pneumonia,edema` (values 1, 0, -1 for uncertain, blank for unknown) and
`covariates=o2_saturation_pct` (numbers; put the unit into the name). Other columns are left alone.
A NIfTI volume gives its central slice in the plane that `view` names, or in all three where `view` is blank.
Image ids: where the table gives none, an id is made from the path: `img-` and the first 16 hex digits of its BLAKE2b-64
digest, because file names of one's own data may say who the patient is, and image ids are named in reports.
Missing: blank, `n/a`, `NaN` and the like are unknown.
Splits: as the column `split` says (train, val, test); where it is absent ingest makes them by patient.
"""

import hashlib
from functools import partial
from pathlib import Path
from typing import Final

import pandas as pd

from hilum.data import locators, tables
from hilum.data.manifest import MODALITIES, VIEWS, Cohort
from hilum.errors import SourceError

REQUIRED: Final = ("image", "patient_id", "modality")
TEXTS: Final = ("image_id", "study_id", "view", "site", "source", "split")
NUMBERS: Final = ("study_order", "days")
VOLUMES: Final = (".nii", ".nii.gz")


def read(
    source: Path, table: str = "", labels: str = "", covariates: str = "", licence: str = "", citation: str = ""
) -> Cohort:
    """Read a folder of images and the table that describes them.

    Args:
        source: The folder that the table's paths are relative to.
        table: Name of the table, relative to the folder.
        labels: Columns with labels, separated by commas.
        covariates: Columns with numbers, separated by commas.
        licence: What may be done with the images.
        citation: How to cite them.

    Raises:
        UsageError: An option names a column in a way that cannot be.
        SourceError: The table, a column or an image is missing, or a value is outside its vocabulary.
    """
    path = _table(source, table)
    given = tables.read_table(path, REQUIRED, dtype="str", keep_default_na=False)
    label_columns = tables.chosen_columns(given, path, labels)
    covariate_columns = tables.chosen_columns(given, path, covariates)
    rows = _identity(given, path)
    for name, published in label_columns.items():
        rows[name] = tables.label(given[published], path)
    for name, published in covariate_columns.items():
        rows[name] = tables.number(given[published])
    _all_there(source, rows["locator"], path)
    return Cohort(
        rows=_with_slices(rows, path),
        load=partial(locators.load, source),
        labels=tuple(label_columns),
        licence=licence or "not stated",
        citation=citation or "not stated",
        covariates=tuple(covariate_columns),
    )


def image_id(path: str) -> str:
    """The id of an image whose table gives none: `img-` and 16 hex digits of the BLAKE2b-64 digest of its path."""
    return f"img-{hashlib.blake2b(path.encode(), digest_size=8).hexdigest()}"


def _table(source: Path, name: str) -> Path:
    if name:
        return tables.find_file(source, (name,), "the option `table` names the CSV that describes the images")
    found = sorted(path for path in source.iterdir() if path.name.lower().endswith((".csv", ".csv.gz")))
    if len(found) != 1:
        there = ", ".join(path.name for path in found) or "none"
        raise SourceError(
            f"{source} must have one CSV at its top, but has {there}; name it by the option `table`"
            if found
            else f"{source} has no CSV at its top; write one with the columns {', '.join(REQUIRED)}"
        )
    return found[0]


def _identity(given: pd.DataFrame, path: Path) -> pd.DataFrame:
    rows = pd.DataFrame({"locator": tables.text(given["image"]), "patient_id": tables.text(given["patient_id"])})
    for name in ("locator", "patient_id"):
        blank = rows[name].isna()
        if blank.any():
            column = "image" if name == "locator" else name
            raise SourceError(f"{path} has {int(blank.sum())} rows with a blank {column}; every row needs one")
    rows["modality"] = tables.text(given["modality"]).str.upper()
    odd = ~rows["modality"].isin(MODALITIES)
    if odd.any():
        raise SourceError(
            f"{path} has the modality {given.loc[odd, 'modality'].iloc[0]!r}; it is one of {', '.join(MODALITIES)}"
        )
    for name in TEXTS:
        if name in given:
            rows[name] = tables.text(given[name])
    for name in NUMBERS:
        if name in given:
            rows[name] = tables.number(given[name])
    if "view" in rows:
        rows["view"] = rows["view"].str.upper()
    if "sex" in given:
        rows["sex"] = tables.sex(given["sex"])
    if "age_years" in given:
        rows["age_years"] = tables.age_years(given["age_years"])
    made = rows["locator"].map(image_id)
    rows["image_id"] = rows["image_id"].fillna(made) if "image_id" in rows else made
    rows["source"] = rows["source"].fillna("folder") if "source" in rows else "folder"
    return rows


def _all_there(source: Path, locators_given: pd.Series, path: Path) -> None:
    """One's own table should not name what is not there: unlike a part of a distribution, that is an error."""
    there = locators_given.isin(set(tables.files_under(source)))
    if not there.all():
        raise SourceError(
            f"{path} names {int((~there).sum())} images that are not in {source}, for instance "
            f"{locators_given[~there].iloc[0]}; paths are relative to that folder, with /"
        )


def _with_slices(rows: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Replace each row of a volume by rows of its central slices."""
    volume = rows["locator"].str.lower().str.endswith(VOLUMES)
    if not volume.any():
        return rows
    if (rows.loc[volume, "modality"] != "MR").any():
        raise SourceError(f"{path} gives the modality XR for a NIfTI volume; volumes are MR")
    if "view" not in rows:
        rows["view"] = pd.Series(float("nan"), index=rows.index, dtype="str")
    one, every = rows[volume & rows["view"].notna()].copy(), rows[volume & rows["view"].isna()]
    odd = ~one["view"].isin(VIEWS["MR"])
    if odd.any():
        raise SourceError(f"{path} gives the view {one.loc[odd, 'view'].iloc[0]!r}; of MR it is one of {VIEWS['MR']}")
    every = every.merge(pd.Series(VIEWS["MR"], name="plane"), how="cross")
    # Slices of one volume are one study, also where the table gives no study.
    every["study_id"] = every["study_id"].fillna(every["image_id"]) if "study_id" in every else every["image_id"]
    every["view"] = every.pop("plane")
    every["image_id"] = every["image_id"] + "_" + every["view"].str.lower()
    slices = pd.concat([one, every], ignore_index=True)
    slices["locator"] = [
        locators.slice_locator(volume_path, view)
        for volume_path, view in zip(slices["locator"], slices["view"], strict=True)
    ]
    return pd.concat([rows[~volume], slices], ignore_index=True)
