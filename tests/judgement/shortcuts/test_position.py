"""Displacements in pixels, of images and of groups."""

import numpy as np
import pytest
from scipy import ndimage

from hilum.judgement.shortcuts.attributes import Attribute
from hilum.judgement.shortcuts.position import compare, displacements
from hilum.recipe import Shortcuts

SIZE = 48
FEW = Shortcuts(permutations=199, bootstrap=200)


def bodies(shift_N2, seed=0, gain_N=None):
    """A soft body with two dark lungs, shifted by (right, down) pixels, with noise and an exposure of its own."""
    random = np.random.default_rng(seed)
    row, column = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    images = []
    for i, (right, down) in enumerate(shift_N2):
        x, y = column - 0.5 - right / SIZE, row - 0.5 - down / SIZE
        body = np.exp(-((x / 0.35) ** 4) - ((y / 0.45) ** 4))
        for side in (-0.17, 0.17):
            body -= 0.5 * np.exp(-(((x - side) / 0.1) ** 2) - ((y / 0.2) ** 2))
        gain = 180 if gain_N is None else gain_N[i]
        images.append(np.clip(20 + gain * body + random.normal(0, 4, (SIZE, SIZE)), 0, 255))
    return np.stack(images).astype(np.uint8)


def test_planted_shifts_are_recovered_to_a_fraction_of_a_pixel_whatever_the_exposure():
    random = np.random.default_rng(1)
    shift = random.uniform(-4, 4, (60, 2))
    images = bodies(shift, gain_N=random.uniform(90, 200, 60))
    found = displacements(images, np.arange(60), np.full(60, "PA"))
    error = found - (shift - shift.mean(axis=0))
    assert np.isfinite(found).all()
    assert np.abs(error).max() < 0.6
    assert np.abs(np.corrcoef(found[:, 0], shift[:, 0])[0, 1]) > 0.99


def test_views_are_measured_apart_and_what_does_not_fit_its_view_is_not_placed():
    shift = np.zeros((40, 2))
    shift[20:, 0] = 5.0  # a view that always lies elsewhere: its own middle
    images = bodies(shift)
    images[7] = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE))
    found = displacements(images, np.arange(40), np.repeat(["PA", "AP"], 20))
    others = np.delete(np.arange(40), 7)
    assert np.abs(found[others]).max() < 0.5
    assert np.isnan(found[7]).any()


def test_rows_choose_among_the_images():
    shift = np.random.default_rng(2).uniform(-3, 3, (30, 2))
    images = bodies(shift)
    some = np.array([3, 8, 20, 21, 22, 29])
    found = displacements(images, some, np.full(6, "PA"))
    assert np.abs(found - (shift[some] - shift[some].mean(axis=0))).max() < 0.6


def groups(code, levels):
    code = np.asarray(code, dtype=float)
    return Attribute("site", "category", levels, code, code, np.array([levels[int(c)] for c in code], dtype=object))


def test_a_group_further_right_is_named_with_its_pixels_and_an_unmoved_one_is_not():
    random = np.random.default_rng(3)
    site = random.integers(0, 2, 80)
    patient = np.repeat(np.arange(80), 2)
    view = np.tile(["PA", "LATERAL"], 80)
    moved = random.normal(0, 1, (160, 2))
    moved[:, 0] += 2.0 * site[patient]
    other = groups(np.random.default_rng(9).integers(0, 2, 80)[patient], ("one", "two"))
    found = compare([groups(site[patient], ("north", "south")), other], moved, view, patient, FEW)
    assert [(one.attribute.name, one.level, one.others, one.axis) for one in found[:2]] == [
        ("site", "south", "north", 0),
        ("site", "south", "north", 1),
    ]
    right, down = found[0], found[1]
    assert right.shift_px.low < 2.0 < right.shift_px.high
    assert right.p_adjusted == pytest.approx(1 / 200)
    assert right.shift_px.low > 1.4
    assert down.p_adjusted > 0.05
    assert all(one.p_adjusted > 0.05 for one in found[2:])


def test_a_level_with_more_of_a_view_that_lies_elsewhere_is_not_displaced():
    random = np.random.default_rng(4)
    patient = np.arange(400)
    view = np.where(random.random(400) < 0.5, "PA", "AP")
    site = (random.random(400) < np.where(view == "PA", 0.8, 0.2)).astype(int)
    moved = random.normal(0, 1, (400, 2)) + np.where(view == "PA", 3.0, 0.0)[:, None]
    found = compare([groups(site, ("north", "south"))], moved, view, patient, FEW)
    plain = moved[site == 1].mean(axis=0) - moved[site == 0].mean(axis=0)
    assert plain[0] > 1.0
    assert abs(found[0].shift_px.value) < 0.4
    expected = [0.0, 0.0]
    for name in ("PA", "AP"):
        a, b = (view == name) & (site == 1), (view == name) & (site == 0)
        weight = a.sum() * b.sum() / (a.sum() + b.sum())
        expected[0] += weight * (moved[a, 0].mean() - moved[b, 0].mean())
        expected[1] += weight
    assert found[0].shift_px.value == pytest.approx(expected[0] / expected[1])


def test_of_three_levels_each_is_compared_with_the_others():
    random = np.random.default_rng(5)
    code = random.integers(0, 3, 150)
    found = compare(
        [groups(code, ("a", "b", "c"))], random.normal(size=(150, 2)), np.full(150, "PA"), np.arange(150), FEW
    )
    assert [one.level for one in found] == ["a", "a", "b", "b", "c", "c"]
    assert {one.others for one in found} == {"the others"}


def test_a_blurred_copy_lies_where_the_sharp_one_does():
    shift = np.random.default_rng(6).uniform(-3, 3, (40, 2))
    images = bodies(shift)
    soft = np.stack([ndimage.gaussian_filter(x.astype(float), 1.5) for x in images]).astype(np.uint8)
    sharp_N2, soft_N2 = (displacements(x, np.arange(40), np.full(40, "PA")) for x in (images, soft))
    assert np.abs(sharp_N2 - soft_N2).max() < 0.5
