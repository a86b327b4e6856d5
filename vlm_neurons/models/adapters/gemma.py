"""Gemma 3 and PaliGemma 1 and 2: SigLIP, whose image is squeezed to one square; tokens of an image see one another.

The norms of a Gemma multiply by 1 + weight.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from torch import Tensor

from vlm_neurons.models.adapters.adapter import Adapter, Given, MLPs, Placed
from vlm_neurons.models.adapters.geometry import by_square
from vlm_neurons.models.adapters.llava import GATED, TOWER
from vlm_neurons.models.adapters.tiles import check_side, whole
from vlm_neurons.tokens import TokenKind


def place(given: Given) -> list[Placed]:
    """Where the visual tokens look.

    Raises:
        ValueError: the image processor makes images of another size than the tower takes, or cuts pieces out of them.
    """
    side = given.config.vision_config.image_size
    check_side(given, side, "size")
    if any(given.output.get("num_crops", ())):
        raise ValueError("pan and scan is not supported: set do_pan_and_scan=False in the processor's images_kwargs")
    n = tokens_per_side(given.config)
    step = given.config.vision_config.patch_size * (_patches_per_side(given.config) // n)
    return [Placed((n, n), whole(i, size, side, step)) for i, size in enumerate(given.sizes)]


def tokens_per_side(config: Any) -> int:
    """Gemma 3 takes the mean of squares of patches, PaliGemma the patches."""
    told = getattr(config, "mm_tokens_per_image", None)
    return math.isqrt(told) if told else _patches_per_side(config)


def _patches_per_side(config: Any) -> int:
    return config.vision_config.image_size // config.vision_config.patch_size  # type: ignore[no-any-return]


def of_tower(given: Given, placed: Placed) -> list[int]:
    """Rows of the tower: patch by patch, several of which may be one token."""
    n, tokens = _patches_per_side(given.config), tokens_per_side(given.config)
    return by_square((tokens, tokens), n // tokens)


def image_tokens(config: Any, kinds: Tensor, image_rows: Tensor) -> dict[str, Tensor]:
    """Which tokens are of images: without being told, Gemma 3 lets them see no later one, and says nothing."""
    return {"token_type_ids": (kinds == TokenKind.VISUAL).long()}


def suffix(config: Any, kinds: Tensor, image_rows: Tensor) -> dict[str, Tensor]:
    """PaliGemma's tokens see all of the prefix; those of the response, from its first on, see no later one."""
    answered = (kinds == TokenKind.TEXT).cumsum(1) > 0
    return {"token_type_ids": (answered & (kinds != TokenKind.PAD)).long()}


def as_paligemma(placeholder: str, prompt: str, n_images: int, bos: str) -> tuple[str, str]:
    """PaliGemma's prompt: images, BOS, the prompt and a line's end (its processor in transformers)."""
    return f"{placeholder * n_images}{bos}{prompt}\n", ""


GEMMA3 = Adapter(
    name="gemma3",
    architecture="Gemma3ForConditionalGeneration",
    towers=("siglip_vision_model",),
    backbones=("gemma3_text",),
    geometry=place,
    processor="Gemma3Processor",
    processor_settings=lambda config: {"image_seq_length": config.mm_tokens_per_image},
    backbone=GATED,
    vision=MLPs(into=TOWER + "fc1", out=TOWER + "fc2", rows=of_tower),
    projector=None,
    norm_offset=1.0,
    row_inputs=image_tokens,
    causal=False,
    limits="no hidden neurons in the projector, which is a mean, a norm and a matrix; images whole, no pan and scan",
)

PALIGEMMA = Adapter(
    name="paligemma",
    architecture="PaliGemmaForConditionalGeneration",
    towers=("siglip_vision_model",),
    backbones=("gemma",),
    geometry=place,
    processor="PaliGemmaProcessor",
    backbone=GATED,
    vision=MLPs(into=TOWER + "fc1", out=TOWER + "fc2", rows=of_tower),
    projector=None,
    norm_offset=1.0,
    declared=True,
    row_inputs=suffix,
    causal=False,
    plain=as_paligemma,
    limits="no hidden neurons in the projector, which is one matrix",
)

PALIGEMMA2 = replace(
    PALIGEMMA,
    name="paligemma2",
    model_type="paligemma",
    backbones=("gemma2",),
    norms=(
        ("ln1", "input_layernorm"),
        ("ln1_post", "post_attention_layernorm"),
        ("ln2", "pre_feedforward_layernorm"),
        ("ln2_post", "post_feedforward_layernorm"),
    ),
)
