"""What a server said: the words of an error, and the answer within a message, whatever they are wrapped in."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

LONGEST = 400  # letters of an error that are kept
_TOLD = ("error", "errors", "message", "msg", "detail", "details", "reason", "raw")  # keys of an error's own words
_ECHOED = ("input", "ctx", "request", "body", "payload")  # keys under which a server repeats what it was sent
_DATA = re.compile(r"[A-Za-z0-9+/=]{80,}")  # pictures
_NAMES = "<(?:think|thinking|thought|reasoning)>"
_OPEN = rf"(?:(?i:{_NAMES})|\[THINK\]|\u25c1think\u25b7)"  # of most; of Mistral's models; of Kimi's
_CLOSE = rf"(?:(?i:{_NAMES.replace('<', '</')})|\[/THINK\]|\u25c1/think\u25b7)"
_THOUGHT = re.compile(rf"{_OPEN}.*?{_CLOSE}", re.DOTALL)
_BEGUN = re.compile(_OPEN)
_OPENED_BEFORE = re.compile(rf"(?!\s*[{{`]).*?{_CLOSE}", re.DOTALL)
_CHANNELS = re.compile(r"(?:<\|start\|>assistant)?<\|channel\|>")
_FINAL = re.compile(r"<\|channel\|>final[^<]*<\|message\|>(.*?)(?:<\|(?:end|return)\|>)?\s*$", re.DOTALL)
_WILL_PASS = re.compile(
    r"(?:http|status|code|error)\D{0,10}\b(429|5\d\d)\b|"
    r"\b(429|50[0-4])\b[ :-]+(?:too many|internal|bad gate|service|gate)",
    re.IGNORECASE,
)


def words_of(text: str) -> str:
    r"""What an error says, without what it repeats of the request.

    Args:
        text: body of the answer: JSON of any form, plain text, a web page.

    Returns:
        One line of at most 400 letters.

    >>> words_of('{"error": "no model is loaded"}'), words_of('{"detail": [{"loc": ["body", "n"], "msg": "too many"}]}')
    ('no model is loaded', 'body.n: too many')
    >>> words_of("<html><title>Oops</title><p>Try later</p></html>")
    'Oops Try later'
    """
    found = "; ".join(dict.fromkeys(w for w in _told(_json(text), 0) if w)) or _plain(text)
    return found[:LONGEST] or "nothing"


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _told(said: Any, depth: int) -> Iterator[str]:
    """The words in a body, the first ones first."""
    if depth > 6:
        return
    if isinstance(said, str):
        inside = _json(said) if said.lstrip().startswith(("{", "[")) else said
        yield from [_plain(said)] if isinstance(inside, str) else _told(inside, depth + 1)
    elif isinstance(said, list):
        for one in said[:5]:
            yield from _told(one, depth + 1)
    elif isinstance(said, dict):
        lower = {str(k).lower(): v for k, v in said.items() if str(k).lower() not in _ECHOED}
        where = ".".join(map(str, said["loc"])) if isinstance(said.get("loc"), list) else said.get("param")
        before = f"{where}: " if isinstance(where, str) else ""
        own = [w for key in _TOLD if key in lower for w in _told(lower[key], depth + 1)]
        own = own or [w for v in lower.values() if not isinstance(v, (int, float)) for w in _told(v, depth + 1)]
        own += list(_told(lower["metadata"], depth + 1)) if isinstance(lower.get("metadata"), dict) else []
        yield from (before + w if n == 0 and before[:-2] not in w else w for n, w in enumerate(own))


def _plain(text: str) -> str:
    """One line without tags, pictures and a request that is quoted."""
    text = _DATA.sub("...", text[:1_000_000])[:20_000]
    if re.search(r"<(!doctype|html|body|head)\b", text, re.IGNORECASE):
        text = re.sub(r"<(script|style)\b.*?</\1>", " ", text, flags=re.DOTALL | re.IGNORECASE)
        text = html.unescape(re.sub(r"<[^<>]*>", " ", text))
    return " ".join(_without_echo(text).split())


def _without_echo(text: str) -> str:
    """Without the outermost braces that hold `"messages"`: they are our own request."""
    while (found := re.search(r"[\"']messages[\"']\s*:", text)) and (start := text.rfind("{", 0, found.start())) >= 0:
        depth, end = 0, len(text)
        for place in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if depth == 0:
                end = place + 1
                break
        text = text[:start] + "..." + text[end:]
    return text


def error_in(completion: Mapping[str, Any]) -> str | None:
    """The words of an error that came as if it were an answer; None if there is none.

    >>> error_in({"choices": None, "error": {"message": "slow down", "code": 429}})
    'slow down'
    >>> error_in({"choices": [{"message": {"content": ""}}], "error": {"message": "overloaded", "code": 502}})
    'overloaded'
    """
    choices = completion.get("choices")
    first = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    if first.get("error"):
        return words_of(json.dumps(first["error"]))
    message = first.get("message")
    if isinstance(message, dict) and (message.get("content") or not completion.get("error")):
        return None
    said = any(completion.get(key) for key in ("error", "errors", "message", "msg", "detail"))
    return words_of(json.dumps({k: v for k, v in completion.items() if v is not None})) if said else None


def code_in(completion: Mapping[str, Any], words: str) -> int | None:
    """The status that such an error means: of its own fields, or of its words (429 and 5xx).

    >>> code_in({"error": {"code": "502"}}, ""), code_in({}, "HTTP 503: busy"), code_in({}, "at most 500 tokens")
    (502, 503, None)
    """
    choices = completion.get("choices")
    holders = [completion, completion.get("error"), *(choices if isinstance(choices, list) else [])]
    holders += [h["error"] for h in holders if isinstance(h, dict) and "error" in h]
    for holder in holders:
        for key in ("code", "status", "status_code", "statusCode"):
            value = str(holder.get(key)) if isinstance(holder, dict) else ""
            if re.fullmatch(r"[45]\d\d", value):
                return int(value)
    found = _WILL_PASS.search(words)
    return int(found[1] or found[2]) if found else None


def answer_of(message: Mapping[str, Any]) -> tuple[str, str | None]:
    """The JSON object in a message, or why there is none.

    What a model thinks before it answers is left out, and so are a fence and words around one JSON object; nothing of
    the object itself is repaired. An answer that the server filed under the thoughts is taken where it stands alone.

    Returns:
        The text of the object, and None; or what there is, and what is wrong with it.

    >>> answer_of({"content": '<think>Is it {"a": 1}?</think> I would say: {"a": 2}'})
    ('{"a": 2}', None)
    """
    content, thoughts = message.get("content"), _thoughts(message)
    if isinstance(content, list):
        parts = [p.get("text") for p in content if isinstance(p, dict) and p.get("type") in ("text", "output_text")]
        content = "".join(p for p in parts if isinstance(p, str)) if parts else content
    if not isinstance(content, str | None):
        return str(content)[:LONGEST], "an answer that is no text"
    text = (content or "").strip().removeprefix("\ufeff").strip()
    if _CHANNELS.match(text):  # gpt-oss, from a server that does not read its form
        if (final := _FINAL.search(text)) is None:
            return text, "the thinking does not end; it may need a larger max_tokens="
        text = final[1].strip()
    if not text and thoughts:
        fenced = _fenced(thoughts.strip())
        alone = fenced.startswith("{") and isinstance(_json(fenced), dict)
        return (fenced, None) if alone else (thoughts, "no answer, reasoning alone; it may need a larger max_tokens=")
    if _BEGUN.match(text) and not _THOUGHT.match(text):
        return text, "the thinking does not end; it may need a larger max_tokens="
    behind = (_THOUGHT if _BEGUN.match(text) else _OPENED_BEFORE).match(text)
    rest = text[behind.end() :].strip() if behind else text
    return _object(rest if "{" in rest or _BEGUN.match(text) else text)  # an object may speak of such a mark


def _thoughts(message: Mapping[str, Any]) -> str:
    found = (message.get(key) for key in ("reasoning_content", "reasoning", "thinking"))
    return next((one for one in found if isinstance(one, str) and one), "")


def _fenced(text: str) -> str:
    """What is within one fence around all of it."""
    fenced = re.fullmatch(r"```(?:json)?\s*(.*?)\s*```", text, re.DOTALL)
    return fenced[1] if fenced else text


def _object(text: str) -> tuple[str, str | None]:
    """The one JSON object among words."""
    if not text:
        return text, "an empty answer"
    text, found, place = _fenced(text), list[str](), 0
    decoder = json.JSONDecoder()
    for _ in range(100):  # braces that are looked at
        place = text.find("{", place)
        if place < 0:
            break
        try:
            made, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            if place == 0:
                return text, None  # half an object: the schema says what is missing
            place += 1
            continue
        found += [text[place:end]] if made else []
        place = end
    if len(found) > 1:
        return text, f"{len(found)} JSON objects, where one was asked for"
    return (found[0] if found else text), None
