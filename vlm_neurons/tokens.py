"""What the positions of a batch are: kinds of tokens, and where visual tokens look."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum

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
