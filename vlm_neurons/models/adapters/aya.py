"""Aya Vision: tiles, then the whole image, as in InternVL; attention and MLP of a layer read the same norm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vlm_neurons.models.adapters.adapter import Given, MLPs, Placed, RowNumbers
from vlm_neurons.models.adapters.internvl import INTERNVL, place_tiles
from vlm_neurons.models.adapters.llava import TOWER
from vlm_neurons.models.adapters.tiles import rows_of_views


def place(given: Given) -> list[Placed]:
    """Where the visual tokens look.

    Raises:
        ValueError: the image processor makes other tiles than the model reads.
    """
    vision = given.config.vision_config
    return place_tiles(given, vision.image_size, vision.patch_size * given.config.downsample_factor)


def of_tower(given: Given, placed: Placed) -> RowNumbers:
    """Rows of the tower: a token is made of several patches."""
    return rows_of_views(placed, pooled=given.config.downsample_factor, whole_last=True)


def processor_settings(config: Any) -> dict[str, Any]:
    """The processor's defaults are those of no checkpoint; what a picture is in the text is not what it becomes."""
    vision = config.vision_config
    return {
        "patch_size": vision.patch_size,
        "img_size": vision.image_size,
        "downsample_factor": config.downsample_factor,
        "image_token": "<image>",
    }


def check(config: Any) -> None:
    """All patches have to reach the projector."""
    if config.vision_feature_select_strategy != "full":
        raise ValueError(
            f"aya_vision with vision_feature_select_strategy={config.vision_feature_select_strategy!r} is not "
            "supported: it leaves out the first patch, as if it were a class token; it has to be 'full'"
        )


AYA_VISION = replace(
    INTERNVL,
    name="aya_vision",
    architecture="AyaVisionForConditionalGeneration",
    towers=("siglip_vision_model",),
    backbones=("cohere2",),
    geometry=place,
    processor="AyaVisionProcessor",
    processor_settings=processor_settings,
    vision=MLPs(into=TOWER + "fc1", out=TOWER + "fc2", rows=of_tower),
    norms=(("ln1", "input_layernorm"),),
    norm_centres=True,
    check=check,
    limits="scans see the positive pole of the gated projector's neurons",
)
