"""DeepSeek-VL (1.3B): SigLIP, whose image is squeezed to the longer side of a square and padded to it."""

from __future__ import annotations

from typing import Any

from vlm_neurons.models.adapters.adapter import Adapter, Given, MLPs, Placed
from vlm_neurons.models.adapters.geometry import Layout, grid_of, patches
from vlm_neurons.models.adapters.llava import GATED, in_order
from vlm_neurons.models.adapters.tiles import check_side


def place(given: Given) -> list[Placed]:
    """Where the visual tokens look; those of the padding have an empty box in the original.

    Raises:
        ValueError: the image processor makes images of another size than the tower takes, or does not pad them.
    """
    vision, images = given.config.vision_config, given.processor.image_processor
    side, step = vision.image_size, vision.patch_size
    check_side(given, side, f"size to {{'height': {side}, 'width': {side}}}")
    if not (getattr(images, "do_resize", True) and getattr(images, "do_pad", True)):
        raise ValueError("images that are not resized and padded to a square are not supported: do_resize, do_pad")
    found = []
    for i, size in enumerate(given.sizes):
        resized = tuple(max(round(edge * (side / max(size))), images.min_size) for edge in size)
        before = tuple(-((side - edge) // 2) for edge in resized)
        layout = Layout(size, (resized[0], resized[1]), (before[0], before[1]), (side, side))
        found.append(Placed(grid_of(layout.processed, step), patches(i, layout, step)))
    return found


def as_deepseek(placeholder: str, prompt: str, n_images: int, bos: str) -> tuple[str, str]:
    """DeepSeek-VL's prompt (transformers' conversion of the checkpoint), without its system's words."""
    return f"User: {placeholder * n_images}{prompt}\n\nAssistant:", " "


def per_image(config: Any) -> int:
    """Tokens of an image."""
    return int(config.vision_config.image_size // config.vision_config.patch_size) ** 2


TOWER = "model.vision_model.encoder.layers.{i}.mlp."
ALIGNER = "model.aligner."

DEEPSEEK_VL = Adapter(
    name="deepseek_vl",
    architecture="DeepseekVLForConditionalGeneration",
    towers=("siglip_vision_model",),
    backbones=("llama",),
    geometry=place,
    processor="DeepseekVLProcessor",
    processor_settings=lambda config: {"num_image_tokens": per_image(config)},
    backbone=GATED,
    vision=MLPs(into=TOWER + "fc1", out=TOWER + "fc2", rows=in_order),
    projector=MLPs(into=ALIGNER + "linear1", out=ALIGNER + "linear2", rows=in_order),
    tower="model.vision_model",
    connector="model.aligner",
    declared=True,
    plain=as_deepseek,
)
