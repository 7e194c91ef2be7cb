"""BIDS: any brain MRI dataset in the Brain Imaging Data Structure; slices of each anatomical volume.

Reads `sub-*/[ses-*/]anat/*_T1w.nii[.gz]` (option `suffix` for `T2w`, `FLAIR`, ...) and `participants.tsv`: age, sex and
site where it has them. BIDS does not say what is a label: name the columns that are (0, 1 or `n/a`) with the option
`labels`, numeric ones with `covariates`, each separated by commas.
Missing: `n/a` is unknown. Quirks: sex is written M, F, m, f, male or female; an age of `89+` (de-identification) is
taken as 89; participant ids may lack `sub-`; the order of sessions is known only where `sub-*/sub-*_sessions.tsv` gives
`acq_time`; `derivatives/` and `sourcedata/` are left alone; faces may have been removed, which shows in the slices.
Option `slices`: how far along each plane's axis, from 0 to 1, separated by commas; `0.5` is the centre.
Splits: none.

Citation: Gorgolewski et al. 2016, Scientific Data 3 (the format); the dataset's own in `dataset_description.json`.
Licence: the dataset's own. To get one: OpenNeuro, for instance.
"""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any, Final

import pandas as pd

from hilum.data import locators, tables
from hilum.data.manifest import VIEWS, Cohort
from hilum.errors import SourceError, UsageError

PARTICIPANTS: Final = "participants.tsv"
DESCRIPTION: Final = "dataset_description.json"
SUFFIX: Final = re.compile(r"[A-Za-z0-9]+")
SECONDS_PER_DAY: Final = 86400.0


def read(source: Path, suffix: str = "T1w", slices: str = "0.5", labels: str = "", covariates: str = "") -> Cohort:
    """Read the anatomical volumes of a BIDS dataset.

    Args:
        source: The dataset's top folder, with `participants.tsv`.
        suffix: Which anatomical images, by the end of their names.
        slices: Fractions along each plane's axis, separated by commas.
        labels: Columns of `participants.tsv` with 0, 1, -1 or `n/a`, separated by commas.
        covariates: Numeric columns of `participants.tsv`, separated by commas.

    Raises:
        UsageError: An option has no meaning.
        SourceError: There is no such image, no `participants.tsv`, or it lacks a column that was asked for.
    """
    if not SUFFIX.fullmatch(suffix):
        raise UsageError(f"suffix is the end of BIDS names, such as T1w, not {suffix!r}")
    fractions = _fractions(slices)
    images = pd.DataFrame(_images(source, suffix, fractions))
    if images.empty:
        raise SourceError(f"{source} has no sub-*/anat/*_{suffix}.nii.gz, with or without a session folder between")
    path = tables.find_file(source, (PARTICIPANTS,), "BIDS puts it at the top, one row per participant")
    people, label_names, covariate_names = _participants(path, labels, covariates)
    rows = images.merge(people, on="patient_id", how="left", validate="many_to_one")
    rows = rows.merge(_sessions(source, images), on="study_id", how="left", validate="many_to_one")
    rows["study_order"] = tables.order_within(rows["patient_id"], rows["time_days"])
    rows["days"] = tables.since_first(rows["patient_id"], rows["time_days"])
    described = _description(source)
    unlisted = int((~images["patient_id"].isin(people["patient_id"])).groupby(images["patient_id"]).any().sum())
    return Cohort(
        rows=rows,
        load=partial(locators.load, source),
        labels=label_names,
        licence=str(described.get("License") or "not stated in dataset_description.json"),
        citation=str(described.get("HowToAcknowledge") or described.get("Name") or "not stated"),
        covariates=covariate_names,
        caution=f"{unlisted} participants have images but no row in {PARTICIPANTS}." if unlisted else "",
    )


def _fractions(slices: str) -> list[float]:
    try:
        fractions = [float(part) for part in slices.split(",")]
    except ValueError:
        fractions = []
    if not fractions or not all(0 <= fraction <= 1 for fraction in fractions):
        raise UsageError(f"slices are fractions from 0 to 1, separated by commas, such as 0.4,0.5, not {slices!r}")
    return fractions


def _images(source: Path, suffix: str, fractions: list[float]) -> list[dict[str, str]]:
    anatomical = re.compile(rf"^(sub-[^/_]+)/(?:(ses-[^/_]+)/)?anat/([^/]+_{suffix})\.nii(?:\.gz)?$")
    found = []
    for path in tables.files_under(source, suffixes=(".nii", ".nii.gz")):
        match = anatomical.match(path)
        if match is None:
            continue
        patient, session, name = match.groups()
        found += [
            {
                "image_id": f"{name}_{view.lower()}_{fraction:g}",
                "patient_id": patient,
                "study_id": f"{patient}_{session}" if session else patient,
                "modality": "MR",
                "view": view,
                "source": "bids",
                "locator": locators.slice_locator(path, view, fraction),
            }
            for view in VIEWS["MR"]
            for fraction in fractions
        ]
    return found


def _participants(path: Path, labels: str, covariates: str) -> tuple[pd.DataFrame, tuple[str, ...], tuple[str, ...]]:
    """One row per participant, and the names of the label and covariate columns, in the manifest's style."""
    table = tables.read_table(path, ("participant_id",), sep="\t")
    chosen = {
        role: tables.chosen_columns(table, path, names)
        for role, names in (("labels", labels), ("covariates", covariates))
    }
    by_name = {str(name).lower(): table[name] for name in table.columns}
    nothing = pd.Series(float("nan"), index=table.index)
    people = pd.DataFrame(
        {
            "patient_id": "sub-" + tables.identifier(table["participant_id"]).str.removeprefix("sub-"),
            "age_years": tables.age_years(by_name.get("age", nothing)),
            "sex": tables.sex(by_name.get("sex", by_name.get("gender", nothing))),
            "site": tables.text(by_name.get("site", nothing)),
        }
    )
    for name, published in chosen["labels"].items():
        people[name] = tables.label(table[published], path)
    for name, published in chosen["covariates"].items():
        people[name] = tables.number(table[published])
    twice = people["patient_id"].duplicated()
    if twice.any():
        raise SourceError(f"{path} has {int(twice.sum())} participants twice; BIDS has one row for each")
    return people, tuple(chosen["labels"]), tuple(chosen["covariates"])


def _sessions(source: Path, images: pd.DataFrame) -> pd.DataFrame:
    """Acquisition time in days by study, from the participants' session tables where there are any."""
    found = [pd.DataFrame({"study_id": pd.Series(dtype="str"), "time_days": pd.Series(dtype="float64")})]
    for patient in images["patient_id"].unique():
        path = source / patient / f"{patient}_sessions.tsv"
        if not path.is_file():
            continue
        table = tables.read_table(path, ("session_id",), sep="\t")
        if "acq_time" not in table:
            continue
        time = pd.to_datetime(table["acq_time"], errors="coerce", format="ISO8601")
        seconds = (time - pd.Timestamp(0)).dt.total_seconds()
        session = "ses-" + tables.identifier(table["session_id"]).str.removeprefix("ses-")
        found.append(pd.DataFrame({"study_id": f"{patient}_" + session, "time_days": seconds / SECONDS_PER_DAY}))
    return pd.concat(found, ignore_index=True).drop_duplicates("study_id")


def _description(source: Path) -> dict[str, Any]:
    try:
        described = json.loads((source / DESCRIPTION).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}  # required by BIDS, but nothing here depends on it
    return described if isinstance(described, dict) else {}
