"""The drawing: one body at any size and in any pose, with each finding where it was put."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from hilum.data.anatomy.brain import Brain, axial, coronal, sagittal
from hilum.data.anatomy.chest import Chest, frontal, lateral
from hilum.data.anatomy.shapes import Canvas, Exposure, Field, Pose, expose

DRAWINGS = {
    "frontal": lambda size, pose: frontal(Chest(seed=4), size, pose),
    "lateral": lambda size, pose: lateral(Chest(seed=4), size, pose),
    "axial": lambda size, pose: axial(Brain(seed=4), size, pose),
    "coronal": lambda size, pose: coronal(Brain(seed=4), size, pose),
    "sagittal": lambda size, pose: sagittal(Brain(seed=4), size, pose),
}


def _centre(field: Field) -> tuple[float, float]:
    """Centre of mass as (x, y) in -1 to 1."""
    side = (np.arange(len(field)) + 0.5) * 2 / len(field) - 1
    mass = np.clip(field, 0, None).astype(float)
    return float((mass.sum(0) * side).sum() / mass.sum()), float((mass.sum(1) * side).sum() / mass.sum())


@pytest.mark.parametrize("name", DRAWINGS)
def test_one_body_looks_the_same_at_any_size(name: str) -> None:
    fine, coarse = DRAWINGS[name](192, Pose()), DRAWINGS[name](64, Pose())
    shrunk = np.asarray(Image.fromarray(fine.astype(np.float32)).resize((64, 64), Image.Resampling.BOX))
    assert np.corrcoef(shrunk.ravel(), coarse.ravel())[0, 1] > 0.97


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_shift_of_whole_pixels_moves_the_drawing_by_them(name: str) -> None:
    still, moved = DRAWINGS[name](64, Pose()), DRAWINGS[name](64, Pose(shift_x=3 / 64, shift_y=-2 / 64))
    np.testing.assert_allclose(moved[:-2, 3:], still[2:, :-3], atol=2e-3)


def test_rotation_turns_clockwise_and_scale_enlarges() -> None:
    def arrow(pose: Pose) -> Field:
        c = Canvas.of(65, pose)
        return c.ellipse(0.5, 0.0, 0.1, 0.1)

    assert _centre(arrow(Pose())) == pytest.approx((0.5, 0.0), abs=0.01)
    assert _centre(arrow(Pose(rotate_degrees=90))) == pytest.approx((0.0, 0.5), abs=0.01)  # y runs down
    assert _centre(arrow(Pose(scale=1.4))) == pytest.approx((0.7, 0.0), abs=0.01)


def test_an_ellipse_has_its_area_and_a_thin_line_its_mass() -> None:
    c = Canvas.of(128, Pose())
    assert c.ellipse(0.1, -0.2, 0.5, 0.3).sum() * c.pixel**2 == pytest.approx(np.pi * 0.5 * 0.3, rel=0.02)
    for half_width in (0.002, 0.02):
        assert c.line(c.x, half_width).sum() * c.pixel**2 == pytest.approx(2 * half_width * 2, rel=0.15)


def test_waves_have_unit_variance_and_the_stated_length() -> None:
    c = Canvas.of(128, Pose())
    field = c.waves(np.random.default_rng(0), cycles=16, count=24)
    assert field.std() == pytest.approx(1, abs=0.2)
    power = np.abs(np.fft.fftshift(np.fft.fft2(field * np.outer(np.hanning(128), np.hanning(128))))) ** 2
    across = np.hypot(*np.meshgrid(np.arange(-64, 64), np.arange(-64, 64)))
    assert (power * across).sum() / power.sum() == pytest.approx(16, abs=1.5)


@pytest.mark.parametrize(("side", "sign"), [("right", -1), ("left", 1)])
def test_findings_lie_in_the_lung_that_was_named(side: str, sign: int) -> None:
    well = Chest(seed=2)
    for ill in (
        replace(well, pneumonia=0.3, pneumonia_side=side),
        replace(well, effusion=0.25, effusion_side=side),
    ):
        added = frontal(ill, 96, Pose()) - frontal(well, 96, Pose())
        assert added.min() > -1e-5
        x, y = _centre(added)
        assert sign * x > 0.2  # the patient's right is on the left of the image
        assert 0 < y < 0.7


def test_findings_are_seen_from_the_side_too() -> None:
    well = Chest(seed=2)
    for ill in (replace(well, pneumonia=0.3), replace(well, effusion=0.25)):
        assert (lateral(ill, 96, Pose()) - lateral(well, 96, Pose())).max() > 0.1


def test_a_heart_is_larger_in_cardiomegaly_and_in_ap() -> None:
    def width(chest: Chest, anteroposterior: bool) -> int:
        row = frontal(chest, 192, Pose(), anteroposterior)[int(0.60 * 192)]
        lung = row < 0.28
        return int(np.flatnonzero(lung[96:])[0] + np.flatnonzero(lung[:96][::-1])[0])

    plain = width(Chest(), False)
    assert width(Chest(heart=1.3), False) > 1.15 * plain
    assert width(Chest(), True) > plain


def test_ventricles_and_atrophy_darken_the_brain() -> None:
    for plane in (axial, coronal, sagittal):
        young, old = (
            plane(Brain(ventricles=0.8, atrophy=0.1), 96, Pose()),
            plane(Brain(ventricles=1.8, atrophy=0.8), 96, Pose()),
        )
        assert (old < 0.2).sum() > 1.05 * (young < 0.2).sum()


def test_exposure_is_what_it_says() -> None:
    grey = np.full((96, 96), 0.6, dtype=np.float32)
    assert np.unique(expose(grey, Exposure(noise=0))).tolist() == [153]
    assert np.unique(expose(grey, Exposure(noise=0, gain=2, offset=-0.1))).tolist() == [153]  # (.6-.5)*2+.5-.1
    assert np.unique(expose(grey, Exposure(noise=0, gamma=2))).tolist() == [92]  # .36 * 255
    noisy = expose(grey, Exposure(noise=0.05, seed=3))
    assert noisy.std() == pytest.approx(0.05 * 255, rel=0.05)
    assert np.array_equal(noisy, expose(grey, Exposure(noise=0.05, seed=3)))
    finer = expose(np.full((192, 192), 0.6, dtype=np.float32), Exposure(noise=0.05))
    means = finer.reshape(96, 2, 96, 2).mean(axis=(1, 3))  # a finer image, averaged, is as noisy as a coarse one
    assert means.std() == pytest.approx(0.05 * 255, rel=0.05)
