"""OASIS-1, cross-sectional: 436 T1 brain MRI sessions of 416 people of 18 to 96 years, 20 of them scanned twice.

Labels: `dementia` is a Clinical Dementia Rating (CDR) above 0, rated by clinicians after an interview with the person
and an informant; 100 of the people over 60 have one, very mild to moderate. Missing: CDR is blank for nearly all
people under 60, who were not rated; that is unknown here, not "healthy".
Attributes and covariates: MMSE (0-30 points), CDR (as attribute: it defines the label), education (1-5) and social
status (1-5, Hollingshead) levels, estimated total intracranial volume, whole-brain volume as a share of it (nWBV),
atlas scaling factor (ASF, volume factor to the atlas).
Quirks: mirrors reorder the columns, add a byte-order mark, and lose the decimal point (nWBV 823 for 0.823, ASF 1252
for 1.252); both are read. `MR2` is a rescan of the same person within 90 days: one patient. The original is Analyze
volumes, registered to the Talairach atlas and masked (`*_t88_masked_gfc.img`), of which the central slice of each
plane is taken; copies with one JPEG per plane in `axial/`, `coronal/`, `sagittal/` are read as they are. Analyze does
not record which side is left: it is taken as nibabel takes it.
Splits: none published.

Citation: Marcus et al. 2007, Journal of Cognitive Neuroscience 19. Licence: OASIS data use terms, acknowledge the
grants and the paper. To get it: sites.wustl.edu/oasisbrains, OASIS-1, the discs and the cross-sectional CSV.
"""

import re
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pandas as pd

from hilum.data import locators, tables
from hilum.data.manifest import VIEWS, Cohort
from hilum.errors import ImageError, SourceError

if TYPE_CHECKING:
    from hilum.data.manifest import Pixels
    from hilum.data.volumes import Volume

TABLE: Final = "oasis_cross-sectional.csv"
ORIGIN: Final = "it lies beside the discs of OASIS-1 on sites.wustl.edu/oasisbrains"
VOLUME: Final = "_masked_gfc.img"
SESSION: Final = re.compile(r"^(?P<patient>OAS1_\d{4})_MR(?P<scan>\d)$")
# Column, name here, plausible range, and above what a value has lost its decimal point (three places are given).
COVARIATES: Final = {
    "MMSE": ("mmse_points", 0.0, 30.0, None),
    "Educ": ("education_level", 1.0, 5.0, None),
    "SES": ("ses_level", 1.0, 5.0, None),
    "eTIV": ("etiv_cm3", 500.0, 3000.0, None),
    "nWBV": ("nwbv_share", 0.3, 1.0, 1.0),
    "ASF": ("asf_ratio", 0.5, 2.5, 10.0),
}
THOUSANDTHS: Final = 1000.0


def read(source: Path) -> Cohort:
    """Read OASIS-1, three images (planes) per session, from JPEG slices or from the original volumes.

    Raises:
        SourceError: The table or every image is missing, or the table is not as published.
    """
    path = tables.find_file(source, (TABLE, f"{TABLE}.gz"), ORIGIN)
    sessions = sessions_of(tables.read_table(path, ("ID", "M/F", "Age")), path)
    images = _slices(source) or _volumes(source)
    if not images:
        raise SourceError(
            f"{source} has neither axial/OAS1_0001_MR1.jpg and its like, nor a volume ending in {VOLUME} below its "
            "disc folders; both kinds come with OASIS-1"
        )
    rows = pd.DataFrame(images).merge(sessions, on="study_id", how="inner", validate="many_to_one")
    if rows.empty:
        raise SourceError(f"{source} holds no image of a session that {path.name} lists")
    rows["image_id"] = rows["study_id"] + "_" + rows["view"].str.lower()
    return Cohort(
        rows=rows.sort_values("image_id", ignore_index=True),
        load=partial(_load, source),
        labels=("dementia",),
        licence="OASIS data use terms: acknowledge Marcus et al. 2007 and the grants it names",
        citation="Marcus D. S. et al. 2007, Open Access Series of Imaging Studies (OASIS): Cross-sectional MRI Data in "
        "Young, Middle Aged, Nondemented, and Demented Older Adults, J. Cogn. Neurosci. 19",
        covariates=tuple(name for name, *_ in COVARIATES.values()),
        caution="Brains are masked and registered to an atlas; dementia is unknown where no CDR was taken.",
        attributes=("cdr", "handedness"),
    )


def sessions_of(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """One row per session, keyed by `study_id`: person, age, sex, label, covariates.

    Raises:
        SourceError: An id is not one of OASIS-1's.
    """
    parts = table["ID"].astype("str").str.strip().str.extract(SESSION)
    if parts["patient"].isna().any():
        bad = table.loc[parts["patient"].isna(), "ID"].iloc[0]
        raise SourceError(f"{path} has the ID {bad!r}; OASIS-1's are like OAS1_0001_MR1")
    cdr = tables.number(table["CDR"], 0.0, 3.0) if "CDR" in table else pd.Series(float("nan"), index=table.index)
    scan = parts["scan"].astype("float64") - 1.0
    delay_days = tables.number(table["Delay"]) if "Delay" in table else pd.Series(float("nan"), index=table.index)
    sessions = pd.DataFrame(
        {
            "study_id": table["ID"].astype("str").str.strip(),
            "patient_id": parts["patient"],
            "study_order": scan,
            "days": delay_days.mask(scan == 0, 0.0),
            "modality": "MR",
            "site": "Washington University",
            "source": "oasis",
            "age_years": tables.age_years(table["Age"]),
            "sex": tables.sex(table["M/F"]),
            "dementia": (cdr > 0).astype("float64").where(cdr.notna()),
            "cdr": cdr,
            "handedness": tables.text(table["Hand"]) if "Hand" in table else float("nan"),
        }
    )
    for published, (name, low, high, pointless_above) in COVARIATES.items():
        if published not in table:
            sessions[name] = float("nan")
            continue
        values = tables.number(table[published])
        if pointless_above is not None:
            values = values.mask(values > pointless_above, values / THOUSANDTHS)
        sessions[name] = values.where(values.between(low, high))
    return sessions


def _slices(source: Path) -> list[dict[str, str]]:
    return [
        {"study_id": Path(name).stem, "view": view, "locator": name}
        for view in VIEWS["MR"]
        if (source / view.lower()).is_dir()
        for name in tables.files_under(source, view.lower(), suffixes=(".jpg", ".jpeg", ".png"))
    ]


def _volumes(source: Path) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    for path in tables.files_under(source, suffixes=(VOLUME,)):
        session = re.search(r"OAS1_\d{4}_MR\d", path)
        if session:
            found += [{"study_id": session[0], "view": view, "locator": f"{path}#{view}"} for view in VIEWS["MR"]]
    return found


def _load(source: Path, locator: str) -> "Pixels":
    path, _, plane = locator.partition(f"{VOLUME}#")
    if not plane:
        return locators.load(source, locator)
    from hilum.data.volumes import slice_plane

    return slice_plane(_analyze(source / f"{path}{VOLUME}"), plane)


@lru_cache(maxsize=1)  # the three planes of a volume follow each other
def _analyze(path: Path) -> "Volume":
    """An Analyze volume, as the NIfTI volume that says the same."""
    import nibabel

    from hilum.data.volumes import decode_volume

    try:
        image = nibabel.AnalyzeImage.from_filename(path)
        nifti = nibabel.Nifti1Image(image.get_fdata(dtype="float32"), image.affine)
    except Exception as error:  # nibabel raises errors of many kinds on damaged files
        raise ImageError("the Analyze volume or its .hdr is missing or damaged", "corrupt") from error
    return decode_volume(nifti.to_bytes())
