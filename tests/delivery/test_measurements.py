"""A table of covariates beside files, and batch answers with it."""

from pathlib import Path

import pandas as pd
import pytest
import releasing

from hilum.delivery import batch, measurements
from hilum.errors import UsageError


@pytest.fixture
def films(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "a" / "film.png", tmp_path / "other.png"]
    paths[0].parent.mkdir()
    for path in paths:
        path.write_bytes(releasing.encoded(releasing.drawn_image("PA")))
    return paths


def table(tmp_path: Path, text: str) -> Path:
    (tmp_path / "vitals.csv").write_text(text)
    return tmp_path / "vitals.csv"


def test_batch_answers_take_each_file_its_own(base: Path, films: list[Path], tmp_path: Path) -> None:
    release = releasing.fused(base, "gated")
    said = "file,heart_rate_per_min,o2_saturation_pct\nfilm.png,120,87\nother.png,72,\n"
    out = tmp_path / "answers.parquet"
    assert batch.predict(release, films, out, workers=1, covariates=table(tmp_path, said)) == 0
    answers = pd.read_parquet(out)
    assert answers["covariates"].tolist() == ["o2_saturation_pct, heart_rate_per_min", "heart_rate_per_min"]
    assert answers["probability"].is_unique


def test_a_name_that_the_head_does_not_know_is_refused(base: Path, films: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "answers.parquet"
    wrong = table(tmp_path, "file,pulse\nfilm.png,120\n")
    assert batch.predict(releasing.fused(base, "gated"), films[:1], out, workers=1, covariates=wrong) == 1
    assert "'pulse' is not known here" in pd.read_parquet(out)["error"][0]


def test_tables_of_both_kinds_by_name_or_path(films: list[Path], tmp_path: Path) -> None:
    rows = pd.DataFrame({"file": [str(films[0]), "other.png", "absent.png"], "age_years": [61.5, None, 3.0]})
    rows.to_parquet(tmp_path / "t.parquet")
    found = measurements.read(tmp_path / "t.parquet", films)
    assert found == {str(films[0]): {"age_years": 61.5}, str(films[1]): {"age_years": None}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,x\nfilm.png,1\n", "no column `file`"),
        ("file,x\nfilm.png,1\nfilm.png,2\n", "twice"),
        ("file,x\nfilm.png,high\n", "'high' as x"),
        ("file,x\nnobody.png,1\n", "no row for any"),
        ("", "cannot be read"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(films: list[Path], tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        measurements.read(table(tmp_path, text), films)


def test_a_name_of_several_files_is_refused(films: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="several of the files"):
        measurements.read(table(tmp_path, "file,x\nfilm.png,1\n"), [films[0], tmp_path / "b" / "film.png"])
