"""LLaVA: one view of every image, and its patches row by row are the visual tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from vlm_neurons.models.adapters.adapter import Adapter, MLPs, Placed, Size
from vlm_neurons.models.adapters.geometry import grid_of, layout, patches

TOWERS = {"clip_vision_model": 1, "siglip_vision_model": 0}  # class tokens, before the patches


def place(image_processor: Any, config: Any, sizes: Sequence[Size], pixels: Tensor) -> list[Placed]:
    """Where the visual tokens look.

    Raises:
        ValueError: the image processor did something that its settings do not say.
    """
    found = []
    for i, size in enumerate(sizes):
        one = layout(image_processor, size)
        if one.processed != tuple(pixels.shape[-2:]):
            raise ValueError(
                f"the image processor made image {i} {tuple(pixels.shape[-2:])}, its settings say {one.processed}: "
                f"{type(image_processor).__name__} has a step that is not known here"
            )
        side = config.vision_config.patch_size
        found.append(Placed(grid_of(one.processed, side), patches(i, one, side)))
    return found


def feature_layers(config: Any) -> tuple[int, ...]:
    """The tower's hidden state k is what layer k - 1 puts out. LLaVA-1.5 reads hidden state -2: its last layer is of
    no consequence."""
    n_layers = config.vision_config.num_hidden_layers
    chosen = config.vision_feature_layer
    chosen = (chosen,) if isinstance(chosen, int) else tuple(chosen)
    return tuple(k if k >= 0 else n_layers + 1 + k for k in chosen)


def processor_settings(config: Any) -> dict[str, Any]:
    """Checkpoints saved before transformers 4.45 leave these out; the model's config says the same."""
    return {
        "patch_size": config.vision_config.patch_size,
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
        "num_additional_image_tokens": TOWERS[config.vision_config.model_type],
    }


def check(config: Any) -> None:
    """Exactly the patches have to reach the projector."""
    tower = config.vision_config.model_type
    strategy = "default" if TOWERS[tower] else "full"
    if config.vision_feature_select_strategy != strategy:
        raise ValueError(
            f"{tower} with vision_feature_select_strategy={config.vision_feature_select_strategy!r} is not "
            f"supported: visual tokens would not be the patches one to one; it has to be {strategy!r}"
        )


def after_class_tokens(config: Any, grid: tuple[int, int]) -> list[int]:
    """Rows of the tower: class tokens, then the patches."""
    return [-1] * TOWERS[config.vision_config.model_type] + in_order(config, grid)


def in_order(config: Any, grid: tuple[int, int]) -> list[int]:
    """Rows that are the patches."""
    return list(range(grid[0] * grid[1]))


GATED = MLPs(
    into="model.language_model.layers.{i}.mlp.gate_proj",
    up="model.language_model.layers.{i}.mlp.up_proj",
    act="model.language_model.layers.{i}.mlp.act_fn",
    out="model.language_model.layers.{i}.mlp.down_proj",
)
TOWER = "model.vision_tower.encoder.layers.{i}.mlp."
PROJECTOR = "model.multi_modal_projector."

LLAVA = Adapter(
    name="llava",
    architecture="LlavaForConditionalGeneration",
    towers=TOWERS,
    backbones=("llama", "mistral", "qwen2"),
    geometry=place,
    feature_layers=feature_layers,
    processor="LlavaProcessor",
    processor_settings=processor_settings,
    backbone=GATED,
    vision=MLPs(into=TOWER + "fc1", out=TOWER + "fc2", rows=after_class_tokens),
    projector=MLPs(into=PROJECTOR + "linear_1", out=PROJECTOR + "linear_2", rows=in_order),
    check=check,
    limits="image processors that resize and crop; neither padding to a square nor tiles",
)
