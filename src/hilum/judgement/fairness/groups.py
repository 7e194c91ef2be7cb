"""Which group each image belongs to: sex, age band, view, site, whatever else the dataset knows, and intersections."""

from collections.abc import Sequence
from itertools import combinations
from typing import Final

import numpy as np
import pandas as pd

from hilum.errors import UsageError

# Seyyed-Kalantari et al. 2021 (Underdiagnosis bias, Nature Medicine 27): bands of 20 years, the lower end inside.
AGE_EDGES: Final = (0.0, 20.0, 40.0, 60.0, 80.0, np.inf)
AGE_BANDS: Final = ("0-20", "20-40", "40-60", "60-80", "80+")
UNKNOWN: Final = "unknown"
INSUFFICIENT: Final = "insufficient data"
OTHER: Final = "other"
MIN_LEVEL_PATIENTS: Final = 5  # rarer values (a site, a free-text race) are named together: too few not to be known
# What a person is, and how the image came about. The dataset's own attributes are audited by default only where they
# are among these: an outcome such as `survived` is no group to be fair to.
PERSONAL: Final = ("sex", "age_band", "race", "ethnicity", "insurance", "language")
TECHNICAL: Final = ("view", "site", "source")
COLUMNS: Final = ("sex", "view", "site", "source")  # of every manifest, beside the age


def coverage(manifest: pd.DataFrame, known: Sequence[str] = ()) -> tuple[str, ...]:
    """Every attribute by which these rows fall into at least two known groups, then pairs of them.

    The pairs are personal by personal (sex and race) and personal by technical (sex and site): a group such as women
    of one hospital may be served worse than women and than that hospital. Arguments as for `attributes`.
    """
    possible = [
        name
        for name in (*PERSONAL, *TECHNICAL)
        if (name in COLUMNS or name == "age_band" or name in known)
        and ("age_years" if name == "age_band" else name) in manifest
    ]
    levels = attributes(manifest, possible, known)
    single = [name for name in possible if len(set(levels[name]) - {UNKNOWN}) > 1]
    pairs = [f"{a}+{b}" for a, b in combinations(single, 2) if a in PERSONAL]
    return (*single, *pairs)


def attributes(manifest: pd.DataFrame, names: Sequence[str], known: Sequence[str] = ()) -> pd.DataFrame:
    """Group membership of each manifest row, one column per attribute; `unknown` where the manifest does not know.

    Args:
        manifest: Rows of a dataset's manifest.
        names: `sex`, `age_band`, `view`, `site`, `source`, one of `known`, or an intersection such as `sex+age_band`.
        known: Further columns that may be named (the dataset's own attributes, such as race).

    Raises:
        UsageError: There is no such attribute.
    """
    single = {name: _levels(manifest, name, known) for name in dict.fromkeys("+".join(names).split("+")) if name}
    columns = {}
    for name in names:
        parts = [single[part] for part in name.split("+")]
        unknown = np.any([(part == UNKNOWN).to_numpy() for part in parts], axis=0)
        joined = parts[0].str.cat(parts[1:], sep=", ") if len(parts) > 1 else parts[0]
        columns[name] = joined.mask(unknown, UNKNOWN)
    return pd.DataFrame(columns, index=manifest.index)


def _levels(manifest: pd.DataFrame, name: str, known: Sequence[str]) -> pd.Series:
    if name == "age_band":
        bands = pd.cut(manifest["age_years"], AGE_EDGES, right=False, labels=list(AGE_BANDS))
        return bands.astype("object").fillna(UNKNOWN).astype("str")
    if name not in (*COLUMNS, *known) or name not in manifest:
        possible = ", ".join(("age_band", *COLUMNS, *known))
        raise UsageError(f"there is no attribute {name!r} to audit groups by; this dataset has {possible}")
    levels = manifest[name].astype("object").fillna(UNKNOWN).astype("str")
    patients = manifest["patient_id"].groupby(levels).nunique()
    rare = patients.index[(patients < MIN_LEVEL_PATIENTS) & (patients.index != UNKNOWN)]
    return levels.mask(levels.isin(rare), OTHER) if name not in ("sex", "view") else levels


def sizes(groups: pd.DataFrame, patients: pd.Series) -> pd.DataFrame:
    """How many images and patients each group has: what can be said where there is no label to judge by."""
    rows = [
        {"attribute": name, "group": group, "n": len(members), "n_patients": members.nunique()}
        for name in groups.columns
        for group, members in patients.groupby(groups[name])
    ]
    return pd.DataFrame(rows, columns=["attribute", "group", "n", "n_patients"])
