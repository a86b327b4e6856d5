"""Answers that the asker writes itself, to see what the model would have written instead: log probabilities of a
prompt, as vLLM gives them."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel

from vlm_neurons.autointerp.client.completions import choice_of, logprobs_of

_SEEN = re.compile(r"[^!-~\t\n]")  # pieces lose blanks, and halves of characters, when they are decoded one by one


class Prefilled(BaseModel):
    """Stands for such an answer; what there is to see are its log probabilities."""


def bare(text: str) -> str:
    """What is left of a text after it was decoded token by token, by any tokenizer.

    >>> bare(" a bü\\t1")
    'ab\\t1'
    """
    return _SEEN.sub("", text)


def fields(top: int) -> dict[str, Any]:
    """What vLLM has to be told to continue the last message, and to give `top` likeliest tokens at each place."""
    return {"add_generation_prompt": False, "continue_final_message": True, "prompt_logprobs": top}


def reduced(completion: dict[str, Any], prefill: str) -> dict[str, Any]:
    """A completion with the log probabilities of the prefilled part alone, in the form of those of an answer.

    Args:
        completion: as vLLM sends it: for each token of the prompt the likeliest ones, the token itself first.
        prefill: what the answer was made to begin with.

    Returns:
        The completion without its megabyte of other places; with no log probabilities if it has none.
    """
    places = completion.get("prompt_logprobs") or []
    kept: list[dict[str, Any]] = []
    left = len(bare(prefill))
    for place in reversed(places):
        if left <= 0 or not place:
            break
        top = [{"token": t["decoded_token"] or "", "logprob": t["logprob"]} for t in place.values()]
        kept.append({"token": top[0]["token"], "top_logprobs": top})
        left -= len(bare(top[0]["token"]))
    rest = {k: v for k, v in completion.items() if not k.startswith("prompt_")}
    return {**rest, "choices": [{**choice_of(completion), "logprobs": {"content": kept[::-1]}}]}


def trouble(completion: dict[str, Any], prefill: str) -> tuple[str, str] | None:
    """(kind, detail) unless the log probabilities are those of the prefilled text."""
    content = logprobs_of(completion)
    if not content:
        return "capability", "the server gave no log probabilities of the prompt (vLLM does)"
    text = bare("".join(one["token"] for one in content))
    if not text.endswith(bare(prefill)):
        return "server", f"log probabilities of another text: it ends with {text[-40:]!r}"
    return None
