"""How the phantom draws: soft-edged shapes in body coordinates, then the exposure that turns them into pixels.

Body coordinates: x to the right of the image and y down it, both -1 to 1 across an unmoved frame. Every shape is a
formula on them, so one drawing exists at any size in pixels, and a moved or turned body is a change of coordinates.

Legend: H = W = side of the image in pixels; a field is an array of shape (H, W).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Field = NDArray[Any]  # float32; numpy's stubs forget that under arithmetic with Python's floats

NOISE_SIDE = 96  # pixels: the side at which `Exposure.noise` is meant; a finer image has more noise per pixel


@dataclass(frozen=True)
class Pose:
    """How the body lies in the frame.

    Attributes:
        shift_x: To the right of the image, in shares of its width.
        shift_y: Down the image, in shares of its height.
        rotate_degrees: Clockwise.
        scale: Above 1, the body is larger than the frame was made for.
    """

    shift_x: float = 0.0
    shift_y: float = 0.0
    rotate_degrees: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True)
class Exposure:
    """How the device turns brightness (0-1) into grey values.

    Attributes:
        gain: Contrast about mid-grey; 1 leaves it.
        offset: Added, on 0-1.
        gamma: Exponent; above 1 darkens the mid-tones.
        noise: Standard deviation of additive Gaussian noise on 0-1, for an image of `NOISE_SIDE` pixels.
        seed: Of the noise.
    """

    gain: float = 1.0
    offset: float = 0.0
    gamma: float = 1.0
    noise: float = 0.02
    seed: int = 0


@dataclass(frozen=True)
class Canvas:
    """The body coordinates of every pixel: `x` and `y`, fields of shape (H, W); `pixel` is a pixel's side in them."""

    x: Field
    y: Field
    pixel: float

    @classmethod
    def of(cls, size: int, pose: Pose) -> "Canvas":
        """The canvas of a square image of `size` pixels a side, seen in `pose`."""
        line = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
        x, y = line[None, :] - 2 * pose.shift_x, line[:, None] - 2 * pose.shift_y
        turn = np.deg2rad(pose.rotate_degrees)
        cos, sin = float(np.cos(turn)) / pose.scale, float(np.sin(turn)) / pose.scale
        return cls(x * cos + y * sin, y * cos - x * sin, 2 / size / pose.scale)

    def inside(self, distance: Field, softness: float = 0.0) -> Field:
        """1 where `distance` is negative, 0 where positive, with a ramp of `softness` (at least a pixel) between."""
        width = max(softness, 1.5 * self.pixel)
        share: Field = np.clip(0.5 - distance / width, 0, 1).astype(np.float32)
        return share

    def line(self, distance: Field, half_width: float, softness: float = 0.0) -> Field:
        """A stroke around the zero of `distance`; one thinner than a pixel is paler, not lost."""
        shown = max(half_width, 0.5 * self.pixel)
        return self.inside(np.abs(distance) - shown, softness) * np.float32(half_width / shown)

    def radius(self, cx: float, cy: float, rx: float, ry: float, tilt_degrees: float = 0.0) -> Field:
        """Distance from (cx, cy) in units of an ellipse's own radii: 1 on its outline."""
        turn = np.deg2rad(tilt_degrees)
        cos, sin = float(np.cos(turn)), float(np.sin(turn))
        dx, dy = self.x - np.float32(cx), self.y - np.float32(cy)
        return np.hypot((dx * cos + dy * sin) / np.float32(rx), (dy * cos - dx * sin) / np.float32(ry))

    def ellipse(
        self, cx: float, cy: float, rx: float, ry: float, tilt_degrees: float = 0.0, softness: float = 0.0
    ) -> Field:
        """A filled ellipse of value 1."""
        return self.inside((self.radius(cx, cy, rx, ry, tilt_degrees) - 1) * np.float32(min(rx, ry)), softness)

    def blob(self, cx: float, cy: float, rx: float, ry: float, tilt_degrees: float = 0.0) -> Field:
        """A Gaussian of height 1 whose standard deviations are `rx` and `ry`."""
        radius: Field = self.radius(cx, cy, rx, ry, tilt_degrees)
        height: Field = np.exp(-0.5 * radius**2)
        return height

    def along(self, where: Field, at: ArrayLike, values: ArrayLike) -> Field:
        """A piecewise linear function of a field, through the points (`at`, `values`)."""
        return np.asarray(np.interp(where, np.asarray(at), np.asarray(values)), dtype=np.float32)

    def waves(self, random: np.random.Generator, cycles: float, count: int = 10) -> Field:
        """A random field of one length scale and unit variance: plane waves in random directions (Berry 1977).

        It is a formula of the body coordinates, so that a patient's texture moves with the patient.

        Args:
            random: Draws directions and phases.
            cycles: Waves across the unmoved frame.
            count: How many waves are added up.
        """
        k = np.float32(np.pi * cycles)
        angles = np.pi * (np.arange(count) + random.uniform(0, 1, count)) / count
        phases = random.uniform(0, 2 * np.pi, count)
        field = np.zeros_like(self.x)
        for angle, phase in zip(angles, phases, strict=True):
            field += np.cos(
                self.x * (k * np.float32(np.cos(angle))) + self.y * (k * np.float32(np.sin(angle))) + np.float32(phase)
            )
        return field * np.float32(np.sqrt(2 / count))


def expose(brightness: Field, exposure: Exposure) -> NDArray[np.uint8]:
    """Brightness (about 0-1) to grey values: uint8, (H, W)."""
    size = brightness.shape[0]
    shown = np.clip((brightness - 0.5) * np.float32(exposure.gain) + np.float32(0.5 + exposure.offset), 0, 1)
    shown = shown ** np.float32(exposure.gamma)
    noise = np.random.default_rng(exposure.seed).standard_normal((size, size), dtype=np.float32)
    shown += noise * np.float32(exposure.noise * size / NOISE_SIDE)
    return np.clip(shown * 255 + 0.5, 0, 255).astype(np.uint8)
