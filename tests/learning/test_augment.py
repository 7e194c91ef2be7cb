"""Views: what each change does, image by image, against closed forms and loops."""

import math

import pytest
import torch

from hilum.learning.augment import augment
from hilum.recipe import Augment

NOTHING = {
    "crop_area": (1.0, 1.0),
    "crop_aspect": (1.0, 1.0),
    "rotate_degrees": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "gamma": 0.0,
    "blur": 0.0,
    "noise": 0.0,
}


def only(**changes: object) -> Augment:
    return Augment.model_validate({**NOTHING, **changes})


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 4, size: int = 16) -> torch.Tensor:
    return torch.rand(n, 1, size, size, generator=generator(9))


def test_no_change_leaves_the_images() -> None:
    x = images()
    torch.testing.assert_close(augment(x, only(), generator()), x, atol=1e-5, rtol=0)


def test_views_keep_shape_and_range_and_differ_from_image_to_image() -> None:
    x = images(1).expand(8, 1, 16, 16)
    view = augment(x, Augment(hflip=0.5, vflip=0.5), generator())
    assert view.shape == x.shape
    assert view.min() >= 0
    assert view.max() <= 1
    assert all(not torch.equal(view[0], other) for other in view[1:])


def test_the_generator_decides_everything() -> None:
    x = images()
    before = torch.random.get_rng_state()
    first, second = augment(x, Augment(), generator(1)), augment(x, Augment(), generator(1))
    assert torch.equal(first, second)
    assert not torch.equal(first, augment(x, Augment(), generator(2)))
    assert torch.equal(before, torch.random.get_rng_state())


def test_flips() -> None:
    x = images()
    torch.testing.assert_close(augment(x, only(hflip=1.0), generator()), x.flip(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(augment(x, only(vflip=1.0), generator()), x.flip(2), atol=1e-5, rtol=0)
    some = augment(images(200), only(hflip=0.3), generator())
    flipped = (some - images(200).flip(3)).abs().amax(dim=(1, 2, 3)) < 1e-4
    assert 35 <= int(flipped.sum()) <= 85  # 60 expected, standard deviation 6.5


def ramp(n: int, size: int) -> torch.Tensor:
    """Grey rises to the right by 1 / size a pixel, around 0.5."""
    return ((torch.arange(size) + 0.5) / size).expand(n, 1, size, size)


@pytest.mark.parametrize("area", [0.25, 0.64])
def test_a_crop_magnifies_by_the_root_of_its_area_and_stays_inside(area: float) -> None:
    size = 32
    view = augment(ramp(20, size), only(crop_area=(area, area)), generator())
    steps = view[:, 0, :, 2:-2].diff(dim=2)  # the outermost pixels of a bilinear view may touch the border
    torch.testing.assert_close(steps, torch.full_like(steps, math.sqrt(area) / size), atol=1e-4, rtol=0)
    left = view[:, 0, 0, 1]
    assert left.max() - left.min() > 0.1  # crops lie in different places


def test_a_rotation_turns_the_direction_of_a_ramp_and_keeps_its_slope() -> None:
    size, degrees = 32, 20.0
    view = augment(ramp(50, size), only(rotate_degrees=degrees), generator())[:, 0]
    middle = slice(size // 2 - 4, size // 2 + 4)
    across = view[:, middle, middle].diff(dim=2).mean(dim=(1, 2)) * size
    down = view[:, middle, middle].diff(dim=1).mean(dim=(1, 2)) * size
    torch.testing.assert_close(torch.hypot(across, down), torch.ones(50), atol=1e-3, rtol=0)
    angle = torch.rad2deg(torch.atan2(down, across))
    assert angle.abs().max() <= degrees + 0.1
    assert angle.max() > degrees / 2
    assert angle.min() < -degrees / 2


def test_grey_changes_are_monotone_and_keep_places() -> None:
    x = images(6, 12)
    view = augment(x, only(brightness=0.05, contrast=0.1, gamma=0.3), generator())
    for image, seen in zip(x.flatten(1), view.flatten(1), strict=True):
        inside = (seen > 0) & (seen < 1)
        order = image[inside].argsort()
        assert (seen[inside][order].diff() >= -1e-6).all()
    assert not torch.allclose(view, x, atol=1e-3)


def test_blur_is_a_gaussian_of_each_images_own_width() -> None:
    """An impulse becomes the kernel; its variance must be one of sigma^2 in the range, and its sum 1."""
    size = 33
    x = torch.zeros(40, 1, size, size)
    x[:, :, size // 2, size // 2] = 1.0
    view = augment(x, only(blur=0.5, blur_sigma_px=2.0), generator())[:, 0].double()
    at = torch.arange(size, dtype=torch.float64) - size // 2
    mass = view.sum(dim=(1, 2))
    torch.testing.assert_close(mass, torch.ones(40, dtype=torch.float64), atol=1e-4, rtol=0)
    variance_x = (view.sum(dim=1) * at**2).sum(dim=1)
    variance_y = (view.sum(dim=2) * at**2).sum(dim=1)
    torch.testing.assert_close(variance_x, variance_y, atol=1e-4, rtol=0)
    sharp = variance_x < 1e-3
    assert 10 <= int(sharp.sum()) <= 32  # half are blurred; a sigma near 0.1 px is sharp too
    sigma = variance_x[~sharp].sqrt()
    assert sigma.max() <= 2.0
    assert len(sigma.round(decimals=4).unique()) == len(sigma)
    widest = int(variance_x.argmax())
    profile = view[widest].sum(dim=0)
    expected = torch.exp(-0.5 * at**2 / variance_x[widest])
    torch.testing.assert_close(profile, expected / expected.sum(), atol=3e-3, rtol=0)


def test_noise_has_each_images_own_strength() -> None:
    view = augment(torch.full((60, 1, 32, 32), 0.5), only(noise=0.1), generator())
    strength = view.std(dim=(1, 2, 3))
    assert strength.max() < 0.11
    assert strength.max() > 0.08
    assert strength.min() < 0.03
