"""What the positions of a batch are: kinds of tokens, and where visual tokens look."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import overload

import numpy as np
from jaxtyping import Float, Int

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels


class TokenKind(IntEnum):
    """What a position of a batch is. `batch.kinds` holds these numbers, `batch.mask(kind)` selects them.

    >>> [kind.name for kind in vn.TokenKind]
    ['PAD', 'TEMPLATE', 'VISUAL', 'TEXT']
    >>> vn.TokenKind(int(batch.kinds[0, -2])).name, batch.tokens(0)[-2]
    ('TEXT', '.')
    """

    PAD = 0
    TEMPLATE = 1
    """Special tokens, roles and the prompt."""
    VISUAL = 2
    """An image patch."""
    TEXT = 3
    """The response; while generating, every new token."""


class Modality(StrEnum):
    """The class of a neuron (Xu, Lan, Lu 2025, section 3.2). Each is equal to its name as a string.

    >>> [str(one) for one in Modality], Modality.VISUAL == "visual"
    (['visual', 'text', 'multimodal', 'unknown'], True)
    >>> str(Modality("multi-modal"))
    'multimodal'
    """

    VISUAL = "visual"
    TEXT = "text"
    MULTIMODAL = "multimodal"
    UNKNOWN = "unknown"

    @classmethod
    def _missing_(cls, value: object) -> Modality | None:
        """As people write them: "multi-modal", "Visual"."""
        plain = "".join(c for c in str(value).lower() if c.isalpha())
        return next((one for one in cls if one.value == plain), None)


MODALITIES = tuple(one.value for one in Modality)  # as plain strings, in the order in which ties are decided
NOT_APPLICABLE = "not_applicable"  # the label of neurons that never see text


@dataclass(frozen=True)
class Patch:
    """Where one visual token looks.

    Attributes:
        image: number of the image in the batch.
        row: row in the image's grid of patches (`Batch.grids`), 0 at the top.
        column: column in that grid, 0 at the left.
        box: pixels in the image as the model saw it (`Batch.seen_image`).
        original_box: pixels in the image as it was given, clipped to it.
        tile: number of the tile that shows it, row by row; -1 where the patch is one of the whole image.

    >>> batch.grids[0], batch.patches[9]  # the second patch of the second row
    ((8, 8), Patch(image=0, row=1, column=1, box=(8.0, 8.0, 16.0, 16.0), original_box=(8.0, 8.0, 16.0, 16.0), tile=-1))
    """

    image: int
    row: int
    column: int
    box: Box
    original_box: Box
    tile: int = -1


@dataclass(frozen=True, eq=False, repr=False)
class Patches(Sequence[Patch]):
    """Patches as arrays, and a `Patch` for each that is looked at: a batch has thousands, and to make and to collect
    objects for all would cost more than all else that is made of its pictures.

    Attributes:
        image: of every patch.
        cells: row, column and tile.
        boxes: `Patch.box`.
        original: `Patch.original_box`.

    >>> len(batch.patches), batch.patches[9].row, [patch.column for patch in batch.patches[:3]]
    (64, 1, [0, 1, 2])
    """

    image: Int[np.ndarray, "patch"]
    cells: Int[np.ndarray, "patch 3"]
    boxes: Float[np.ndarray, "patch 4"]
    original: Float[np.ndarray, "patch 4"]

    @classmethod
    def of(cls, patches: Iterable[Patch]) -> Patches:
        """Arrays of any patches."""
        if isinstance(patches, Patches):
            return patches
        rows = [(p.image, (p.row, p.column, p.tile), p.box, p.original_box) for p in patches]
        image, cells, boxes, original = zip(*rows, strict=True) if rows else ((), (), (), ())
        return cls(
            np.array(image, int), np.array(cells, int).reshape(-1, 3),
            np.array(boxes, float).reshape(-1, 4), np.array(original, float).reshape(-1, 4),
        )  # fmt: skip

    @classmethod
    def joined(cls, parts: Iterable[Iterable[Patch]]) -> Patches:
        """One after the other."""
        own = [cls.of(part) for part in parts] or [cls.of(())]
        names = ("image", "cells", "boxes", "original")
        return cls(*(np.concatenate([getattr(one, name) for one in own]) for name in names))

    def __len__(self) -> int:
        return len(self.image)

    @overload
    def __getitem__(self, at: int) -> Patch: ...
    @overload
    def __getitem__(self, at: slice) -> Patches: ...
    def __getitem__(self, at: int | slice) -> Patch | Patches:
        if isinstance(at, slice):
            return Patches(self.image[at], self.cells[at], self.boxes[at], self.original[at])
        row, column, tile = self.cells[at].tolist()
        box, original = tuple(self.boxes[at].tolist()), tuple(self.original[at].tolist())
        return Patch(int(self.image[at]), row, column, box, original, tile)

    def __iter__(self) -> Iterator[Patch]:
        columns = (one.tolist() for one in (self.image, self.cells, self.boxes, self.original))
        for image, (row, column, tile), box, original in zip(*columns, strict=True):
            yield Patch(image, row, column, tuple(box), tuple(original), tile)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))
