"""What a container tells the front in it."""

import pytest

from hilum.delivery.fronts import mounted
from hilum.errors import ReleaseError, UsageError


def test_releases_are_the_folders_with_a_card(tmp_path, monkeypatch):
    monkeypatch.setenv("HILUM_RELEASES", str(tmp_path))
    (tmp_path / "notes").mkdir()
    with pytest.raises(ReleaseError, match="holds no release; mount one folder per modality"):
        mounted.releases()
    for name in ("xr", "mr"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "card.json").touch()
    assert mounted.releases() == (tmp_path / "mr", tmp_path / "xr")


def test_numbers_are_whole_above_zero_or_not_said(monkeypatch):
    monkeypatch.delenv("HILUM_THREADS", raising=False)
    assert mounted.number("HILUM_THREADS") is None
    for said, meant in (("", None), ("4", 4)):
        monkeypatch.setenv("HILUM_THREADS", said)
        assert mounted.number("HILUM_THREADS") == meant
    for wrong in ("0", "-1", "two", "1.5", "\u0663"):
        monkeypatch.setenv("HILUM_THREADS", wrong)
        with pytest.raises(UsageError, match="HILUM_THREADS is a whole number above 0"):
            mounted.number("HILUM_THREADS")
