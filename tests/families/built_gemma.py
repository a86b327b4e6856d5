"""Gemma 3, PaliGemma and PaliGemma 2."""

from __future__ import annotations

from typing import Any

import transformers as hf
from parts import VISION, backbone, quiet, random, tokenizer
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

# of google/gemma-3-4b-it
GEMMA3 = (
    "{{ bos_token }}\n"
    "{%- if messages[0]['role'] == 'system' -%}\n"
    "    {%- if messages[0]['content'] is string -%}\n"
    "        {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}\n"
    "    {%- else -%}\n"
    "        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}\n"
    "    {%- endif -%}\n"
    "    {%- set loop_messages = messages[1:] -%}\n"
    "{%- else -%}\n"
    '    {%- set first_user_prefix = "" -%}\n'
    "    {%- set loop_messages = messages -%}\n"
    "{%- endif -%}\n"
    "{%- for message in loop_messages -%}\n"
    "    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}\n"
    '        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}\n'
    "    {%- endif -%}\n"
    "    {%- if (message['role'] == 'assistant') -%}\n"
    '        {%- set role = "model" -%}\n'
    "    {%- else -%}\n"
    "        {%- set role = message['role'] -%}\n"
    "    {%- endif -%}\n"
    "    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else \"\") }}\n"
    "    {%- if message['content'] is string -%}\n"
    "        {{ message['content'] | trim }}\n"
    "    {%- elif message['content'] is iterable -%}\n"
    "        {%- for item in message['content'] -%}\n"
    "            {%- if item['type'] == 'image' -%}\n"
    "                {{ '<start_of_image>' }}\n"
    "            {%- elif item['type'] == 'text' -%}\n"
    "                {{ item['text'] | trim }}\n"
    "            {%- endif -%}\n"
    "        {%- endfor -%}\n"
    "    {%- else -%}\n"
    '        {{ raise_exception("Invalid content type") }}\n'
    "    {%- endif -%}\n"
    "    {{ '<end_of_turn>\n' }}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}\n"
    "    {{'<start_of_turn>model\n'}}\n"
    "{%- endif -%}\n"
)


def gemma3() -> tuple[Any, Any]:
    """Gemma 3: means of 2 x 2 patches are tokens, a window that is shorter than the text, sandwiched norms."""
    begin, end, soft = "<start_of_image>", "<end_of_image>", "<image_soft_token>"
    tok = tokenizer(
        begin, end, soft, "<start_of_turn>", "<end_of_turn>", bos="<bos>", eos="<eos>",
        named={"boi_token": begin, "eoi_token": end, "image_token": soft},
    )  # fmt: skip
    ids = {name: tok.convert_tokens_to_ids(text) for name, text in (("image", soft), ("boi", begin), ("eoi", end))}
    config = hf.Gemma3Config(
        vision_config=hf.SiglipVisionConfig(**VISION, image_size=32, patch_size=4, vision_use_head=False),
        text_config=hf.Gemma3TextConfig(
            **backbone(tok), head_dim=8, sliding_window=24, layer_types=["sliding_attention", "full_attention"]
        ),
        mm_tokens_per_image=16, **{f"{name}_token_id": one for name, one in ids.items()},
    )  # fmt: skip
    images = Gemma3ImageProcessorPil(size={"height": 32, "width": 32})
    processor = hf.Gemma3Processor(image_processor=images, tokenizer=tok, image_seq_length=16, chat_template=GEMMA3)
    return random(hf.Gemma3ForConditionalGeneration(config)), processor


# what the template of google/gemma-4-E4B-it does with images and text
GEMMA4 = (
    "{{ bos_token }}{%- for message in messages -%}{%- set role = message['role'].replace('assistant', 'model') -%}"
    "{{- '<|turn>' + role + '\n' }}{%- for item in message['content'] -%}{%- if item['type'] == 'image' -%}"
    "{{- '\n\n<|image|>\n\n' -}}{%- elif role == 'model' -%}"
    "{%- for part in item['text'].split('<channel|>') -%}{{- part.split('<|channel>')[0] | trim -}}{%- endfor -%}"
    "{%- else -%}{{- item['text'] | trim -}}{%- endif -%}{%- endfor -%}{{- '<turn|>\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|turn>model\n' -}}"
    "{%- if not enable_thinking | default(false) -%}{{- '<|channel>thought\n<channel|>' -}}{%- endif -%}{%- endif -%}"
)


def gemma4(double_wide: bool = False) -> tuple[Any, Any]:
    """Gemma 4: inputs of every layer's own, scaled layers, keys of other layers, wider MLPs."""
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

    marks = {"boi_token": "<|image>", "image_token": "<|image|>", "eoi_token": "<image|>", "audio_token": "<|audio|>",
             "boa_token": "<|audio>", "eoa_token": "<audio|>", "video_token": "<|video|>"}  # fmt: skip
    tok = tokenizer(*marks.values(), "<|turn>", "<turn|>", "<|channel>", "<channel|>", bos="<bos>", eos="<turn|>",
                    named=marks)  # fmt: skip
    ids = {f"{name}_id": tok.convert_tokens_to_ids(text) for name, text in marks.items() if not name.startswith("boa")}
    config = hf.Gemma4Config(
        vision_config=hf.Gemma4VisionConfig(
            **VISION, num_key_value_heads=4, head_dim=8, patch_size=4, pooling_kernel_size=3,
            position_embedding_size=256,
        ),
        text_config=hf.Gemma4TextConfig(
            **backbone(tok) | {"num_hidden_layers": 4}, vocab_size_per_layer_input=len(tok) + 5, head_dim=8,
            global_head_dim=8, sliding_window=24, hidden_size_per_layer_input=8, num_kv_shared_layers=2,
            use_double_wide_mlp=double_wide, use_bidirectional_attention="vision", final_logit_softcapping=4.0,
            layer_types=["sliding_attention", "full_attention"] * 2,
        ),
        audio_config=None, **ids,
    )  # fmt: skip
    processor = quiet(
        hf.Gemma4Processor, tokenizer=tok, video_processor=None, feature_extractor=None, chat_template=GEMMA4,
        image_processor=Gemma4ImageProcessorPil(patch_size=4, pooling_kernel_size=3, max_soft_tokens=70),
    )  # fmt: skip
    model = random(hf.Gemma4ForConditionalGeneration(config))
    for i, layer in enumerate(model.model.language_model.layers):
        layer.layer_scalar.fill_(0.6 + 0.3 * i)
    return model, processor


def paligemma() -> tuple[Any, Any]:
    """PaliGemma: the prompt is seen from everywhere; no chat template."""
    return _paligemma(hf.GemmaConfig)


def paligemma2() -> tuple[Any, Any]:
    """PaliGemma 2: Gemma 2, with caps that are reached, a window shorter than the text, and norms behind MLPs."""
    return _paligemma(
        hf.Gemma2Config, attn_logit_softcapping=0.5, final_logit_softcapping=4.0, query_pre_attn_scalar=8,
        sliding_window=24, layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip


def _paligemma(text: Any, **settings: Any) -> tuple[Any, Any]:
    tok = tokenizer("<image>", bos="<bos>", eos="<eos>", add_bos=False)
    config = hf.PaliGemmaConfig(
        vision_config=hf.SiglipVisionConfig(
            **VISION, image_size=28, patch_size=7, vision_use_head=False, projection_dim=32
        ),
        text_config=text(**backbone(tok, vocab_size=len(tok) + 1200), head_dim=8, **settings),
        image_token_id=tok.convert_tokens_to_ids("<image>"), projection_dim=32, hidden_size=32,
    )  # fmt: skip
    images = SiglipImageProcessorPil(size={"height": 28, "width": 28})
    images.image_seq_length = 16
    processor = hf.PaliGemmaProcessor(image_processor=images, tokenizer=tok)
    return random(hf.PaliGemmaForConditionalGeneration(config)), processor


def _asked(text: str) -> str | None:
    """Its processor puts BOS and the line's end itself, where there are images and no response."""
    images, _bos, prompt = text.partition("<bos>")
    return images + prompt.removesuffix("\n") if images and prompt.endswith("\n") else None


FAMILIES = {"gemma3": gemma3, "gemma4": gemma4, "paligemma": paligemma, "paligemma2": paligemma2}
ASKED = {"paligemma": _asked, "paligemma2": _asked}
