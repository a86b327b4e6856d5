"""Visual concepts, as the share of every patch that has them.

From the pixels alone: colour names, brightness, texture, edges and their direction, position, object-ness and where
objects are. Of scenes also the truth: shape, size, place and exact colour of the objects.

Pixels are whole numbers from 0 to 255 here, and so are all thresholds: every decision is exact.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Bool, Float, Int16, Integer, Shaped, UInt8
from scipy import ndimage

from vlm_neurons.concepts.concept import Concept
from vlm_neurons.concepts.shares import Boxes
from vlm_neurons.concepts.shown import parts_of_sheet
from vlm_neurons.synthetic.scene import COLUMNS, ROWS

if TYPE_CHECKING:
    from vlm_neurons.data import Truth
    from vlm_neurons.evidence import Seen

Maps = dict[Concept, Float[np.ndarray, "rows columns"]]
# hue in degrees at which each chromatic colour ends; what follows the last is red again
_HUES = ((15, "red"), (42, "orange"), (68, "yellow"), (160, "green"), (200, "cyan"), (252, "blue"), (295, "purple"),
         (345, "pink"), (361, "red"))  # fmt: skip
COLORS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "brown", "white", "gray", "black")
EDGES = ("horizontal", "vertical", "diagonal")
PLACES = tuple(f"{row} {column}" for row in ROWS for column in COLUMNS)
POSITIONS = ("top", "bottom", "left side", "right side", "center", "edge", "corners")
FAR = 0.15 * 255  # from the border's colours: a region unlike it
STEEP = 0.1 * 255  # so much changes per pixel, in the channel in which most changes: an edge
AT_ONCE = 24_576  # pixels: so few that what is made of them stays in a processor's cache
Planes = Int16[np.ndarray, "3 height width"]


def planes_of(pixels: UInt8[np.ndarray, "height width 3"]) -> Planes:
    """Red, green and blue one after the other, in numbers that can be subtracted."""
    return np.ascontiguousarray(np.moveaxis(pixels, -1, 0)).astype(np.int16)


@cache
def _color_of_hue() -> UInt8[np.ndarray, "degree"]:
    starts = [0, *(end for end, _ in _HUES)]
    return np.repeat([COLORS.index(name) for _, name in _HUES], np.diff(starts)).astype(np.uint8)


def colors(planes: Planes) -> UInt8[np.ndarray, "height width"]:
    """The colour name of every pixel, as its place in `COLORS`.

    >>> COLORS[colors(planes_of(np.full((1, 1, 3), (120, 60, 10), np.uint8)))[0, 0]]
    'brown'
    """
    red, green, blue = planes
    top, low = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    span = top - low
    is_red, is_green = top == red, top == green
    rest = np.where(is_red, green - blue, np.where(is_green, blue - red, red - green))
    start = np.where(is_red, np.int16(360) * (rest < 0), np.where(is_green, np.int16(120), np.int16(240)))
    # no quotient but a whole number of degrees is nearer to one than 1 / 255: float32 does not mistake them
    hue = (start + np.float32(60) * rest / np.maximum(span, 1)).astype(np.int16)
    found = _color_of_hue().take(hue)
    plain = span < 39
    for name, where in (
        ("pink", (found == COLORS.index("red")) & (5 * span < 3 * top) & (top > 153)),
        ("brown", (hue >= 10) & (hue < 45) & (top < 159)),
        ("gray", plain),
        ("white", plain & (top > 204)),
        ("black", (top < 51) | ((span < 31) & (top < 77))),
    ):
        np.copyto(found, np.uint8(COLORS.index(name)), where=where)
    return found


def color_names(pixels: UInt8[np.ndarray, "height width 3"]) -> dict[str, Bool[np.ndarray, "height width"]]:
    """The pixels of every colour name; each pixel has exactly one."""
    found = colors(planes_of(pixels))
    return {name: found == i for i, name in enumerate(COLORS)}


def slopes(planes: Planes) -> tuple[Planes, Planes]:
    """Twice the change per pixel, downwards and to the right; 0 along a side of one pixel."""

    def twice(axis: int) -> np.ndarray:
        found = np.zeros_like(planes)
        into, values = np.moveaxis(found, axis, 0), np.moveaxis(planes, axis, 0)
        if len(values) > 1:
            into[0], into[-1] = 2 * (values[1] - values[0]), 2 * (values[-1] - values[-2])
            np.subtract(values[2:], values[:-2], out=into[1:-1])
        return found

    return twice(1), twice(2)


def edges(down: Planes, right: Planes) -> UInt8[np.ndarray, "height width"]:
    """0 where there is no edge, else 1 and the place of its direction in `EDGES`; an edge lies across the steepest
    change.

    >>> picture = np.repeat([0, 0, 255, 255], 12).reshape(4, 4, 3).astype(np.uint8)
    >>> edges(*slopes(planes_of(picture)))[:, 0].tolist()
    [0, 1, 1, 0]
    """
    n = down[0].size
    red, green, blue = (down.astype(np.float32) ** 2 + right.astype(np.float32) ** 2).reshape(3, n)  # whole, below 2^24
    sizes = np.maximum(np.maximum(red, green), blue)
    on = np.flatnonzero(sizes > 4 * STEEP**2)
    most = sizes.take(on)  # of the channel that changes most
    where = np.where(red.take(on) == most, on, np.where(green.take(on) == most, on + n, on + 2 * n))
    steps = [np.abs(slope.ravel().take(where).astype(np.float32)) for slope in (down, right)]
    tilt = np.float32(np.tan(np.pi / 8))  # 22.5 degrees
    found = np.zeros(down.shape[1:], np.uint8)
    found.ravel()[on] = np.where(steps[1] < tilt * steps[0], 1, np.where(steps[0] < tilt * steps[1], 2, 3))
    return found


def unlike_border(planes: Planes) -> Bool[np.ndarray, "height width"]:
    """Pixels whose colour is far from the border's: from its median, and from every colour that a tenth of it has.

    A pattern behind objects has several colours; an object that reaches the border seldom covers a tenth of it.

    >>> picture = np.zeros((8, 8, 3), np.uint8)
    >>> picture[:, ::2], picture[3, 3:5] = 255, (255, 0, 0)
    >>> np.argwhere(unlike_border(planes_of(picture))).tolist()
    [[3, 3], [3, 4]]
    """
    return _far_from(planes, _colors_of_border(np.moveaxis(planes, 0, -1)))


def _colors_of_border(pixels: Integer[np.ndarray, "height width 3"]) -> Float[np.ndarray, "color 3"]:
    """Twice the median of the border, and of each group of alike colours that a tenth of it has."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    rough = np.rint(border * (8 / 255)).astype(int) @ [81, 9, 1]
    common = np.flatnonzero(np.bincount(rough) >= len(border) / 10)
    groups = [np.sort(group, axis=0) for group in (border, *(border[rough == c] for c in common))]
    return np.stack([group[(len(group) - 1) // 2].astype(float) + group[len(group) // 2] for group in groups])


def _far_from(planes: Planes, twice: Float[np.ndarray, "color 3"]) -> Bool[np.ndarray, "height width"]:
    # 4 times the squared distance, |2 p - c|^2 - |2 p|^2: whole numbers below 2^24, which float32 holds exactly
    flat = planes.reshape(3, -1).astype(np.float32)
    near = (-4 * twice).astype(np.float32) @ flat
    near += (twice**2).sum(1).astype(np.float32)[:, None]
    red, green, blue = np.multiply(flat, flat, out=flat)
    far = near.min(0) + 4 * (red + green + blue) > 4 * FAR**2
    return np.asarray(far.reshape(planes.shape[1:]))


def places(unlike: Bool[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width"]:
    """0 where there is no object (connected pixels), else 1 and the place in `PLACES` of the ninth of the image that
    its middle lies in."""
    labels, _ = ndimage.label(unlike)
    which, (height, width) = labels.ravel(), unlike.shape
    starts = np.ones(which.size, bool)
    np.not_equal(which[1:], which[:-1], out=starts[1:])
    starts[::width] = True
    first = np.flatnonzero(starts)  # of runs of one label in a row: far fewer than pixels
    n, of, (y, x) = np.diff(first, append=which.size), which[first], np.divmod(first, width)
    sizes = np.bincount(of, n).clip(1)
    cells = []
    for sums, size in ((n * y, height), (n * (2 * x + n - 1) / 2, width)):
        middles = np.bincount(of, sums) / sizes
        cells.append((3 * (middles + 0.5) / size).astype(int))  # + 0.5: pixels' numbers are those of their corners
    place = (1 + 3 * cells[0] + cells[1]).astype(np.uint8)
    place[0] = 0
    return np.repeat(place[of], n).reshape(unlike.shape)


def positions(boxes: Shaped[np.ndarray, "box 4"]) -> Float[np.ndarray, "position box"]:
    """Where patches are among all of their picture's, as 0 or 1: halves would hold too much, so thirds; `center`,
    `edge` and `corners` too. Patches of several tiles are in one picture."""
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    first, last = (pick.reduce(middles, 0, initial=np.nan) for pick in (np.fmin, np.fmax))  # NaN is nowhere
    x, y = ((middles - first) / np.where(last > first, last - first, 1)).round(9).T
    low, high = round(1 / 3, 9), round(2 / 3, 9)
    return np.stack([
        y < low, y > high, x < low, x > high,
        (y >= low) & (y <= high) & (x >= low) & (x <= high),
        (y <= 0) | (y >= 1) | (x <= 0) | (x >= 1),
        ((y < low) | (y > high)) & ((x < low) | (x > high)),
    ]).astype(float)  # fmt: skip


PIXEL_CONCEPTS = (
    *(Concept("color", c) for c in COLORS),
    *(Concept("brightness", b) for b in ("bright", "dark")),
    *(Concept("texture", t) for t in ("textured", "smooth")),
    *(Concept("edge", e) for e in ("", *EDGES)),
    *(Concept("object", ""), *(Concept("place", p) for p in PLACES)),
    *(Concept("position", p) for p in POSITIONS),
)


def pixel_shares(
    pixels: UInt8[np.ndarray, "height width 3"], boxes: Shaped[np.ndarray, "box 4"]
) -> Float[np.ndarray, "box concept"]:
    """Share of every box that has each of `PIXEL_CONCEPTS`.

    Args:
        pixels: what the model saw.
        boxes: left, top, right, bottom of every patch in it.
    """
    laid, position = _laid(np.asarray(boxes, float).tobytes(), *pixels.shape[:2])
    looks, names, unlike = _labels(pixels)
    place = laid.counts(places(unlike), 10)[1:]
    of_looks = _sums_of_looks() @ laid.counts(looks, 36)
    return np.concatenate([laid.counts(names, len(COLORS)), of_looks, place.sum(0)[None], place, position]).T


@cache
def _sums_of_looks() -> Float[np.ndarray, "concept 36"]:
    """Three labels that a pixel has at once are counted together, 3 x 3 x 4 of them: which of those counts are bright,
    dark, textured, smooth, an edge, and an edge of each direction."""
    bright, rough, edge = np.indices((3, 3, 4)).reshape(3, 36)
    return np.stack([bright == 1, bright == 2, rough == 1, rough == 2, edge > 0, edge == 1, edge == 2, edge == 3]) * 1.0


@lru_cache(maxsize=8)  # most pictures of a data set have the same patches
def _laid(boxes: bytes, height: int, width: int) -> tuple[Boxes, Float[np.ndarray, "position box"]]:
    """Boxes over a picture, and their positions."""
    given = np.frombuffer(boxes).reshape(-1, 4)
    return Boxes.over(given, height, width), positions(given)


def _labels(
    pixels: UInt8[np.ndarray, "height width 3"],
) -> tuple[UInt8[np.ndarray, "height width"], UInt8[np.ndarray, "height width"], Bool[np.ndarray, "height width"]]:
    """Of every pixel brightness, roughness and edge in one number, the place of its colour in `COLORS`, and whether it
    is unlike the border. Some rows at a time, with a row above and below."""
    height, width = pixels.shape[:2]
    known = _colors_of_border(pixels)
    looks, names, unlike = (np.empty((height, width), kind) for kind in (np.uint8, np.uint8, bool))
    rows = max(1, AT_ONCE // width)
    for first in range(0, height, rows):
        own, above = slice(first, first + rows), min(first, 1)
        around = planes_of(pixels[first - above : first + rows + 1])
        planes, down, right = (part[:, above:][:, :rows] for part in (around, *slopes(around)))
        value = planes[0] + planes[1] + planes[2]  # three times the brightness
        steps = np.maximum(*(np.abs(slope[0] + slope[1] + slope[2]) for slope in (down, right)))  # six times its change
        bright = (value > 535) + 2 * (value < 230).astype(np.uint8)  # 0.7 and 0.3 of the range
        rough = (steps > 76) + 2 * (steps < 16).astype(np.uint8)  # 0.05 and 0.01 of it
        looks[own] = 12 * bright + 4 * rough + edges(down, right)
        names[own], unlike[own] = colors(planes), _far_from(planes, known)
    return looks, names, unlike


def shares_of_sheet(
    pixels: UInt8[np.ndarray, "height width 3"], boxes: Shaped[np.ndarray, "box 4"], in_tiles: Bool[np.ndarray, "box"]
) -> Float[np.ndarray, "box concept"]:
    """`pixel_shares` where a view of the whole picture and its tiles lie on one sheet: each is a picture of its own,
    with its own border, middle and edges. Nothing where there is no box."""
    found = np.zeros((len(boxes), len(PIXEL_CONCEPTS)))
    for _, part, (left, top, right, bottom) in parts_of_sheet(boxes, in_tiles, pixels.shape[1::-1]):
        found[part] = pixel_shares(pixels[top:bottom, left:right], boxes[part] - [left, top, left, top])
    return found


@lru_cache(maxsize=2048)  # many neurons share their samples
def pixel_bank(seen: Seen) -> tuple[Maps, ...]:
    """Concepts of each image from its pixels: colour names, `bright` and `dark`, `textured` and `smooth` regions,
    edges, regions unlike the image's border (`object`, and by `place`), and positions."""
    found = []
    for i, (image, boxes) in enumerate(zip(seen.images, seen.boxes, strict=True)):
        shares = shares_of_sheet(np.asarray(image), boxes.reshape(-1, 4), seen.in_tiles(i).ravel())
        found.append(dict(zip(PIXEL_CONCEPTS, shares.T.reshape(-1, *boxes.shape[:2]), strict=True)))
    return tuple(found)


def visual_bank(seen: Seen, truth: bool = True) -> tuple[Maps, ...]:
    """Concepts of each image of a sample, with the truth where the data set knows it (`seen.truth`).

    Args:
        seen: the sample.
        truth: use the truth where there is one for just these patches.
    """
    if not truth or seen.truth is None:
        return pixel_bank(seen)
    if seen not in _WITH_TRUTH:
        _WITH_TRUTH[seen] = _with_truth(seen, seen.truth)
    return _WITH_TRUTH[seen]


_WITH_TRUTH: WeakKeyDictionary[Seen, tuple[Maps, ...]] = WeakKeyDictionary()


def _with_truth(seen: Seen, truth: Truth) -> tuple[Maps, ...]:
    maps = pixel_bank(seen)
    if len(maps) != 1 or seen.in_tiles(0).any():
        return maps
    grid = seen.boxes[0].shape[:2]
    known = {Concept(*key): shares for key, shares in truth.items() if shares.shape == grid}
    return ({**maps[0], **known},)
