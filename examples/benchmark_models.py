"""Models and batches of `benchmark_scan.py`."""

from __future__ import annotations

import random
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from vlm_neurons.models import Batch, HookedVLM
from vlm_neurons.models.load import load_processor
from vlm_neurons.zoo import path as zoo_path


class Shape(NamedTuple):
    """Of the model."""

    width: int = 512
    d_mlp: int = 1376
    layers: int = 4
    heads: int = 8
    vision: int = 128
    vision_layers: int = 2


SHAPES = {"tiny": Shape(64, 172, 2, 4, 32, 2), "512": Shape(), "llava-7b": Shape(4096, 11_008, 32, 32, 1024, 24)}


def make_model(shape: Shape, device: str, dtype: torch.dtype) -> HookedVLM:
    """A random LLaVA with 576 visual tokens per image, and the embedded model's tokenizer."""
    from transformers import AutoConfig, CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    folder = str(zoo_path("tiny-llava-scenes"))
    small = AutoConfig.from_pretrained(folder)
    processor = load_processor(folder, small)
    images, side = processor.image_processor, {"height": 336, "width": 336}
    images.size, images.crop_size, images.do_resize, images.do_center_crop = {"shortest_edge": 336}, side, True, True
    processor.patch_size, processor.num_additional_image_tokens = 14, 1
    processor.vision_feature_select_strategy = "default"
    vision = CLIPVisionConfig(
        hidden_size=shape.vision, intermediate_size=4 * shape.vision, num_hidden_layers=shape.vision_layers,
        num_attention_heads=16 if shape.vision > 512 else 4, image_size=336, patch_size=14,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=max(32_064, len(processor.tokenizer)), hidden_size=shape.width, intermediate_size=shape.d_mlp,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.heads,
        max_position_embeddings=4096,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=small.image_token_id, vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )  # fmt: skip
    torch.set_default_dtype(dtype)  # float32 weights of the largest shape would not fit beside their bfloat16 ones
    with torch.device(device):
        model = LlavaForConditionalGeneration(config)
    torch.set_default_dtype(torch.float32)
    return HookedVLM(model, processor)


def make_batches(model: HookedVLM, tokens: int, batch_size: int, n: int) -> list[Batch]:
    """Batches of one random picture and random words each, `tokens` tokens long, give or take a few."""
    rng, words = np.random.default_rng(0), ["a", "red", "blue", "green", "circle", "square", "two", "of", "the"]
    shuffled = random.Random(0)

    def sample(length: int) -> tuple[Image.Image, str]:
        picture = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).resize((336, 336))
        return picture, " ".join(shuffled.choices(words, k=length))

    def batch(length: int) -> Batch:
        pictures, responses = zip(*(sample(length) for _ in range(batch_size)), strict=True)
        return model.prepare(list(pictures), ["What is there?"] * batch_size, list(responses))

    length = tokens - 576 - 24
    have = batch(max(length, 1)).input_ids.shape[1]
    length = max(1, round(length * (tokens - (have - length)) / max(length, 1)) if have != tokens else length)
    return [batch(max(1, length)).to(model.device) for _ in range(n)]
