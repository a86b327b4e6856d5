"""What can be in a scene, how scenes are drawn from a seed, and how they become pictures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product
from math import ceil, floor
from typing import Literal

import numpy as np
from einops import reduce
from jaxtyping import Float, UInt8

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


_FINE = 4  # sub-pixels per pixel and axis: for smooth edges; coverage is exactly what is drawn
_SHADE = {"dark": 62.0, "light": 196.0}
_CONTRAST = 26.0


def render(scene: Scene) -> UInt8[np.ndarray, "64 64 3"]:
    """Draw the picture.

    Returns:
        RGB pixels.
    """
    picture = np.repeat(_background(scene)[:, :, None], 3, axis=2)
    for thing in scene.things:
        alpha = alpha_of(thing)[:, :, None]
        picture = picture * (1 - alpha) + alpha * np.asarray(COLORS[thing.color], dtype=np.float64) * thing.light
    picture = picture * scene.brightness + 255 * np.asarray(scene.tint)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def alpha_of(thing: Thing) -> Float[np.ndarray, "64 64"]:
    """Share of every pixel that an object covers, in [0, 1]."""
    left, right = max(floor(thing.x - thing.radius), 0), min(ceil(thing.x + thing.radius), IMAGE_SIZE)
    top, bottom = max(floor(thing.y - thing.radius), 0), min(ceil(thing.y + thing.radius), IMAGE_SIZE)
    x = (np.arange(left * _FINE, right * _FINE) + 0.5) / _FINE - thing.x
    y = (np.arange(top * _FINE, bottom * _FINE) + 0.5) / _FINE - thing.y
    inside = _inside(thing.shape, x[None, :] / thing.radius, y[:, None] / thing.radius)
    alpha = np.zeros((IMAGE_SIZE, IMAGE_SIZE))
    alpha[top:bottom, left:right] = reduce(inside * 1.0, "(y fy) (x fx) -> y x", "mean", fy=_FINE, fx=_FINE)
    return alpha


def coverage(scene: Scene) -> Float[np.ndarray, "things 8 8"]:
    """Share of every 8 x 8 pixel patch that each object covers, in [0, 1]; rows first."""
    alphas = np.stack([alpha_of(t) for t in scene.things])
    return reduce(alphas, "thing (row y) (column x) -> thing row column", "mean", y=PATCH_SIZE, x=PATCH_SIZE)


def _inside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether points lie in a shape of radius 1 around the origin."""
    ax, ay = np.abs(x), np.abs(y)
    match shape:
        case "circle":
            return x**2 + y**2 <= 1
        case "ring":
            return (x**2 + y**2 <= 1) & (x**2 + y**2 >= 0.55**2)
        case "square":
            return (ax <= 0.86) & (ay <= 0.86)
        case "diamond":
            return ax + ay <= 1
        case "cross":
            return ((ax <= 0.32) & (ay <= 1)) | ((ay <= 0.32) & (ax <= 1))
        case "triangle":  # apex at the top, base at y = 0.75
            return (y <= 0.75) & (ax <= (y + 1) / 1.75 * 0.95)
    raise ValueError(f"unknown shape {shape!r}")


def _background(scene: Scene) -> Float[np.ndarray, "64 64"]:
    i = np.arange(IMAGE_SIZE)
    x, y = (i + scene.phase[0])[None, :], (i + scene.phase[1])[:, None]
    match scene.texture:
        case "plain":
            pattern = np.zeros((IMAGE_SIZE, IMAGE_SIZE))
        case "striped":
            pattern = np.broadcast_to(np.where(y % 6 < 3, 1.0, -1.0), (IMAGE_SIZE, IMAGE_SIZE))
        case "dotted":
            pattern = np.where((x % 8 - 3.5) ** 2 + (y % 8 - 3.5) ** 2 <= 5, 1.6, -0.4)
        case "checkered":
            pattern = np.where((x // 4 + y // 4) % 2 == 0, 1.0, -1.0)
        case _:
            raise ValueError(f"unknown texture {scene.texture!r}")
    return _SHADE[scene.shade] + _CONTRAST * pattern
