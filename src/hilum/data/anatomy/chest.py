"""The phantom's chest: what a frontal and a lateral radiograph show of one body, in brightness from 0 to 1.

A radiograph is a sum: what lies behind one another adds up, so each organ adds its brightness (water and bone) or
takes some away (air). As on a real film, the patient's right is on the left of a frontal image; on a lateral one the
patient looks to the left.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from hilum.data.anatomy.shapes import Canvas, Field, Pose

Side = Literal["right", "left"]


@dataclass(frozen=True)
class Chest:
    """One chest on one day.

    Attributes:
        seed: Of what is the patient's own and stays: vessels, rib spacing.
        girth: Width of the body; 1 is average.
        inspiration: Depth of the breath; above 0 the diaphragm stands lower.
        heart: Width of the heart; 1 is average.
        aorta: Size of the aortic knob; 1 is average.
        calcification: Brightness of a calcified aortic wall, 0-1.
        kyphosis: Bend of the thoracic spine, 0-1; seen from the side.
        bone: Brightness of bone; 1 is average.
        breast: Thickness of the breast shadow; 0 is none.
        leads: Whether the leads of a monitor lie on the chest.
        pneumonia: Brightness added by consolidation at its centre; 0 is none.
        pneumonia_side: The lung that it is in.
        pneumonia_at: Where in that lung: (outward 0-1, downward 0-1), lower and middle zones.
        pneumonia_size: Its radius.
        effusion: Height of fluid in the pleural space; 0 is none.
        effusion_side: The lung that it is under.
    """

    seed: int = 0
    girth: float = 1.0
    inspiration: float = 0.0
    heart: float = 1.0
    aorta: float = 1.0
    calcification: float = 0.0
    kyphosis: float = 0.2
    bone: float = 1.0
    breast: float = 0.0
    leads: bool = False
    pneumonia: float = 0.0
    pneumonia_side: Side = "right"
    pneumonia_at: tuple[float, float] = (0.5, 0.6)
    pneumonia_size: float = 0.2
    effusion: float = 0.0
    effusion_side: Side = "right"


def frontal(chest: Chest, size: int, pose: Pose, anteroposterior: bool = False) -> Field:
    """A frontal radiograph, brightness (H, W).

    Args:
        chest: Whose.
        size: H = W in pixels.
        pose: How the body lies in the frame.
        anteroposterior: Taken from the front of a lying patient (AP): the heart is farther from the detector and looks
            larger, the breath is shallow, the shoulder blades lie over the lungs. Otherwise PA.
    """
    c = Canvas.of(size, pose)
    random = np.random.default_rng(chest.seed)
    x, y, out = c.x, c.y, np.abs(c.x)
    sign = {"right": -1.0, "left": 1.0}
    on_right = c.inside(x, 0.35)  # 1 on the left of the image
    width = 0.74 * chest.girth
    low = chest.inspiration - (0.10 if anteroposterior else 0.0)

    body = c.inside(out - chest.girth * c.along(y, [-1, -0.9, -0.66, -0.3, 1], [0.27, 0.33, 0.96, 0.90, 0.86]), 0.04)
    cage = width * np.sqrt(np.clip(1 - ((y - 0.42) / 1.22) ** 2, 0, 1))
    crest = out - 0.33 * chest.girth
    dome = 0.49 + low - 0.07 * on_right + np.where(crest > 0, 1.25, 0.35) * crest**2
    lung = c.inside(out - cage, 0.05) * c.inside(0.085 - out, 0.05) * c.inside(y - dome, 0.04)
    brightness = body * (0.40 + 0.05 * chest.girth * np.clip(out, 0, 1))
    brightness += c.inside(dome - y, 0.05) * body * (0.30 + 0.05 * on_right)
    brightness -= c.blob(0.36, 0.80 + low, 0.12, 0.07) * 0.30  # gas in the stomach
    brightness -= lung * (0.31 - 0.10 * np.clip(y + 0.2, 0, 1))

    hila = c.blob(-0.19, 0.0, 0.07, 0.12, 15) + c.blob(0.19, -0.04, 0.07, 0.11, -15)
    brightness += lung * (0.16 * hila + _vessels(c, random, out, y))
    brightness += _ribs(c, out, y, cage, random.uniform(0.145, 0.165), chest.bone)
    brightness += body * _spine(c, x, y) * 0.10 * chest.bone

    magnified = chest.heart * (1.14 if anteroposterior else 1.0)
    heart = c.ellipse(0.07 + 0.07 * magnified, 0.28 + 0.7 * low, 0.34 * magnified, 0.29, 28, 0.06)
    atrium = c.ellipse(-0.06, 0.26 + 0.7 * low, 0.16 * magnified, 0.25, 0, 0.06)
    knob = c.ellipse(0.09, -0.30, 0.085 * chest.aorta, 0.10 * chest.aorta, 0, 0.05)
    stem = c.inside(out - (0.115 + 0.05 * np.clip(y + 0.1, 0, 1)), 0.09) * c.inside(y - 0.5 - low, 0.3)
    middle = np.maximum(np.maximum(heart, atrium), np.maximum(0.75 * stem, 0.85 * knob))
    brightness += middle * body * 0.33 * c.inside(y - dome - 0.02, 0.16)
    rim = c.radius(0.09, -0.30, 0.085 * chest.aorta, 0.10 * chest.aorta) - 1
    brightness += c.line(rim * 0.09, 0.012) * c.inside(-x) * c.inside(y + 0.28, 0.1) * 0.30 * chest.calcification
    brightness -= c.line(x - 0.015, 0.04, 0.04) * c.inside(y + 0.24, 0.1) * 0.16  # trachea

    brightness += _clavicles(c, out, y, anteroposterior) * 0.16 * chest.bone * body
    if anteroposterior:
        blade = c.line(out - 0.63 + 0.25 * (y + 0.2), 0.035, 0.03) * c.inside(np.abs(y + 0.22) - 0.36, 0.1)
        brightness += blade * 0.10 * chest.bone
    if chest.breast:
        brightness += _breasts(c, chest, low) * body

    if chest.pneumonia:
        at_x = sign[chest.pneumonia_side] * width * (0.30 + 0.48 * chest.pneumonia_at[0])
        at_y = -0.15 + (0.55 + low) * chest.pneumonia_at[1]
        brightness += lung * _consolidation(c, random, at_x, at_y, chest)
    if chest.effusion:
        level = 0.62 + low - chest.effusion - 0.9 * chest.effusion * np.clip(out / width - 0.5, 0, 1) ** 2
        side = c.inside(-sign[chest.effusion_side] * x)
        brightness += lung * side * c.inside(level - y, 0.07) * 0.32
    if chest.leads:
        brightness += _leads(c, np.random.default_rng(chest.seed + 1))
    return brightness


def lateral(chest: Chest, size: int, pose: Pose) -> Field:
    """A lateral radiograph, brightness (H, W), of the patient looking to the left; see `frontal`."""
    c = Canvas.of(size, pose)
    random = np.random.default_rng(chest.seed)
    x, y = c.x, c.y
    low = chest.inspiration
    front = -0.52 * chest.girth - 0.10 * np.clip(y + 0.7, 0, 1.7) + 0.03 * y
    bend = 0.10 + 0.22 * chest.kyphosis
    spine = 0.52 + bend * (0.45 - (y + 0.15) ** 2)
    back = spine + 0.24 * chest.girth
    chin = c.along(y, [-1, -0.85, -0.62], [0.30, 0.22, 0.0])
    outline = front - 0.09 - chest.breast * 1.5 * np.exp(-0.5 * ((y - 0.16) / 0.20) ** 2)
    body = c.inside(outline + chin - x, 0.03) * c.inside(x - back + 0.5 * chin, 0.03)
    top = c.inside(-0.72 - y, 0.25)
    slope = (x - front) / 1.1  # 0 at the breastbone, about 1 at the back
    dome = 0.38 + low + np.where(slope > 0.32, 0.75, 0.4) * (slope - 0.32) ** 2
    lung = c.inside(front + 0.05 - x, 0.05) * c.inside(x - spine - 0.12, 0.10) * c.inside(y - dome, 0.04) * top
    lung = lung * c.inside(-0.70 - y + 0.9 * np.clip(-0.30 - x, 0, 1), 0.25)

    brightness = body * 0.46
    brightness += body * c.inside(dome - y, 0.05) * 0.30
    second = dome - 0.07 - 0.03 * slope  # the other diaphragm, a little higher
    brightness += lung * c.inside(second - y, 0.03) * 0.13
    brightness -= lung * (0.28 + 0.06 * c.blob(-0.38, -0.35, 0.16, 0.25) + 0.07 * c.blob(0.32, 0.30, 0.14, 0.22))
    brightness += body * c.blob(0.05, -0.95, 0.5, 0.20) * 0.20  # arms and shoulders
    heart = c.ellipse(-0.24, 0.16 + 0.5 * low, 0.27 * chest.heart, 0.27, -35, 0.08)
    brightness += body * heart * 0.27 * c.inside(y - dome - 0.08, 0.2)
    arch = np.hypot(x - 0.04, (y + 0.33) * 0.8)
    brightness += (
        c.line(arch - 0.20, 0.055 * chest.aorta, 0.10) * c.inside(y + 0.28, 0.2) * (0.06 + 0.10 * chest.calcification)
    )
    brightness += lung * c.blob(0.0, -0.06, 0.09, 0.11) * 0.20  # hila, one behind the other
    brightness += lung * _vessels(c, random, np.abs(x), y)
    brightness -= c.line(x - 0.04 - 0.12 * (y + 0.6), 0.04, 0.04) * c.inside(y + 0.22, 0.1) * body * 0.14  # trachea

    vertebra = c.inside(np.abs(_sawtooth(y / 0.185)) - 0.38, 0.12)
    seen = 1 - 0.6 * c.inside(dome - y, 0.1)  # through the abdomen bone stands out less
    brightness += body * seen * c.line(x - spine, 0.095, 0.03) * (0.08 + 0.13 * vertebra) * chest.bone
    brightness += body * c.line(x - spine - 0.17, 0.03, 0.03) * 0.10 * chest.bone  # spinous processes
    ribs = _sawtooth((y - 0.75 * (spine - x) * (0.9 - 0.45 * (spine - x))) / 0.19)
    chest_wall = c.inside(x - spine, 0.05) * c.inside(front + 0.10 - x, 0.1) * c.inside(np.abs(y) - 0.62, 0.2)
    brightness += c.inside(np.abs(ribs) - 0.16, 0.10) * chest_wall * 0.055 * chest.bone
    breastbone = c.line(x - front, 0.03, 0.02) * c.inside(np.abs(y + 0.22) - 0.42, 0.05)
    brightness += breastbone * 0.22 * chest.bone

    if chest.pneumonia:
        at_x = 0.10 + (0.30 * chest.pneumonia_at[0] if chest.pneumonia_at[1] > 0.6 else -0.25)
        at_y = -0.15 + (0.50 + low) * chest.pneumonia_at[1]
        brightness += lung * _consolidation(c, random, at_x, at_y, chest)
    if chest.effusion:
        level = 0.66 + low - chest.effusion - 0.8 * chest.effusion * np.clip(slope - 0.45, 0, 1)
        brightness += lung * c.inside(level - y, 0.07) * c.inside(0.25 - slope, 0.3) * 0.26
    return brightness


def _sawtooth(phase: Field) -> Field:
    """Distance to the nearest whole number, signed: -0.5 to 0.5."""
    return phase - np.round(phase)


def _vessels(c: Canvas, random: np.random.Generator, out: Field, y: Field) -> Field:
    """Vessels that fan out of the hila and fade outward."""
    dx, dy = out - np.float32(0.15), y + np.float32(0.02)
    reach = np.hypot(dx, dy)
    turn = np.arctan2(dy, dx)
    fan = np.cos(13 * turn + 3 * np.sin(6 * reach + random.uniform(0, 6)) + random.uniform(0, 6) * np.sign(c.x))
    shown: Field = np.clip(fan, 0, 1) ** 3 * np.exp(-reach / 0.28) * 0.13
    return shown


def _ribs(c: Canvas, out: Field, y: Field, cage: Field, spacing: float, bone: float) -> Field:
    """Posterior ribs that fall outward, brighter, and anterior ones that fall inward, fainter."""
    within = c.inside(out - cage - 0.06, 0.05) * c.inside(np.abs(y + 0.08) - 0.62, 0.12)
    posterior = _sawtooth((y - 0.42 * (out - 0.16) ** 2 - 0.05 * out) / np.float32(spacing))
    shown = c.inside(np.abs(posterior) - 0.24, 0.14) * 0.045
    shown += c.inside(np.abs(np.abs(posterior) - 0.24) - 0.04, 0.1) * 0.035  # compact bone at both edges
    anterior = _sawtooth((y + 0.62 * out - 0.28 * out**2 + 0.05) / np.float32(1.25 * spacing))
    crossing = c.inside(np.abs(anterior) - 0.20, 0.14) * c.inside(0.24 - out, 0.15) * 0.030
    edge = c.line(out - cage - 0.02, 0.03, 0.04) * 0.05  # ribs seen along their length
    return within * bone * (shown * c.inside(0.08 - out, 0.04) + crossing + edge)


def _spine(c: Canvas, x: Field, y: Field) -> Field:
    """A column of vertebrae with paler discs between."""
    disc = c.inside(np.abs(_sawtooth(y / np.float32(0.15))) - 0.36, 0.2)
    return c.line(x, 0.085, 0.04) * (0.5 + 0.5 * disc)


def _clavicles(c: Canvas, out: Field, y: Field, anteroposterior: bool) -> Field:
    """Two gently curved bars over the apices; a lying patient's stand higher and flatter."""
    height = (-0.74 - 0.04 * out) if anteroposterior else (-0.58 - 0.22 * out)
    bar = c.line(y - height - 0.05 * np.sin(5 * out), 0.034, 0.02)
    return bar * c.inside(out - 0.72, 0.05) * c.inside(0.07 - out, 0.03)


def _breasts(c: Canvas, chest: Chest, low: float) -> Field:
    """Two shadows over the lower lungs, thicker towards a sharp lower edge."""
    shadow = np.zeros_like(c.x)
    for side in (-1, 1):
        cx, cy = side * 0.44 * chest.girth, 0.27 + 0.5 * low
        disc = c.ellipse(cx, cy, 0.31, 0.30, 0, 0.05)
        shadow += disc * np.clip(0.55 + 1.3 * (c.y - cy), 0.1, 1)
    return shadow * np.float32(chest.breast)


def _consolidation(c: Canvas, random: np.random.Generator, cx: float, cy: float, chest: Chest) -> Field:
    """Fuzzy, uneven opacity."""
    r = chest.pneumonia_size
    patchy = 0.85 + 0.25 * c.waves(random, 9, 6)
    return c.blob(cx, cy, 0.75 * r, 0.6 * r, 20) * np.clip(patchy, 0.2, 1.5) * np.float32(chest.pneumonia)


def _leads(c: Canvas, random: np.random.Generator) -> Field:
    """Three electrodes and their wires."""
    shown = np.zeros_like(c.x)
    for cx, cy in ((-0.5, -0.35), (0.52, -0.38), (0.42, 0.42)):
        jx, jy = cx + random.uniform(-0.1, 0.1), cy + random.uniform(-0.1, 0.1)
        shown = np.maximum(shown, c.ellipse(jx, jy, 0.035, 0.035))
        wire = c.x - jx - np.float32(random.uniform(-0.3, 0.3)) * (jy - c.y) - 0.04 * np.sin(4 * (c.y - jy))
        shown = np.maximum(shown, 0.7 * c.line(wire, 0.009) * c.inside(c.y - jy))
    return shown * 0.38
