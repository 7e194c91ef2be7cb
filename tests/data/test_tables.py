import numpy as np
import pandas as pd
import pytest

from hilum.data import tables
from hilum.data.locators import load, slice_locator
from hilum.errors import ImageError, SourceError


@pytest.mark.parametrize(
    ("written", "years"),
    [
        ("57", 57), ("057Y", 57), (57, 57), ("57.5", 57.5), ("006M", 0.5), ("10D", 10 / 365.25),
        ("026W", 26 * 7 / 365.25), ("89+", 89), ("412Y", np.nan), ("-3", np.nan), ("", np.nan),
        ("old", np.nan), (np.nan, np.nan), ("120", 120),
    ],
)  # fmt: skip
def test_ages(written, years):
    np.testing.assert_allclose(tables.age_years(pd.Series([written])), [years])


def test_sex():
    given = tables.sex(pd.Series(["F", "male ", "f", "Unknown", None, "O"]))
    assert given.fillna("?").tolist() == ["F", "M", "F", "?", "?", "?"]


def test_order_and_days_within_patients():
    patient = pd.Series(["a", "a", "b", "a", "a"])
    time = pd.Series([5.0, -2.0, 9.0, np.nan, 5.0])
    np.testing.assert_array_equal(tables.order_within(patient, time), [1, 0, 0, np.nan, 1])
    np.testing.assert_array_equal(tables.since_first(patient, time), [7, 0, 0, np.nan, 7])


def test_official_split_moves_nobody_when_patients_are_added():
    patient = pd.Series([f"p{number}" for number in range(400)] * 2)
    in_test = pd.Series(np.arange(800) < 50)
    split = tables.official_split(patient, in_test)
    assert (split[:50] == "test").all()
    assert (split[400:450] == "test").all()  # their other images too
    assert 0.08 < (split[split != "test"] == "val").mean() < 0.17
    again = tables.official_split(pd.concat([pd.Series(["new"]), patient]), pd.concat([pd.Series([False]), in_test]))
    assert again.iloc[1:].tolist() == split.tolist()


def test_files_under_follows_links_once(tmp_path):
    (tmp_path / "a" / ".hidden").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for name in ("a/one.PNG", "a/two.jpg", "a/.three.png", "a/.hidden/four.png", "elsewhere/five.png"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "a" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "a" / "above").symlink_to(tmp_path / "a")  # a circle
    assert tables.files_under(tmp_path, "a", suffixes=(".png",)) == ["a/linked/five.png", "a/one.PNG"]
    assert tables.files_under(tmp_path, "none") == []


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b broken", b"\xff\xfe\x00", b'a,b\n1,"2\n'])
def test_unreadable_tables_are_refused(tmp_path, content):
    path = tmp_path / ("t.csv.gz" if content.startswith(b"\x1f") else "t.csv")
    path.write_bytes(content)
    with pytest.raises(SourceError, match="cannot be read as a table"):
        tables.read_table(path)


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbfID , Age\n1,2\n")
    assert list(tables.read_table(path, ("ID", "Age"))) == ["ID", "Age"]


def test_locators(tmp_path):
    assert slice_locator("a#b/x.nii.gz", "AXIAL") == "a#b/x.nii.gz#AXIAL@0.5"
    assert slice_locator("x.nii", "CORONAL", 1.0) == "x.nii#CORONAL@1"
    assert slice_locator("x.nii", "CORONAL", 0.0) == "x.nii#CORONAL@0"
    for locator in ("none.png", "none.nii.gz#AXIAL@0.5"):
        with pytest.raises(ImageError):
            load(tmp_path, locator)
