"""Tiny random LLaVAs built from configs, and their processors, for tests. No files, no network."""

from __future__ import annotations

from typing import Any

import numpy as np
import seeds
import torch
from PIL import Image

CORPUS = [
    "A red circle is in the top left corner of the picture. It has a small shadow.",
    "USER: Could you describe the image? ASSISTANT: There are two people, a dog and three cats on the grass.",
    "What colour is the train? The train is blue and white.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
    "1234567890 (5 + 3) * 2 = 16; see https://example.org/path?x=1&y=2",
    "First line.\nSecond line.\n\nThird.",
] * 8
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", "<image>", "<|im_start|>", "<|im_end|>"]


def tokenizer(kind: str = "bpe", *, size: int = 420, trim_offsets: bool = True, bos: bool = True) -> Any:
    """A tokenizer trained in memory.

    Args:
        kind: `"bpe"` (byte-level BPE, as GPT-2 and Qwen) or `"unigram"` (Metaspace, as SentencePiece and LLaMA).
        size: vocabulary size.
        trim_offsets: whether offsets of the byte-level tokenizer leave out the leading blank.
        bos: whether `<s>` is put before every text.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    steps: list[Any] = []
    if kind == "bpe":
        tok = Tokenizer(models.BPE(unk_token="<unk>"))
        tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tok.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer: Any = trainers.BpeTrainer(
            vocab_size=size, special_tokens=SPECIAL, show_progress=False, initial_alphabet=alphabet
        )
        steps.append(processors.ByteLevel(trim_offsets=trim_offsets))
    else:
        tok = Tokenizer(models.Unigram())
        tok.pre_tokenizer = pre_tokenizers.Metaspace()
        tok.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=size, special_tokens=SPECIAL, show_progress=False, unk_token="<unk>"
        )
    tok.train_from_iterator(CORPUS, trainer)
    if bos:
        steps.append(
            processors.TemplateProcessing(
                single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tok.token_to_id("<s>"))]
            )
        )
    if steps:
        tok.post_processor = processors.Sequence(steps)
    return PreTrainedTokenizerFast(
        tokenizer_object=tok,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=["<image>", "<|im_start|>", "<|im_end|>"],
    )


def processor(
    tok: Any = None, *, tower: str = "clip", image_size: int = 28, patch_size: int = 7, chat_template: str | None = None
) -> Any:
    """A LlavaProcessor: CLIP resizes the short edge and crops the centre, SigLIP squeezes to a square."""
    from transformers import LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    square = {"height": image_size, "width": image_size}
    if tower == "clip":
        images: Any = CLIPImageProcessorPil(size={"shortest_edge": image_size}, crop_size=square)
    else:
        images = SiglipImageProcessorPil(size=square)
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tok if tok is not None else tokenizer(),
        patch_size=patch_size,
        vision_feature_select_strategy="default" if tower == "clip" else "full",
        num_additional_image_tokens=1 if tower == "clip" else 0,
        chat_template=chat_template,
    )


def llava(
    tok: Any = None,
    *,
    tower: str = "clip",
    backbone: str = "llama",
    seed: int | None = None,
    n_layers: int = 2,
    d_model: int = 32,
    d_mlp: int = 44,
    vision_layers: int = 3,
    vision_feature_layer: int | list[int] | None = None,
    image_size: int = 28,
    patch_size: int = 7,
    context: int = 512,
) -> Any:
    """A random LlavaForConditionalGeneration, with grouped-query attention, d_vocab != d_model and norm weights
    that are not one. A new draw each time unless `seed` is given."""
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        MistralConfig,
        Qwen2Config,
        SiglipVisionConfig,
    )

    tok = tok if tok is not None else tokenizer()
    vision_class: Any = CLIPVisionConfig if tower == "clip" else SiglipVisionConfig
    text_class: Any = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config}[backbone]
    vision = vision_class(
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=vision_layers,
        num_attention_heads=4,
        image_size=image_size,
        patch_size=patch_size,
    )
    text = text_class(
        vocab_size=len(tok) + 5,
        hidden_size=d_model,
        intermediate_size=d_mlp,
        num_hidden_layers=n_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        bos_token_id=tok.bos_token_id,
        eos_token_id=tok.eos_token_id,
        pad_token_id=tok.pad_token_id,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tok.convert_tokens_to_ids("<image>"),
        vision_feature_layer=vision_feature_layer if vision_feature_layer is not None else -2,
        vision_feature_select_strategy="default" if tower == "clip" else "full",
    )
    generator = torch.Generator().manual_seed(seed if seed is not None else seeds.number())
    model = LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name or "layrnorm" in name:
                parameter.copy_(1 + 0.3 * noise if name.endswith("weight") else 0.1 * noise)
            elif parameter.dim() > 1:
                parameter.copy_(noise * 1.5 / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.1 * noise)
        model.model.language_model.embed_tokens.weight.mul_(d_model**0.5)  # unit size, like the image features
    return model


def image(width: int = 40, height: int = 33, rng: np.random.Generator | None = None) -> Image.Image:
    """A random picture: blocks of colour, so that neighbouring patches differ."""
    rng = rng or seeds.rng()
    small = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR)


PROMPTS = ["What colour is the train?", "Could you describe the image? Please be brief.", "Hi"]
RESPONSES = ["The train is blue and white.", "There are two people, a dog and three cats on the grass.", "A dog."]

CHATML = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Appends end tokens and a line break after the response."""


def in_dtype(model: Any, dtype: torch.dtype) -> Any:
    """As `from_pretrained(dtype=...)` makes it: frequencies of rotary positions stay exact."""
    exact = [(m, n, b) for m in model.modules() for n, b in m._buffers.items() if n.endswith("inv_freq")]
    model.to(dtype)
    for module, name, buffer in exact:
        module._buffers[name] = buffer
    return model
