"""Tokens of any tokenizer as they read, blanks included."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise

from vlm_neurons.evidence.exemplars import BOS

_GLUED = re.compile(r"\w\Z"), re.compile(r"\w")  # a word after a word, with nothing between
_PIECE = re.compile(r"##\w")


def readable(texts: Sequence[Sequence[str]], words: bool | None = None) -> list[tuple[str, ...]]:
    """Tokens of some texts, blanks included, whatever marks the beginnings of words.

    Args:
        texts: the tokens of each text, all from one tokenizer: with blanks (`" the"`), with "\u2581" (SentencePiece) or
            "\u0120" (byte-level BPE; other bytes are decoded too) at the beginning of a word, or with "##" at its
            continuations (WordPiece).
        words: True: every token is a word; False: the tokens are pieces of text as it stands, without blanks between
            them; None: as their signs say.

    Raises:
        ValueError: words=None, and word follows word without a sign of where one begins.

    >>> readable([["\u2581the", "\u2581dog", "s"]]), readable([["the", "walk", "##ing"]])
    ([(' the', ' dog', 's')], [('the', ' walk', 'ing')])
    >>> readable([["the", "dog"]], words=True)
    [('the', ' dog')]
    """
    if words is not None:
        return [_spaced(tokens, lambda _: words) for tokens in texts]
    every = [token for tokens in texts for token in tokens]
    if any(" " in token for token in every):
        return [tuple(tokens) for tokens in texts]
    if any(token.startswith("\u2581") for token in every):
        return [tuple(token.replace("\u2581", " ") for token in tokens) for tokens in texts]
    if any(token.startswith("\u0120") for token in every):
        return [tuple(_decoded(token) for token in tokens) for tokens in texts]
    if any(_PIECE.match(token) for token in every):
        spaced = (_spaced(tokens, lambda token: not _PIECE.match(token)) for tokens in texts)
        return [tuple(token[2:] if _PIECE.match(token) else token for token in tokens) for tokens in spaced]
    for tokens in texts:
        for one, other in pairwise(tokens):
            if one not in BOS and _GLUED[0].search(one) and _GLUED[1].match(other):
                raise ValueError(
                    f"tokens {one!r}, {other!r}: no blank and no sign (\u2581, \u0120, ##) says whether a word begins; "
                    "pass words=True if every token is a word, words=False if they are pieces of text as it stands"
                )
    return [tuple(tokens) for tokens in texts]


def _spaced(tokens: Sequence[str], begins: Callable[[str], bool]) -> tuple[str, ...]:
    """A blank before every token that begins a word, but the first and those that have one."""
    return tuple(f" {t}" if i and begins(t) and t[:1].strip() else t for i, t in enumerate(tokens))


def _decoded(token: str) -> str:
    """A token of byte-level BPE as text; as it is where it holds what stands for no byte, as special tokens may."""
    table = _bytes()
    return bytes(table[c] for c in token).decode(errors="replace") if all(c in table for c in token) else token


@cache
def _bytes() -> dict[str, int]:
    """Character -> the byte that it stands for (GPT-2): printable ones stand for themselves, others for 256 and on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}
