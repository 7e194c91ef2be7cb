"""The phantom's brain: one slice of a T1-weighted MR image in each plane, in brightness from 0 to 1.

As T1 shows them: fat and white matter bright, grey matter darker, fluid and compact bone black. Axial and coronal
slices are seen with the patient's right on the left of the image; a sagittal one lies in the middle, nose to the left.
"""

from dataclasses import dataclass

import numpy as np

from hilum.data.anatomy.shapes import Canvas, Field, Pose

FAT, WHITE, GREY, DEEP, FLUID, BONE, SKIN = 0.80, 0.74, 0.50, 0.58, 0.10, 0.05, 0.45


@dataclass(frozen=True)
class Brain:
    """One head on one day.

    Attributes:
        seed: Of what is the patient's own and stays: the folds, the shape of the head.
        size: Of the head; 1 is average.
        ventricles: Width of the ventricles; 1 is average at 50 years.
        atrophy: Loss of cortex, 0-1: sulci widen, the cortex thins, the brain draws back from the skull.
        asymmetry: How much wider one ventricle is, signed.
        slice_offset: Where the slice lies beside its standard place, -1 to 1.
    """

    seed: int = 0
    size: float = 1.0
    ventricles: float = 1.0
    atrophy: float = 0.2
    asymmetry: float = 0.0
    slice_offset: float = 0.0


def axial(brain: Brain, size: int, pose: Pose) -> Field:
    """A slice at the height of the lateral ventricles, brightness (H, W); the forehead is at the top."""
    c, random, tall = _canvas(brain, size, pose)
    x, y = c.x, c.y
    out = np.abs(x)
    head = c.radius(0, 0, 0.70, 0.86 * tall) + 0.04 * c.along(y, [-0.9, -0.5, 0.2, 0.9], [0.5, 1.2, -0.6, 0.4])
    picture, rim = _head(c, head, 0.78, brain)
    cleft = 0.012 + 0.02 * brain.atrophy
    middle = c.line(x, cleft, 0.02) * c.inside(0.30 - np.abs(y + 0.03), 0.08)
    sylvian = c.line(y - 0.02 + 0.35 * (out - 0.45), 0.012 + 0.03 * brain.atrophy, 0.03) * c.inside(0.42 - out, 0.06)
    tissue = _cortex(c, random, rim, brain, np.minimum(out + 0.35 * c.inside(np.abs(y + 0.03) - 0.28), 0.4))

    v, shift = brain.ventricles, 1.0 + brain.slice_offset * 0.15
    grown = np.where(x > 0, 1 + brain.asymmetry, 1 - brain.asymmetry).astype(np.float32)
    deep = c.ellipse(-0.17, 0.06, 0.10, 0.19, -20, 0.06) + c.ellipse(0.17, 0.06, 0.10, 0.19, 20, 0.06)
    deep += c.ellipse(-0.14, -0.20, 0.06, 0.12, 20, 0.05) + c.ellipse(0.14, -0.20, 0.06, 0.12, -20, 0.05)
    tissue = _mix(tissue, DEEP, np.clip(deep, 0, 1) * 0.9)
    front = c.line(out - 0.055 - 0.10 * np.clip(-y - 0.12, 0, 1) * v, 0.036 * v * shift, 0.02)
    front *= c.inside(np.abs(y + 0.20) - 0.15 * v**0.4, 0.10)
    back = c.line(out - 0.10 - 0.42 * np.clip(y - 0.10, 0, 1), 0.036 * v * shift, 0.02)
    back *= c.inside(np.abs(y - 0.24) - 0.15 * v**0.4, 0.10)
    third = c.line(x, 0.010 + 0.012 * v, 0.02) * c.inside(np.abs(y - 0.03) - 0.12, 0.05)
    fluid = np.clip(np.maximum(front, back) * grown + third, 0, 1)
    callosum = c.ellipse(0, -0.30 - 0.05 * v, 0.13, 0.05, 0, 0.04) + c.ellipse(0, 0.33, 0.12, 0.05, 0, 0.04)
    tissue = _mix(tissue, WHITE + 0.04, np.clip(callosum, 0, 1))
    tissue = _mix(tissue, FLUID, np.clip(np.maximum(np.maximum(middle, 0.9 * sylvian), fluid), 0, 1))
    return _mix(picture, tissue, c.inside((rim - 1) * 0.6))


def coronal(brain: Brain, size: int, pose: Pose) -> Field:
    """A slice through the thalami, brightness (H, W); the crown is at the top, the neck below."""
    c, random, tall = _canvas(brain, size, pose)
    x, y = c.x, c.y
    out = np.abs(x)
    head = c.radius(0, -0.10, 0.74, 0.76 * tall) - 0.10 * np.clip(y - 0.2, 0, 1)
    picture, rim = _head(c, head, 0.72, brain, floor=0.46)
    neck = c.inside(out - 0.42 + 0.12 * np.clip(y - 0.6, 0, 1), 0.03) * c.inside(0.42 - y, 0.1)
    muscle = 0.36 + 0.09 * np.cos(16 * out + 1.0) + 0.03 * c.waves(random, 7, 6)
    muscle = np.maximum(muscle, FAT * c.inside(0.36 - out, 0.03))
    picture = np.maximum(picture, neck * muscle)

    notch = 0.17 * np.exp(-0.5 * ((out - 0.30) / 0.07) ** 2) * np.clip(y + 0.2, 0, 1) * 2.2
    rim = rim + notch + 0.9 * np.clip(y - 0.40, 0, 1) * c.inside(out - 0.2, 0.1) * 0.3
    cleft = c.line(x, 0.014 + 0.02 * brain.atrophy, 0.02) * c.inside(y + 0.30, 0.06)
    sylvian = c.line(y - 0.06 - 0.20 * (out - 0.45), 0.018 + 0.035 * brain.atrophy, 0.03) * c.inside(0.36 - out, 0.08)
    tissue = _cortex(c, random, rim, brain, np.minimum(out + 0.35 * c.inside(-0.30 - y), 0.4))

    v, shift = brain.ventricles, 1.0 + brain.slice_offset * 0.15
    grown = np.where(x > 0, 1 + brain.asymmetry, 1 - brain.asymmetry).astype(np.float32)
    deep = c.ellipse(-0.11, 0.06, 0.09, 0.11, 0, 0.05) + c.ellipse(0.11, 0.06, 0.09, 0.11, 0, 0.05)
    deep += c.ellipse(-0.27, 0.04, 0.06, 0.12, 15, 0.05) + c.ellipse(0.27, 0.04, 0.06, 0.12, -15, 0.05)
    tissue = _mix(tissue, DEEP, np.clip(deep, 0, 1) * 0.9)
    callosum = c.line(y + 0.20 + 0.30 * out**2, 0.035, 0.03) * c.inside(out - 0.26, 0.1)
    tissue = _mix(tissue, WHITE + 0.04, callosum)
    roof = c.line(y + 0.10 + 0.05 * v - 0.45 * out, 0.048 * v * shift, 0.03) * c.inside(out - 0.10 - 0.08 * v, 0.05)
    third = c.line(x, 0.010 + 0.012 * v, 0.02) * c.inside(np.abs(y - 0.08) - 0.11, 0.05)
    temporal = c.ellipse(-0.36, 0.27, 0.045 * v, 0.025 * v, 20, 0.03)
    temporal += c.ellipse(0.36, 0.27, 0.045 * v, 0.025 * v, -20, 0.03)
    fluid = np.clip(roof * grown * c.inside(0.012 - out, 0.02) + third + temporal, 0, 1)
    tissue = _mix(tissue, FLUID, np.clip(np.maximum(np.maximum(cleft, sylvian), fluid), 0, 1))
    stem = c.inside(out - 0.13 + 0.10 * np.clip(y - 0.45, 0, 1), 0.03)
    stem *= c.inside(0.16 - y, 0.05) * c.inside(y - 0.62, 0.1)
    picture = _mix(picture, tissue, c.inside((rim - 1) * 0.6))
    return _mix(picture, WHITE - 0.06, stem)


def sagittal(brain: Brain, size: int, pose: Pose) -> Field:
    """A slice in the middle of the head, brightness (H, W): callosum, brain stem, cerebellum, face and neck."""
    c, random, tall = _canvas(brain, size, pose)
    x, y = c.x, c.y
    skull = c.radius(0.06, -0.20, 0.84, 0.68 * tall)
    picture, rim = _head(c, skull, 0.75, brain, floor=0.30)
    front = c.along(y, [-0.3, -0.05, 0.10, 0.30, 0.38, 0.48, 0.58, 0.72, 0.80, 1.0],
                    [-0.70, -0.73, -0.70, -0.88, -0.72, -0.76, -0.70, -0.66, -0.40, -0.34])  # fmt: skip
    back = c.along(y, [-0.2, 0.2, 0.45, 1.0], [0.86, 0.70, 0.46, 0.50])
    face = c.inside(front - x, 0.03) * c.inside(x - back, 0.03) * c.inside(0.0 - y, 0.2)
    flesh = 0.42 + 0.05 * c.waves(random, 6, 6)
    flesh -= 0.34 * c.blob(-0.50, 0.27, 0.14, 0.05, -8) + 0.33 * c.blob(-0.36, 0.52, 0.22, 0.03, 10)  # nose, mouth
    flesh -= 0.32 * c.line(x + 0.14 - 0.06 * (y - 0.4), 0.04, 0.04) * c.inside(0.30 - y, 0.1)  # throat
    column = c.line(x - 0.12 - 0.12 * (y - 0.5), 0.06, 0.04) * c.inside(0.40 - y, 0.05)
    flesh = _mix(flesh, 0.62, column * c.inside(np.abs((y / 0.13) - np.round(y / 0.13)) - 0.36, 0.2))
    flesh = np.maximum(flesh, FAT * c.inside(np.minimum(x - front, back - x) - 0.045, 0.03))
    picture = np.maximum(picture, face * np.clip(flesh, 0.03, 1))

    low = c.along(x, [-0.66, -0.45, -0.20, 0.10, 0.35, 0.75], [0.0, 0.12, 0.17, 0.16, 0.12, 0.10])
    brain_here = c.inside((rim - 1) * 0.6) * c.inside(y - low, 0.04)
    depth = np.maximum(rim, 1 - 1.6 * np.clip(low - y, 0, 1))
    v = brain.ventricles
    tissue = _cortex(c, random, depth, brain, np.full_like(x, 0.4), folds=0.62)
    bow = c.radius(0.0, -0.02, 0.36, 0.23)
    above = c.inside(y - 0.02 - 0.1 * x, 0.05)
    cingulate = c.line((bow - 1.42) * 0.27, 0.016 + 0.015 * brain.atrophy, 0.02) * above
    tissue = _mix(tissue, FLUID + 0.1, cingulate)
    tissue = _mix(tissue, DEEP, c.ellipse(0.06, 0.02, 0.17, 0.12, 0, 0.05))
    ventricle = c.inside((bow - 0.86) * 0.25, 0.03) * c.inside(0.86 - 0.30 * min(v, 2.2) - bow, 0.08) * above
    tissue = _mix(tissue, FLUID, np.clip(ventricle, 0, 1))
    callosum = c.line((bow - 0.98) * 0.27, 0.036 - 0.012 * brain.atrophy, 0.02) * above
    tissue = _mix(tissue, WHITE + 0.10, callosum)
    picture = _mix(picture, tissue, brain_here)

    pons = c.ellipse(0.06, 0.26, 0.10, 0.13, 10, 0.03)
    cord = c.line(x - 0.10 - 0.10 * (y - 0.3), 0.045, 0.03) * c.inside(0.14 - y, 0.05)
    stem = np.maximum(pons, cord)
    cistern = c.ellipse(0.10, 0.26, 0.22, 0.22, 0, 0.05)
    picture = _mix(picture, FLUID, cistern * (1 - c.inside(y - low + 0.02, 0.04)))
    turn = np.arctan2(y - 0.24, x - 0.22)
    reach = c.radius(0.40, 0.27, 0.25, 0.18, 12)
    leaves = 0.5 + 0.5 * np.cos(26 * turn + 5 * reach)
    cerebellum = GREY + 0.06 - (0.20 + 0.1 * brain.atrophy) * (1 - leaves) * np.clip(reach, 0, 1)
    cerebellum = _mix(cerebellum, WHITE, c.blob(0.32, 0.26, 0.10, 0.04, 12) * 0.9)
    picture = _mix(picture, cerebellum, c.inside((reach - 1) * 0.2, 0.03))
    fourth = c.ellipse(0.19, 0.25, 0.02 + 0.012 * v, 0.06, 0, 0.03)
    picture = _mix(picture, FLUID, fourth)
    return _mix(picture, WHITE - 0.06, stem)


def _canvas(brain: Brain, size: int, pose: Pose) -> tuple[Canvas, np.random.Generator, float]:
    """The canvas, the patient's own random numbers, and how long the patient's head is for its width."""
    random = np.random.default_rng(brain.seed)
    tall = float(random.uniform(0.95, 1.04))
    sized = Pose(pose.shift_x, pose.shift_y, pose.rotate_degrees, pose.scale * brain.size * 1.1)
    return Canvas.of(size, sized), random, tall


def _mix(under: Field | float, over: Field | float, share: Field) -> Field:
    """`over` laid on `under` where `share` is 1."""
    return np.asarray(under + (over - under) * share, dtype=np.float32)


def _head(c: Canvas, head: Field, thickness: float, brain: Brain, floor: float | None = None) -> tuple[Field, Field]:
    """Scalp, skull and fluid, and the brain's own radius (1 at its surface, less inside).

    Args:
        c: The canvas.
        head: Radius of the head, 1 at the skin.
        thickness: Radius of the skull's inside where nothing has shrunk, less 0.1.
        brain: Whose.
        floor: Below this y the skull is open, and `head` shows only what is above.
    """
    inner = thickness + 0.10
    picture = c.inside((head - 1) * 0.7) * SKIN
    picture = _mix(picture, FAT, c.inside((head - 0.985) * 0.7, 0.02))
    picture = _mix(picture, BONE, c.inside((head - inner - 0.055) * 0.7, 0.02))
    picture = _mix(picture, FLUID, c.inside((head - inner) * 0.7, 0.02))
    if floor is not None:
        picture = picture * c.inside(c.y - floor, 0.08)
    return picture, head / np.float32(inner - 0.015 - 0.05 * brain.atrophy)


def _cortex(
    c: Canvas, random: np.random.Generator, rim: Field, brain: Brain, medial: Field, folds: float = 0.70
) -> Field:
    """White matter under a folded sheet of grey matter, with fluid in the folds.

    The folds are the zeros of a random field of one length scale, which run like sulci: at even distances, without
    crossing.

    Args:
        c: The canvas.
        random: The patient's own.
        rim: Radius of the brain, 1 at its surface.
        brain: Whose.
        medial: Distance from the middle cleft; grey matter lines it.
        folds: Radius from which on there are folds.
    """
    field = c.waves(random, 9.0, 12)
    near = np.abs(field)
    outer = c.inside((folds - rim) * 0.6, 0.10)
    sheet = 1 - 0.3 * brain.atrophy
    lining = outer * c.inside((near - 0.62 * sheet) * 0.12, 0.05)  # of the folds
    grey = np.maximum(c.inside((1 - 0.11 * sheet - rim) * 0.6, 0.05), lining)
    grey = np.maximum(grey, c.inside(medial - 0.05 * sheet, 0.03))
    sulci = outer * c.inside((near - 0.13 - 0.30 * brain.atrophy) * 0.12, 0.03) * c.inside((0.76 - rim) * 0.6, 0.1)
    tissue = _mix(np.full_like(rim, WHITE), GREY, grey)
    return _mix(tissue, FLUID, sulci * (0.75 + 0.25 * brain.atrophy))
