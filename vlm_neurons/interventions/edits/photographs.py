"""Photographs: the region that an explanation names is edited, as it was given or found."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from vlm_neurons.data import DEFAULT_PROMPT, ImageTextData
from vlm_neurons.interventions.edits.pixels import alone, blurred, filled, inpainted, pasted, recoloured
from vlm_neurons.interventions.edits.regions import Part, Regions, elsewhere, mask_of, pieces
from vlm_neurons.interventions.edits.trials import MISSING, Inputs, Pair, Row, Trial, Wanted
from vlm_neurons.synthetic.scene import COLORS

EDITS = ("remove", "blur", "recolour", "paste", "keep")
SLOW = "inpaint"  # made where it is asked for alone
REGIONAL = (*EDITS, SLOW)
JPEG = 90  # quality of what is only encoded anew
SIZES = (0.7, 1.0, 1.4)  # of what is pasted, times its own
PLACES = 3  # thirds of the picture, left to right and top to bottom


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
        """The number of an edited picture; what is slow to make is kept, by the picture and its edit."""

        def make() -> Row:
            sample = self.data[self.sample]
            first, *rest = sample.load_images()

            def draw() -> Image.Image:
                return Image.fromarray(edit(np.asarray(first)))

            told = (self.data.facts[self.sample].digests[0], *key)
            new = self.inputs.kept(told, draw) if SLOW in key else draw()
            return Row([encoded(new) if again else new, *rest], sample.question(DEFAULT_PROMPT), None)

        return self.inputs.number((self.sample, *key, again), make)

    def plain(self, again: bool = False) -> int:
        """The picture as it is."""
        return self.number((), lambda pixels: pixels, again)


def encoded(image: Image.Image) -> Image.Image:
    """The same, encoded anew."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG)
    return Image.open(buffer).convert("RGB")


def natural(data: ImageTextData, samples: Sequence[int], inputs: Inputs) -> list[int]:
    """Numbers of the pictures as they are."""
    return [Photograph(data, i, inputs).plain() for i in samples]


def trials(
    data: ImageTextData, named: Sequence[int], silent: Sequence[int], wanted: Wanted, regions: Regions, inputs: Inputs,
    seed: int,
) -> list[Trial]:  # fmt: skip
    """One trial a sample with a region (`named`); what is pasted, into each without (`silent`)."""
    if wanted.edit == "paste":
        return _pasted(data, named, silent, regions, inputs, seed)
    colors = tuple(value for kind, value in wanted.named[0] if kind == "color")
    if wanted.edit == "recolour" and not {*COLORS} - {*colors}:
        return []
    found = [_edited(Photograph(data, i, inputs), regions[i], wanted.edit, colors, (seed, i)) for i in named]
    return found


def _edited(one: Photograph, parts: Sequence[Part], edit: str, colors: tuple[str, ...], seed: tuple[int, ...]) -> Trial:
    """The named region removed, recoloured or kept alone, and another of its size."""
    here, (height, width) = tuple(parts), one.pixels().shape[:2]
    there = elsewhere(here, height, width, np.random.default_rng(seed))
    change: Callable[[np.ndarray, np.ndarray], np.ndarray]
    change = {"remove": filled, "inpaint": inpainted, "blur": blurred, "keep": alone}.get(edit) or _painter(
        colors, seed
    )

    def done(there: tuple[Part, ...], again: bool = False) -> int:
        return one.number(
            (edit, colors if edit == "recolour" else (), there),
            lambda pixels: change(pixels, mask_of(there, *pixels.shape[:2])),
            again,
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


def _painter(colors: tuple[str, ...], seed: tuple[int, ...]) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Another colour than those that are named."""
    names = [name for name in COLORS if name not in colors]
    new = COLORS[names[int(np.random.default_rng([*seed, 1]).integers(len(names)))]]
    return lambda pixels, mask: recoloured(pixels, mask, new)


def _pasted(
    data: ImageTextData, named: Sequence[int], silent: Sequence[int], regions: Regions, inputs: Inputs, seed: int
) -> list[Trial]:
    """Into each sample without a region the largest part of one that has some; three places and three sizes take
    turns, in an order that is drawn."""
    found = []
    order = np.random.default_rng([seed, 3]).permutation(PLACES * len(SIZES)).tolist()
    for turn, i in enumerate(silent if named else ()):
        source, target = Photograph(data, named[turn % len(named)], inputs), Photograph(data, i, inputs)
        named_there = regions[source.sample]
        part = max(pieces(named_there), key=lambda one: int(one.shape.sum()))
        height, width = source.pixels().shape[:2]
        other = elsewhere([part], height, width, np.random.default_rng([seed, i]), clear=named_there)
        size, place = divmod(order[turn % len(order)], PLACES)

        def number(
            piece: Part, source: Photograph = source, target: Photograph = target, place: int = place,
            size: float = SIZES[size], again: bool = False,
        ) -> int:  # fmt: skip
            return target.number(
                ("paste", source.sample, piece, place, size),
                lambda pixels: _laid(pixels, source.pixels(), piece, place, size),
                again,
            )

        plain = target.plain()
        control = MISSING if other is None else (plain, number(other[0]))
        others = {} if other is None else {"another region": control}
        found.append(Trial(i, number(part), plain, True, others, control, number(part, again=True)))
    return found


def _laid(pixels: np.ndarray, source: np.ndarray, part: Part, place: int, size: float) -> np.ndarray:
    """A part of one picture in another: as large a share of the height as at home, times `size`, at a third of it."""
    piece = Image.fromarray(source[part.top : part.bottom, part.left : part.right])
    height, width = pixels.shape[:2]
    scale = min(size * height / source.shape[0], 0.9 * height / piece.height, 0.9 * width / piece.width)
    new = max(1, round(piece.width * scale)), max(1, round(piece.height * scale))
    small = piece.resize(new, Image.Resampling.BICUBIC)
    shape = np.asarray(Image.fromarray(part.shape).resize(new, Image.Resampling.NEAREST))
    x, y = (round((place + 1) / 4 * side - own / 2) for side, own in zip((width, height), new, strict=True))
    x, y = min(max(0, x), width - new[0]), min(max(0, y), height - new[1])
    return pasted(pixels, np.asarray(small), shape, x, y)
