"""The untrained tiny LLaVA: its tokenizer, its processor and its two towers, all of them stock transformers classes."""

from __future__ import annotations

import re
import string
from pathlib import Path

from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import Unigram
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from vlm_neurons.synthetic import language
from vlm_neurons.synthetic.scene import GRID, IMAGE_SIZE, PATCH_SIZE

SPECIAL = ("<unk>", "<s>", "</s>", "<pad>", "<image>")

# The layout of Xu, Lan, Lu 2025 (read second hand): "USER: <image>\nprompt\nASSISTANT: response</s>".
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: "
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{{ '\\n' }}"
    "{% else %}ASSISTANT: "
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}</s>"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A unigram tokenizer with the whole words of the scenes' language, and single characters for all else."""
    pieces: dict[str, float] = {piece: 0.0 for piece in SPECIAL}
    for word in language.words():
        pieces.setdefault(f"▁{word}", -6.0)
        if not word.islower() or not word.isalpha():  # only these stand at the start of a line or after another token
            pieces.setdefault(word, -6.0)
    for character in ["▁", "\n", *string.ascii_letters, *string.digits, *string.punctuation]:
        pieces.setdefault(character, -14.0)
    tokenizer = Tokenizer(Unigram(list(pieces.items()), unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def make_processor() -> LlavaProcessor:
    """Tokenizer and image processor (shortest edge to 64 pixels, centre crop 64 x 64)."""
    images = CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=[0.5] * 3,
        image_std=[0.25] * 3,
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=make_tokenizer(),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """About a million parameters: CLIP embeddings, a GELU projector, a LLaMA of 4 layers x 384 MLP neurons.

    The tower has one layer and LLaVA reads the layer before the last, so the backbone sees linear patch embeddings
    (plus position, plus LayerNorm): whatever is recognised in a picture is recognised in the backbone.
    """
    vision = CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=1,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=GRID * GRID,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    # Without this the projected patches are far longer than words, attention reads them as they are, and the MLPs
    # learn nothing at visual positions.
    model.model.multi_modal_projector.linear_2.weight.data.mul_(0.08)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def save(model: LlavaForConditionalGeneration, processor: LlavaProcessor, out: Path) -> None:
    """Write an ordinary model directory: fp16 safetensors, configuration, processor.

    transformers 5 writes the tower under new names beside the language model under published ones. vLLM, and transformers
    before 5, know the published ones alone (the latter would load a random tower).
    """
    import copy

    from safetensors.torch import load_file, save_file

    copy.deepcopy(model).half().save_pretrained(out)
    written = load_file(out / "model.safetensors")
    tower = "vision_tower."
    published = {
        re.sub(rf"^{tower}(?!vision_model\.)", f"{tower}vision_model.", name): t for name, t in written.items()
    }
    save_file(published, out / "model.safetensors", metadata={"format": "pt"})
    processor.save_pretrained(out)
