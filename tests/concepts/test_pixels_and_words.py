"""Shares of patches and marks of words are what plain loops over pixels and words say."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import seeds
from scipy import ndimage
from viewing import share_by_loops

from vlm_neurons.concepts import Concept, lexical_bank, visual
from vlm_neurons.concepts.lexical import CLASSES, pieces_of
from vlm_neurons.concepts.shares import Boxes, means
from vlm_neurons.concepts.visual import PIXEL_CONCEPTS, PLACES, pixel_shares


def photograph(name: str, height: int, width: int) -> np.ndarray:
    """A piece of a photograph of scikit-image, shrunk."""
    from PIL import Image
    from skimage import data

    return np.asarray(Image.fromarray(getattr(data, name)()).convert("RGB").resize((width, height)))


def test_shares_of_boxes_of_any_place_and_size_equal_loops_over_their_pixels() -> None:
    rng = seeds.rng()
    height, width = 11, 17
    values = rng.random((3, height, width))
    labels = rng.integers(0, 4, (height, width))
    corners = rng.uniform(-3, 20, (20, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1)], 1)  # fractions of pixels, overlapping, beyond the edges
    boxes[:6] = boxes[:6].round()
    boxes[6], boxes[7] = np.nan, (4, 4, 4, 9)
    laid = Boxes.over(boxes, height, width)
    for found, pictures in (
        (laid.means(values), values),
        (laid.counts(labels, 4), labels == np.arange(4)[:, None, None]),
    ):
        wanted = [[share_by_loops(p, np.nan_to_num(b)) for b in boxes] for p in pictures]
        np.testing.assert_allclose(found, wanted, atol=1e-12)
    np.testing.assert_allclose(means(values[0], boxes.reshape(4, 5, 4)).ravel(), laid.means(values)[0], atol=1e-12)


def color_by_hand(red: int, green: int, blue: int) -> str:
    """The rules of colour names in exact fractions."""
    top, low = max(red, green, blue), min(red, green, blue)
    span = top - low
    value, chroma = Fraction(top, 255), Fraction(span, 255)
    if value < Fraction("0.2") or (chroma < Fraction("0.12") and value < Fraction("0.3")):
        return "black"
    if chroma < Fraction("0.15"):
        return "white" if value > Fraction("0.8") else "gray"
    if top == red:
        hue = Fraction(60 * (green - blue), span) % 360
    else:
        hue = Fraction(60 * (blue - red), span) + 120 if top == green else Fraction(60 * (red - green), span) + 240
    if 10 <= hue < 45 and value < Fraction("0.62"):
        return "brown"
    ends = (15, "red"), (42, "orange"), (68, "yellow"), (160, "green"), (200, "cyan"), (252, "blue"), (295, "purple"), (
        345, "pink"), (361, "red")  # fmt: skip
    name = next(name for end, name in ends if hue < end)
    return "pink" if name == "red" and Fraction(span, top) < Fraction("0.6") and value > Fraction("0.6") else name


def slope(values: np.ndarray, y: int, x: int, axis: int) -> float:
    """numpy.gradient of one number."""
    at, n = (y, x)[axis], values.shape[axis]
    one, other = max(at - 1, 0), min(at + 1, n - 1)
    first, last = ((one, x), (other, x)) if axis == 0 else ((y, one), (y, other))
    return float(int(values[last]) - int(values[first])) / (other - one)


def masks_by_hand(pixels: np.ndarray) -> dict[Concept, np.ndarray]:
    """Every concept but positions, pixel by pixel."""
    height, width, _ = pixels.shape
    masks = {c: np.zeros((height, width), bool) for c in PIXEL_CONCEPTS if c.kind != "position"}
    value = pixels.astype(int).sum(-1)
    border = [*pixels[0], *pixels[-1], *pixels[:, 0], *pixels[:, -1]]
    groups: dict[tuple[int, ...], list[np.ndarray]] = {}
    for p in border:
        groups.setdefault(tuple(round(float(v) * 8 / 255) for v in p), []).append(p)
    common = [border, *(g for g in groups.values() if len(g) >= len(border) / 10)]
    known = [[statistics.median([float(p[c]) for p in g]) for c in range(3)] for g in common]
    for y in range(height):
        for x in range(width):
            here = [Concept("color", color_by_hand(*map(int, pixels[y, x])))]
            here += [Concept("brightness", "bright")] * int(value[y, x] > 0.7 * 765)
            here += [Concept("brightness", "dark")] * int(value[y, x] < 0.3 * 765)
            steps = max(abs(slope(value, y, x, axis)) / 765 for axis in (0, 1))
            here += [Concept("texture", "textured")] * (steps > 0.05) + [Concept("texture", "smooth")] * (steps <= 0.01)
            changes = [[slope(pixels[..., c], y, x, axis) for axis in (0, 1)] for c in range(3)]
            down, right = max(changes, key=lambda s: s[0] ** 2 + s[1] ** 2)
            if math.hypot(down, right) > 25.5 + 1e-9:
                angle = math.degrees(math.atan2(down, right)) % 180
                kind = "horizontal" if abs(angle - 90) < 22.5 else "diagonal"
                kind = "vertical" if angle < 22.5 or angle > 157.5 else kind
                here += [Concept("edge", ""), Concept("edge", kind)]
            here += [Concept("object", "")] * all(math.dist(pixels[y, x], k) > 38.25 for k in known)
            for c in here:
                masks[c][y, x] = True
    labels, n = ndimage.label(masks[Concept("object", "")])
    for i in range(1, n + 1):
        ys, xs = np.nonzero(labels == i)
        row, column = int(3 * (ys.mean() + 0.5) / height), int(3 * (xs.mean() + 0.5) / width)
        masks[Concept("place", PLACES[3 * row + column])] |= labels == i
    return masks


@pytest.mark.parametrize(
    ("name", "height", "width", "at_once"),
    [("astronaut", 42, 56, 24_576), ("coffee", 30, 30, 90), ("rocket", 29, 31, 1), ("chelsea", 1, 25, 24_576)],
)
def test_every_concept_of_pixels_is_what_loops_over_the_pixels_of_a_photograph_say(
    name: str, height: int, width: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visual, "AT_ONCE", at_once)  # whatever rows are looked at together
    pixels = photograph(name, height, width)
    rows, columns = max(1, height // 7), width // 5
    boxes = np.array([[c * 5, r * 7, c * 5 + 5, r * 7 + 7] for r in range(rows) for c in range(columns)], float)
    found = dict(zip(PIXEL_CONCEPTS, pixel_shares(pixels, boxes).T, strict=True))
    if height > 1:
        for concept, mask in masks_by_hand(pixels).items():
            wanted = [share_by_loops(mask, box) for box in boxes]
            np.testing.assert_allclose(found[concept], wanted, atol=1e-9, err_msg=concept.name)
    assert sum(v for c, v in found.items() if c.kind == "color") == pytest.approx(np.ones(len(boxes)))
    for i, box in enumerate(boxes):
        row, column = int(box[1]) // 7, int(box[0]) // 5
        left, right = column / max(columns - 1, 1) < 1 / 3, column / max(columns - 1, 1) > 2 / 3
        top, bottom = row / max(rows - 1, 1) < 1 / 3, row / max(rows - 1, 1) > 2 / 3
        wanted_ = {"top": top, "bottom": bottom, "left side": left, "right side": right,
                   "center": not (top or bottom or left or right), "corners": (top or bottom) and (left or right),
                   "edge": row in (0, rows - 1) or column in (0, columns - 1)}  # fmt: skip
        assert {n: bool(found[Concept("position", n)][i]) for n in wanted_} == wanted_


def test_colors_on_the_border_of_two_names_are_told_exactly() -> None:
    rng = seeds.rng()
    colors = rng.integers(0, 256, (400, 3))
    tops = rng.integers(40, 256, 200)
    ties = [(t, t - s + s // 4 if s % 4 == 0 else t, t - s) for t in tops for s in (4 * (t // 8),)]  # a hue of 15
    colors = np.concatenate([colors, np.array(ties), rng.integers(0, 256, (100, 1)).repeat(3, 1)]).astype(np.uint8)
    boxes = np.array([[i, 0, i + 1, 1] for i in range(len(colors))], float)
    shares = pixel_shares(colors[None], boxes)
    for color, row in zip(colors, shares, strict=True):
        (name,) = (c.value for c, v in zip(PIXEL_CONCEPTS, row, strict=True) if c.kind == "color" and v)
        assert name == color_by_hand(*map(int, color)), color


def texts(rng: np.random.Generator, n: int) -> list[list[str]]:
    """Sentences cut into tokens in odd places."""
    words = ["The", "the", "red", "Red", "dogs", ",", ".", "!", "3", "seven", "it's", "elephant", "is", "in", "x"]
    found = []
    for _ in range(n):
        said = " ".join(rng.choice(words, int(rng.integers(0, 25))))
        cuts = sorted({0, len(said), *rng.integers(0, len(said) + 1, len(said) // 3).tolist()})
        found.append([said[a:b] for a, b in pairwise(cuts)])
    return found


def marks(pieces: list[str]) -> Iterator[tuple[int, Concept]]:
    """Every concept of every piece, by the rules in words."""
    low = [p.lower() for p in pieces]
    for i, (piece, word) in enumerate(zip(pieces, low, strict=True)):
        if word[0].isalnum():
            yield i, Concept("word", word)
            before = [p for p in pieces[:i] if p[0].isalnum() or p in ".!?"]
            if not before or before[-1] in ".!?":
                yield i, Concept("position", "first word of a sentence")
        else:
            yield i, Concept("punctuation", piece)
            yield i, Concept("punctuation", "any")
        yield from ((i, Concept("class", name)) for name, words in CLASSES.items() if word in words)
        if word[0].isdigit():
            yield i, Concept("class", "numbers")
        if piece[0].isupper():
            yield i, Concept("capital", "")
        if not i:
            yield i, Concept("position", "first word of the text")
        if i:
            yield i, Concept("after", low[i - 1])
        if i + 1 < len(low):
            yield i, Concept("before", low[i + 1])


def test_every_concept_of_words_is_what_loops_over_words_say() -> None:
    said = texts(seeds.rng(), 40)
    read = [pieces_of(t) for t in said]
    wanted: dict[Concept, list[np.ndarray]] = {}
    for number, (pieces, home) in enumerate(read):
        for place, concept in marks(pieces):
            masks = wanted.setdefault(concept, [np.zeros(len(h), bool) for _, h in read])
            masks[number] |= np.array(home, int) == place
    in_two = {w for w in {p.lower() for pieces, _ in read for p in pieces}
              if sum(w in [p.lower() for p in pieces] for pieces, _ in read) >= 2}  # fmt: skip
    wanted = {c: m for c, m in wanted.items() if sum(map(np.any, m)) >= 2 and (
        c.kind not in ("word", "after", "before") or c.value in in_two)}  # fmt: skip
    found = lexical_bank(said)
    assert {c for c in found if any(map(np.any, found[c]))} == set(wanted)
    for concept, masks in wanted.items():
        for mask, other in zip(masks, found[concept], strict=True):
            np.testing.assert_array_equal(mask, other, concept.name)
