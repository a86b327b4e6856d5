"""Prompts and responses as text: the processor's chat template, or LLaVA-1.5's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# Stands for the response while the chat template is probed: letters only, so that no template trims or escapes it.
_PROBE = "qzResponseStandsHerezq"


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


def render(processor: Any, image_token: str, prompt: str, n_images: int, response: str | None) -> Rendered:
    """Render one row.

    With a chat template: a user message (the images, then the prompt) and, if there is a response, an assistant
    message; else the generation prompt. Without one, LLaVA-1.5's (Xu, Lan, Lu 2025, section 3.2, second hand):
    `USER: <image>\\n{prompt}\\nASSISTANT: {response}`.

    Raises:
        ValueError: the template loses or changes the response, so that its characters cannot be told.
    """
    if getattr(processor, "chat_template", None):
        return _chat(processor, prompt, n_images, response)
    before = f"USER: {(image_token + chr(10)) * n_images}{prompt}\nASSISTANT:"
    if response is None:
        return Rendered(before, len(before), len(before))
    start = len(before) + 1
    return Rendered(f"{before} {response}", start, start + len(response))


def _chat(processor: Any, prompt: str, n_images: int, response: str | None) -> Rendered:
    content = [*({"type": "image"} for _ in range(n_images)), {"type": "text", "text": prompt}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if response is None:
        text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return Rendered(text, len(text), len(text))

    def with_answer(answer: str) -> str:
        reply = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
        return processor.apply_chat_template([*messages, reply], add_generation_prompt=False, tokenize=False)

    # What stands before and after the response does not depend on it. Searching for the response itself would find
    # the wrong place where the prompt contains it.
    parts = with_answer(_PROBE).split(_PROBE)
    if len(parts) != 2:
        raise ValueError(f"the chat template shows the response {len(parts) - 1} times; it has to be once")
    before, after = parts
    if not response:
        return Rendered(before + after, len(before), len(before))
    text = with_answer(response)
    for kept in (response, response.strip(), response.rstrip(), response.lstrip()):  # many templates trim
        if text == before + kept + after:
            return Rendered(text, len(before), len(before) + len(kept))
    raise ValueError(
        "the chat template changes the response, so its tokens cannot be told from the template's. "
        "Set processor.chat_template = None for LLaVA-1.5's form, or pass a template that keeps the text"
    )
