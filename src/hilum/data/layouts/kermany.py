"""Kermany et al.: 5,856 chest films of children of one to five years, Guangzhou Women and Children's Medical Center.

Labels: normal, or pneumonia with its cause (bacteria or virus) in the file name; graded by two physicians after a
quality screen, the published test set checked by a third. The cause is the one that was recorded: a film named
`virus` is taken to be 0 for bacterial pneumonia, though both occur together.
Missing: nothing but what was never published: age in years, sex and dates. `no_finding` here means "no pneumonia".
Quirks: patient ids are in the file names. `person1010_bacteria_2941.jpeg` is patient 1010; whether `person1_bacteria`
and `person1_virus` are one child is not said, so one number is one patient, which can only merge children and never
put one into two splits. `IM-0115-0001.jpeg` and `NORMAL2-IM-0115-0001.jpeg` are two series of normal films with
counters of their own, kept apart: the published test set cuts them at different numbers. The original archive names
`BACTERIA-1008087-0001.jpeg`, `NORMAL-28501-0001.jpeg`: the number is the patient. JPEGs differ in size, some are RGB.
Splits: where `test/` is there its patients are `test` with all their images, also those that lie in `train/`; the
published `val/` has 16 images, too few to choose by, so `val` is 1/8 of the other patients.

Citation: Kermany et al. 2018, Cell 172. Licence: CC BY 4.0. To get it: Mendeley Data, rscbjbr9sj, or Kaggle's "Chest
X-Ray Images (Pneumonia)".
"""

import re
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from hilum.data import locators, tables
from hilum.data.manifest import Cohort
from hilum.errors import SourceError

ROOT: Final = "chest_xray"
FOLDERS: Final = ("train", "val", "test")
CLASSES: Final = ("NORMAL", "PNEUMONIA")
LABELS: Final = ("no_finding", "pneumonia", "bacterial_pneumonia", "viral_pneumonia")
PERSON: Final = re.compile(r"^(?P<patient>person\d+)_(?P<cause>bacteria|virus)_\d+$", re.IGNORECASE)
SERIES: Final = re.compile(r"^(?P<patient>(?:NORMAL2-)?IM-\d+)(?:-\d+)+$", re.IGNORECASE)
ORIGINAL: Final = re.compile(r"^(?P<cause>BACTERIA|VIRUS|NORMAL)-(?P<patient>\d+)-\d+$", re.IGNORECASE)


def read(source: Path) -> Cohort:
    """Read `chest_xray/{train,val,test}/{NORMAL,PNEUMONIA}`, from the folder that holds it or from itself.

    Raises:
        SourceError: There are no such folders, no images in them, or a file name without a patient id.
    """
    root = f"{ROOT}/" if (source / ROOT).is_dir() else ""
    folders = tuple(f"{root}{folder}/{kind}/" for folder in FOLDERS for kind in CLASSES)
    paths = [path for path in tables.files_under(source, root, suffixes=(".jpeg", ".jpg")) if path.startswith(folders)]
    if not paths:
        raise SourceError(
            f"{source} has no JPEG in {ROOT}/train/NORMAL or {ROOT}/train/PNEUMONIA; these folders come from Mendeley "
            "Data rscbjbr9sj or Kaggle's 'Chest X-Ray Images (Pneumonia)'"
        )
    rows = pd.DataFrame([_row(path) for path in paths])
    in_test = rows["locator"].str.startswith(f"{root}test/")
    if in_test.any():
        rows["split"] = tables.official_split(rows["patient_id"], in_test)
    return Cohort(
        rows=rows,
        load=partial(locators.load, source),
        labels=LABELS,
        licence="CC BY 4.0",
        citation="Kermany D. S. et al. 2018, Identifying Medical Diagnoses and Treatable Diseases by Image-Based Deep "
        "Learning, Cell 172",
        caution="Children of one to five years: not comparable with adults. Patients are known from file names only.",
    )


def _row(path: str) -> dict[str, object]:
    *_, folder, kind, name = path.split("/")
    stem = name.rpartition(".")[0]
    named = PERSON.match(stem) or SERIES.match(stem) or ORIGINAL.match(stem)
    if named is None:
        raise SourceError(
            f"{path} has no patient id in its name; names are like person1010_bacteria_2941.jpeg or IM-0115-0001.jpeg"
        )
    ill = float(kind == "PNEUMONIA")
    cause = named.groupdict().get("cause", "").lower()
    unknown_cause = bool(ill) and cause not in ("bacteria", "virus")
    return {
        # The folder belongs to the id: the three folders number their files independently.
        "image_id": f"{folder}-{kind.lower()}-{stem}",
        "patient_id": named["patient"].lower(),
        "study_id": f"{folder}-{kind.lower()}-{stem}",
        "modality": "XR",
        "view": "AP",  # anterior-posterior, says the publication of all films
        "site": "Guangzhou Women and Children's Medical Center",
        "source": "kermany",
        "no_finding": 1.0 - ill,
        "pneumonia": ill,
        "bacterial_pneumonia": np.nan if unknown_cause else float(cause == "bacteria"),
        "viral_pneumonia": np.nan if unknown_cause else float(cause == "virus"),
        "locator": path,
    }
