"""Families that pad an image to a square."""

from __future__ import annotations

from typing import Any

import transformers as hf
from parts import VISION, backbone, random, tokenizer

# renders as that of deepseek-community/deepseek-vl-1.3b-chat
DEEPSEEK_VL = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language.\n\n"
    "{% for message in messages %}{{ message['role'].capitalize() + ':' }}"
    "{% if message['role'] != 'assistant' or message['content'][0]['text'] or add_generation_prompt %} {% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image_placeholder>{% else %}"
    "{{ part['text'] | trim }}{% endif %}{% endfor %}"
    "{% if not loop.last or add_generation_prompt %}"
    "{{ '\n\n' if message['role'] == 'user' else '</s>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


def deepseek_vl() -> tuple[Any, Any]:
    """DeepSeek-VL with SigLIP and Llama; a padding that a patch is cut by."""
    from transformers.models.deepseek_vl.image_processing_pil_deepseek_vl import DeepseekVLImageProcessorPil

    tok = tokenizer("<image_placeholder>", named={"image_token": "<image_placeholder>"})
    config = hf.DeepseekVLConfig(
        vision_config=hf.SiglipVisionConfig(**VISION, image_size=28, patch_size=7, vision_use_head=False),
        text_config=hf.LlamaConfig(**backbone(tok)), image_token_id=tok.convert_tokens_to_ids("<image_placeholder>"),
    )  # fmt: skip
    images = DeepseekVLImageProcessorPil(size={"height": 28, "width": 28}, min_size=5)
    processor = hf.DeepseekVLProcessor(
        image_processor=images, tokenizer=tok, num_image_tokens=16, chat_template=DEEPSEEK_VL
    )
    return random(hf.DeepseekVLForConditionalGeneration(config)), processor


FAMILIES = {"deepseek_vl": deepseek_vl}
