"""LLaVA-NeXT: the whole image in one view, then tiles of it at a larger size; a token ends every row of the tiles.

Which tiles, and what of their padding is cut away, is asked of transformers' own functions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from vlm_neurons.models.adapters.adapter import Given, MLPs, Placed, Size
from vlm_neurons.models.adapters.geometry import Layout
from vlm_neurons.models.adapters.llava import LLAVA, PROJECTOR, TOWER, TOWERS
from vlm_neurons.models.adapters.tiles import check_side, patches_at, rows_of_views, whole
from vlm_neurons.tokens import Patches


def place(given: Given) -> list[Placed]:
    """Where the visual tokens look.

    Raises:
        ValueError: the image processor makes other tiles than the model reads.
    """
    check_tiles(given)
    return [whole_and_tiles(given.config, i, size) for i, size in enumerate(given.sizes)]


def whole_and_tiles(config: Any, image: int, size: Size) -> Placed:
    """The sheet of one image; its number and size are given."""
    side = config.vision_config.image_size
    step = config.vision_config.patch_size
    n = side // step
    canvas, kept = kept_of(config, size)
    tiles = Layout(size, *_fitted(size, canvas), canvas)
    across = canvas[1] // side
    places = np.stack(np.divmod(kept.flatten().numpy(), across * n), 1)
    patches = Patches.joined([whole(image, size, side, step), patches_at(image, tiles, places, side, step, True)])
    looks = np.pad(np.ones(kept.shape, bool), ((0, 0), (0, 1))).flatten()  # a token without a place ends every row
    return Placed((n + canvas[0] // side * n, across * n), patches, np.concatenate([np.ones(n * n, bool), looks]))


def check_tiles(given: Given) -> None:
    """The image processor's settings have to be the model's.

    Raises:
        ValueError: they are not.
    """
    side, images = given.config.vision_config.image_size, given.processor.image_processor
    check_side(given, side, "size and crop_size")
    told, known = (
        [list(one) for one in pins] for pins in (images.image_grid_pinpoints, given.config.image_grid_pinpoints)
    )
    if told != known:
        raise ValueError(
            f"image_grid_pinpoints are {told} in the image processor and {known} in the model: they have to be the same"
        )


def kept_of(config: Any, size: Size) -> tuple[Size, Tensor]:
    """Size of all tiles together in pixels, and the numbers of their patches that become tokens, [rows, columns]:
    those of padding above and below, or at the sides, do not."""
    from transformers.image_processing_utils import select_best_resolution
    from transformers.models.llava_next.modeling_llava_next import unpad_image

    canvas = select_best_resolution(size, config.image_grid_pinpoints)
    side = config.vision_config.image_size
    rows, columns = (edge // side * (side // config.vision_config.patch_size) for edge in canvas)
    numbers = torch.arange(rows * columns).view(1, rows, columns)
    return tuple(canvas), unpad_image(numbers, size)[0]


def _fitted(size: Size, canvas: Size) -> tuple[Size, tuple[int, int]]:
    """The largest size of the image's shape that the tiles hold, and where its corner is in them, negative."""
    (height, width), (high, wide) = size, canvas
    if wide / width < high / height:
        fitted = min(math.ceil(height * (wide / width)), high), wide
    else:
        fitted = high, min(math.ceil(width * (high / height)), wide)
    return fitted, (-((high - fitted[0]) // 2), -((wide - fitted[1]) // 2))


def views_of(image_processor: Any, own: Mapping[str, Tensor]) -> Tensor:
    """The whole view and the tiles; behind them there may be padding."""
    return own["pixel_values"][0]


def of_tower(given: Given, placed: Placed) -> Int[np.ndarray, "row"]:
    """Rows of the tower: view by view, class tokens in front."""
    return rows_of_views(placed, TOWERS[given.config.vision_config.model_type])


def of_projector(given: Given, placed: Placed) -> Int[np.ndarray, "row"]:
    """Rows of the projector: it is given patches of padding too, which become no token."""
    return rows_of_views(placed)


LLAVA_NEXT = replace(
    LLAVA,
    name="llava_next",
    architecture="LlavaNextForConditionalGeneration",
    geometry=place,
    seen=views_of,
    processor="LlavaNextProcessor",
    vision=MLPs(into=TOWER + "fc1", out=TOWER + "fc2", rows=of_tower),
    projector=MLPs(into=PROJECTOR + "linear_1", out=PROJECTOR + "linear_2", rows=of_projector),
    limits="",
)
