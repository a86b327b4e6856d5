"""Visual concepts, as the share of every patch that has them.

From the pixels alone: colour names, brightness, texture, edges and their direction, position, object-ness and where
objects are. Of scenes also the truth: shape, size, place and exact colour of the objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy import ndimage

from vlm_neurons.concepts.concept import Concept
from vlm_neurons.synthetic.scene import COLUMNS, ROWS

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
    edges, regions unlike the image's border (`object`, and by `place`), and positions."""
    found = []
    for image, boxes in zip(seen.images, seen.boxes, strict=True):
        pixels = np.asarray(image, dtype=float) / 255
        value = pixels.mean(-1)
        steps = np.maximum(*(np.abs(g) for g in np.gradient(value))) if min(value.shape) > 1 else np.zeros(value.shape)
        unlike = unlike_border(pixels)
        masks = {Concept("color", name): mask for name, mask in color_names(pixels).items()}
        masks |= {Concept("brightness", "bright"): value > 0.7, Concept("brightness", "dark"): value < 0.3}
        masks |= {Concept("texture", "textured"): steps > 0.05, Concept("texture", "smooth"): steps <= 0.01}
        masks |= edges(pixels) | {Concept("object", ""): unlike} | places(unlike)
        maps = {c: means(m.astype(float), boxes) for c, m in masks.items()}
        found.append(maps | positions(boxes.shape[:2]))
    return tuple(found)


def unlike_border(pixels: Float[np.ndarray, "height width 3"], far: float = 0.15) -> Bool[np.ndarray, "height width"]:
    """Pixels whose colour is far from the border's: from its median, and from every colour that a tenth of it has.

    A pattern behind objects has several colours; an object that reaches the border seldom covers a tenth of it.

    >>> picture = np.zeros((8, 8, 3))
    >>> picture[:, ::2], picture[3, 3:5] = 1, (1, 0, 0)
    >>> np.argwhere(unlike_border(picture)).tolist()
    [[3, 3], [3, 4]]
    """
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    rough = np.rint(border * 8)
    _, which, counts = np.unique(rough, axis=0, return_inverse=True, return_counts=True)
    groups = [border[which.ravel() == i] for i in np.flatnonzero(counts >= len(border) / 10)]
    colors = [np.median(group, axis=0) for group in (border, *groups)]
    near = np.min([np.linalg.norm(pixels - color, axis=-1) for color in colors], axis=0)
    return near > far  # type: ignore[no-any-return]


def edges(pixels: Float[np.ndarray, "height width 3"], steep: float = 0.1) -> dict[Concept, Bool[np.ndarray, "h w"]]:
    """Pixels on edges, of any direction and by direction.

    Args:
        pixels: in [0, 1].
        steep: so much of the full range has to change per pixel, in the channel in which most changes.

    >>> picture = np.repeat([0.0, 0.0, 1.0, 1.0], 12).reshape(4, 4, 3)
    >>> [c.value for c, mask in edges(picture).items() if mask.any()]
    ['', 'horizontal']
    """
    down, right = np.gradient(pixels, axis=(0, 1)) if min(pixels.shape[:2]) > 1 else (np.zeros_like(pixels),) * 2
    best = np.hypot(down, right).argmax(-1)[..., None]
    down, right = (np.take_along_axis(g, best, -1)[..., 0] for g in (down, right))
    angle = np.degrees(np.arctan2(down, right)) % 180  # of the steepest change: an edge lies across it
    on = np.hypot(down, right) > steep
    level = np.abs(angle - 90) < 22.5
    upright = (angle < 22.5) | (angle > 157.5)
    kinds = {"": on, "horizontal": on & level, "vertical": on & upright, "diagonal": on & ~level & ~upright}
    return {Concept("edge", name): mask for name, mask in kinds.items()}


def places(unlike: Bool[np.ndarray, "height width"]) -> dict[Concept, Bool[np.ndarray, "height width"]]:
    """Objects (connected pixels) by the ninth of the image that their middle lies in."""
    labels, n = ndimage.label(unlike)
    middles = np.array(ndimage.center_of_mass(unlike, labels, range(1, n + 1))).reshape(n, 2)
    cells = (3 * (middles + 0.5) / unlike.shape).astype(int)  # + 0.5: pixel numbers are those of their corners
    found = {}
    for (row, first), (column, second) in product(enumerate(ROWS), enumerate(COLUMNS)):
        here = 1 + np.flatnonzero((cells == (row, column)).all(1))
        found[Concept("place", f"{first} {second}")] = np.isin(labels, here)
    return found


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


def means(values: Float[np.ndarray, "height width"], boxes: Shaped[np.ndarray, "rows columns 4"]) -> np.ndarray:
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
    """Concepts of each image of a sample, with the truth where the data set knows it (`seen.truth`).

    Args:
        seen: the sample.
        truth: use the truth where there is one for just these patches.
    """
    maps = pixel_bank(seen)
    if not truth or seen.truth is None or len(maps) != 1:
        return maps
    grid = seen.boxes[0].shape[:2]
    known = {Concept(*key): shares for key, shares in seen.truth.items() if shares.shape == grid}
    return ({**maps[0], **known},)
