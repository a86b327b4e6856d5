"""LLaVA with each of its towers."""

from __future__ import annotations

from typing import Any

import transformers as hf
from parts import VISION, backbone, random, tokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

# of llava-hf/llava-1.5-7b-hf, without its generation marks
TEMPLATE = (
    "{% for m in messages %}{{ m['role'].upper() + ': ' }}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'text') %}{{ c['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def clip() -> tuple[Any, Any]:
    """CLIP: a class token before the patches; the short edge is resized and the centre cut out."""
    images = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    tower = hf.CLIPVisionConfig(**VISION | {"num_hidden_layers": 3}, image_size=28, patch_size=7)
    return _llava(tower, images, hf.LlamaConfig, -2, "default", 1)


def siglip() -> tuple[Any, Any]:
    """SigLIP: no class token; squeezed to a square."""
    images = SiglipImageProcessorPil(size={"height": 28, "width": 28})
    tower = hf.SiglipVisionConfig(**VISION, image_size=28, patch_size=7)
    return _llava(tower, images, hf.Qwen2Config, -1, "full", 0)


def _llava(tower: Any, images: Any, text: Any, layer: int, strategy: str, extra: int) -> tuple[Any, Any]:
    tok = tokenizer("<image>")
    config = hf.LlavaConfig(
        vision_config=tower, text_config=text(**backbone(tok)), image_token_id=tok.convert_tokens_to_ids("<image>"),
        vision_feature_layer=layer, vision_feature_select_strategy=strategy,
    )  # fmt: skip
    processor = hf.LlavaProcessor(
        image_processor=images, tokenizer=tok, patch_size=7, vision_feature_select_strategy=strategy,
        num_additional_image_tokens=extra, chat_template=TEMPLATE,
    )  # fmt: skip
    return random(hf.LlavaForConditionalGeneration(config)), processor


def vipllava() -> tuple[Any, Any]:
    """ViP-LLaVA: two layers of CLIP side by side; no chat template."""
    tok = tokenizer("<image>")
    config = hf.VipLlavaConfig(
        vision_config=hf.CLIPVisionConfig(**VISION | {"num_hidden_layers": 3}, image_size=28, patch_size=7),
        text_config=hf.LlamaConfig(**backbone(tok)), image_token_index=tok.convert_tokens_to_ids("<image>"),
        vision_feature_layer=[-2, 1],
    )  # fmt: skip
    processor = hf.LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        tokenizer=tok, patch_size=7, vision_feature_select_strategy="default", num_additional_image_tokens=1,
    )  # fmt: skip
    return random(hf.VipLlavaForConditionalGeneration(config)), processor


FAMILIES = {"llava-clip": clip, "llava-siglip": siglip, "vipllava": vipllava}
