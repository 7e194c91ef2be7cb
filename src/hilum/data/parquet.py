"""Parquet files, read and written on one thread.

pyarrow 26 starts threads to read or convert a table, and a process that ends soon after may abort when they are torn
down ("terminate called without an active exception"): a pipeline step that had done its work then counts as failed.
Tables here are small, so one thread costs nothing that is noticed.
"""

from pathlib import Path

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
