"""LLaVA-OneVision: as LLaVA-NeXT where a row has one image; of several, each is one view, padded to a square.

The tiles of large images are mixed down before the language model reads them, two by two patches: those are refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from vlm_neurons.models.adapters.adapter import Given, Placed, Size, Split, by_processor
from vlm_neurons.models.adapters.geometry import Layout
from vlm_neurons.models.adapters.llava_next import LLAVA_NEXT, check_tiles, kept_of, whole_and_tiles
from vlm_neurons.models.adapters.tiles import of_a_view, patches_at


def place(given: Given) -> list[Placed]:
    """Where the visual tokens look.

    Raises:
        ValueError: the image processor makes other tiles than the model reads, or an image is so large that its tokens
            are mixtures.
    """
    check_tiles(given)
    found = []
    for i, (size, row) in enumerate(zip(given.sizes, given.rows, strict=True)):
        if given.rows.count(row) > 1:
            found.append(_square(given.config, i, size))
        else:
            _check_size(given.config, i, size)
            found.append(whole_and_tiles(given.config, i, size))
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


def _check_size(config: Any, image: int, size: Size) -> None:
    """A token has to be of one patch (`pack_image_features` of transformers mixes them where they are too many)."""
    n = config.vision_config.image_size // config.vision_config.patch_size
    most = int(config.vision_aspect_ratio.removeprefix("anyres_max_"))
    rows, columns = kept_of(config, size)[1].shape
    if math.sqrt(rows * columns / (most * n**2)) > 1.1:
        raise ValueError(
            f"image {image} of {size[1]} x {size[0]} pixels has {rows} x {columns} patches, which the model mixes down "
            f"to about {most * n**2} tokens: tokens would be no patches; make the image smaller first, at most "
            f"{math.isqrt(most) * config.vision_config.image_size} pixels a side"
        )


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
    processor="LlavaOnevisionProcessor",
    processor_settings=lambda config: {
        "num_image_tokens": (config.vision_config.image_size // config.vision_config.patch_size) ** 2,
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
        "vision_aspect_ratio": config.vision_aspect_ratio,
    },
    nested=True,
    splits=splits,
    replace=by_processor,
    limits="images so large that patches are mixed before the language model reads them; videos",
)
