"""One request to a chat server, and what can be wrong with the answer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError

from vlm_neurons._text import not_utf8, printable
from vlm_neurons.autointerp.client import replies
from vlm_neurons.autointerp.client.answers import answer_of
from vlm_neurons.autointerp.client.prices import parts_of
from vlm_neurons.autointerp.client.replies import choice_of, message_of

TOP = 11  # likeliest tokens at every place of an answer: as many as a scale from 0 to 10 has numbers
_KEYS = re.compile(r"(sk|key|Bearer)[-_ ][A-Za-z0-9_\-.]{8,}")


@dataclass(frozen=True)
class Ask:
    """A question.

    Attributes:
        key: whatever the asker needs to know it again.
        messages: in the form of chat completions; pictures as `data:` addresses.
        schema: what the answer has to be.
        max_tokens: of the answer.
        temperature: 0 for the likeliest answer.
        attempt: a number that makes the same question another one for the cache.
        logprobs: whether the likeliest other tokens are asked for too, where the server gives them.
        plain: the same question without pictures, for a server that takes none; None if there is no such form.
        prefill: an answer that the asker gives itself, to get the likeliest tokens at each place of it (see
            `replies`); the schema is `Prefilled` then.
        top: so many of them.
    """

    key: Any
    messages: list[dict[str, Any]]
    schema: type[BaseModel]
    max_tokens: int = 500
    temperature: float = 0.0
    attempt: int = 0
    logprobs: bool = False
    plain: list[dict[str, Any]] | None = None
    prefill: str = ""
    top: int = TOP

    def is_plain(self, capabilities: dict[str, bool]) -> bool:
        """Whether a server with these capabilities is sent the form without pictures."""
        return self.plain is not None and capabilities.get("images") is False

    def sent(self, capabilities: dict[str, bool]) -> list[dict[str, Any]]:
        """The messages that such a server is sent: words alone as one string, which every server takes."""
        messages = self.plain if self.plain is not None and self.is_plain(capabilities) else self.messages
        if not capabilities.get("system", True):
            messages = folded(messages)
        messages = [{**m, "content": _string_of(m["content"])} for m in messages]
        return [*messages, {"role": "assistant", "content": self.prefill}] if self.prefill else messages


def folded(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same with what the system says at the beginning of what the user says, for models that know no system.

    >>> folded([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}])
    [{'role': 'user', 'content': [{'type': 'text', 'text': 'Be brief.'}, {'type': 'text', 'text': 'Why?'}]}]
    """
    told = list(parts_of([m for m in messages if m["role"] == "system"]))
    rest = [m for m in messages if m["role"] != "system"]
    if not told or not rest:
        return messages
    return [{**rest[0], "content": [*told, *parts_of(rest[:1])]}, *rest[1:]]


def _string_of(content: str | list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    if isinstance(content, str) or any(part["type"] != "text" for part in content):
        return content
    return "\n\n".join(part["text"] for part in content)


@dataclass(frozen=True)
class Reply:
    """An answer, or why there is none.

    Attributes:
        ask: the question.
        answer: checked against the schema; None if it failed.
        failure: (kind, detail) or None; kinds as in `vlm_neurons.autointerp.explanation.Failure`.
        model: as the server called it.
        tokens_in: as the server counted.
        tokens_out: the same.
        cost: in US dollars; 0 if it came from the cache.
        cached: whether it did.
        completion: all that the server said; None if it said nothing.
        plain: whether the question went without its pictures.
        unbilled: whether it may have cost what nobody counted: the connection broke, or the server told no tokens.
        charged: US dollars that count towards a limit: the cost, or the most that it could be where nobody counted.
    """

    ask: Ask
    answer: BaseModel | None = None
    failure: tuple[str, str] | None = None
    model: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    cached: bool = False
    completion: dict[str, Any] | None = field(default=None, repr=False)
    plain: bool = False
    unbilled: bool = False
    charged: float = 0.0


def tokens_of(completion: dict[str, Any]) -> tuple[int, int] | None:
    """(in, out) as the server counted; None if it did not.

    >>> tokens_of({"usage": {"prompt_tokens": 100, "completion_tokens": 20}})
    (100, 20)
    """
    usage = completion.get("usage")
    counts = [usage.get(n) for n in ("prompt_tokens", "completion_tokens")] if isinstance(usage, dict) else []
    whole = [n for n in counts if isinstance(n, int) and n >= 0]
    return (whole[0], whole[1]) if len(whole) == 2 and any(whole) else None


def body_of(ask: Ask, model: str, capabilities: dict[str, bool], extra: dict[str, Any]) -> dict[str, Any]:
    """The request. Without the schema capability it is asked for in words, behind everything else."""
    body: dict[str, Any] = {"model": model}
    if capabilities.get("temperature", True):
        body["temperature"] = ask.temperature
    body["max_tokens" if capabilities.get("max_tokens", True) else "max_completion_tokens"] = ask.max_tokens
    if ask.prefill:
        return {**body, "messages": ask.sent(capabilities), "extra_body": {**extra, **replies.fields(ask.top)}}
    if ask.logprobs and capabilities.get("logprobs", True):
        body |= {"logprobs": True, "top_logprobs": TOP}
    if capabilities.get("schema", True):
        schema = {"name": ask.schema.__name__, "strict": True, "schema": schema_of(ask.schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
        messages = ask.sent(capabilities)
    else:
        hint = "Answer with one JSON object of this JSON schema and nothing else: " + json.dumps(schema_of(ask.schema))
        messages = _with_hint(ask, hint).sent(capabilities)
    return {**body, "messages": messages, **({"extra_body": extra} if extra else {})}


def _with_hint(ask: Ask, hint: str) -> Ask:
    """The same question with some words behind it."""

    def longer(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        last = messages[-1:] or [{"role": "user", "content": []}]
        return [*messages[:-1], {**last[0], "content": [*parts_of(last), {"type": "text", "text": hint}]}]

    return replace(ask, messages=longer(ask.messages), plain=None if ask.plain is None else longer(ask.plain))


@cache
def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """JSON schema in the strict form: every field required, none added, no bounds (they are checked here)."""
    schema = model.model_json_schema()
    schema = {k: v for k, v in schema.items() if k not in ("title", "description")}
    return {**schema, "additionalProperties": False, "required": list(schema["properties"])}


def read(ask: Ask, completion: dict[str, Any]) -> tuple[BaseModel | None, tuple[str, str] | None]:
    """The checked answer, or (kind, detail) of what is wrong with it."""
    if ask.prefill:
        wrong = replies.trouble(completion, ask.prefill)
        return (None, wrong) if wrong else (replies.Prefilled(), None)
    message = message_of(completion)
    if not message:
        return None, ("server", f"a reply without choices: {str(completion)[:200]}")
    if message.get("refusal"):
        return None, ("refusal", str(message["refusal"])[:500])
    finish = choice_of(completion).get("finish_reason")
    if finish == "content_filter":
        return None, ("filter", "the server's content filter stopped the answer")
    if finish == "length":
        return None, ("length", f"the answer, with what is thought before it, needs more than {ask.max_tokens} tokens; "
                                "allow it more with max_tokens=")  # fmt: skip
    text, fault = answer_of(message)
    if not_utf8(text):
        return None, ("schema", f"half of a character (a lone surrogate); the answer begins with {text[:120]!r}")
    if fault is not None:
        return None, ("schema", f"{fault}; it begins with {text[:120]!r}" if text else fault)
    try:
        return ask.schema.model_validate_json(text), None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        return None, ("schema", f"{first['msg']} at {first['loc']}; the answer begins with {text[:120]!r}")


def redactor(secret: str | None) -> Callable[[object], str]:
    """A function that takes a key, and what looks like one, out of a message."""

    def redact(message: object) -> str:
        text = printable(str(message))
        if secret and len(secret) > 5:  # "x", "none" and "EMPTY" are no secrets, and may be words of the message
            text = text.replace(secret, "***")
        return _KEYS.sub("***", text)[:500]

    return redact
