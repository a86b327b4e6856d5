"""Photographs: the region that an explanation names, as boxes given by the user, is edited."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from vlm_neurons.data import DEFAULT_PROMPT, ImageTextData
from vlm_neurons.interventions.edits.pixels import Box, alone, blurred, filled, mask_of, pasted, recoloured
from vlm_neurons.interventions.edits.trials import MISSING, Inputs, Pair, Row, Trial, Wanted
from vlm_neurons.synthetic.scene import COLORS

EDITS = ("remove", "blur", "recolour", "paste", "keep")
JPEG = 90  # quality of what is only encoded anew
TRIES = 200  # of finding an equally large region elsewhere
SIZES = (0.7, 1.0, 1.4)  # of what is pasted, times its own
Boxes = Mapping[int, Sequence[Box]]  # sample -> regions


@dataclass(frozen=True)
class Photograph:
    """A picture of the data, to be edited.

    Attributes:
        data: the samples.
        sample: which one; its first image is edited, others stay.
        inputs: where pictures get their numbers.
    """

    data: ImageTextData
    sample: int
    inputs: Inputs

    def pixels(self) -> np.ndarray:
        """Of the image, as given."""
        return np.asarray(self.data[self.sample].load_images()[0])

    def number(self, key: tuple[object, ...], edit: Callable[[np.ndarray], np.ndarray], again: bool = False) -> int:
        """The number of an edited picture."""

        def make() -> Row:
            sample = self.data[self.sample]
            first, *rest = sample.load_images()
            new = Image.fromarray(edit(np.asarray(first)))
            if again:
                buffer = io.BytesIO()
                new.save(buffer, "JPEG", quality=JPEG)
                new = Image.open(buffer).convert("RGB")
            return Row([new, *rest], sample.question(DEFAULT_PROMPT), None)

        return self.inputs.number((self.sample, *key, again), make)

    def plain(self, again: bool = False) -> int:
        """The picture as it is."""
        return self.number((), lambda pixels: pixels, again)


def natural(data: ImageTextData, samples: Sequence[int], inputs: Inputs) -> list[int]:
    """Numbers of the pictures as they are."""
    return [Photograph(data, i, inputs).plain() for i in samples]


def trials(
    data: ImageTextData, named: Sequence[int], silent: Sequence[int], wanted: Wanted, boxes: Boxes, inputs: Inputs,
    seed: int,
) -> list[Trial]:  # fmt: skip
    """One trial a sample with boxes (`named`); what is pasted, into each without (`silent`)."""
    if wanted.edit == "paste":
        return _pasted(data, named, silent, boxes, inputs, seed)
    color = dict(wanted.named[0]).get("color")
    found = [_edited(Photograph(data, i, inputs), boxes[i], wanted.edit, color, (seed, i)) for i in named]
    return [one for one in found if one is not None]


def _edited(one: Photograph, boxes: Sequence[Box], edit: str, color: str | None, seed: tuple[int, ...]) -> Trial:
    """The named region removed, recoloured or kept alone, and another of its size."""
    here, (height, width) = tuple(boxes), one.pixels().shape[:2]
    there = elsewhere(here, height, width, np.random.default_rng(seed))
    change: Callable[[np.ndarray, np.ndarray], np.ndarray]
    change = {"remove": filled, "blur": blurred, "keep": alone}.get(edit) or _painter(color, seed)

    def done(regions: tuple[Box, ...], again: bool = False) -> int:
        return one.number(
            (edit, color, regions), lambda pixels: change(pixels, mask_of(regions, *pixels.shape[:2])), again
        )

    base = (
        one.number(("grey",), lambda pixels: alone(pixels, np.zeros(pixels.shape[:2], bool)))
        if edit == "keep"
        else one.plain()
    )
    control: Pair = MISSING if there is None else (base, done(there))
    others = {} if there is None else {"another region": control}
    if edit == "keep":
        return Trial(one.sample, done(here), base, True, others, control, done(here, again=True))
    return Trial(one.sample, base, done(here), False, others, control, one.plain(again=True))


def _painter(color: str | None, seed: tuple[int, ...]) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Another colour than the one that is named."""
    names = [name for name in COLORS if name != color]
    new = COLORS[names[int(np.random.default_rng([*seed, 1]).integers(len(names)))]]
    return lambda pixels, mask: recoloured(pixels, mask, new)


def elsewhere(boxes: Sequence[Box], height: int, width: int, rng: np.random.Generator) -> tuple[Box, ...] | None:
    """The boxes moved to where none is; None where there is no room.

    >>> elsewhere([(0, 0, 4, 4)], 4, 8, np.random.default_rng(0))
    ((4.0, 0.0, 8.0, 4.0),)
    """
    found: list[Box] = []
    for left, top, right, bottom in boxes:
        w, h = right - left, bottom - top
        for _ in range(TRIES if (w < width and h <= height) or (w <= width and h < height) else 0):
            x, y = float(rng.integers(int(width - w) + 1)), float(rng.integers(int(height - h) + 1))
            if not any(x < r and x + w > a and y < b and y + h > t for a, t, r, b in (*boxes, *found)):
                found.append((x, y, x + w, y + h))
                break
        else:
            return None
    return tuple(found)


def _pasted(
    data: ImageTextData, named: Sequence[int], silent: Sequence[int], boxes: Boxes, inputs: Inputs, seed: int
) -> list[Trial]:
    """Into each sample without boxes a piece of one that has some, at one of three places and sizes."""
    found = []
    for turn, i in enumerate(silent if named else ()):
        rng = np.random.default_rng([seed, i])
        source, target = Photograph(data, named[turn % len(named)], inputs), Photograph(data, i, inputs)
        box = tuple(boxes[source.sample])[:1]
        height, width = source.pixels().shape[:2]
        other = elsewhere(box, height, width, rng)
        place, size = int(rng.integers(3)), SIZES[int(rng.integers(3))]

        def number(
            region: tuple[Box, ...], source: Photograph = source, target: Photograph = target, place: int = place,
            size: float = size, again: bool = False,
        ) -> int:  # fmt: skip
            return target.number(
                ("paste", source.sample, region, place, size),
                lambda pixels: _laid(pixels, source.pixels(), region[0], place, size),
                again,
            )

        plain = target.plain()
        control = MISSING if other is None else (plain, number(other))
        others = {} if other is None else {"another region": control}
        found.append(Trial(i, number(box), plain, True, others, control, number(box, again=True)))
    return found


def _laid(pixels: np.ndarray, source: np.ndarray, box: Box, place: int, size: float) -> np.ndarray:
    """A piece of one picture in another: as large a share of the height as at home, times `size`, at a third of it."""
    left, top, right, bottom = (round(v) for v in box)
    piece = Image.fromarray(source[top:bottom, left:right])
    height, width = pixels.shape[:2]
    scale = min(size * height / source.shape[0], 0.9 * height / piece.height, 0.9 * width / piece.width)
    small = piece.resize(
        (max(1, round(piece.width * scale)), max(1, round(piece.height * scale))), Image.Resampling.BICUBIC
    )
    x, y = (round((place + 1) / 4 * side - part / 2) for side, part in ((width, small.width), (height, small.height)))
    x, y = min(max(0, x), width - small.width), min(max(0, y), height - small.height)
    return pasted(pixels, np.asarray(small), x, y)
