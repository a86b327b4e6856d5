"""Families whose towers read images at their own shape."""

from __future__ import annotations

from typing import Any

import transformers as hf
from parts import VISION, backbone, quiet, random, tokenizer
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from vlm_neurons.models.adapters.pixtral import processor

# What the templates of Qwen/Qwen2-VL-7B-Instruct and Qwen/Qwen2.5-VL-7B-Instruct do with images and text; Qwen3-VL's
# does the same without the system prompt.
SYSTEM = (
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
)
QWEN = (
    "{% for message in messages %}SYSTEM<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}


def qwen2_vl() -> tuple[Any, Any]:
    """Qwen2-VL."""
    tower = {"depth": 2, "embed_dim": 24, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 7}
    return _qwen("Qwen2VL", tower, QWEN.replace("SYSTEM", SYSTEM))


def qwen2_5_vl() -> tuple[Any, Any]:
    """Qwen2.5-VL: windows of 2 x 2 tokens in the first layer of the tower."""
    tower = {
        "depth": 2, "hidden_size": 24, "intermediate_size": 40, "num_heads": 2, "patch_size": 7, "out_hidden_size": 32,
        "window_size": 28, "fullatt_block_indexes": [1],
    }  # fmt: skip
    return _qwen("Qwen2_5_VL", tower, QWEN.replace("SYSTEM", SYSTEM))


def qwen3_vl() -> tuple[Any, Any]:
    """Qwen3-VL: two deepstack mergers."""
    tower = {
        "depth": 3, "hidden_size": 24, "intermediate_size": 40, "num_heads": 2, "patch_size": 7, "out_hidden_size": 32,
        "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1],
    }  # fmt: skip
    return _qwen("Qwen3VL", tower, QWEN.replace("SYSTEM", ""), head_dim=8)


def qwen3_vl_moe() -> tuple[Any, Any]:
    """Qwen3-VL with experts: the first layer of the backbone has an MLP, the others experts."""
    tower = {
        "depth": 3, "hidden_size": 24, "intermediate_size": 40, "num_heads": 2, "patch_size": 7, "out_hidden_size": 32,
        "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1],
    }  # fmt: skip
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 20, "mlp_only_layers": [0]}
    hf_model, processor = _qwen(
        "Qwen3VLMoe", tower, QWEN.replace("SYSTEM", ""), "Qwen3VL", head_dim=8, num_hidden_layers=3, **experts
    )
    hf_model.set_experts_implementation("eager")  # the order of sums
    return hf_model, processor


def qwen3_5() -> tuple[Any, Any]:
    """Qwen3.5: the first layer of the backbone has linear attention."""
    tower = {
        "depth": 2, "hidden_size": 24, "intermediate_size": 40, "num_heads": 2, "patch_size": 7, "out_hidden_size": 32,
        "num_position_embeddings": 64,
    }  # fmt: skip
    text = {
        "head_dim": 8, "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2,
        "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
        "rope_parameters": ROPE | {"partial_rotary_factor": 1.0},
    }  # fmt: skip
    # as published: thoughts unless they are turned off, and a given answer is shown as one without
    asked = (
        "assistant\n{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
        "{% else %}<think>\n{% endif %}{% endif %}"
    )
    thinking = QWEN.replace("SYSTEM", "").replace("assistant\n{% endif %}", asked)
    empty = "{% if message['role'] == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    shown = thinking.replace("{{ message['role'] }}\n", "{{ message['role'] }}\n" + empty)
    return _qwen("Qwen3_5", tower, shown, "Qwen3VL", **text)


def _qwen(kind: str, tower: dict[str, Any], template: str, processed: str = "", **more: Any) -> tuple[Any, Any]:
    names = ["<|im_start|>", "<think>", "</think>", *SPECIAL.values()]
    tok = tokenizer(*names, bos="<|endoftext|>", eos="<|im_end|>", pad="<|endofpad|>", add_bos=False)
    config = getattr(hf, f"{kind}Config")(
        vision_config=tower, text_config=backbone(tok, **{"rope_parameters": ROPE} | more),
        **{name: tok.convert_tokens_to_ids(token) for name, token in SPECIAL.items()},
    )  # fmt: skip
    images = Qwen2VLImageProcessorPil(patch_size=7, size={"shortest_edge": 14 * 14 * 2, "longest_edge": 14 * 14 * 30})
    processor = quiet(
        getattr(hf, f"{processed or kind}Processor"), image_processor=images, tokenizer=tok, video_processor=None,
        chat_template=template,
    )  # fmt: skip
    return random(getattr(hf, f"{kind}ForConditionalGeneration")(config)), processor


# what the template of THUDM/GLM-4.1V-9B-Thinking does with images and text
GLM = (
    "[gMASK]<sop>{% for message in messages %}<|{{ message['role'] }}|>\n{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|begin_of_image|><|image|><|end_of_image|>{% else %}{{ content['text'] }}"
    "{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def glm4v() -> tuple[Any, Any]:
    """GLM-4V: gates and what they are multiplied by in one matrix; norms on both sides."""
    return _glm("Glm4v")


def glm4v_moe() -> tuple[Any, Any]:
    """GLM-4V with experts: the first layer of the backbone has an MLP, the others experts beside one."""
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 20, "n_group": 2,
               "topk_group": 2, "num_hidden_layers": 3, "routed_scaling_factor": 1.5}  # fmt: skip
    hf_model, processor = _glm("Glm4vMoe", **experts)
    hf_model.set_experts_implementation("eager")  # the order of sums
    return hf_model, processor


def _glm(kind: str, **more: Any) -> tuple[Any, Any]:
    from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil

    begin, end, image = "<|begin_of_image|>", "<|end_of_image|>", "<|image|>"
    marks = [begin, end, image, "<|video|>", "<|begin_of_video|>", "<|end_of_video|>", "[gMASK]", "<sop>"]
    tok = tokenizer(*marks, "<|user|>", "<|assistant|>", bos="[gMASK]", eos="<|endoftext|>", add_bos=False,
                    named={"image_token": image, "video_token": "<|video|>"})  # fmt: skip
    rope = ROPE | {"partial_rotary_factor": 1.0}
    config = getattr(hf, f"{kind}Config")(
        vision_config={
            "depth": 2, "hidden_size": 24, "num_heads": 2, "patch_size": 7, "out_hidden_size": 32, "image_size": 56,
            "intermediate_size": 40,
        },
        text_config=backbone(tok, rope_parameters=rope, head_dim=8, **more),
        image_token_id=tok.convert_tokens_to_ids(image), video_token_id=tok.convert_tokens_to_ids("<|video|>"),
        image_start_token_id=tok.convert_tokens_to_ids(begin), image_end_token_id=tok.convert_tokens_to_ids(end),
    )  # fmt: skip
    sizes = {"shortest_edge": 14 * 14 * 2, "longest_edge": 14 * 14 * 30 * 2}
    processor = quiet(
        hf.Glm4vProcessor, image_processor=Glm4vImageProcessorPil(patch_size=7, merge_size=2, size=sizes),
        tokenizer=tok, video_processor=None, chat_template=GLM,
    )  # fmt: skip
    return random(getattr(hf, f"{kind}ForConditionalGeneration")(config)), processor


# What the template of mistral-community/pixtral-12b does with images and text.
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}[INST]"
    "{% for content in message['content'] %}{% if content['type'] == 'text' %}{{ content['text'] }}"
    "{% elif content['type'] == 'image' %}[IMG]{% endif %}{% endfor %}[/INST]"
    "{% else %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for content in message['content'] %}{{ content['text'] }}{% endfor %}{% endif %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
)


def pixtral() -> tuple[Any, Any]:
    """Pixtral: every patch is a token."""
    return _pixtral(hf.LlavaForConditionalGeneration, hf.LlavaConfig, 1, vision_feature_select_strategy="full")


def mistral3() -> tuple[Any, Any]:
    """Mistral 3: a token is 2 x 2 patches."""
    return _pixtral(hf.Mistral3ForConditionalGeneration, hf.Mistral3Config, 2, spatial_merge_size=2)


def _pixtral(model: Any, config: Any, merged: int, **more: Any) -> tuple[Any, Any]:
    side = 4 // merged
    tok = tokenizer("[IMG]", "[IMG_BREAK]", "[IMG_END]", "[INST]", "[/INST]")
    made = config(
        vision_config=hf.PixtralVisionConfig(**VISION, head_dim=6, image_size=48, patch_size=side),
        text_config=hf.MistralConfig(**backbone(tok)), image_token_id=tok.convert_tokens_to_ids("[IMG]"),
        vision_feature_layer=-1, **more,
    )  # fmt: skip
    images = PixtralImageProcessorPil(size={"longest_edge": 24}, patch_size={"height": side, "width": side})
    try:  # transformers' own wants torchvision
        from transformers.models.pixtral.processing_pixtral import PixtralProcessor
    except ImportError:
        PixtralProcessor = processor()
    own = PixtralProcessor(
        image_processor=images, tokenizer=tok, patch_size=side, spatial_merge_size=merged, chat_template=MISTRAL
    )
    return random(model(made)), own


FAMILIES = {
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "qwen3_vl_moe": qwen3_vl_moe,
    "qwen3_5": qwen3_5,
    "glm4v": glm4v,
    "glm4v_moe": glm4v_moe,
    "pixtral": pixtral,
    "mistral3": mistral3,
}
