"""What can be in a scene, and how scenes are drawn from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Literal

import numpy as np

SHAPES = ("circle", "square", "triangle", "cross", "ring", "diamond")
COLORS = {
    "red": (222, 36, 36),
    "orange": (248, 140, 20),
    "yellow": (240, 228, 48),
    "green": (40, 168, 66),
    "cyan": (56, 208, 216),
    "blue": (42, 76, 220),
    "purple": (132, 50, 176),
    "pink": (248, 130, 186),
}
SIZES = {"small": (6.2, 7.2), "large": (10.8, 12.0)}  # radius in pixels, drawn uniformly
ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "center", "right")
TEXTURES = ("plain", "striped", "dotted", "checkered")
SHADES = ("dark", "light")

IMAGE_SIZE = 64
PATCH_SIZE = 8
GRID = IMAGE_SIZE // PATCH_SIZE
CELL = IMAGE_SIZE / 3
N_HELD_OUT = 93

Split = Literal["any", "seen", "held_out"]
Key = tuple[str, str, str, int]  # shape, colour, size, cell


@dataclass(frozen=True)
class Thing:
    """One object of a scene.

    Attributes:
        shape: one of `SHAPES`.
        color: one of `COLORS`.
        size: `"small"` or `"large"`.
        cell: 0-8, row by row in the 3 x 3 grid of places.
        x: horizontal centre in pixels.
        y: vertical centre in pixels.
        radius: pixels.
        light: factor on the colour.
    """

    shape: str
    color: str
    size: str
    cell: int
    x: float
    y: float
    radius: float
    light: float

    @property
    def place(self) -> str:
        """Where it is, in words.

        >>> Thing("circle", "red", "small", 2, 53.0, 11.0, 6.5, 1.0).place
        'top right'
        """
        return f"{ROWS[self.cell // 3]} {COLUMNS[self.cell % 3]}"

    @property
    def key(self) -> Key:
        """The (shape, colour, size, cell) tuple that may be held out."""
        return self.shape, self.color, self.size, self.cell


@dataclass(frozen=True)
class Scene:
    """Everything that is true of one picture; `render.render` draws it.

    Attributes:
        things: one or two objects, in reading order.
        texture: one of `TEXTURES`.
        shade: `"dark"` or `"light"`.
        brightness: factor on the whole picture.
        tint: added to red, green and blue of the whole picture (share of 255).
        phase: shift of the texture in pixels (horizontal, vertical).
    """

    things: tuple[Thing, ...]
    texture: str
    shade: str
    brightness: float
    tint: tuple[float, float, float]
    phase: tuple[int, int]


@cache
def held_out_keys() -> frozenset[Key]:
    """The 93 of 864 (shape, colour, size, cell) tuples that training never shows.

    Random, but every (shape, colour, size) stays in training in at least 7 of the 9 cells.
    """
    keys: list[Key] = [(s, c, z, p) for s, c, z, p in product(SHAPES, COLORS, SIZES, range(9))]
    chosen: list[Key] = []
    taken: dict[tuple[str, str, str], int] = {}
    for i in np.random.default_rng(864).permutation(len(keys)):
        if len(chosen) == N_HELD_OUT:
            break
        if taken.get(keys[i][:3], 0) < 2:
            taken[keys[i][:3]] = taken.get(keys[i][:3], 0) + 1
            chosen.append(keys[i])
    return frozenset(chosen)


@cache
def keys_of(split: Split) -> tuple[Key, ...]:
    """All tuples that objects of a split may have."""
    if split not in ("any", "seen", "held_out"):
        raise ValueError(f"split {split!r}: choose 'any', 'seen' or 'held_out'")
    held = held_out_keys()
    every = [(s, c, z, p) for s, c, z, p in product(SHAPES, COLORS, SIZES, range(9))]
    return tuple(k for k in every if split == "any" or (k in held) == (split == "held_out"))


def draw_scene(
    seed: int, index: int, *, split: Split = "any", objects: Literal[1, 2] | None = None, easy: bool = False
) -> Scene:
    """Draw scene `index` of stream `seed`; the same arguments give the same scene for ever.

    Args:
        split: which (shape, colour, size, cell) tuples every object may have.
        objects: how many; None draws 1 or 2.
        easy: one large object on a plain background (a start for training).
    """
    rng = np.random.default_rng([seed, index])
    n = 1 if easy else (objects or int(rng.integers(1, 3)))
    return Scene(
        things=_draw_things(rng, keys_of(split), n, easy),
        texture="plain" if easy else TEXTURES[rng.integers(4)],
        shade=SHADES[rng.integers(2)],
        brightness=float(rng.uniform(0.95, 1.05)),
        tint=tuple(float(t) for t in rng.uniform(-0.05, 0.05, 3)),  # type: ignore[arg-type]
        phase=(int(rng.integers(0, 8)), int(rng.integers(0, 8))),
    )


def _draw_things(rng: np.random.Generator, keys: tuple[Key, ...], n: int, easy: bool) -> tuple[Thing, ...]:
    things: list[Thing] = []
    while len(things) < n:
        new = _place(rng, keys[rng.integers(len(keys))])
        if easy and new.size == "small":
            continue
        # Two objects differ in colour or shape, so that "the red circle" names one of them, and do not touch.
        if all(
            (new.shape, new.color) != (t.shape, t.color) and np.hypot(new.x - t.x, new.y - t.y) > new.radius + t.radius
            for t in things
        ):
            things.append(new)
    return tuple(sorted(things, key=lambda t: t.cell))


def _place(rng: np.random.Generator, key: Key) -> Thing:
    shape, color, size, cell = key
    radius = float(rng.uniform(*SIZES[size]))
    x, y = ((i + 0.5) * CELL + rng.uniform(-1.2, 1.2) for i in (cell % 3, cell // 3))
    return Thing(
        shape=shape,
        color=color,
        size=size,
        cell=cell,
        x=float(np.clip(x, radius, IMAGE_SIZE - radius)),
        y=float(np.clip(y, radius, IMAGE_SIZE - radius)),
        radius=radius,
        light=float(rng.uniform(0.72, 1.08)),
    )
