"""NIH ChestX-ray14: 112,120 frontal chest films of 30,805 patients of the NIH Clinical Center.

Labels: 14 findings, mined from the radiology reports by text rules (NegBio); the publisher puts their accuracy above
90%, against reports. Radiologists who looked at the films found far less for some of them (Oakden-Rayner 2020), and
agreement is poorest for infiltration, pneumonia and consolidation. The reports themselves were never released.
Missing: there is no missing label; a finding that the report does not mention is 0. `No Finding` means none of the 14.
Quirks: two column headers hold commas, so the table parses to 11 columns; age may be `058Y`, and the first release had
ages such as 412 (unknown here); the sex column is `Patient Gender` or `Patient Sex`; images lie in `images/` or, as
downloaded, in `images_001/images/` to `images_012/images/`; some PNGs are RGBA. Days between studies are not
published, only a follow-up number, which gives the order of studies; each image is a study of its own.
Splits: where `test_list.txt` lies beside the table its patients are `test`, and 1/8 of the others, by patient, `val`.

Citation: Wang et al. 2017, ChestX-ray8, CVPR. Licence: no restrictions; the NIH Clinical Center asks to be named and
the paper cited. To get it: the NIH Clinical Center's Box folder, or the copies on Kaggle and Google Cloud.
"""

from functools import partial
from pathlib import Path
from typing import Final

import pandas as pd

from hilum.data import locators, tables
from hilum.data.manifest import Cohort
from hilum.data.vocabulary import NIH_FINDINGS
from hilum.errors import SourceError

TABLES: Final = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
TEST_LIST: Final = "test_list.txt"
ORIGIN: Final = "it comes with ChestX-ray14 in the NIH Clinical Center's Box folder, beside the image archives"
LABELS: Final = (*NIH_FINDINGS.values(), "no_finding")
NO_FINDING: Final = "No Finding"


def read(source: Path) -> Cohort:
    """Read ChestX-ray14; images that were not downloaded are left out, and the caution counts them.

    Raises:
        SourceError: The table or every image is missing, or the table is not as published.
    """
    path = tables.find_file(source, TABLES, ORIGIN)
    rows = rows_of(tables.read_table(path), path)
    paths = {
        name.rpartition("/")[2]: name for name in tables.files_under(source, suffixes=(".png",)) if "images/" in name
    }
    rows["locator"] = rows["image_id"].map(lambda name: paths.get(f"{name}.png", f"images/{name}.png"))
    rows, left_out = tables.keep_present(rows, paths.values(), source, path.name)
    if (source / TEST_LIST).is_file():
        tested = set((source / TEST_LIST).read_text(encoding="utf-8").split())
        rows["split"] = tables.official_split(rows["patient_id"], (rows["image_id"] + ".png").isin(tested))
    return Cohort(
        rows=rows,
        load=partial(locators.load, source),
        labels=LABELS,
        licence="NIH Clinical Center: no restrictions on use; name the source and cite Wang et al. 2017",
        citation="Wang X. et al. 2017, ChestX-ray8: Hospital-scale Chest X-ray Database and Benchmarks, CVPR",
        caution=tables.sentences("The labels were mined from report text, not read from the films.", left_out),
    )


def rows_of(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The manifest's columns from the published table, without looking at any image.

    Args:
        table: The table as read; a row per image.
        path: Where it came from, for messages.

    Raises:
        SourceError: A column is missing or a finding has an unknown name.
    """
    tables.require_columns(
        table, path, ("Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "View Position")
    )
    findings = table["Finding Labels"].str.get_dummies("|").astype("float64")
    unknown = sorted(set(findings.columns) - {*NIH_FINDINGS, NO_FINDING})
    if unknown:
        raise SourceError(
            f"{path} names the finding {unknown[0]!r}; ChestX-ray14 knows {', '.join((*NIH_FINDINGS, NO_FINDING))}"
        )
    patient = table["Patient ID"].astype("str").str.zfill(8)
    rows = pd.DataFrame(
        {
            "image_id": table["Image Index"].str.strip().str.removesuffix(".png"),
            "patient_id": patient,
            "study_order": tables.order_within(patient, tables.number(table["Follow-up #"])),
            "modality": "XR",
            "view": table["View Position"].where(table["View Position"].isin(("PA", "AP"))),
            "site": "NIH Clinical Center",
            "source": "nih",
            "age_years": tables.age_years(table["Patient Age"]),
            "sex": tables.sex(tables.column(table, path, "Patient Gender", "Patient Sex")),
        }
    )
    rows["study_id"] = rows["image_id"]
    for published, name in {**NIH_FINDINGS, NO_FINDING: "no_finding"}.items():
        rows[name] = findings.get(published, 0.0)
    return rows
