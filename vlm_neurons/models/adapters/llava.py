"""LLaVA: one view of every image, and its patches row by row are the visual tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vlm_neurons.models.adapters.adapter import Adapter, Given, MLPs, Placed, by_processor
from vlm_neurons.models.adapters.geometry import grid_of, layout, patches

TOWERS = {"clip_vision_model": 1, "siglip_vision_model": 0}  # class tokens, before the patches


def place(given: Given) -> list[Placed]:
    """Where the visual tokens look.

    Raises:
        ValueError: the image processor did something that its settings do not say.
    """
    found = []
    for i, size in enumerate(given.sizes):
        one = layout(given.processor.image_processor, size)
        seen = tuple(given.output["pixel_values"].shape[-2:])
        if one.processed != seen:
            raise ValueError(
                f"the image processor made image {i} {seen}, its settings say {one.processed}: "
                f"{type(given.processor.image_processor).__name__} has a step that is not known here"
            )
        side = given.config.vision_config.patch_size
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


def replace_image(given: Given, image: int, placed: Placed) -> str:
    """One token per patch. Processors saved before transformers 4.45 do not count them."""
    if getattr(given.processor, "patch_size", None) is None or not hasattr(given.processor, "replace_image_token"):
        return given.processor.image_token * len(placed)  # type: ignore[no-any-return]
    return by_processor(given, image, placed)


def after_class_tokens(given: Given, placed: Placed) -> list[int]:
    """Rows of the tower: class tokens, then the patches."""
    return [-1] * TOWERS[given.config.vision_config.model_type] + in_order(given, placed)


def in_order(given: Given, placed: Placed) -> list[int]:
    """Rows that are the patches."""
    return list(range(len(placed.shown)))


def gated(backbone: str, mlp: str = "mlp.") -> MLPs:
    """The MLPs of a language model that is at this path, where they are in a layer."""
    layer = backbone + "layers.{i}." + mlp
    return MLPs(into=layer + "gate_proj", up=layer + "up_proj", act=layer + "act_fn", out=layer + "down_proj")


GATED = gated("model.language_model.")
TOWER = "model.vision_tower.encoder.layers.{i}.mlp."
PROJECTOR = "model.multi_modal_projector."

LLAVA = Adapter(
    name="llava",
    architecture="LlavaForConditionalGeneration",
    towers=tuple(TOWERS),
    backbones=("llama", "mistral", "qwen2"),
    geometry=place,
    feature_layers=feature_layers,
    processor="LlavaProcessor",
    processor_settings=processor_settings,
    backbone=GATED,
    vision=MLPs(into=TOWER + "fc1", out=TOWER + "fc2", rows=after_class_tokens),
    projector=MLPs(into=PROJECTOR + "linear_1", out=PROJECTOR + "linear_2", rows=in_order),
    replace=replace_image,
    check=check,
    limits="image processors that resize and crop; neither padding to a square nor tiles",
)


def as_vipllava(placeholder: str, prompt: str, n_images: int, bos: str) -> tuple[str, str]:
    """ViP-LLaVA's prompt (documentation of transformers)."""
    told = (
        "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the human's questions."
    )
    return f"{told}###Human: {(placeholder + chr(10)) * n_images}{prompt}###Assistant:", " "


VIPLLAVA = replace(
    LLAVA,
    name="vipllava",
    architecture="VipLlavaForConditionalGeneration",
    towers=("clip_vision_model",),
    backbones=("llama",),
    processor_settings=lambda config: {
        "patch_size": config.vision_config.patch_size,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
    },
    declared=True,
    plain=as_vipllava,
    check=lambda config: None,  # patches of several layers side by side, always without the class token
)
