"""What a model's tokenizer does that matters for batches."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Words:
    """What preparation needs to know of a tokenizer, worked out once per model.

    Attributes:
        tokenizer: a fast Hugging Face tokenizer.
        image_token: text of the image token.
        image_id: its id.
        pad_id: id to pad with.
        special_ids: ids of special tokens; they are never TEXT. Not the unknown token: it stands for characters.
        special_texts: what user text must not contain, since it would be read as a special token.
        trims: whether offsets leave out a token's leading and trailing blanks (byte-level `trim_offsets`).
        max_tokens: longest row that the model can place, or None.
    """

    tokenizer: Any
    image_token: str
    image_id: int
    pad_id: int
    special_ids: frozenset[int]
    special_texts: tuple[str, ...]
    trims: bool
    max_tokens: int | None


def words_of(processor: Any, config: Any) -> Words:
    """Read a processor's tokenizer.

    Raises:
        ValueError: the tokenizer has no character offsets (it is not a fast one), or does not know the image token.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"{type(tokenizer).__name__} gives no character offsets, which tell response from prompt: "
            "load a fast tokenizer (tokenizer.json)"
        )
    image_id = int(config.image_token_id)
    image_token = tokenizer.convert_ids_to_tokens(image_id)
    if image_token is None:
        raise ValueError(f"the model's image_token_id {image_id} is not in the tokenizer's vocabulary")
    named = getattr(processor, "image_token", image_token)
    if named != image_token:
        raise ValueError(f"the processor's image token is {named!r}, the model's is {image_token!r} (id {image_id})")
    added = {t.content: i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    special = added | {t: tokenizer.convert_tokens_to_ids(t) for t in [*tokenizer.all_special_tokens, image_token]}
    pad = next(p for p in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if p is not None)
    return Words(
        tokenizer=tokenizer,
        image_token=image_token,
        image_id=image_id,
        pad_id=int(pad),
        special_ids=frozenset(special.values()) - {tokenizer.unk_token_id},
        special_texts=tuple(sorted(special, key=len, reverse=True)),
        trims=_trims(tokenizer),
        max_tokens=getattr(config.text_config, "max_position_embeddings", None),
    )


def _trims(tokenizer: Any) -> bool:
    step = tokenizer.backend_tokenizer.post_processor
    return step is not None and '"trim_offsets":true' in json.dumps(
        json.loads(step.__getstate__()), separators=(",", ":")
    )
