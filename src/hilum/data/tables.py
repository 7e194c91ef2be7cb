"""Reading the tables that native layouts come with: by column name, with unknown values as NaN, or a clear refusal."""

import os
import re
import zlib
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from hilum.data.manifest import IDENTITY, PIXELS, UNCERTAIN, assign_splits
from hilum.errors import SourceError, UsageError
from hilum.progress import bar

# Of the patients that an official list leaves for training, this share becomes `val`: 1/8, as 0.1 of 0.1 + 0.7 in
# the recipe's own split shares.
VALIDATION_SHARE: Final = 0.125
VALIDATION_SEED: Final = 0
UNREADABLE: Final = (ValueError, OSError, EOFError, zlib.error)  # the parser errors of pandas are ValueErrors
FOLDERS_UNDER_A_SECOND: Final = 5000  # on a slow disk; beyond, a walk shows its progress
OLDEST_YEARS: Final = 120.0
BLANKS: Final = ("", "n/a", "N/A", "NA", "NaN", "nan", "null", "None", "none", "-", "?", "unknown", "Unknown")
_AGE: Final = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([YMWDymwd]?)\+?\s*$")
_YEARS_PER: Final = {"Y": 1.0, "": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}


def find_file(source: Path, names: Sequence[str], origin: str) -> Path:
    """The first of `names` that lies in `source`.

    Args:
        source: Folder of the distribution.
        names: File names that the distribution has used, newest first.
        origin: Where the file comes from, as the end of a sentence.

    Raises:
        SourceError: None of them is there.
    """
    for name in names:
        if (source / name).is_file():
            return source / name
    raise SourceError(f"{source} has no {' or '.join(names)}; {origin}")


def read_table(path: Path, required: Iterable[str] = (), **options: Any) -> pd.DataFrame:
    """Read a delimited table, plain or compressed, with a byte-order mark or without; column names are stripped.

    Args:
        path: The table.
        required: Columns that must be there.
        options: Passed on to `pandas.read_csv`.

    Raises:
        SourceError: The file is no such table, or lacks a required column.
    """
    settings: dict[str, Any] = {"encoding": "utf-8-sig", "index_col": False, "low_memory": False, **options}
    try:
        table = pd.read_csv(path, **settings)
    except UNREADABLE as error:
        raise SourceError(f"{path} cannot be read as a table: {str(error).strip().splitlines()[0]}") from error
    table.columns = table.columns.str.strip()
    require_columns(table, path, required)
    return table


def require_columns(table: pd.DataFrame, path: Path, required: Iterable[str]) -> None:
    """Refuse a table that lacks columns, naming them and what is there instead.

    Raises:
        SourceError: A required column is absent.
    """
    absent = [name for name in required if name not in table]
    if absent:
        raise SourceError(
            f"{path} lacks the column{'s' if len(absent) > 1 else ''} {', '.join(absent)}; "
            f"it has {', '.join(map(str, table.columns[:20]))}"
        )


def column(table: pd.DataFrame, path: Path, *names: str) -> pd.Series:
    """The column that goes by one of `names`, which differ between releases of the same table.

    Raises:
        SourceError: None of the names is there.
    """
    for name in names:
        if name in table:
            return table[name]
    raise SourceError(f"{path} has no column {' or '.join(names)}; it has {', '.join(map(str, table.columns[:20]))}")


def text(values: pd.Series) -> pd.Series:
    """Text without surrounding blanks; the usual words for unknown become NaN."""
    stripped = values.astype("str").str.strip()
    return stripped.where(~stripped.isin(BLANKS))


def number(values: pd.Series, low: float = -np.inf, high: float = np.inf) -> pd.Series:
    """Numbers within a plausible range, bounds included; what is no number or lies outside is unknown."""
    numbers = pd.to_numeric(values, errors="coerce").astype("float64")
    return numbers.where(numbers.between(low, high))


def age_years(values: pd.Series) -> pd.Series:
    """Ages in years from `57`, `058Y`, `006M` (also W, D) or `89+`; above 120 years is a typing error, so unknown.

    An open age such as `89+` (a rule of de-identification) becomes its lower bound.
    """
    written = values.astype("str")
    years = {age: _years(age) for age in written.dropna().unique()}  # few ages, many rows
    return written.map(years).astype("float64")


def _years(written: str) -> float:
    age = _AGE.match(written)
    years = float(age[1]) * _YEARS_PER[age[2].upper()] if age else np.nan
    return years if years <= OLDEST_YEARS else np.nan


def sex(values: pd.Series) -> pd.Series:
    """`F` or `M`, from a word or letter in either case; everything else is unknown."""
    return values.astype("str").str.strip().str.lower().map({"f": "F", "female": "F", "m": "M", "male": "M"})


def order_within(patient: pd.Series, time: pd.Series) -> pd.Series:
    """0, 1, ... in time within each patient, equal times sharing a number; NaN where the time is unknown."""
    return time.groupby(patient).rank(method="dense") - 1.0


def since_first(patient: pd.Series, time: pd.Series) -> pd.Series:
    """Time since the patient's first known time, in the unit of `time`; NaN where unknown."""
    return (time - time.groupby(patient).transform("min")).astype("float64")


def official_split(patient: pd.Series, in_test: pd.Series) -> pd.Series:
    """Splits of a source that publishes a test set only: the rest is divided into train and val by patient.

    A patient with any image in the published test set is a test patient with all images: no patient is in two splits.

    Args:
        patient: Patient ids, one per image.
        in_test: Whether the source puts the image into its test set.
    """
    assigned = assign_splits(patient, {"train": 1 - VALIDATION_SHARE, "val": VALIDATION_SHARE}, VALIDATION_SEED)
    return assigned.mask(in_test.groupby(patient).transform("any"), "test")


def files_under(source: Path, folder: str = "", suffixes: tuple[str, ...] = ()) -> list[str]:
    """Paths relative to `source`, with `/`, of the files below one of its folders, sorted; hidden ones are left out.

    One walk over the folders is much cheaper than asking for each of 200,000 files by name. Linked folders are
    followed, each folder once, so that a link to a folder above ends.

    Args:
        source: Folder of the distribution.
        folder: Where below it to look; need not exist.
        suffixes: Endings to keep, in lower case; all where empty.
    """
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    with ExitStack() as stack:
        shown = None
        for here, folders, names in os.walk(source / folder, followlinks=True):
            about = os.stat(here)
            if (about.st_dev, about.st_ino) in seen:
                folders.clear()
                continue
            seen.add((about.st_dev, about.st_ino))
            folders[:] = [name for name in folders if not name.startswith(".")]
            prefix = Path(here).relative_to(source)
            kept = [name for name in names if not name.startswith(".")]
            if suffixes:
                kept = [name for name in kept if name.lower().endswith(suffixes)]
            found += [(prefix / name).as_posix() for name in kept]
            if shown is None and len(seen) > FOLDERS_UNDER_A_SECOND:
                shown = stack.enter_context(bar("look for images", unit="file"))
            if shown is not None:
                shown.update(len(found) - shown.n)
    return sorted(found)


def keep_present(rows: pd.DataFrame, present: Iterable[str], source: Path, what: str) -> tuple[pd.DataFrame, str]:
    """Leave out rows whose image is not there, as where only a part of a distribution was downloaded.

    Args:
        rows: Rows with a `locator` that is a path relative to `source`.
        present: The relative paths that exist.
        source: Folder of the distribution, for the message.
        what: Name of the table that the rows come from.

    Returns:
        The remaining rows, and a sentence for the cohort's caution, empty where nothing was left out.

    Raises:
        SourceError: No image is there at all.
    """
    there = rows["locator"].isin(set(present))
    absent = int((~there).sum())
    if not len(rows):
        raise SourceError(f"{what} in {source} has no rows")
    if not there.any():
        raise SourceError(
            f"{source} holds none of the {len(rows)} images that {what} lists; the first would be "
            f"{rows['locator'].iloc[0]}"
        )
    if not absent:
        return rows, ""
    kept = rows[there].reset_index(drop=True)
    return kept, f"{absent} of the {len(rows)} images that {what} lists are not in the source folder and were left out."


def sentences(*parts: str) -> str:
    """Join the sentences that are not empty."""
    return " ".join(part for part in parts if part)


def identifier(values: pd.Series) -> pd.Series:
    """Ids as text, without blanks around them; an id that pandas read as the number 7.0 is `7` again."""
    return text(values.astype("str").str.removesuffix(".0"))


def label(values: pd.Series, path: Path) -> pd.Series:
    """A column of labels: 1, 0, -1 (uncertain) or unknown.

    Raises:
        SourceError: A value is none of them.
    """
    words = text(values)
    numbers = pd.to_numeric(words, errors="coerce").astype("float64")
    odd = words.notna() & ~numbers.isin((0.0, 1.0, UNCERTAIN))
    if odd.any():
        raise SourceError(f"{path} has {words[odd].iloc[0]!r} in the label {values.name}; labels are 1, 0, -1 or blank")
    return numbers


def chosen_columns(table: pd.DataFrame, path: Path, names: str) -> dict[str, str]:
    """Columns that an option names, separated by commas, by the name they get in the manifest (snake_case).

    Raises:
        SourceError: The table has no such column.
        UsageError: A column has a name of the manifest's own.
    """
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    require_columns(table, path, chosen)
    renamed = {re.sub(r"[^0-9a-z]+", "_", name.lower()).strip("_"): name for name in chosen}
    for name in renamed:
        if name in IDENTITY or name in PIXELS:
            raise UsageError(f"{name} is a column of every manifest and cannot be a label or covariate; rename it")
    return renamed
