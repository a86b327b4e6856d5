"""What a server's reply holds, whatever it is made of: servers that are compatible send other things now and then.

And answers that the asker writes itself, to see what the model would have written instead: log probabilities of a
prompt, as vLLM gives them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

_SEEN = re.compile(r"[^!-~\t\n]")  # pieces lose blanks, and halves of characters, when they are decoded one by one


def choice_of(completion: Mapping[str, Any] | None) -> dict[str, Any]:
    """The first choice; empty if there is none in the form of chat completions.

    >>> choice_of({"choices": [{"finish_reason": "stop"}]}), choice_of({"choices": [5]})
    ({'finish_reason': 'stop'}, {})
    """
    choices = (completion or {}).get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}


def message_of(completion: Mapping[str, Any] | None) -> dict[str, Any]:
    """The message of the first choice; empty if there is none.

    >>> message_of({"choices": [{"message": {"content": "red"}}]}), message_of({"choices": [{"message": "red"}]})
    ({'content': 'red'}, {})
    """
    message = choice_of(completion).get("message")
    return message if isinstance(message, dict) else {}


def logprobs_of(completion: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """`{"token", "top_logprobs"}` of every token of the answer; nothing at all if one of them is no such thing.

    Among the likeliest tokens of a place, those without a text or a log probability are left out.

    >>> logprobs_of({"choices": [{"logprobs": {"content": [{"token": "a", "top_logprobs": [{"token": "b"}]}]}}]})
    [{'token': 'a', 'top_logprobs': []}]
    """
    logprobs = choice_of(completion).get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(content, list) or not all(
        isinstance(t, dict) and isinstance(t.get("token"), str) for t in content
    ):
        return []
    return [{"token": t["token"], "top_logprobs": _likeliest(t.get("top_logprobs"))} for t in content]


def _likeliest(top: Any) -> list[dict[str, Any]]:
    entries = [t for t in top if isinstance(t, dict)] if isinstance(top, list) else []
    return [t for t in entries if isinstance(t.get("token"), str) and _is_one(t.get("logprob"))]


def _is_one(logprob: Any) -> bool:
    return isinstance(logprob, (int, float)) and not math.isnan(logprob) and logprob <= 0.01  # of rounding


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
