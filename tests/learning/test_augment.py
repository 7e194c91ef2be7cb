"""Views: what each change does, image by image, against closed forms and loops."""

import math

import pytest
import torch
from small_encoders import STILL

from hilum.learning.augment import augment
from hilum.learning.engine.draws import Draws
from hilum.recipe import Augment


def only(**changes: object) -> Augment:
    return Augment.model_validate({**STILL.model_dump(), **changes})


def draws(n: int = 4, seed: int = 0) -> Draws:
    return Draws(seed, n)


def images(n: int = 4, size: int = 16) -> torch.Tensor:
    return torch.rand(n, 1, size, size, generator=torch.Generator().manual_seed(9))


def test_no_change_leaves_the_images() -> None:
    x = images()
    kept = x.clone()
    torch.testing.assert_close(augment(x, only(), draws()), x, atol=1e-5, rtol=0)
    augment(x, Augment(), draws())
    assert torch.equal(x, kept)  # what works in place does so on its own copy


def test_views_keep_shape_and_range_and_differ_from_image_to_image() -> None:
    x = images(1).expand(8, 1, 16, 16)
    view = augment(x, Augment(hflip=0.5, vflip=0.5), draws(8))
    assert view.shape == x.shape
    assert view.min() >= 0
    assert view.max() <= 1
    assert all(not torch.equal(view[0], other) for other in view[1:])


def test_the_draws_decide_everything() -> None:
    x = images()
    before = torch.random.get_rng_state()
    first, second = augment(x, Augment(), draws(seed=1)), augment(x, Augment(), draws(seed=1))
    assert torch.equal(first, second)
    assert not torch.equal(first, augment(x, Augment(), draws(seed=2)))
    assert torch.equal(before, torch.random.get_rng_state())


def test_flips() -> None:
    x = images()
    torch.testing.assert_close(augment(x, only(hflip=1.0), draws()), x.flip(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(augment(x, only(vflip=1.0), draws()), x.flip(2), atol=1e-5, rtol=0)
    some = augment(images(200), only(hflip=0.3), draws(200))
    flipped = (some - images(200).flip(3)).abs().amax(dim=(1, 2, 3)) < 1e-4
    assert 35 <= int(flipped.sum()) <= 85  # 60 expected, standard deviation 6.5


def ramp(n: int, size: int) -> torch.Tensor:
    """Grey rises to the right by 1 / size a pixel, around 0.5."""
    return ((torch.arange(size) + 0.5) / size).expand(n, 1, size, size)


@pytest.mark.parametrize("area", [0.25, 0.64])
def test_a_crop_magnifies_by_the_root_of_its_area_and_stays_inside(area: float) -> None:
    size = 32
    view = augment(ramp(20, size), only(crop_area=(area, area)), draws(20))
    steps = view[:, 0, :, 2:-2].diff(dim=2)  # the outermost pixels of a bilinear view may touch the border
    torch.testing.assert_close(steps, torch.full_like(steps, math.sqrt(area) / size), atol=1e-4, rtol=0)
    left = view[:, 0, 0, 1]
    assert left.max() - left.min() > 0.1  # crops lie in different places


def test_a_rotation_turns_the_direction_of_a_ramp_and_keeps_its_slope() -> None:
    size, degrees = 32, 20.0
    view = augment(ramp(50, size), only(rotate_degrees=degrees), draws(50))[:, 0]
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
    view = augment(x, only(brightness=0.05, contrast=0.1, gamma=0.3), draws(6))
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
    view = augment(x, only(blur=0.5, blur_sigma_px=2.0), draws(40))[:, 0].double()
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
    view = augment(torch.full((60, 1, 32, 32), 0.5), only(noise=0.1), draws(60))
    strength = view.std(dim=(1, 2, 3))
    assert strength.max() < 0.11
    assert strength.max() > 0.08
    assert strength.min() < 0.03


def test_geometry_is_torchs_affine_map_and_bilinear_sampling() -> None:
    """The places that a view is read from, against a loop over the map of each image, from its first random numbers."""
    n, size = 5, 12
    section = only(crop_area=(0.4, 0.8), crop_aspect=(0.8, 1.25), rotate_degrees=30.0, hflip=0.5, vflip=0.5)
    across = ramp(n, size)
    view = augment(across, section, draws(n, 3))
    u = Draws(3, n).uniform(0.0, 1.0, 13).double()
    for i in range(n):
        area = 0.4 + 0.4 * u[i, 0]
        aspect = math.exp(math.log(0.8) + (math.log(1.25) - math.log(0.8)) * u[i, 1])
        wide, high = min(1.0, math.sqrt(area * aspect)), min(1.0, math.sqrt(area / aspect))
        middle = (1 - wide) * (2 * u[i, 2] - 1)
        angle = math.radians(30.0) * (2 * u[i, 4] - 1)
        wide, high = (-wide if u[i, 5] < 0.5 else wide), (-high if u[i, 6] < 0.5 else high)
        for row in range(size):
            for column in range(size):
                right, down = (2 * column + 1) / size - 1, (2 * row + 1) / size - 1
                at = math.cos(angle) * wide * right - math.sin(angle) * high * down + middle
                grey = (at + 1) / 2  # the ramp's grey value at a place is the place; its edge pixels go on outside
                expected = min(max(float(grey), 0.5 / size), 1 - 0.5 / size)
                assert view[i, 0, row, column].item() == pytest.approx(expected, abs=1e-5)


def test_gamma_contrast_and_brightness_as_their_formulas_say() -> None:
    x = images(6, 12)
    x[:, :, 0, 0] = 0.0
    view = augment(x, only(brightness=0.1, contrast=0.4, gamma=0.5), draws(6, 4))
    u = Draws(4, 6).uniform(0.0, 1.0, 13).double()
    for i in range(6):
        changed = x[i].double() ** math.exp(0.5 * (2 * u[i, 7] - 1))
        contrast, brightness = 1 + 0.4 * (2 * u[i, 8] - 1), 0.1 * (2 * u[i, 9] - 1)
        expected = (changed.mean() + contrast * (changed - changed.mean()) + brightness).clamp(0, 1)
        torch.testing.assert_close(view[i].double(), expected, atol=1e-5, rtol=0)


def test_parts_of_a_batch_are_changed_as_the_whole_would_be() -> None:
    """Two workers see what one would."""
    x = images(7)
    whole = augment(x, Augment(hflip=0.5), draws(7))
    parts = [augment(x[part], Augment(hflip=0.5), Draws(0, 7, part=part)) for part in (slice(0, 4), slice(4, 7))]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-6, rtol=0)


def test_views_are_float32_under_autocast_and_carry_no_gradient() -> None:
    x = images().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        view = augment(x, Augment(), draws())
    assert view.dtype == torch.float32
    assert not view.requires_grad
    torch.testing.assert_close(view, augment(x, Augment(), draws()), atol=0, rtol=0)
