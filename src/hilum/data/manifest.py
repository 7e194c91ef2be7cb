"""The manifest: one row is one image; its schema, its vocabulary, and splits by patient.

Unknown is NaN, never zero: a label is 1.0 (present), 0.0 (absent), NaN (unknown) or -1.0 (uncertain, as in CheXpert,
until a policy resolves it).
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.errors import DatasetError, UsageError

MODALITIES: Final = ("XR", "MR")
VIEWS: Final = {"XR": ("PA", "AP", "LATERAL"), "MR": ("AXIAL", "CORONAL", "SAGITTAL")}
SEXES: Final = ("F", "M")
SPLITS: Final = ("train", "val", "test")

# The columns that every manifest has, in order, with their pandas dtypes. `str` columns hold NaN where unknown.
IDENTITY: Final = {
    "image_id": "str",  # unique; made by the layout, stable from one ingest to the next
    "patient_id": "str",  # the unit of splitting, of resampling and of leakage
    "study_id": "str",
    "study_order": "float64",  # 0, 1, ... within the patient, in time; NaN where the source does not say
    "days": "float64",  # days since the patient's first study; NaN where the source does not say
    "modality": "str",  # one of MODALITIES
    "view": "str",  # one of VIEWS[modality]
    "site": "str",  # hospital or scanner site
    "source": "str",  # dataset of origin, the layout's name unless it says otherwise
    "age_years": "float64",
    "sex": "str",  # one of SEXES
    "split": "str",  # one of SPLITS
}
# Of the preprocessed image (uint8), measured by ingest so that validation reads no pixels.
PIXELS: Final = {
    "pixel_digest": "str",  # hilum.data.images.pixel_digest: equal for duplicate images
    "pixel_mean": "float64",  # 0-255, over the image without its padding
    "pixel_std": "float64",
    "pixel_min": "float64",
    "pixel_max": "float64",
    "saturated_share": "float64",  # share of unpadded pixels at 255
}

UNCERTAIN: Final = -1.0
UncertainPolicy = Literal["keep", "ignore", "zeros", "ones"]

Pixels = NDArray[np.uint8] | NDArray[np.float32]


@dataclass(frozen=True)
class Cohort:
    """What a layout reads from its source: the rows, and how to get at the pixels of each.

    Attributes:
        rows: The IDENTITY columns (`split` may be absent or NaN: ingest then assigns it by patient), one column per
            label and per covariate, and `locator`: what `load` takes to find the row's pixels.
        labels: Names of the label columns.
        covariates: Names of the numeric covariate columns, with units in the name (`o2_saturation_pct`).
        load: From a locator to pixels of shape (H, W): uint8 in 0-255, or float32 in 0-1. Called in worker processes,
            so a module-level function or a `functools.partial` of one. Raises ImageError where it cannot.
        licence: The licence or terms of use of the source.
        citation: How the source asks to be cited.
        caution: What a reader of any result must know (a phantom is no real data; labels are mined from text; ...).
    """

    rows: pd.DataFrame
    load: Callable[[str], Pixels]
    labels: tuple[str, ...]
    licence: str
    citation: str
    covariates: tuple[str, ...] = ()
    caution: str = ""
    attributes: tuple[str, ...] = field(default=())  # further columns worth keeping (`mmse`, `finding_raw`, ...)


def conform(
    rows: pd.DataFrame, labels: Sequence[str], covariates: Sequence[str], attributes: Sequence[str] = ()
) -> pd.DataFrame:
    """Bring a cohort's rows into the manifest's columns, order and types; absent optional columns become NaN.

    Raises:
        DatasetError: A required column (`image_id`, `patient_id`, `modality`) is absent or has blanks, an image id is
            there twice, or a value is outside its vocabulary.
    """
    for required in ("image_id", "patient_id", "modality"):
        if required not in rows or rows[required].isna().any():
            raise DatasetError(f"every row needs a {required}; the layout gave none for some rows")
    table = pd.DataFrame(index=rows.index)
    for name, dtype in IDENTITY.items():
        given = rows[name] if name in rows else pd.Series(np.nan, index=rows.index)
        table[name] = given.astype(dtype)
    for name in (*labels, *covariates):
        table[name] = rows[name].astype("float64")
    for name in attributes:
        table[name] = rows[name]
    for name, dtype in PIXELS.items():
        if name in rows:
            table[name] = rows[name].astype(dtype)
    table["study_id"] = table["study_id"].fillna(table["image_id"])
    duplicated = table["image_id"].duplicated()
    if duplicated.any():
        raise DatasetError(
            f"image_id must be unique, but {int(duplicated.sum())} rows repeat one, "
            f"for instance {table.loc[duplicated, 'image_id'].iloc[0]!r}"
        )
    _within(table, "modality", MODALITIES)
    _within(table, "sex", SEXES)
    _within(table, "split", SPLITS)
    for modality, views in VIEWS.items():
        _within(table[table["modality"] == modality], "view", views)
    return table.reset_index(drop=True)


def _within(table: pd.DataFrame, column: str, allowed: Sequence[str]) -> None:
    known = table[column].dropna()
    bad = known[~known.isin(allowed)]
    if len(bad):
        raise DatasetError(
            f"{column} is one of {', '.join(allowed)} or unknown, but {len(bad)} rows have {bad.iloc[0]!r}"
        )


def assign_splits(patients: pd.Series, shares: Mapping[str, float], seed: int) -> pd.Series:
    """Put each patient into one split by a hash of the id, so that adding patients moves nobody.

    Args:
        patients: Patient ids, one per image.
        shares: Share of patients per split, summing to 1 (`{"train": 0.7, "val": 0.1, "test": 0.2}`).
        seed: Another seed, another assignment.

    Returns:
        The split of each row; every patient has one.

    Raises:
        UsageError: The shares do not sum to 1, or are of other splits than train, val and test.
    """
    if set(shares) - set(SPLITS):
        raise UsageError(f"splits are {', '.join(SPLITS)}, not {', '.join(sorted(set(shares) - set(SPLITS)))}")
    if abs(sum(shares.values()) - 1.0) > 1e-9 or any(share < 0 for share in shares.values()):
        raise UsageError(f"split shares must be non-negative and sum to 1, not {dict(shares)}")
    # Not in the mapping's own order: KFP hands mappings on in any, and the same recipe must give the same splits.
    names = [name for name in SPLITS if name in shares]
    bounds = np.cumsum([shares[name] for name in names])
    split_of = {
        patient: names[min(int(np.searchsorted(bounds, _uniform(f"{seed}/{patient}"), side="right")), len(names) - 1)]
        for patient in patients.unique()
    }
    return patients.map(split_of).astype("str")


def _uniform(key: str) -> float:
    """A number in [0, 1) that depends on nothing but `key`."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") / 2**64


def resolve_uncertain(
    labels: pd.DataFrame, policy: Mapping[str, UncertainPolicy], default: UncertainPolicy = "ignore"
) -> pd.DataFrame:
    """Resolve uncertain labels (-1) by a policy per label: `ignore` (NaN), `zeros`, `ones`, or `keep` them as -1.

    Policies U-Ignore, U-Zeros and U-Ones of Irvin et al. 2019 (CheXpert), section 3; the best one differs by label.
    """
    replacement = {"ignore": np.nan, "zeros": 0.0, "ones": 1.0, "keep": UNCERTAIN}
    resolved = labels.copy()
    for name in resolved.columns:
        resolved[name] = resolved[name].replace(UNCERTAIN, replacement[policy.get(str(name), default)])
    return resolved
