"""Planes of a volume that was sent: the pixels that the bids layout reads from the same file, bit by bit."""

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest

from hilum.data import planes
from hilum.data.layouts import bids
from hilum.data.planes import decode_planes, is_nifti
from hilum.errors import ImageError, UsageError

VIEWS = ("AXIAL", "CORONAL", "SAGITTAL")


def head() -> np.ndarray:
    """An ellipsoid of noise in black, int16."""
    x, y, z = np.mgrid[-1:1:30j, -1:1:36j, -1:1:24j]
    noise = np.random.default_rng(5).integers(200, 900, x.shape)
    return np.where(x**2 + y**2 + z**2 < 0.8, noise, 0).astype(np.int16)


@pytest.mark.parametrize("name", ["sub-01_T1w.nii", "sub-01_T1w.nii.gz"])
def test_planes_are_those_of_the_bids_layout(tmp_path: Path, name: str) -> None:
    path = tmp_path / "sub-01" / "anat" / name
    path.parent.mkdir(parents=True)
    affine = np.array([[0, 1.2, 0, 3], [-0.9, 0, 0, 1], [0, 0, 1.5, 0], [0, 0, 0, 1.0]])
    nibabel.Nifti1Image(head(), affine).to_filename(path)
    (tmp_path / "participants.tsv").write_text("participant_id\nsub-01\n", encoding="utf-8")
    cohort = bids.read(tmp_path)
    found = decode_planes(path.read_bytes(), VIEWS)
    assert [(plane.view, plane.position) for plane in found] == [(view, 0.5) for view in VIEWS]
    for plane in found:
        [locator] = cohort.rows.loc[cohort.rows["view"] == plane.view, "locator"]
        assert np.array_equal(plane.pixels, cohort.load(locator))
        assert plane.pixels.std() > 0.1


def test_views_come_in_the_order_that_is_asked() -> None:
    content = nibabel.Nifti1Image(head(), np.eye(4)).to_bytes()
    assert [plane.view for plane in decode_planes(content, ("SAGITTAL", "AXIAL"))] == ["SAGITTAL", "AXIAL"]
    with pytest.raises(UsageError, match="OBLIQUE"):
        decode_planes(content, ("OBLIQUE",))


def test_what_is_a_volume_is_told_from_the_content() -> None:
    content = nibabel.Nifti2Image(head(), np.eye(4)).to_bytes()
    assert is_nifti(content)
    assert is_nifti(gzip.compress(content))
    for other in (b"", b"\x1f\x8b", gzip.compress(b"a text"), b"\x89PNG\r\n\x1a\n" + bytes(600), content[:100]):
        assert not is_nifti(other)


def test_requests_have_a_bound_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    content = nibabel.Nifti1Image(head(), np.eye(4)).to_bytes()
    monkeypatch.setattr(planes, "MAX_VOXELS", 1000)
    with pytest.raises(ImageError, match="30 x 36 x 24 voxels; at most 1000") as caught:
        decode_planes(content, VIEWS)
    assert caught.value.fault == "too_large"


def test_empty_planes_are_refused() -> None:
    voxels = np.zeros((20, 20, 20), np.float32)
    voxels[3, 3, 3] = 1  # away from the centre
    with pytest.raises(ImageError, match="empty") as caught:
        decode_planes(nibabel.Nifti1Image(voxels, np.eye(4)).to_bytes(), VIEWS)
    assert caught.value.fault == "refused"
