"""Tables come back as they were written, and no thread is left that could end a process badly."""

import subprocess
import sys

import numpy as np
import pandas as pd

from hilum.data import parquet


def a_table(rows=5_000):
    random = np.random.default_rng(0)
    columns = {f"number_{i}": random.normal(size=rows) for i in range(20)}
    names = pd.Series([f"p{i}" if i % 3 else None for i in range(rows)], dtype="str")
    return pd.DataFrame({**columns, "name": names, "count": np.arange(rows)})


def test_a_table_comes_back_with_its_types_and_blanks(tmp_path):
    table = a_table()
    parquet.write(table, tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(parquet.read(tmp_path / "t.parquet"), table)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "t.parquet"), table)


def test_the_index_is_not_written(tmp_path):
    parquet.write(a_table(9).iloc[::2], tmp_path / "t.parquet")
    assert list(parquet.read(tmp_path / "t.parquet").index) == [0, 1, 2, 3, 4]


def test_no_thread_is_started(tmp_path):
    parquet.write(a_table(), tmp_path / "t.parquet")
    code = (
        "import os, sys; from pathlib import Path; from hilum.data import parquet\n"
        "threads = lambda: len(os.listdir('/proc/self/task'))\n"
        "before = threads(); t = parquet.read(Path(sys.argv[1])); parquet.write(t, Path(sys.argv[1]))\n"
        "print(threads() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "t.parquet")], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "0"
