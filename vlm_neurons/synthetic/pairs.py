"""Pairs of pictures that differ in one colour and in nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from vlm_neurons.data import ImageTextData
from vlm_neurons.synthetic import language
from vlm_neurons.synthetic.scene import COLORS, Scene, draw_scene, render


@dataclass(frozen=True, eq=False)
class ColorPairs:
    """Clean and corrupted pictures, up to the word that differs.

    Attributes:
        clean: samples whose response stops before the colour word: `"a large"`.
        corrupt: the same with the other picture.
        worlds: the clean scenes.
        colors: per pair, the colour word that is true of the clean and of the corrupted picture.
    """

    clean: ImageTextData
    corrupt: ImageTextData
    worlds: tuple[Scene, ...]
    colors: tuple[tuple[str, str], ...]


def color_pairs(n: int, seed: int = 0, size: str | None = None, cell: int | None = None) -> ColorPairs:
    """Draw one-object scenes and repaint the object: same shape, place, light and background.

    Args:
        n: pairs.
        seed: stream, as for `vn.scenes`.
        size: `"small"` or `"large"` objects only.
        cell: objects in one place only, 0 to 8, row by row.

    >>> pairs = color_pairs(1, seed=0, size="large")
    >>> pairs.clean[0].response, len(set(pairs.colors[0]))
    ('a large', 2)
    """
    worlds: list[Scene] = []
    colors: list[tuple[str, str]] = []
    samples: tuple[list[dict[str, object]], list[dict[str, object]]] = ([], [])
    index = 0
    while len(worlds) < n:
        world = draw_scene(seed, index, objects=1)
        thing = world.things[0]
        rng = np.random.default_rng([seed, 4, index])
        index += 1
        if (size is not None and thing.size != size) or (cell is not None and thing.cell != cell):
            continue
        other = str(rng.choice([c for c in COLORS if c != thing.color]))
        painted = replace(world, things=(replace(thing, color=other),))
        for found, scene in zip(samples, (world, painted), strict=True):
            found.append(
                {
                    "image": Image.fromarray(render(scene)),
                    "prompt": language.DESCRIBE,
                    "response": f"a {thing.size}",
                    "name": f"scene {index - 1}, {scene.things[0].color}",
                }
            )
        worlds.append(world)
        colors.append((thing.color, other))
    clean, corrupt = (ImageTextData.from_samples(found) for found in samples)
    return ColorPairs(clean, corrupt, tuple(worlds), tuple(colors))
