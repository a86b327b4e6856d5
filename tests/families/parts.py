"""What tiny models of every family are made of."""

from __future__ import annotations

from typing import Any

import seeds
import tiny
import torch

VISION = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}


def tokenizer(
    *special: str,
    bos: str = "<s>",
    eos: str = "</s>",
    pad: str = "<pad>",
    add_bos: bool = True,
    named: dict[str, str] | None = None,
) -> Any:
    """A byte-level BPE tokenizer trained in memory.

    Args:
        special: the family's own special tokens.
        bos: begins texts, if `add_bos`.
        eos: ends them.
        pad: pads them.
        add_bos: whether the tokenizer puts `bos` before every text by itself.
        named: special tokens that the family's processor asks the tokenizer for by name, such as `image_token`.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    own = [one for one in special if one not in (bos, eos, pad)]
    tok = Tokenizer(models.BPE(unk_token="<unk>"))
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    names = ["<unk>", bos, eos, pad, *own]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer: Any = trainers.BpeTrainer(
        vocab_size=380 + len(names), special_tokens=names, show_progress=False, initial_alphabet=alphabet
    )
    tok.train_from_iterator(tiny.CORPUS, trainer)
    steps: list[Any] = [processors.ByteLevel(trim_offsets=False)]
    if add_bos:
        ids = [(bos, tok.token_to_id(bos))]
        steps.append(processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=ids))
    tok.post_processor = processors.Sequence(steps)
    return PreTrainedTokenizerFast(
        tokenizer_object=tok, bos_token=bos, eos_token=eos, unk_token="<unk>", pad_token=pad,
        additional_special_tokens=own, extra_special_tokens=named or {},
    )  # fmt: skip


def backbone(tok: Any, **more: Any) -> dict[str, Any]:
    """Settings of a language model's config."""
    return {
        "vocab_size": len(tok) + 5,
        "hidden_size": 32,
        "intermediate_size": 44,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "bos_token_id": tok.bos_token_id,
        "eos_token_id": tok.eos_token_id,
        "pad_token_id": tok.pad_token_id,
        **more,
    }


def random(model: Any) -> Any:
    """The model with a new draw of weights in every run of tests, so large that every part of it matters."""
    generator = torch.Generator().manual_seed(seeds.SEED)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                read = parameter.shape[-1] if "experts" in name else parameter[0].numel()
                parameter.copy_(noise * 1.2 / max(1, read) ** 0.5)
            elif "norm" in name.lower() and name.endswith("weight"):
                parameter.copy_(1 + 0.2 * noise)
            else:
                parameter.copy_(0.1 * noise)
        for module in model.modules():
            if isinstance(module, torch.nn.Embedding):
                module.weight.copy_(torch.randn(module.weight.shape, generator=generator))
    model.set_attn_implementation("eager")
    return model.eval()


def quiet(processor_class: Any, **parts: Any) -> Any:
    """A processor of a class that wants parts which need torchvision, such as one for videos: they are None.

    transformers checks the class of every part, and without torchvision the check itself fails.
    """
    own = type(processor_class.__name__, (processor_class,), {"check_argument_for_proper_class": lambda *a: None})
    return own(**parts)
