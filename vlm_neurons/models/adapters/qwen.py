"""Qwen-VL: an image is resized to a number of patches of its own shape, and squares of them are merged into one token.

The images of a batch are packed: their patches stand one after the other, those of a token together. Qwen2.5-VL's tower
reads windows of the image, and its merger gets its rows in the order of windows too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vlm_neurons.models.adapters.adapter import Adapter, Given, Inputs, MLPs, Placed, Split
from vlm_neurons.models.adapters.geometry import Layout, patches
from vlm_neurons.models.adapters.llava import GATED, in_order
from vlm_neurons.tokens import TokenKind


def place(given: Given) -> list[Placed]:
    """Where the visual tokens look: row by row, each at a square of patches.

    Raises:
        ValueError: the image processor merges other squares than the model.
    """
    images, merged = given.processor.image_processor, given.config.vision_config.spatial_merge_size
    if images.merge_size != merged:
        raise ValueError(
            f"merge_size is {images.merge_size} in the image processor, and the model merges {merged} x {merged} "
            "patches into one token: they have to be the same"
        )
    found = []
    for i, size in enumerate(given.sizes):
        _, down, across = given.output["image_grid_thw"][i].tolist()
        resized = down * images.patch_size, across * images.patch_size
        side = images.patch_size * merged
        found.append(
            Placed((down // merged, across // merged), patches(i, Layout(size, resized, (0, 0), resized), side))
        )
    return found


def packed(given: Given, placed: Sequence[Placed]) -> dict[str, Split]:
    """How many patches are each image's."""
    return {"pixel_values": (0, given.output["image_grid_thw"].prod(-1).tolist())}


def image_positions(config: Any, kinds: Tensor, image_rows: Tensor) -> dict[str, Tensor]:
    """Without it positions would be counted as in text, in Qwen2.5-VL without an error."""
    return {"mm_token_type_ids": (kinds == int(TokenKind.VISUAL)).long()}


def seen(image_processor: Any, own: Inputs) -> Tensor:
    """An image put together from its patches."""
    _, down, across = own["image_grid_thw"][0].tolist()
    n, side = image_processor.merge_size, image_processor.patch_size
    squares = own["pixel_values"].view(down // n, across // n, n, n, 3, -1, side, side)[:, :, :, :, :, 0]
    return squares.permute(4, 0, 2, 5, 1, 3, 6).reshape(3, down * side, across * side)


def by_token(given: Given, placed: Placed) -> list[int]:
    """Rows of the tower: the patches of a token together."""
    return repeated(given, in_order(given, placed))


def repeated(given: Given, tokens: Sequence[int]) -> list[int]:
    """The tokens of patches that stand together."""
    n = given.config.vision_config.spatial_merge_size**2
    return [k for k in tokens for _ in range(n)]


def by_window(given: Given, placed: Placed) -> list[int]:
    """Rows of Qwen2.5-VL's merger: window by window."""
    from transformers.vision_utils import get_vision_window_index

    vision = given.config.vision_config
    grid = torch.tensor([[1, *(n * vision.spatial_merge_size for n in placed.grid)]])
    order, _ = get_vision_window_index(grid, vision.spatial_merge_size, vision.window_size, vision.patch_size)
    return order.tolist()  # type: ignore[no-any-return]


def by_window_and_token(given: Given, placed: Placed) -> list[int]:
    """Rows of Qwen2.5-VL's tower: window by window, in it the patches of a token together."""
    return repeated(given, by_window(given, placed))


LAYER, MERGER = "model.visual.blocks.{i}.mlp.", "model.visual.merger."

QWEN2_VL = Adapter(
    name="qwen2_vl",
    architecture="Qwen2VLForConditionalGeneration",
    towers=("qwen2_vl_vision",),
    backbones=("qwen2_vl_text",),
    geometry=place,
    processor="Qwen2VLProcessor",
    backbone=GATED,
    vision=MLPs(into=LAYER + "fc1", out=LAYER + "fc2", rows=by_token),
    projector=MLPs(into=MERGER + "mlp.0", out=MERGER + "mlp.2", rows=in_order),
    tower="model.visual",
    connector="model.visual.merger",
    declared=True,
    splits=packed,
    row_inputs=image_positions,
    seen=seen,
    limits="no video",
)
QWEN2_5_VL = replace(
    QWEN2_VL,
    name="qwen2_5_vl",
    architecture="Qwen2_5_VLForConditionalGeneration",
    towers=("qwen2_5_vl_vision",),
    backbones=("qwen2_5_vl_text",),
    processor="Qwen2_5_VLProcessor",
    vision=MLPs(into=LAYER + "gate_proj", up=LAYER + "up_proj", out=LAYER + "down_proj", rows=by_window_and_token),
    projector=MLPs(into=MERGER + "mlp.0", out=MERGER + "mlp.2", rows=by_window),
    limits="no video; scans see the positive pole of the gated tower's neurons",
)
QWEN3_VL = replace(
    QWEN2_VL,
    name="qwen3_vl",
    architecture="Qwen3VLForConditionalGeneration",
    towers=("qwen3_vl_vision",),
    backbones=("qwen3_vl_text",),
    processor="Qwen3VLProcessor",
    vision=MLPs(into=LAYER + "linear_fc1", out=LAYER + "linear_fc2", rows=by_token),
    # P0 is the merger; P1 .. are the deepstack mergers, which read lower layers of the tower
    projector=MLPs(
        into=(MERGER + "linear_fc1", "model.visual.deepstack_merger_list.{i}.linear_fc1"),
        out=(MERGER + "linear_fc2", "model.visual.deepstack_merger_list.{i}.linear_fc2"),
        rows=in_order,
    ),
)
MLP = "model.language_model.layers.{i}.mlp."
QWEN3_VL_MOE = replace(
    QWEN3_VL,
    name="qwen3_vl_moe",
    architecture="Qwen3VLMoeForConditionalGeneration",
    towers=("qwen3_vl_moe_vision", "qwen3_vl_moe"),
    backbones=("qwen3_vl_moe_text",),
    # layers have an MLP or experts
    backbone=MLPs(into=MLP + "gate_proj?", up=MLP + "up_proj?", act=MLP + "act_fn?", out=MLP + "down_proj?"),
    experts=MLP + "experts?",
)
# Some layers of the backbone mix positions without attention; their MLPs are the same.
QWEN3_5 = replace(
    QWEN3_VL,
    name="qwen3_5",
    architecture="Qwen3_5ForConditionalGeneration",
    towers=("qwen3_5_vision",),
    backbones=("qwen3_5_text",),
    projector=MLPs(into=MERGER + "linear_fc1", out=MERGER + "linear_fc2", rows=in_order),
    norm_offset=1.0,
)
