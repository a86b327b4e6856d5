"""Words and numbers as pages and figures show them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from math import isfinite

NAMES = {"visual": "visual", "text": "text", "multimodal": "multi-modal", "unknown": "unknown"}
MEANINGS = {
    "gate": "SiLU(gate)",
    "post": "SiLU(gate) × up",
    "projector": "hidden layer",
    "vision": "MLPs of the tower",
}
AT = {"picture": "at image patches", "text": "at tokens of responses"}
FREQUENCY = (
    "r is the correlation with one concept over all data, chosen on one half and told on the other. It falls with a "
    "concept's frequency, for a right one too: it ranks explanations of one neuron, not neurons."
)
# A modality's colour scale never ends below this share of the neuron's peak: noise must not look like a signal.
FLOOR = 0.1
LONGEST = 24  # characters that are kept on one line
CLOSING = frozenset(".,;:!?)]}%'’”…")  # punctuation that stays with the word before it


def visible(token: str) -> str:
    """A token as it is shown: nothing in it is invisible or turns the direction of the text.

    >>> visible("\\n"), visible(" the"), visible(""), visible("\\u202e")
    ('↵', ' the', '▫', '‹U+202E›')
    """
    if token == "":
        return "▫"  # a further piece of a character that the token before shows
    if token.strip(" ") == "":
        return "␣" * len(token)
    return "".join(_character(c) for c in token)


def _character(c: str) -> str:
    if c in "\n\t":
        return "↵" if c == "\n" else "⇥"
    odd = c != " " and unicodedata.category(c)[0] in "CZ"  # controls, directions, surrogates, blanks of other widths
    return f"‹U+{ord(c):04X}›" if odd else c


def number(value: float) -> str:
    """Three digits, without an exponent where it is readable; a dash where there is no number.

    >>> number(3.14159), number(0.0), number(1234.5), number(float("nan"))
    ('3.14', '0', '1234', '–')
    """
    if not isfinite(value):
        return "–"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def percent(count: int, n: int) -> str:
    """A share as people read it: `"<1 %"` is not `"0 %"`.

    >>> percent(1, 1000), percent(0, 5), percent(2, 3)
    ('<1 %', '0 %', '67 %')
    """
    if n and 0 < count / n < 0.005:
        return "<1 %"
    if n and count < n and count / n >= 0.995:
        return ">99 %"
    return f"{100 * count / max(n, 1):.0f} %"


def share_words(share: float) -> str:
    """A share as people read it.

    >>> share_words(0.6667), share_words(0.001), share_words(float("nan"))
    ('67 %', '<1 %', '–')
    """
    return "–" if share != share else percent(round(share * 10_000), 10_000)


def decimals(value: float) -> str:
    """A correlation as papers write it.

    >>> decimals(0.4123), decimals(-0.05), decimals(1.0), decimals(float("nan"))
    ('.41', '-.05', '1.00', 'unknown')
    """
    if value != value:
        return "unknown"
    text = f"{value:.2f}"
    return "0" if text in ("0.00", "-0.00") else text.replace("0.", ".", 1) if abs(float(text)) < 1 else text


def dashed(value: float) -> str:
    """`decimals` in a table, where a dash stands for what is not known.

    >>> dashed(0.4123), dashed(float("nan"))
    ('.41', '–')
    """
    return decimals(value) if value == value else "–"


def small(value: float) -> str:
    """A probability or a rate of errors as papers write it.

    >>> small(0.0004), small(0.0211), small(1.0)
    ('<.001', '.021', '1.000')
    """
    return "<.001" if value < 0.001 else f"{value:.3f}".replace("0.", ".", 1)


def site_name(site: str, pole: str = "+") -> str:
    """A site in words.

    >>> site_name("post", "-")
    'post, negative side: SiLU(gate) × up'
    """
    words = f"{site}, negative side" if pole == "-" else str(site)
    return f"{words}: {MEANINGS[site]}" if site in MEANINGS else words


def shortened(words: str, most: int) -> str:
    """Words that are cut where they are too long.

    >>> shortened("a large dog", 7)
    'a larg…'
    """
    return words if len(words) <= most else f"{words[: most - 1]}…"


def counted(n: int, thing: str) -> str:
    """How many there are.

    >>> counted(1, "neuron"), counted(1200, "neuron")
    ('1 neuron', '1,200 neurons')
    """
    return f"{n:,} {thing}" if n == 1 else f"{n:,} {thing}s"


def joints(tokens: Sequence[str]) -> list[bool]:
    """Before which tokens no line may break: inside words, and before closing punctuation.

    >>> joints(["A", " sm", "all", " dog", "."])
    [False, False, True, False, True]
    """
    found, before, run = [], "", 0
    for token in tokens:
        inside = before[-1:].isalnum() and token[:1].isalnum() and unicodedata.category(token[0]) != "Lo"
        run += len(token)
        # scripts without blanks (category Lo) may break anywhere, and so may what would not fit a narrow line
        joined = (inside or token == "" or token[0] in CLOSING) and run <= LONGEST
        run = run if joined else len(token)
        found.append(joined)
        before = token
    return found
