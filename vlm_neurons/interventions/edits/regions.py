"""Regions of pictures: parts that are boxes, or of any shape."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from vlm_neurons._checks import short
from vlm_neurons.data import ImageTextData
from vlm_neurons.units import Neuron

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels
LEAST_SHARE = 0.001  # of a picture: parts that are smaller are specks
TRIES = 200  # of finding an equally large region elsewhere


class Part(NamedTuple):
    """Pixels of a picture: of a box, or of a mask, connected or not.

    Attributes:
        left: first column of its box.
        top: first row.
        right: the column after its last one.
        bottom: the row after its last one.
        bits: which pixels of the box are its, row by row, packed; empty: all.
    """

    left: int
    top: int
    right: int
    bottom: int
    bits: bytes = b""

    @property
    def shape(self) -> Bool[np.ndarray, "h w"]:
        """Which pixels of its box are its."""
        size = self.bottom - self.top, self.right - self.left
        if not self.bits:
            return np.ones(size, bool)
        return np.unpackbits(np.frombuffer(self.bits, np.uint8), count=size[0] * size[1]).reshape(size).astype(bool)

    def at(self, left: int, top: int) -> Part:
        """The same, moved."""
        return Part(left, top, left + self.right - self.left, top + self.bottom - self.top, self.bits)


# sample -> what is named in its first image; empty where it was looked for and is not: samples that were not looked at
# are not there
Regions = Mapping[int, Sequence[Part]]


def mask_of(parts: Sequence[Part], height: int, width: int) -> Bool[np.ndarray, "y x"]:
    """Pixels of parts, which are inside the picture.

    >>> mask_of([Part(1, 0, 3, 1)], 2, 4).astype(int).tolist()
    [[0, 1, 1, 0], [0, 0, 0, 0]]
    """
    mask = np.zeros((height, width), bool)
    for part in parts:
        mask[part.top : part.bottom, part.left : part.right] |= part.shape
    return mask


def whole(mask: Bool[np.ndarray, "y x"]) -> list[Part]:
    """All pixels of a mask as one part; nothing of an empty one.

    >>> whole(np.array([[0, 1, 0, 0], [0, 1, 0, 1]], bool))
    [Part(left=1, top=0, right=4, bottom=2, bits=b'\x94')]
    """
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return []
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    return [_cut(mask[top:bottom, left:right], left, top)]


def _cut(own: Bool[np.ndarray, "h w"], left: int, top: int) -> Part:
    height, width = own.shape
    return Part(left, top, left + width, top + height, b"" if own.all() else np.packbits(own).tobytes())


def without_specks(mask: Bool[np.ndarray, "y x"]) -> Bool[np.ndarray, "y x"]:
    """A mask without connected parts that are too small to have been meant, where it was found cell by cell."""
    labels, n = ndimage.label(mask, np.ones((3, 3)))
    large = np.bincount(labels.ravel(), minlength=n + 1) >= LEAST_SHARE * mask.size
    large[0] = False
    return np.asarray(large[labels])


def parts_of(mask: Bool[np.ndarray, "y x"]) -> list[Part]:
    """The connected parts of a mask (corners connect), the largest first.

    >>> parts_of(np.array([[1, 1, 0, 0], [1, 1, 0, 1]], bool))
    [Part(left=0, top=0, right=2, bottom=2, bits=b''), Part(left=3, top=1, right=4, bottom=2, bits=b'')]
    """
    labels, n = ndimage.label(mask, np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=n + 1)[1:]
    boxes = ndimage.find_objects(labels)
    found = []
    for i in np.argsort(-sizes, kind="stable").tolist():
        rows, columns = boxes[i]
        found.append(_cut(labels[rows, columns] == i + 1, columns.start, rows.start))
    return found


def pieces(parts: Iterable[Part]) -> list[Part]:
    """What can be moved alone: boxes as they are, of masks their connected parts."""
    return [
        one.at(part.left + one.left, part.top + one.top) if part.bits else one
        for part in parts
        for one in (parts_of(part.shape) if part.bits else (part,))
    ]


def elsewhere(
    parts: Sequence[Part], height: int, width: int, rng: np.random.Generator, clear: Sequence[Part] = ()
) -> tuple[Part, ...] | None:
    """The parts moved, each piece for itself, to where none is, and none of `clear`; None where there is no room.

    >>> elsewhere([Part(0, 0, 4, 4)], 4, 8, np.random.default_rng(0))
    (Part(left=4, top=0, right=8, bottom=4, bits=b''),)
    """
    taken, found = mask_of([*parts, *clear], height, width), []
    for part in pieces(parts):
        w, h, shape = part.right - part.left, part.bottom - part.top, part.shape
        for _ in range(TRIES if (w, h) != (width, height) else 0):
            x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            if not (taken[y : y + h, x : x + w] & shape).any():
                found.append(part.at(x, y))
                taken[y : y + h, x : x + w] |= shape
                break
        else:
            return None
    return tuple(found)


def looked_at(regions: Regions, order: Iterable[int], n: int) -> Regions:
    """Boxes that somebody gave, who looked at all samples: the first n without any are known to have none."""
    return {**regions, **dict.fromkeys(islice((i for i in order if not regions.get(i)), n), ())}


def checked_boxes(data: ImageTextData, boxes: Any, neurons: Mapping[str, Neuron]) -> dict[str, Regions]:
    """Boxes by neuron id, in whole pixels of the picture.

    Raises:
        ValueError: they are no boxes, without a pixel of the picture, of a neuron without explanation, or of a sample
            without an image.
    """
    if not isinstance(boxes, Mapping):
        raise ValueError(f"boxes={short(boxes)}: give {{neuron: {{sample id: [(left, top, right, bottom)]}}}}")
    found: dict[str, Regions] = {}
    for key, samples in boxes.items():
        neuron = Neuron.parse(key).id
        if neuron not in neurons:
            raise ValueError(f"boxes of {key}, which has no explanation: give both for the same neurons")
        if not isinstance(samples, Mapping):
            raise ValueError(f"boxes[{key!r}]={short(samples)}: give {{sample id: [(left, top, right, bottom)]}}")
        own: dict[int, list[Part]] = {}
        for sample, each in samples.items():
            if sample not in range(len(data)) or not data.facts[sample].digests:
                raise ValueError(
                    f"boxes[{key!r}]: sample {sample!r} is none of the data's {len(data)}, or has no image"
                )
            told = f"boxes[{key!r}][{sample}]"
            if isinstance(each, str) or not isinstance(each, Sequence | np.ndarray):
                raise ValueError(f"{told}={short(each)}: give a list of (left, top, right, bottom), empty for none")
            width, height = data[sample].load_images()[0].size if len(each) else (0, 0)
            own[int(sample)] = inside(each, width, height, told)
        found[neuron] = own
    return found


def inside(boxes: Any, width: int, height: int, told: str) -> list[Part]:
    """Boxes in whole pixels, without what is outside the picture.

    Args:
        boxes: (left, top, right, bottom) each.
        width: of the picture.
        height: of the picture.
        told: where they come from, for errors.

    Raises:
        ValueError: they are no boxes, or one has no pixel of the picture.
    """
    if not all(_is_box(box) for box in boxes):
        raise ValueError(f"{told}: each is (left, top, right, bottom), left < right, top < bottom")
    found = []
    for box in boxes:
        left, top, right, bottom = (
            min(max(round(float(v)), 0), side) for v, side in zip(box, (width, height) * 2, strict=True)
        )
        if left >= right or top >= bottom:
            words = ", ".join(f"{float(v):g}" for v in box)
            raise ValueError(
                f"{told}: ({words}) has no pixel of the picture, {width} x {height} (width x height): "
                "give (left, top, right, bottom) in its pixels"
            )
        found.append(Part(left, top, right, bottom))
    return found


def _is_box(box: Any) -> bool:
    try:
        left, top, right, bottom = map(float, box)
    except (TypeError, ValueError):
        return False
    return all(map(math.isfinite, (left, top, right, bottom))) and left < right and top < bottom
