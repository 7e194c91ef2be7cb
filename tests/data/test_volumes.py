"""NIfTI: one orientation whatever the file's, a stated grey range, slices as a reader sees them."""

import gzip
from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import pytest

from hilum.data import volumes
from hilum.data.volumes import decode_volume, read_volume, slice_plane
from hilum.errors import ImageError, UsageError

SPACING = (1.0, 2.0, 3.0)  # mm, along right, anterior, superior


def head() -> np.ndarray:
    """A masked block whose value says where it is: 100 per step to the right, 10 to anterior, 1 to superior."""
    x, y, z = np.meshgrid(np.arange(6), np.arange(5), np.arange(4), indexing="ij")
    voxels = (1000 + 100 * x + 10 * y + z).astype(np.float32)
    voxels[0], voxels[-1], voxels[:, 0], voxels[:, -1] = 0, 0, 0, 0
    return voxels


def nifti(voxels: np.ndarray, affine: np.ndarray | None = None, kind: type = nibabel.Nifti1Image) -> bytes:
    return kind(voxels, np.diag([*SPACING, 1.0]) if affine is None else affine).to_bytes()


def fault_of(content: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        decode_volume(content)
    return caught.value.fault


def test_grey_range_is_that_of_the_voxels_inside() -> None:
    voxels = head()
    inside = voxels[voxels != 0]
    low, high = np.percentile(inside, 0.5), np.percentile(inside, 99.5)
    expected = np.clip((voxels - low) / (high - low), 0, 1)
    volume = decode_volume(nifti(voxels))
    assert volume.voxels_XYZ.dtype == np.float32
    assert np.allclose(volume.voxels_XYZ, expected, atol=1e-5)
    assert volume.spacing_mm == SPACING


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_every_stored_orientation_gives_the_same_volume(order: tuple[int, ...]) -> None:
    expected = decode_volume(nifti(head()))
    for flips in product((1, -1), repeat=3):
        stored = head().transpose(order)[:: flips[0], :: flips[1], :: flips[2]]
        affine = np.zeros((4, 4))
        affine[3, 3] = 1
        for axis, world in enumerate(order):
            affine[world, axis] = SPACING[world] * flips[axis]
        volume = decode_volume(nifti(np.ascontiguousarray(stored), affine))
        assert np.array_equal(volume.voxels_XYZ, expected.voxels_XYZ)
        assert volume.spacing_mm == SPACING


def test_compressed_nifti2_and_one_volume_of_four_axes_are_the_same() -> None:
    plain = decode_volume(nifti(head())).voxels_XYZ
    assert np.array_equal(decode_volume(gzip.compress(nifti(head()))).voxels_XYZ, plain)
    assert np.array_equal(decode_volume(nifti(head(), kind=nibabel.Nifti2Image)).voxels_XYZ, plain)
    assert np.array_equal(decode_volume(nifti(head()[..., None])).voxels_XYZ, plain)
    scaled = nibabel.Nifti1Image((head() * 2).astype(np.int16), np.diag([*SPACING, 1.0]))
    scaled.header.set_slope_inter(0.5, 0)
    assert np.allclose(decode_volume(scaled.to_bytes()).voxels_XYZ, plain, atol=1e-6)


def test_what_is_not_finite_is_background() -> None:
    voxels = head()
    expected = decode_volume(nifti(voxels)).voxels_XYZ
    voxels[voxels == 0] = np.nan
    assert np.array_equal(decode_volume(nifti(voxels)).voxels_XYZ, expected)


def test_flat_volumes() -> None:
    assert not decode_volume(nifti(np.full((3, 3, 3), 7, np.float32))).voxels_XYZ.any()
    mask = np.zeros((5, 5, 5), np.uint8)
    mask[1:4, 1:4, 1:4] = 3
    assert np.array_equal(decode_volume(nifti(mask)).voxels_XYZ, mask / 3)


def test_slices_are_shown_as_a_reader_sees_them() -> None:
    """The brightest voxel of a slice lies to the right, anterior and superior, so its corner tells the orientation."""
    volume = decode_volume(nifti(head()))
    cube = volumes.Volume(volume.voxels_XYZ[1:-1, 1:-1], (1.0, 1.0, 1.0))
    axial, coronal, sagittal = (slice_plane(cube, plane) for plane in ("AXIAL", "CORONAL", "SAGITTAL"))
    assert (axial.shape, coronal.shape, sagittal.shape) == ((3, 4), (4, 4), (4, 3))
    for image in (axial, coronal, sagittal):
        assert np.unravel_index(image.argmax(), image.shape) == (0, 0)  # right is left, anterior or superior is up
        assert np.unravel_index(image.argmin(), image.shape) == (image.shape[0] - 1, image.shape[1] - 1)
    assert axial[0, 0] - axial[0, 1] > axial[0, 0] - axial[1, 0]  # a step along a row is one to the left: 100, not 10
    assert coronal[0, 0] - coronal[0, 1] > coronal[0, 0] - coronal[1, 0]
    assert sagittal[0, 0] - sagittal[0, 1] > sagittal[0, 0] - sagittal[1, 0]


def test_fraction_goes_from_the_first_slice_to_the_last() -> None:
    cube = volumes.Volume(np.broadcast_to(np.linspace(0, 1, 5, dtype=np.float32), (3, 3, 5)), (1.0, 1.0, 1.0))
    assert [float(slice_plane(cube, "AXIAL", f).max()) for f in (0, 0.25, 0.5, 1)] == [0, 0.25, 0.5, 1]


def test_voxels_that_are_not_square_are_made_so() -> None:
    volume = decode_volume(nifti(head()))  # 6 x 5 x 4 voxels of 1 x 2 x 3 mm
    assert slice_plane(volume, "AXIAL").shape == (10, 6)
    assert slice_plane(volume, "CORONAL").shape == (12, 6)
    assert slice_plane(volume, "SAGITTAL").shape == (6, 5)


def test_what_cannot_be_sliced() -> None:
    volume = decode_volume(nifti(head()))
    with pytest.raises(UsageError, match="OBLIQUE"):
        slice_plane(volume, "OBLIQUE")
    with pytest.raises(UsageError, match=r"1\.5"):
        slice_plane(volume, "AXIAL", 1.5)


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fault_of(b"") == "empty"
    assert fault_of(b"no volume at all") == "unsupported"
    assert fault_of(nifti(head())[:600]) == "corrupt"
    assert fault_of(gzip.compress(nifti(head()))[:150]) == "corrupt"
    assert fault_of(nifti(np.zeros((3, 3, 3, 2), np.float32))) == "refused"
    assert fault_of(nifti(np.zeros((3, 3), np.float32))) == "refused"
    assert fault_of(nifti(np.zeros((3, 3, 3), np.complex64))) == "refused"
    nowhere = nibabel.Nifti1Image(head(), None)
    nowhere.header["qform_code"] = nowhere.header["sform_code"] = 0
    assert fault_of(nowhere.to_bytes()) == "refused"
    monkeypatch.setattr(volumes, "MAX_VOXELS", 100)
    assert fault_of(nifti(head())) == "too_large"
    assert fault_of(gzip.compress(nifti(head()))) == "too_large"
    with pytest.raises(ImageError) as caught:
        read_volume(tmp_path / "absent.nii.gz")
    assert caught.value.fault == "empty"


def test_read_volume_tells_the_format_by_content(tmp_path: Path) -> None:
    path = tmp_path / "volume.bin"
    path.write_bytes(gzip.compress(nifti(head())))
    assert np.array_equal(read_volume(path).voxels_XYZ, decode_volume(nifti(head())).voxels_XYZ)
