"""What a server's reply holds, whatever it is made of: servers that are compatible send other things now and then."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


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
