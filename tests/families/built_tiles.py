"""Families that show an image whole and in tiles."""

from __future__ import annotations

from typing import Any

import transformers as hf
from parts import VISION, backbone, quiet, random, tokenizer
from transformers.utils import is_num2words_available

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


# of llava-hf/llava-onevision-qwen2-0.5b-ov-hf
ONEVISION = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}"
    "{# Render all images first #}{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>' }}{% endfor %}{# Render all text next #}{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + content['text'] }}"
    "{% endfor %}{% else %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ '\n' + content['text'] }}{% endgeneration %}{% endfor %}{% endif %}{{'<|im_end|>'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def llava_onevision(most: int = 9) -> tuple[Any, Any]:
    """LLaVA-OneVision with SigLIP and Qwen 2; sides that are no whole number of patches, as those of SigLIP so400m."""
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

    tok = tokenizer("<image>", "<video>", "<|im_start|>", "<|im_end|>", eos="<|im_end|>", add_bos=False)
    pinpoints = [[31 * i, 31 * j] for i in range(1, 4) for j in range(1, 4)]
    config = hf.LlavaOnevisionConfig(
        vision_config=hf.SiglipVisionConfig(**VISION, image_size=31, patch_size=7, vision_use_head=False),
        text_config=hf.Qwen2Config(**backbone(tok)), image_token_id=tok.convert_tokens_to_ids("<image>"),
        video_token_id=tok.convert_tokens_to_ids("<video>"), image_grid_pinpoints=pinpoints,
        vision_aspect_ratio=f"anyres_max_{most}",
    )  # fmt: skip
    images = LlavaOnevisionImageProcessorPil(size={"height": 31, "width": 31}, image_grid_pinpoints=pinpoints)
    processor = quiet(
        hf.LlavaOnevisionProcessor, image_processor=images, tokenizer=tok, video_processor=None, num_image_tokens=16,
        vision_feature_select_strategy="full", chat_template=ONEVISION, vision_aspect_ratio=f"anyres_max_{most}",
    )  # fmt: skip
    return random(hf.LlavaOnevisionForConditionalGeneration(config)), processor


# of HuggingFaceM4/Idefics3-8B-Llama3
IDEFICS3 = (
    "<|begin_of_text|>{% for message in messages %}{{message['role'].capitalize()}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
# of HuggingFaceTB/SmolVLM-Instruct
SMOLVLM = IDEFICS3.replace("<|begin_of_text|>", "<|im_start|>")


def idefics3() -> tuple[Any, Any]:
    """Idefics3 with Llama 3's marks; sides that are no whole number of patches."""
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    tok = tokenizer(*TILE_MARKS, bos="<|begin_of_text|>")
    images = Idefics3ImageProcessorPil(size={"longest_edge": 105}, max_image_size={"longest_edge": 35})
    processor = hf.Idefics3Processor(image_processor=images, tokenizer=tok, image_seq_len=4, chat_template=IDEFICS3)
    vision = hf.Idefics3VisionConfig(**VISION, image_size=35, patch_size=8)
    return _idefics3(hf.Idefics3ForConditionalGeneration, hf.Idefics3Config, vision, tok), processor


def smolvlm() -> tuple[Any, Any]:
    """SmolVLM: the same with other names."""
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    tok = tokenizer(*TILE_MARKS, bos="<|im_start|>", add_bos=False, named={
        "image_token": "<image>", "fake_image_token": "<fake_token_around_image>", "global_image_token": "<global-img>",
        "end_of_utterance_token": "<end_of_utterance>",
    })  # fmt: skip
    images = SmolVLMImageProcessorPil(size={"longest_edge": 96}, max_image_size={"longest_edge": 32})
    processor = quiet(
        hf.SmolVLMProcessor, image_processor=images, tokenizer=tok, video_processor=None, image_seq_len=4,
        chat_template=SMOLVLM,
    )  # fmt: skip
    vision = hf.SmolVLMVisionConfig(**VISION, image_size=32, patch_size=8)
    return _idefics3(hf.SmolVLMForConditionalGeneration, hf.SmolVLMConfig, vision, tok), processor


TILE_MARKS = (
    "<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
)  # fmt: skip


def _idefics3(model: Any, config: Any, vision: Any, tok: Any) -> Any:
    made = config(
        vision_config=vision, text_config=hf.LlamaConfig(**backbone(tok)), scale_factor=2,
        image_token_id=tok.convert_tokens_to_ids("<image>"), pad_token_id=tok.pad_token_id,
    )  # fmt: skip
    return random(model(made))


# of OpenGVLab/InternVL3-1B-hf
INTERNVL = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "{{ '<IMG_CONTEXT>\n' }}{% elif content['type'] == 'video' %}{{ '<video>\n' }}{% elif content['type'] == 'text' %}"
    "{{ content['text'] }}{% endif %}{% endfor %}{% endif %}{{'<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
)


def internvl() -> tuple[Any, Any]:
    """InternVL with Qwen 2."""
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    marks = ("<img>", "</img>", "<IMG_CONTEXT>", "<video>", "<|im_start|>", "<|im_end|>")
    tok = tokenizer(*marks, eos="<|im_end|>", add_bos=False, named={
        "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    })  # fmt: skip
    config = hf.InternVLConfig(
        vision_config=hf.InternVLVisionConfig(**VISION, image_size=[32, 32], patch_size=[8, 8]),
        text_config=hf.Qwen2Config(**backbone(tok)), image_token_id=tok.convert_tokens_to_ids("<IMG_CONTEXT>"),
        downsample_ratio=0.5,
    )  # fmt: skip
    images = GotOcr2ImageProcessorPil(size={"height": 32, "width": 32}, min_patches=1, max_patches=6)
    processor = quiet(
        hf.InternVLProcessor, image_processor=images, tokenizer=tok, video_processor=None, image_seq_length=4,
        chat_template=INTERNVL,
    )  # fmt: skip
    return random(hf.InternVLForConditionalGeneration(config)), processor


# what the template of CohereLabs/aya-vision-8b does with images and text, without its preamble
AYA = (
    "{{ bos_token }}{% for message in messages %}<|START_OF_TURN_TOKEN|>"
    "{{ '<|USER_TOKEN|>' if message['role'] == 'user' else '<|CHATBOT_TOKEN|>' }}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|END_OF_TURN_TOKEN|>"
    "{% endfor %}{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}"
)


def aya_vision() -> tuple[Any, Any]:
    """Aya Vision with SigLIP and Cohere 2: layers whose attention and MLP read the same norm, which centres."""
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    marks = ["<image>", "<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "TILE",
             "TILE_GLOBAL", *(f"TILE_{i}" for i in range(1, 8))]  # fmt: skip
    turns = ["<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>"]
    tok = tokenizer(*marks, *turns, bos="<BOS_TOKEN>", eos="<|END_OF_TURN_TOKEN|>")
    config = hf.AyaVisionConfig(
        vision_config=hf.SiglipVisionConfig(**VISION, image_size=32, patch_size=8, vision_use_head=False),
        text_config=hf.Cohere2Config(**backbone(tok), sliding_window=24),
        image_token_id=tok.convert_tokens_to_ids("<|IMG_PATCH|>"), downsample_factor=2,
    )  # fmt: skip
    images = GotOcr2ImageProcessorPil(size={"height": 32, "width": 32}, min_patches=1, max_patches=6)
    processor = hf.AyaVisionProcessor(
        image_processor=images, tokenizer=tok, patch_size=8, img_size=32, downsample_factor=2, chat_template=AYA
    )
    return random(hf.AyaVisionForConditionalGeneration(config)), processor


FAMILIES = {
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "idefics3": idefics3,
    "internvl": internvl,
    "aya_vision": aya_vision,
}
if is_num2words_available():  # what SmolVLM's processor wants
    FAMILIES["smolvlm"] = smolvlm
