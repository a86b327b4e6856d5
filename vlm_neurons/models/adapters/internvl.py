"""InternVL (2.5, 3, 3.5 as transformers has them): the image squeezed to a grid of tiles, then the whole image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from vlm_neurons.models.adapters.adapter import Adapter, Given, MLPs, Placed, RowNumbers, Split
from vlm_neurons.models.adapters.llava import GATED, feature_layers, in_order
from vlm_neurons.models.adapters.tiles import check_side, rows_of_views, tiles_and_whole, whole_first


def tokens_per_side(config: Any) -> int:
    """Tokens at a side of a tile."""
    vision = config.vision_config
    return int(_one(vision.image_size) // _one(vision.patch_size) * config.downsample_ratio)


def pooled(config: Any) -> int:
    """Rows, and columns, of the tower's patches that become one token."""
    return round(1 / config.downsample_ratio)


def _one(sides: Any) -> int:
    return int(sides if isinstance(sides, int) else sides[0])


def place(given: Given) -> list[Placed]:
    """Where the visual tokens look.

    Raises:
        ValueError: the image processor makes other tiles than the model reads.
    """
    vision = given.config.vision_config
    return place_tiles(given, _one(vision.image_size), _one(vision.patch_size) * pooled(given.config))


def place_tiles(given: Given, side: int, step: int) -> list[Placed]:
    """Where the tokens of tiles and of the whole image look.

    Args:
        given: the processed images.
        side: of a tile in pixels.
        step: of a token there.

    Raises:
        ValueError: the image processor makes other tiles than the model reads.
    """
    check_side(given, side, f"size to {{'height': {side}, 'width': {side}}}")
    found = []
    for i, (size, count) in enumerate(zip(given.sizes, views_per_image(given), strict=True)):
        down, across = _tiles(given.processor.image_processor, size, side) if count > 1 else (0, 0)
        if count != down * across + 1:
            raise ValueError(
                f"the image processor makes {count} views of image {i}, its settings say {down * across + 1}"
            )
        found.append(tiles_and_whole(i, size, side, step, (down, across)))
    return found


def views_per_image(given: Given) -> list[int]:
    """Tiles and the whole view; one for an image that is shown whole only."""
    return [int(count) for count in given.output["num_patches"]]


def _tiles(image_processor: Any, size: tuple[int, int], side: int) -> tuple[int, int]:
    """Rows and columns of tiles."""
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

    limits = image_processor.min_patches, image_processor.max_patches
    columns, rows = get_optimal_tiled_canvas(size, (side, side), *limits)
    return rows, columns


def splits(given: Given, placed: Sequence[Placed]) -> dict[str, Split]:
    """The views of all images one after the other."""
    return {"pixel_values": (0, views_per_image(given))}


def views_of(image_processor: Any, own: Mapping[str, Tensor]) -> Tensor:
    """The whole view, then the tiles."""
    return whole_first(own["pixel_values"])


def of_tower(given: Given, placed: Placed) -> RowNumbers:
    """Rows of the tower: a class token in front of every view; a token is made of several patches."""
    return rows_of_views(placed, class_tokens=1, pooled=pooled(given.config), whole_last=True)


def check(config: Any) -> None:
    """Exactly the patches have to reach the projector."""
    if config.vision_feature_select_strategy != "default":
        raise ValueError(
            f"internvl with vision_feature_select_strategy={config.vision_feature_select_strategy!r} is not supported: "
            "the class token would be put together with patches; it has to be 'default'"
        )


TOWER = "model.vision_tower.encoder.layer.{i}.mlp."
PROJECTOR = "model.multi_modal_projector."

INTERNVL = Adapter(
    name="internvl",
    architecture="InternVLForConditionalGeneration",
    towers=("internvl_vision",),
    backbones=("llama", "mistral", "qwen2", "qwen3"),
    geometry=place,
    processor="InternVLProcessor",
    processor_settings=lambda config: {"image_seq_length": tokens_per_side(config) ** 2},
    feature_layers=lambda config: () if config.vision_feature_layer == -1 else feature_layers(config),
    backbone=GATED,
    vision=MLPs(into=TOWER + "fc1", out=TOWER + "fc2", rows=of_tower),
    projector=MLPs(into=PROJECTOR + "linear_1", out=PROJECTOR + "linear_2", rows=in_order),
    declared=True,
    splits=splits,
    seen=views_of,
    check=check,
)
