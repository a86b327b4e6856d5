"""Idefics3 and SmolVLM: tiles of the image row by row, and last the whole image; small images are made larger.

All images of a batch are given as those of one row, and the model takes them as if they were: it flattens both
dimensions, and padding would only have to be taken out again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from vlm_neurons.models.adapters.adapter import Adapter, Given, MLPs, Placed, RowNumbers, Split
from vlm_neurons.models.adapters.llava import gated
from vlm_neurons.models.adapters.tiles import check_side, rows_of_views, tiles_and_whole, whole_first


def tokens_per_side(config: Any) -> int:
    """Tokens at a side of a tile."""
    vision = config.vision_config
    return int(vision.image_size // vision.patch_size // config.scale_factor)


def place(given: Given) -> list[Placed]:
    """Where the visual tokens look: the image squeezed to the tiles, and to the whole view.

    Raises:
        ValueError: the image processor makes other tiles than the model reads.
    """
    side, step = (
        given.config.vision_config.image_size,
        given.config.vision_config.patch_size * given.config.scale_factor,
    )
    check_side(given, side, f"max_image_size to {{'longest_edge': {side}}}")
    images = zip(given.sizes, tiles_of(given), strict=True)
    return [tiles_and_whole(i, size, side, step, tiles) for i, (size, tiles) in enumerate(images)]


def tiles_of(given: Given) -> list[tuple[int, int]]:
    """Rows and columns of tiles of every image, as its processor says; none of one that is shown whole only."""
    rows, columns = ([int(one) for of_row in given.output[name] for one in of_row] for name in ("rows", "cols"))
    return list(zip(rows, columns, strict=True))


def splits(given: Given, placed: Sequence[Placed]) -> dict[str, Split]:
    """All tiles of all images stand in the second dimension."""
    counts = [down * across + 1 for down, across in tiles_of(given)]
    return {name: (1, counts) for name in ("pixel_values", "pixel_attention_mask") if name in given.output}


def views_of(image_processor: Any, own: Mapping[str, Tensor]) -> Tensor:
    """The whole view, then the tiles."""
    return whole_first(own["pixel_values"][0])


def of_tower(given: Given, placed: Placed) -> RowNumbers:
    """Rows of the tower: a token is made of several."""
    return rows_of_views(placed, pooled=given.config.scale_factor, whole_last=True)


TOWER = "model.vision_model.encoder.layers.{i}.mlp."
TEXT = "model.text_model."

IDEFICS3 = Adapter(
    name="idefics3",
    architecture="Idefics3ForConditionalGeneration",
    towers=("idefics3_vision",),
    backbones=("llama",),
    geometry=place,
    processor="Idefics3Processor",
    processor_settings=lambda config: {"image_seq_len": tokens_per_side(config) ** 2},
    backbone=gated(TEXT),
    vision=MLPs(into=TOWER + "fc1", out=TOWER + "fc2", rows=of_tower),
    projector=None,
    layers=TEXT + "layers.{i}",
    embed=TEXT + "embed_tokens",
    norm=TEXT + "norm",
    tower="model.vision_model",
    connector="model.connector",
    splits=splits,
    seen=views_of,
    limits="the projector is one linear map: it has no hidden neurons",
)
SMOLVLM = replace(
    IDEFICS3,
    name="smolvlm",
    architecture="SmolVLMForConditionalGeneration",
    towers=("smolvlm_vision",),
    processor="SmolVLMProcessor",
    declared=True,
    limits=IDEFICS3.limits + "; its processor wants the package num2words",
)
