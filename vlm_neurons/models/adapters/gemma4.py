"""Gemma 4: images at their own shape, means of squares of patches are tokens; layers scale what they put out."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vlm_neurons.models.adapters.adapter import Adapter, Given, Inputs, MLPs, Placed
from vlm_neurons.models.adapters.geometry import Layout, by_square, check_same, patches
from vlm_neurons.models.adapters.llava import GATED
from vlm_neurons.models.adapters.qwen import image_positions


def place(given: Given) -> list[Placed]:
    """Where the visual tokens look: row by row, each at a square of patches.

    Raises:
        ValueError: the image processor makes other patches, or other squares of them, than the model.
    """
    vision = given.config.vision_config
    settings = {name: getattr(vision, name) for name in ("patch_size", "pooling_kernel_size")}
    check_same(given.processor.image_processor, "image processor", settings)
    pooled, found = vision.pooling_kernel_size, []
    for i, size in enumerate(given.sizes):
        across, down = (given.output["image_position_ids"][i].max(0).values + 1).tolist()
        resized = down * vision.patch_size, across * vision.patch_size
        layout = Layout(size, resized, (0, 0), resized)
        found.append(Placed((down // pooled, across // pooled), patches(i, layout, vision.patch_size * pooled)))
    return found


def of_tower(given: Given, placed: Placed) -> list[int]:
    """Rows of the tower: patch by patch and row by row, then padding to the most patches of an image."""
    real = by_square(placed.grid, given.config.vision_config.pooling_kernel_size)
    return real + [-1] * (given.output["pixel_values"].shape[1] - len(real))


def seen(image_processor: Any, own: Inputs) -> Tensor:
    """An image put together from its patches."""
    side = image_processor.patch_size
    across, down = (own["image_position_ids"][0].max(0).values + 1).tolist()
    squares = own["pixel_values"][0, : down * across].view(down, across, side, side, 3)
    return squares.permute(4, 0, 2, 1, 3).reshape(3, down * side, across * side)


def check(config: Any) -> None:
    """Experts beside the MLP of every layer are not read yet."""
    if getattr(config.text_config, "enable_moe_block", False):
        raise ValueError(
            "gemma4 with enable_moe_block=True (Gemma 4 26B) is not supported: its experts stand beside the MLP, "
            "behind norms of their own, which is not yet written"
        )


LAYER = "model.vision_tower.encoder.layers.{i}.mlp."

GEMMA4 = Adapter(
    name="gemma4",
    architecture="Gemma4ForConditionalGeneration",
    towers=("gemma4_vision",),
    backbones=("gemma4_text",),
    geometry=place,
    processor="Gemma4Processor",
    backbone=GATED,
    vision=MLPs(
        into=LAYER + "gate_proj.linear", up=LAYER + "up_proj.linear", out=LAYER + "down_proj.linear", rows=of_tower
    ),
    projector=None,
    norms=(
        ("ln1", "input_layernorm"),
        ("ln1_post", "post_attention_layernorm"),
        ("ln2", "pre_feedforward_layernorm"),
        ("ln2_post", "post_feedforward_layernorm"),
    ),
    layer_scale="model.language_model.layers.{i}.layer_scalar",
    connector="model.embed_vision",
    declared=True,
    row_inputs=image_positions,
    causal=False,
    seen=seen,
    check=check,
    limits="no hidden neurons in the projector, which is a norm and a matrix; no video or audio; no experts; scans see "
    "the positive pole of the gated tower's neurons",
)
