"""Visual concepts, as the share of every patch that has them.

From the pixels alone: colour names, brightness, texture, position, object-ness. Of scenes also the truth: shape, size,
place and exact colour of the objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from vlm_neurons.concepts.concept import Concept

if TYPE_CHECKING:
    from vlm_neurons.evidence import Seen

Maps = dict[Concept, Float[np.ndarray, "rows columns"]]
# hue in degrees at which each chromatic colour ends; what follows the last is red again
_HUES = ((15, "red"), (42, "orange"), (68, "yellow"), (160, "green"), (200, "cyan"), (252, "blue"), (295, "purple"),
         (345, "pink"), (361, "red"))  # fmt: skip
COLORS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "brown", "white", "gray", "black")


def hsv(pixels: Float[np.ndarray, "height width 3"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hue in degrees, saturation and value in [0, 1], of pixels in [0, 1]."""
    top, low = pixels.max(-1), pixels.min(-1)
    span = top - low
    safe = np.where(span > 0, span, 1)
    r, g, b = (pixels[..., c] for c in range(3))
    hue = np.select([top == r, top == g], [((g - b) / safe) % 6, (b - r) / safe + 2], (r - g) / safe + 4) * 60
    return np.where(span > 0, hue, 0), np.where(top > 0, span / np.where(top > 0, top, 1), 0), top


def color_names(pixels: Float[np.ndarray, "height width 3"]) -> dict[str, np.ndarray]:
    """Bool[height, width] for every colour name; each pixel has exactly one."""
    hue, saturation, value = hsv(pixels)
    chroma = saturation * value
    black = (value < 0.2) | ((chroma < 0.12) & (value < 0.3))
    plain = ~black & (chroma < 0.15)
    brown = ~black & ~plain & (hue >= 10) & (hue < 45) & (value < 0.62)
    pale_red = ((hue < 15) | (hue >= 310)) & (saturation < 0.6) & (value > 0.6)
    named = {name: np.zeros(hue.shape, bool) for name in COLORS}
    start = 0
    for end, name in _HUES:
        named[name] |= (hue >= start) & (hue < end)
        start = end
    free = ~black & ~plain & ~brown
    named = {name: mask & free for name, mask in named.items()}
    named["pink"] |= named["red"] & pale_red
    named["red"] &= ~pale_red
    named |= {"brown": brown, "black": black, "white": plain & (value > 0.8), "gray": plain & (value <= 0.8)}
    return named


@lru_cache(maxsize=2048)  # many neurons share their samples
def pixel_bank(seen: Seen) -> tuple[Maps, ...]:
    """Concepts of each image from its pixels: colour names, `bright` and `dark`, `textured` and `smooth` regions,
    regions unlike the image's border (`object`), and positions."""
    found = []
    for image, boxes in zip(seen.images, seen.boxes, strict=True):
        pixels = np.asarray(image, dtype=float) / 255
        value = pixels.mean(-1)
        steps = np.maximum(*(np.abs(g) for g in np.gradient(value))) if min(value.shape) > 1 else np.zeros(value.shape)
        border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        unlike = np.linalg.norm(pixels - np.median(border, axis=0), axis=-1) > 0.3
        masks = {Concept("color", name): mask for name, mask in color_names(pixels).items()}
        masks |= {Concept("brightness", "bright"): value > 0.7, Concept("brightness", "dark"): value < 0.3}
        masks |= {Concept("texture", "textured"): steps > 0.05, Concept("texture", "smooth"): steps <= 0.01}
        masks[Concept("object", "")] = unlike
        maps = {c: means(m.astype(float), boxes) for c, m in masks.items()}
        found.append(maps | positions(boxes.shape[:2]))
    return tuple(found)


def positions(grid: Sequence[int]) -> Maps:
    """Where a patch is, as 0 or 1: halves would hold too much, so thirds; `center`, `edge` and `corners` too."""
    rows, columns = grid
    y, x = (np.arange(n)[:, None] / max(n - 1, 1) for n in (rows, columns))
    y, x = np.broadcast_to(y, (rows, columns)), np.broadcast_to(x.T, (rows, columns))
    low, high = 1 / 3, 2 / 3
    inner = (y > 0) & (y < 1) & (x > 0) & (x < 1)
    masks = {
        "top": y < low,
        "bottom": y > high,
        "left side": x < low,
        "right side": x > high,
        "center": (y >= low) & (y <= high) & (x >= low) & (x <= high),
        "edge": ~inner,
        "corners": ((y < low) | (y > high)) & ((x < low) | (x > high)),
    }
    return {Concept("position", name): mask.astype(float) for name, mask in masks.items()}


def means(values: Float[np.ndarray, "height width"], boxes: Float[np.ndarray, "rows columns 4"]) -> np.ndarray:
    """Mean over every box, to the nearest pixel; 0 for a box without pixels.

    >>> means(np.eye(2), np.array([[[0, 0, 2, 1], [1, 1, 2, 2]]])).tolist()
    [[0.5, 1.0]]
    """
    total = np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    edges = np.nan_to_num(boxes).round().astype(int)
    left, right = (edges[..., i].clip(0, values.shape[1]) for i in (0, 2))
    top, bottom = (edges[..., i].clip(0, values.shape[0]) for i in (1, 3))
    area = (right - left) * (bottom - top)
    sums = total[bottom, right] - total[top, right] - total[bottom, left] + total[top, left]
    return np.where(area > 0, sums / np.maximum(area, 1), 0.0)


def visual_bank(seen: Seen, truth: bool = True) -> tuple[Maps, ...]:
    """Concepts of each image of a sample; of scenes (`seen.source` begins with `"scenes:"`) with the truth.

    Args:
        seen: the sample.
        truth: use the ground truth where there is one.
    """
    maps = pixel_bank(seen)
    if not (truth and seen.source.startswith("scenes:") and len(maps) == 1 and seen.boxes[0].shape[:2] == (8, 8)):
        return maps
    own = _scene_maps(seen.source)
    return ({**maps[0], **own(seen.sample)},)


@lru_cache(maxsize=4)
def _scene_maps(source: str) -> Any:
    """sample id -> its true maps; concepts that the scene lacks are all 0."""
    from vlm_neurons.data import ImageTextData
    from vlm_neurons.world.scene import COLORS as TRUE_COLORS
    from vlm_neurons.world.scene import COLUMNS, ROWS, SHAPES, SIZES

    data: Any = ImageTextData.open(source)
    every = {"color": tuple(TRUE_COLORS), "shape": SHAPES, "size": tuple(SIZES),
             "place": tuple(f"{r} {c}" for r in ROWS for c in COLUMNS)}  # fmt: skip

    @lru_cache(maxsize=4096)
    def maps(sample: int) -> Maps:
        covered = data.things(sample)
        things = data.worlds[sample].things
        found = {Concept("object", ""): covered.sum(0)}
        for kind, values in every.items():
            for value in values:
                parts = [c for c, t in zip(covered, things, strict=True) if getattr(t, kind) == value]
                found[Concept(kind, value)] = np.sum(parts, axis=0) if parts else np.zeros(covered.shape[1:])
        return found

    return maps
