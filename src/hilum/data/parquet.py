"""Parquet files, read and written on one thread.

pyarrow 26 starts threads to read or convert a table, and a process that ends soon after may abort when they are torn
down ("terminate called without an active exception"): a pipeline step that had done its work then counts as failed.
Tables here are small, so one thread costs nothing that is noticed.
"""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq


def read(path: Path) -> pd.DataFrame:
    """Read a table, its columns of the types that it was written with."""
    with pq.ParquetFile(path, pre_buffer=False) as file:
        return file.read(use_threads=False).to_pandas(use_threads=False)


def write(table: pd.DataFrame, path: Path) -> None:
    """Write a table without its index."""
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False, nthreads=1), path)


def write_rows(rows: Sequence[Mapping[str, Any]], types: Mapping[str, str], path: Path) -> None:
    """Write rows with columns of stated types, so that parts of a table agree even where one has nothing but nulls.

    Args:
        rows: A value per column; None or absent is null.
        types: By column, in order: `string`, `int64`, `double`, `bool` or `list<float>`.
        path: The file.
    """
    known = {"list<float>": pa.list_(pa.float32()), "double": pa.float64(), "bool": pa.bool_()}
    kinds = {name: known.get(kind) or pa.type_for_alias(kind) for name, kind in types.items()}
    arrays = [pa.array([row.get(name) for row in rows], type=kind) for name, kind in kinds.items()]
    pq.write_table(pa.Table.from_arrays(arrays, schema=pa.schema(list(kinds.items()))), path)


def join(parts: Sequence[Path], path: Path) -> None:
    """Put tables of the same columns one after the other into one file, a part in memory at a time."""
    with contextlib.ExitStack() as stack:
        writer: pq.ParquetWriter | None = None
        for part in parts:
            with pq.ParquetFile(part, pre_buffer=False) as file:
                table = file.read(use_threads=False)
            if writer is None:
                writer = stack.enter_context(pq.ParquetWriter(path, table.schema))
            writer.write_table(table.cast(writer.schema))


def count_filled(path: Path, column: str) -> int:
    """How many rows have a text in a column that is not empty."""
    with pq.ParquetFile(path, pre_buffer=False) as file:
        batches = file.iter_batches(columns=[column], use_threads=False)
        return sum(bool(value.as_py()) for batch in batches for value in batch.column(0))
