"""Generated overhead scenes: a coast with land and water, and on it objects of several kinds, sizes and rotations.

Nothing is real.

They are simple enough for a small model to learn in a minute on a CPU, and have what makes overhead images what they are: all
rotations, many small objects, shadows, mixed ground, scenes larger than a chip.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shoal.errors import UsageError

__all__ = ["KINDS", "Scene", "Thing", "make_scene"]

Array = np.ndarray[Any, Any]
Colour = tuple[int, int, int]
# Corners in units of the object's length, nose to the right.
Shape = list[tuple[float, float]]


@dataclass(frozen=True)
class Thing:
    """An object: its kind, the corners of its rotated frame (4, 2) as x, y in pixels, and whether it is hard to see."""

    kind: str
    quad: Array
    outline: Array
    faint: bool

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The axis-aligned box of what is drawn."""
        low, high = self.outline.min(0), self.outline.max(0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])


@dataclass(frozen=True)
class Scene:
    """Pixels, uint8 (height, width, 3), and the objects in them."""

    pixels: Array
    things: list[Thing]


def _plane(span: float, sweep: float, tail: float) -> list[Shape]:
    body = [(0.5, 0.0), (0.38, 0.06), (-0.45, 0.05), (-0.5, 0.0), (-0.45, -0.05), (0.38, -0.06)]
    parts: list[Shape] = [body]
    for side in (1, -1):
        parts.append([(0.14, 0.0), (0.14 - sweep, side * span / 2), (0.02 - sweep, side * span / 2), (-0.1, 0.0)])
        parts.append([(-0.34, 0.0), (-0.4, side * tail), (-0.5, side * tail), (-0.48, 0.0)])
    return parts


def _rectangle(wide: float, left: float = -0.5, right: float = 0.5) -> Shape:
    return [(left, -wide / 2), (right, -wide / 2), (right, wide / 2), (left, wide / 2)]


def _circle() -> Shape:
    return [(0.5 * math.cos(a), 0.5 * math.sin(a)) for a in np.linspace(0, 2 * math.pi, 25)[:-1]]


@dataclass(frozen=True)
class _Kind:
    """How a kind looks: shapes (the first in the object's colour, others as ``marks`` say), length in pixels, colours, ground."""

    shapes: list[Shape]
    marks: list[Colour | None]
    length: tuple[float, float]
    colours: list[Colour]
    water: bool = False


_WHITE, _DARK = (240, 240, 235), (45, 50, 60)
_PLANE_COLOURS: list[Colour] = [(245, 245, 245), (225, 228, 235), (240, 235, 220)]


def _plane_kind(span: float, sweep: float, length: tuple[float, float]) -> _Kind:
    shapes = _plane(span, sweep, 0.17)
    return _Kind(shapes, [None] * len(shapes), length, _PLANE_COLOURS)


_FIGHTER: list[Shape] = [[(0.5, 0.0), (-0.35, 0.34), (-0.5, 0.3), (-0.42, 0.0), (-0.5, -0.3), (-0.35, -0.34)]]
_HULL: Shape = [(0.5, 0.0), (0.25, 0.13), (-0.5, 0.12), (-0.5, -0.12), (0.25, -0.13)]
KINDS: dict[str, _Kind] = {
    "plane": _plane_kind(0.95, 0.22, (34, 52)),
    "small plane": _plane_kind(1.15, 0.0, (18, 24)),
    "medium plane": _plane_kind(0.9, 0.18, (34, 44)),
    "large plane": _plane_kind(0.92, 0.3, (58, 76)),
    "fighter": _Kind(_FIGHTER, [None], (24, 32), [(105, 115, 125), (90, 100, 108)]),
    "ship": _Kind(
        [_HULL, _rectangle(0.14, -0.38, -0.08)], [None, _WHITE], (30, 60), [(150, 60, 50), (95, 95, 105)], water=True
    ),
    "tank": _Kind(
        [_circle(), [(0.3 * x, 0.3 * y) for x, y in _circle()]],
        [None, (205, 205, 200)],
        (18, 30),
        [_WHITE, (228, 222, 205)],
    ),
    "court": _Kind(
        [_rectangle(0.5), _rectangle(0.36, -0.4, 0.4), _rectangle(0.04, -0.42, 0.42), _rectangle(0.42, -0.015, 0.015)],
        [None, (70, 110, 170), _WHITE, _WHITE],
        (36, 46),
        [(60, 130, 75), (150, 80, 60)],
    ),
    "vehicle": _Kind(
        [_rectangle(0.46), _rectangle(0.38, 0.08, 0.24)],
        [None, _DARK],
        (11, 16),
        [(200, 40, 40), (240, 240, 240), (235, 200, 40)],
    ),
    "building": _Kind(
        [_rectangle(0.7), [(-0.5, 0.0), (0.5, 0.0), (0.5, 0.35), (-0.5, 0.35)]],
        [None, (120, 70, 60)],
        (30, 54),
        [(165, 100, 85), (170, 115, 90)],
    ),
}
"""What can be drawn, by name."""


def make_scene(rng: np.random.Generator, width: int, height: int, kinds: Sequence[str], *, crowd: float = 1.0) -> Scene:
    """Draw a scene.

    Args:
        rng: the same state gives the same scene.
        width: in pixels.
        height: in pixels.
        kinds: what to draw, of :data:`KINDS`; each about as often as the others.
        crowd: how densely; 1 is about one object for each 70 x 70 pixels.

    Raises:
        UsageError: there is no such kind, or the scene is too small.
    """
    from PIL import Image, ImageDraw, ImageFilter

    if unknown := sorted(set(kinds) - KINDS.keys()):
        raise UsageError(f'there is no kind "{unknown[0]}" to draw', hint=f"There are: {', '.join(KINDS)}.")
    if min(width, height) < 96:
        raise UsageError(f"a scene has at least 96 pixels on a side, not {min(width, height)}")
    pixels, water = _ground(rng, width, height, any(KINDS[kind].water for kind in kinds))
    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    things: list[Thing] = []
    circles = np.empty((0, 3))
    for _ in range(max(4, round(width * height / 4900 * crowd))):
        kind = kinds[int(rng.integers(len(kinds)))]
        look = KINDS[kind]
        length = float(rng.uniform(*look.length))
        place = _place(rng, water, look.water, length * 0.62, circles)
        if place is None:
            continue
        circles = np.vstack([circles, [*place, length * 0.62]])
        things.append(_draw(rng, draw, kind, look, place, length))
    blurred = picture.filter(ImageFilter.GaussianBlur(0.6))
    noisy = np.asarray(blurred, np.int16) + rng.normal(0, 4, (height, width, 1)).astype(np.int16)
    return Scene(np.clip(noisy, 0, 255).astype(np.uint8), things)


def _ground(rng: np.random.Generator, width: int, height: int, coast: bool) -> tuple[Array, Array]:
    """Pixels, and where they are water."""
    rough, fine = _noise(rng, width, height, 96), _noise(rng, width, height, 12)
    land = np.array([(96, 122, 70), (140, 128, 100), (120, 122, 124), (165, 150, 115)][int(rng.integers(4))])
    other = np.array([(80, 105, 62), (125, 118, 90), (108, 110, 112), (150, 138, 105)][int(rng.integers(4))])
    share = (rough > 0)[..., None]
    pixels = np.where(share, land, other) + (fine * 10)[..., None] + (rough * 8)[..., None]
    angle, water = rng.uniform(0, 2 * math.pi), np.zeros((height, width), np.bool_)
    if coast:
        y, x = np.mgrid[0:height, 0:width]
        along = ((x - width / 2) * math.cos(angle) / width + (y - height / 2) * math.sin(angle) / height) * 2
        water = along + rough * 0.08 > 0.35
        sea = np.array([38, 66, 92]) + (fine * 5)[..., None]
        pixels = np.where(water[..., None], sea, pixels)
    return np.clip(pixels, 0, 255).astype(np.uint8), water


def _noise(rng: np.random.Generator, width: int, height: int, step: int) -> Array:
    """Smooth noise of about unit spread."""
    from PIL import Image

    small = rng.normal(0, 1, (height // step + 3, width // step + 3)).astype(np.float32)
    grown = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(grown)


def _place(
    rng: np.random.Generator, water: Array, wet: bool, radius: float, circles: Array
) -> tuple[float, float] | None:
    """A free place on the right ground, all of it inside; None if none was found."""
    height, width = water.shape
    if 2 * radius >= min(height, width):
        return None
    for _ in range(30):
        x, y = float(rng.uniform(radius, width - radius)), float(rng.uniform(radius, height - radius))
        if np.hypot(circles[:, 0] - x, circles[:, 1] - y).min(initial=np.inf) < radius:
            continue
        if (np.hypot(circles[:, 0] - x, circles[:, 1] - y) < circles[:, 2] + radius).any():
            continue
        corner = water[int(y - radius) : int(y + radius) + 1, int(x - radius) : int(x + radius) + 1]
        if corner.all() if wet else not corner.any():
            return x, y
    return None


def _draw(
    rng: np.random.Generator, draw: Any, kind: str, look: _Kind, place: tuple[float, float], length: float
) -> Thing:
    angle = float(rng.uniform(0, 2 * math.pi))
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    shapes = [np.array(shape) * length for shape in look.shapes]
    every = np.concatenate(shapes)
    low, high = every.min(0), every.max(0)
    frame = np.array([low, (high[0], low[1]), high, (low[0], high[1])])
    colour = np.array(look.colours[int(rng.integers(len(look.colours)))]) + rng.integers(-12, 13, 3)
    faint = bool(rng.random() < 0.04)
    moved = [shape @ turn + place for shape in shapes]
    for corners in moved:
        draw.polygon([(float(x) + 2, float(y) + 2) for x, y in corners], fill=(48, 50, 48))
    for corners, mark in zip(moved, look.marks, strict=True):
        own = np.clip(colour if mark is None else np.array(mark), 0, 255)
        if faint:
            own = own // 2 + np.array([55, 58, 52])
        draw.polygon([(float(x), float(y)) for x, y in corners], fill=tuple(int(value) for value in own))
    return Thing(kind, frame @ turn + place, np.concatenate(moved), faint)
