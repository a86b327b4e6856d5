"""LLaVA-OneVision: as LLaVA-NeXT where a row has one image; of several, each is one view, padded to a square.

The tiles of large images are mixed down before the language model reads them: a token is a bilinear mixture of up to
two by two patches. Its box holds all of them, and its place on the sheet is that of the patch that weighs most. Where
more than two by two patches would be mixed (no published checkpoint does so) those in between are in no token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Int

from vlm_neurons.models.adapters.adapter import Given, MLPs, Placed, Size, Split, by_processor
from vlm_neurons.models.adapters.geometry import Layout
from vlm_neurons.models.adapters.llava import PROJECTOR, TOWER
from vlm_neurons.models.adapters.llava_next import LLAVA_NEXT, check_tiles, kept_of, whole_and_tiles
from vlm_neurons.models.adapters.tiles import numbers, of_a_view, patches_at, per_side, rows_of_views
from vlm_neurons.tokens import Patches

EVEN = 1e-4  # a share of a patch that rounding may leave


def place(given: Given) -> list[Placed]:
    """Where the visual tokens look.

    Raises:
        ValueError: the image processor makes other tiles than the model reads.
    """
    check_tiles(given)
    found = []
    for i, (size, row) in enumerate(zip(given.sizes, given.rows, strict=True)):
        if given.rows.count(row) > 1:
            found.append(_square(given.config, i, size))
        else:
            found.append(_mixed(given.config, size, whole_and_tiles(given.config, i, size)))
    return found


def _square(config: Any, image: int, size: Size) -> Placed:
    """One view of an image in the middle of a square, and one token at its end."""
    side, (height, width) = config.vision_config.image_size, size
    step, large = config.vision_config.patch_size, max(size)
    resized = height * side / large, width * side / large
    offset = -((large - height) // 2) * side / large, -((large - width) // 2) * side / large
    layout = Layout(size, resized, offset, (side, side))  # type: ignore[arg-type]  # no whole pixels
    n = side // step
    return Placed((n, n), patches_at(image, layout, of_a_view(n), side, step), np.arange(n * n + 1) < n * n)


@dataclass(frozen=True)
class Mixture:
    """One axis of the tiles' patches, mixed down as `torch.nn.functional.interpolate` does it, bilinear.

    Attributes:
        first, last: of every token the patches that it is made of.
        most: the one of them that weighs most.
        owner: of every patch the token in which it weighs most, -1 for a patch that is in none.
    """

    first: Int[np.ndarray, "token"]
    last: Int[np.ndarray, "token"]
    most: Int[np.ndarray, "token"]
    owner: Int[np.ndarray, "patch"]


def mixture(patches: int, tokens: int) -> Mixture:
    """Of so many patches so many tokens.

    >>> mixture(3, 2).first.tolist(), mixture(3, 2).last.tolist(), mixture(3, 2).owner.tolist()
    ([0, 1], [1, 2], [0, 0, 1])
    """
    at = np.maximum((np.arange(tokens) + 0.5) * patches / tokens - 0.5, 0)
    first = np.floor(at + EVEN).astype(int)
    share = np.maximum(at - first, 0)  # of the next patch
    last = np.minimum(first + (share > EVEN), patches - 1)
    weight = np.zeros((patches, tokens))
    np.add.at(weight, (first, np.arange(tokens)), 1 - share)
    np.add.at(weight, (last, np.arange(tokens)), share)
    return Mixture(first, last, np.where(share > 0.5, last, first), np.where(weight.any(1), weight.argmax(1), -1))


def mixtures(config: Any, size: Size) -> tuple[Mixture, Mixture] | None:
    """Rows and columns of the tiles of an image of this size; None where every token is a patch, as
    `pack_image_features` of transformers decides."""
    n = config.vision_config.image_size // config.vision_config.patch_size
    rows, columns = kept_of(config, size)[1].shape
    ratio = math.sqrt(rows * columns / (int(config.vision_aspect_ratio.removeprefix("anyres_max_")) * n**2))
    return (mixture(rows, int(rows // ratio)), mixture(columns, int(columns // ratio))) if ratio > 1.1 else None


def _mixed(config: Any, size: Size, sheet: Placed) -> Placed:
    """The sheet of an image whose tokens may be mixtures of the patches that are on it."""
    found, n = mixtures(config, size), per_side(sheet.shown)
    if found is None:
        return sheet
    (down, across), tiles = found, sheet.shown[n * n :]
    shape = len(down.owner), len(across.owner), -1
    cells, boxes, original = (one.reshape(shape) for one in (tiles.cells, tiles.boxes, tiles.original))
    corners = [np.ix_(y, x) for y, x in ((down.first, across.first), (down.last, across.last))]
    own = [np.concatenate([one[corners[0]][..., :2], one[corners[1]][..., 2:]], -1).reshape(-1, 4)
           for one in (boxes, original)]  # fmt: skip
    mixed = cells[np.ix_(down.most, across.most)].reshape(-1, 3)
    patches = Patches.joined([sheet.shown[: n * n], Patches(np.full(len(mixed), tiles.image[0]), mixed, *own)])
    ends = np.pad(np.ones((len(down.first), len(across.first)), bool), ((0, 0), (0, 1))).flatten()
    return Placed(sheet.grid, patches, np.concatenate([np.ones(n * n, bool), ends]))


def rows_of(given: Given, placed: Placed) -> Int[np.ndarray, "row"]:
    """Rows of the tower and of the projector, which are given patches of padding too: a patch that is part of several
    tokens is that in which it weighs most."""
    number, n = numbers(placed), per_side(placed.shown)
    size = given.sizes[placed.shown.image[0]]
    found = mixtures(given.config, size) if (placed.shown.cells[:, 2] >= 0).any() else None
    if found is not None:
        down, across = (one.owner for one in found)
        rows, columns = np.divmod(kept_of(given.config, size)[1].numpy(), placed.grid[1])
        token = n * n + down[:, None] * len(found[1].first) + across
        number[rows + n, columns] = np.where((down[:, None] < 0) | (across < 0), -1, token)
    return rows_of_views(placed, number=number)


def splits(given: Given, placed: Sequence[Placed]) -> dict[str, Split]:
    """How many images a row has is said once, for its first image."""
    rows = list(given.rows)
    return {"batch_num_images": (0, [int(rows.index(row) == i) for i, row in enumerate(rows)])}


LLAVA_ONEVISION = replace(
    LLAVA_NEXT,
    name="llava_onevision",
    architecture="LlavaOnevisionForConditionalGeneration",
    towers=("siglip_vision_model",),
    backbones=("qwen2",),
    geometry=place,
    vision=MLPs(into=TOWER + "fc1", out=TOWER + "fc2", rows=rows_of),
    projector=MLPs(into=PROJECTOR + "linear_1", out=PROJECTOR + "linear_2", rows=rows_of),
    processor="LlavaOnevisionProcessor",
    processor_settings=lambda config: {
        "num_image_tokens": (config.vision_config.image_size // config.vision_config.patch_size) ** 2,
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
        "vision_aspect_ratio": config.vision_aspect_ratio,
    },
    nested=True,
    splits=splits,
    replace=by_processor,
    limits="tokens of large images are mixtures of up to 2 x 2 patches, and their boxes hold them; no video",
)
