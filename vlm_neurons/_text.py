"""Text that is no text: lone surrogates, as in half an emoji or a file name that is not UTF-8. Numbers in words."""

from __future__ import annotations

import json
from typing import Any


def not_utf8(text: str) -> str:
    r"""Why a text cannot be written as UTF-8; empty where it can.

    >>> not_utf8("red \ud83d")
    "it is no UTF-8: character 4 is '\\ud83d', half of a pair"
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"it is no UTF-8: character {error.start} is {text[error.start]!a}, half of a pair"
    return ""


def printable(text: str) -> str:
    r"""The text with what UTF-8 lacks written out.

    >>> printable("a\udcff.png")
    'a\\udcff.png'
    """
    return text.encode("utf-8", "backslashreplace").decode()


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON that can be written as UTF-8, and gives the same value when it is read again."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return json.dumps(value, indent=indent) if not_utf8(text) else text


def span(what: str, numbers: set[int]) -> str:
    """Numbers of something in words: from the first to the last where none is missing.

    >>> span("layer", {3}), span("layer", {1, 2, 3}), span("layer", {1, 3})
    ('layer 3', 'layers 1-3', 'layers 1, 3')
    """
    first, last = min(numbers), max(numbers)
    if first == last:
        return f"{what} {first}"
    whole = len(numbers) == last - first + 1
    return f"{what}s {first}-{last}" if whole else f"{what}s {', '.join(map(str, sorted(numbers)))}"
