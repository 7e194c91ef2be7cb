"""A table of covariates beside image files, as `hilum predict` takes it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from hilum.errors import UsageError

FILE: Final = "file"


def read(table: Path, files: Sequence[Path]) -> Mapping[str, Mapping[str, float | None]]:
    """Covariates by file, as the file is named in `files`; files without a row are not among them.

    Which names and values a head takes is seen when it answers.

    Args:
        table: CSV or Parquet; `file` holds names, or paths as in `files`, every other column numbers, blank if unknown.
        files: The files that are asked about.

    Raises:
        UsageError: It cannot be read, has no column `file`, names a file twice, has something that is no number, or
            names none of the files; or a name in it is that of several files.
    """
    import pandas as pd  # half a second that a call without covariates does without

    try:
        found = pd.read_parquet(table) if table.suffix == ".parquet" else pd.read_csv(table, dtype={FILE: str})
    except (OSError, ValueError) as error:  # pandas' and pyarrow's own errors are ValueErrors
        raise UsageError(f"{table} cannot be read as {table.suffix.lstrip('.') or 'csv'}: {error}") from error
    if FILE not in found:
        raise UsageError(f"{table} has no column `{FILE}`, by which a row belongs to a file; it has {', '.join(found)}")
    if twice := found.loc[found[FILE].duplicated(), FILE].tolist():
        raise UsageError(f"{table} has {twice[0]!r} twice; give a file one row")
    names = [str(name) for name in found if name != FILE]
    for name in names:
        numbers = pd.to_numeric(found[name], errors="coerce")
        if (wrong := found[name].notna() & numbers.isna()).any():
            raise UsageError(
                f"{table} has {found.loc[wrong, name].iloc[0]!r} as {name}; give a number, or leave it blank"
            )
        found[name] = numbers
    rows = {
        str(row[FILE]): {name: None if pd.isna(row[name]) else float(row[name]) for name in names}
        for row in found.to_dict("records")
    }
    short = [path.name for path in files]
    several = {name for name in rows if short.count(name) > 1 and name not in map(str, files)}
    if several:
        raise UsageError(f"{table} has {min(several)!r}, and several of the files are named so; give their paths")
    chosen = {str(path): row for path in files if (row := rows.get(str(path), rows.get(path.name))) is not None}
    if not chosen:
        raise UsageError(f"{table} has no row for any of the files; its column `{FILE}` has their names or paths")
    return chosen
