"""Prompts and responses as text: the processor's chat template, or LLaVA-1.5's; and what the tokenizer says of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from typing import Any

# Stands for the response while the chat template is probed: letters only, so that no template trims or escapes it.
_PROBE = "qzResponseStandsHerezq"


# of strftime: letters, and those that the C library writes without a leading zero
_DIRECTIVES = (*"aAbBcdeFGHIjmMpSuUVwWxXyY", *(f"-{letter}" for letter in "deHIjmMSUVWy"))


@dataclass(frozen=True)
class Rendered:
    """One row as text.

    Attributes:
        text: with one image token per image.
        start: first character of the response in `text`.
        end: one past its last character; `start` where there is no response.
    """

    text: str
    start: int
    end: int


def render(
    processor: Any,
    plain: Callable[[str, str, int, str], tuple[str, str]],
    prompt: str,
    n_images: int,
    response: str | None,
    day: str | None = None,
    end: bool = True,
) -> Rendered:
    """Render one row.

    A chat template that writes today's date (Mistral's and Llama's do) is told `day`, an ISO date; None is today.

    With a chat template: a user message (the images, then the prompt) and, if there is a response, an assistant
    message; else the generation prompt. What stands before a response is what stands before one that is generated.
    Without a template, `plain` (see `Adapter`). With `end=False` nothing stands behind the response.

    Raises:
        ValueError: the template loses or changes the response, so that its characters cannot be told.
    """
    if template_of(processor):
        return _chat(processor, prompt, n_images, response, day, end)
    before, joined = plain(processor.image_token, prompt, n_images, processor.tokenizer.bos_token or "")
    if response is None or not (response or end):
        return Rendered(before, len(before), len(before))
    start = len(before) + len(joined)
    return Rendered(before + joined + response, start, start + len(response))


def template_of(processor: Any) -> str:
    """The chat template: the processor's, or one that was saved with its tokenizer alone; empty where there is none."""
    for owner in (processor, getattr(processor, "tokenizer", None)):
        if text := _text(getattr(owner, "chat_template", None)):
            return text
    return ""


def chat_text(processor: Any, messages: list[dict[str, Any]], day: str | None = None, **how: Any) -> str:
    """Turns in parts as the text that a processor's chat template makes of them; the one place where one is asked.

    Args:
        processor: it, or its tokenizer, has a template.
        messages: `{"role", "content"}`, content as `{"type": "image"}` and `{"type": "text", "text"}`; templates of
            language models are given strings.
        day: ISO date that a template with a date in it is told; None is today.
        how: `add_generation_prompt`, `continue_final_message`.

    Raises:
        Exception: whatever a template raises.
    """
    if not _takes_parts(processor):
        words = {"image": processor.image_token + "\n"}
        messages = [
            {**m, "content": "".join(words.get(p["type"]) or p["text"] for p in m["content"])} for m in messages
        ]
    # thinking is not what a user waits for, nor has a given response been thought about
    template = _dated(template_of(processor), day)
    given: dict[str, Any] = {"enable_thinking": False} if "enable_thinking" in template else {}
    return _filled(processor, messages, chat_template=template, **given, **how)


def _filled(processor: Any, messages: list[dict[str, Any]], **how: Any) -> str:
    """Messages in a template. SmolVLM's own method wants a processor of videos, which need not be there."""
    from transformers import ProcessorMixin

    owner: Any = ProcessorMixin if isinstance(processor, ProcessorMixin) else type(processor)
    return str(owner.apply_chat_template(processor, messages, tokenize=False, **how))


def needs_bos(tokenizer: Any, text: str) -> bool:
    """Whether a tokenizer has to add its special tokens to a rendered text: a chat template that writes the BOS itself
    must not get a second one."""
    return not (tokenizer.bos_token and text.startswith(tokenizer.bos_token))


def _chat(processor: Any, prompt: str, n_images: int, response: str | None, day: str | None, end: bool) -> Rendered:
    messages = [_message("user", prompt, n_images)]
    asked = chat_text(processor, messages, day, add_generation_prompt=True)
    if response is None or not (response or end):
        return Rendered(asked, len(asked), len(asked))

    def with_answer(answer: str) -> str:
        return chat_text(processor, [*messages, _message("assistant", answer, 0)], day, add_generation_prompt=False)

    # What stands before and after the response does not depend on it. Searching for the response itself would find
    # the wrong place where the prompt contains it.
    parts = with_answer(_PROBE).split(_PROBE)
    if len(parts) != 2:
        raise ValueError(f"the chat template shows the response {len(parts) - 1} times; it has to be once")
    before, after = parts
    # Some templates begin an answer otherwise than they ask for one: without an empty thought, with a blank more.
    told = before if before.startswith(asked) else asked
    behind = after if end else ""
    if not response:
        return Rendered(told + behind, len(told), len(told))
    text = with_answer(response)
    for kept in (response, response.strip(), response.rstrip(), response.lstrip()):  # many templates trim
        if text == before + kept + after:
            return Rendered(told + kept + behind, len(told), len(told) + len(kept))
    raise ValueError(
        "the chat template changes the response, so its tokens cannot be told from the template's: reword it, or pass "
        "a template that keeps the text (processor.chat_template)"
    )


def _message(role: str, text: str, n_images: int) -> dict[str, Any]:
    return {"role": role, "content": [*({"type": "image"} for _ in range(n_images)), {"type": "text", "text": text}]}


_known_to_take_parts: dict[str, bool] = {}


def _takes_parts(processor: Any) -> bool:
    """Whether a chat template reads a turn as a list of parts; templates of language models want one string, and write
    Python's repr of a list, or raise."""
    template = template_of(processor)
    if template not in _known_to_take_parts:
        probe = f"{_PROBE}'\n{_PROBE}"  # a repr would escape it
        shown = [False, False]
        for parts_too in (False, True):
            with suppress(Exception):  # whatever a template raises; where both forms raise, its rows say so
                content = [{"type": "text", "text": probe}] if parts_too else probe
                shown[parts_too] = probe in _filled(
                    processor,
                    [{"role": "user", "content": content}],
                    add_generation_prompt=True,
                    chat_template=_dated(template, None),
                )
        _known_to_take_parts[template] = shown[True] or not shown[False]
    return _known_to_take_parts[template]


def _dated(template: str, day: str | None) -> str:
    """The template with a `strftime_now` that tells the day; the same for a template that asks for none.

    A macro, because transformers turns functions among the template's variables into text.
    """
    if "strftime_now" not in template:
        return template
    at = date.fromisoformat(day) if day else date.today()
    told = "".join(f"|replace('%{c}', '{at.strftime('%' + c)}')" for c in _DIRECTIVES)
    # a template's first newline after a block is dropped by transformers' settings, so this one is
    return "{% macro strftime_now(format) %}{{ format" + told + " }}{% endmacro %}\n" + template


def _text(template: str | dict[str, str] | None) -> str:
    return template or "" if isinstance(template, str | None) else template.get("default", "")


def is_dated(processor: Any) -> bool:
    """Whether prompts have the day in them."""
    return "strftime_now" in template_of(processor)


@contextmanager
def on_day(model: Any, day: str) -> Iterator[None]:
    """Let chat templates say this day: what goes on with a run, or looks at its samples again, needs its prompts."""
    before, model.day = model.day, day
    try:
        yield
    finally:
        model.day = before


@dataclass(frozen=True)
class Words:
    """What preparation needs to know of a tokenizer, worked out once per model.

    Attributes:
        tokenizer: a fast Hugging Face tokenizer.
        placeholder: what stands for an image in prompts as rendered.
        image_token: text of the token that an image is expanded to.
        image_id: its id.
        pad_id: id to pad with.
        special_ids: ids of special tokens; they are never TEXT. Not the unknown token: it stands for characters.
        special_texts: what user text must not contain, since it would be read as a special token.
        trims: whether offsets leave out a token's leading and trailing blanks (byte-level `trim_offsets`).
        max_tokens: longest row that the model can place, or None.
        n_ids: how many ids the model has an embedding for.
    """

    tokenizer: Any
    placeholder: str
    image_token: str
    image_id: int
    pad_id: int
    special_ids: frozenset[int]
    special_texts: tuple[str, ...]
    trims: bool
    max_tokens: int | None
    n_ids: int


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
    placeholder = getattr(processor, "image_token", image_token)
    added = {t.content: i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    named = [*tokenizer.all_special_tokens, image_token, placeholder]
    special = added | {t: tokenizer.convert_tokens_to_ids(t) for t in named}
    # an image token as padding would be counted as a piece of an image
    pad = next(p for p in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0, 1) if p is not None and p != image_id)
    return Words(
        tokenizer=tokenizer,
        placeholder=placeholder,
        image_token=image_token,
        image_id=image_id,
        pad_id=int(pad),
        special_ids=frozenset(special.values()) - {tokenizer.unk_token_id},
        special_texts=tuple(sorted(special, key=len, reverse=True)),
        trims=_trims(tokenizer),
        max_tokens=getattr(config.text_config, "max_position_embeddings", None),
        n_ids=config.text_config.vocab_size,
    )


def _trims(tokenizer: Any) -> bool:
    step = tokenizer.backend_tokenizer.post_processor
    return step is not None and '"trim_offsets":true' in json.dumps(
        json.loads(step.__getstate__()), separators=(",", ":")
    )
