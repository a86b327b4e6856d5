"""Families that show an image whole and in tiles."""

from __future__ import annotations

from typing import Any

import transformers as hf
from parts import VISION, backbone, random, tokenizer

PINPOINTS = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]

# of llava-hf/llava-v1.6-mistral-7b-hf
LLAVA_NEXT = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ '<<SYS>>\n' + message['content'][0]['text'] + "
    "'\n<</SYS>>\n\n' }}{% elif message['role'] == 'user' %}{{ '[INST] ' }}"
    "{# Render all images first #}{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}{# Render all text next #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] }}{% endfor %}"
    "{{' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'][0]['text'] + '<\\s> '}}{% else %}"
    "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)


def llava_next() -> tuple[Any, Any]:
    """LLaVA-NeXT with CLIP and Mistral."""
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    tok = tokenizer("<image>")
    config = hf.LlavaNextConfig(
        vision_config=hf.CLIPVisionConfig(**VISION | {"num_hidden_layers": 3}, image_size=28, patch_size=7),
        text_config=hf.MistralConfig(**backbone(tok)), image_token_id=tok.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=PINPOINTS,
    )  # fmt: skip
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, image_grid_pinpoints=PINPOINTS
    )
    processor = hf.LlavaNextProcessor(
        image_processor=images, tokenizer=tok, patch_size=7, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=LLAVA_NEXT,
    )  # fmt: skip
    return random(hf.LlavaNextForConditionalGeneration(config)), processor


FAMILIES = {"llava_next": llava_next}
