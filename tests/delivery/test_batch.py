"""Answers for files: one row each, also for those that are refused."""

import json

import numpy as np
import pandas as pd
import pytest
from releasing import dicom, drawn_image, encoded, photograph

from hilum.delivery import batch
from hilum.errors import UsageError


@pytest.fixture
def files(tmp_path):
    contents = {
        "a.png": encoded(drawn_image("PA")),
        "b.dcm": dicom(drawn_image("PA")),
        "c.png": encoded(photograph()),
        "d.png": encoded(drawn_image("AXIAL")),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return [tmp_path / name for name in contents]


def test_parquet(xr_release, files, tmp_path):
    assert batch.predict(xr_release, files, tmp_path / "out.parquet") == 2
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert list(table["number"]) == [0, 1, 2, 3]
    assert [bool(error) for error in table["error"]] == [False, False, True, True]
    assert np.stack(table["embedding"][:2]).shape == (2, 12)
    assert table["probability"][:2].between(0, 1).all()
    assert table["probability"][2:].isna().all()
    assert table["dossier"].nunique() == 1


def test_json_lines(mr_release, files, capsys):
    assert batch.predict(mr_release, files, None) == 3
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [bool(row["error"]) for row in rows] == [True, True, True, False]
    assert "probability" not in rows[3]
    with pytest.raises(UsageError, match="cannot be read"):
        batch.predict(mr_release, [files[0].parent / "none.png"], None)
