"""What may be told from an embedding without being the finding: hospital, scanner, view, sex, age, origin, letters.

Legend: N images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.judgement.fairness.groups import OTHER, UNKNOWN, attributes
from hilum.judgement.stats import Floats

AGE: Final = "age"
MARKER: Final = "marker"
SHAPE: Final = "shape"
PRESENT, ABSENT = "present", "absent"
SPOKEN: Final = {  # as a clinician would say it, in the middle of a sentence
    "source": "the dataset of origin",
    "site": "the site (hospital or place)",
    "scanner": "the scanner",
    "view": "the view",
    "sex": "the patient's sex",
    AGE: "the patient's age",
    SHAPE: "the shape of the picture",
    MARKER: "the presence of letters or markers",
}

Kind = Literal["category", "number"]


@dataclass(frozen=True)
class Attribute:
    """Something known of images.

    Attributes:
        name: `site`, `age`, ...
        kind: A number is decoded as a number, and scored by telling those above its median from those below.
        levels: Names of the levels; of a number, the two halves.
        code_N: Number of each image's level; NaN where unknown or left out.
        value_N: What is decoded: of a number the number itself, else the same as `code_N`.
        band_N: Level of each image by which it is compared with its like, as text; `unknown` where unknown.
        note: What was left out.
    """

    name: str
    kind: Kind
    levels: tuple[str, ...]
    code_N: Floats
    value_N: Floats
    band_N: NDArray[Any]
    note: str = ""

    @property
    def spoken(self) -> str:
        """Its name inside a sentence."""
        return spoken(self.name)


def spoken(name: str) -> str:
    """An attribute's name inside a sentence."""
    return SPOKEN.get(name, name.replace("_", " "))


def gather(
    table: pd.DataFrame, names: Sequence[str], known: Sequence[str], min_group: int
) -> tuple[list[Attribute], dict[str, str]]:
    """The attributes that can be asked about, and why each of the others cannot.

    Args:
        table: Manifest rows in the order of the vectors; with a column `marker` where letters were looked for.
        names: Attributes, in the order in which they are asked.
        known: The dataset's own attribute columns.
        min_group: Levels with fewer patients are left out.

    Returns:
        Attributes with at least two levels, and by name the reason why another is not asked.
    """
    asked, left = [], {}
    for name in names:
        column = "age_years" if name == AGE else name
        if column not in table:
            left[name] = "the dataset has no such column"
        elif table[column].isna().all():
            left[name] = "it is known of no image"
        elif table[column].nunique() == 1:
            left[name] = "it is the same of every image of which it is known"
        elif name == AGE or _is_number(table[column]):
            asked.append(_number(name, table, column))
        else:
            asked.append(_category(name, table, known, min_group))
    return asked, left


def _is_number(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values) and values.nunique() > 2


def _number(name: str, table: pd.DataFrame, column: str) -> Attribute:
    value_N = table[column].to_numpy(dtype=float)
    middle = float(np.nanmedian(value_N))
    unit = " years" if name == AGE else ""
    levels, upper_N = (f"below {middle:g}{unit}", f"{middle:g}{unit} and above"), value_N >= middle
    if middle == np.nanmin(value_N):  # half of the images or more have the least value
        levels, upper_N = (f"{middle:g}{unit}", f"above {middle:g}{unit}"), value_N > middle
    code_N = np.where(np.isnan(value_N), np.nan, upper_N.astype(float))
    if name == AGE:
        band_N = attributes(table, ["age_band"])["age_band"].to_numpy(dtype=object)
    else:
        band_N = np.array([UNKNOWN if np.isnan(code) else levels[int(code)] for code in code_N], dtype=object)
    return Attribute(name, "number", levels, code_N, value_N, band_N)


def _category(name: str, table: pd.DataFrame, known: Sequence[str], min_group: int) -> Attribute:
    band = attributes(table, [name], (*known, MARKER))[name]
    patients = table["patient_id"].groupby(band).nunique().drop(labels=UNKNOWN, errors="ignore")
    levels = tuple(sorted(str(level) for level in patients.index[patients >= min_group] if level != OTHER))
    number = {level: float(k) for k, level in enumerate(levels)}
    code_N = band.map(number).to_numpy(dtype=float)
    left_out = int((band != UNKNOWN).sum() - np.isfinite(code_N).sum())
    note = f"levels with fewer than {min_group} patients ({left_out} images) left out" if left_out else ""
    return Attribute(name, "category", levels, code_N, code_N, band.to_numpy(dtype=object), note)
