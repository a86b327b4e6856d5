"""One change of one object of a scene, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vlm_neurons.synthetic.scene import (
    CELL,
    COLORS,
    COLUMNS,
    IMAGE_SIZE,
    ROWS,
    SHADES,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    Thing,
)

PLACES = tuple(f"{row} {column}" for row in ROWS for column in COLUMNS)
OF_THINGS: dict[str, tuple[str, ...]] = {"color": tuple(COLORS), "shape": SHAPES, "size": tuple(SIZES), "place": PLACES}
OF_GROUND: dict[str, tuple[str, ...]] = {"shade": SHADES, "texture": TEXTURES}


def altered(thing: Thing, kind: str, value: str) -> Thing:
    """The object with another colour, shape, size or place; all else stays, also how far it is from the middle of its
    place, and how large it is among objects of its size.

    >>> from vlm_neurons.synthetic.scene import draw_scene
    >>> thing = draw_scene(0, 0).things[0]
    >>> thing.color, altered(thing, "color", "red").color, altered(thing, "place", "top left").place
    ('purple', 'red', 'top left')
    """
    if value not in OF_THINGS[kind]:
        raise ValueError(f"{kind} {value!r}: choose from {', '.join(OF_THINGS[kind])}")
    if getattr(thing, kind) == value:
        return thing
    radius, cell = thing.radius, thing.cell
    if kind == "size":
        (low, high), (least, most) = SIZES[thing.size], SIZES[value]
        radius = least + (radius - low) / (high - low) * (most - least)
    if kind == "place":
        cell = PLACES.index(value)
    # as when drawn: what does not fit into the picture is pushed inwards
    x, y = (
        float(np.clip(old + (at(cell) - at(thing.cell)) * CELL, radius, IMAGE_SIZE - radius))
        for old, at in ((thing.x, lambda c: c % 3), (thing.y, lambda c: c // 3))
    )
    changed = {kind: value} if kind != "place" else {"cell": cell}
    return replace(thing, radius=radius, x=x, y=y, **changed)  # type: ignore[arg-type]


def fits(thing: Thing, others: Sequence[Thing]) -> bool:
    """Whether it touches none of the others."""
    return all(np.hypot(thing.x - t.x, thing.y - t.y) > thing.radius + t.radius for t in others)


def showing(world: Scene, things: Sequence[Thing]) -> Scene:
    """The same background with these objects, which may be none.

    >>> from vlm_neurons.synthetic.scene import draw_scene
    >>> world = draw_scene(0, 0)
    >>> len(world.things), len(showing(world, world.things[:1]).things)
    (2, 1)
    """
    return replace(world, things=tuple(sorted(things, key=lambda t: t.cell)))
