"""What the page's template shows: plain records, numbers already in words."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from vlm_neurons.classification import LABELS, normalise
from vlm_neurons.show.closeup import CloseUp
from vlm_neurons.show.layers import NAMES, percent
from vlm_neurons.show.pictures import data_uri, heat, share_of

# A modality's colour scale never ends below this share of the neuron's peak: noise must not look like a signal.
FLOOR = 0.1
LONGEST = 24  # characters that are kept on one line
DARK_FROM = 61  # percent of orange from which black letters are easier to read on a dark page than white ones
CLOSING = frozenset(".,;:!?)]}%'’”…")  # punctuation that stays with the word before it


@dataclass(frozen=True)
class Rule:
    """The thresholds that the classes come from; see `classify`."""

    t_visual: float = 2.0
    n_visual: int = 4
    t_text: float = 3.0
    n_text: int = 2


@dataclass(frozen=True)
class Token:
    """A token of the response: what is shown, its value in words, its share of the scale, and whether it counts."""

    text: str
    title: str
    share: str
    dark: bool
    counts: bool
    newline: bool
    joined: bool
    """No line may break before it."""


@dataclass(frozen=True)
class Picture:
    """A picture as the model saw it, and its heat.

    Attributes:
        style: name of the CSS class that holds the picture.
        heat: `data:` address, one pixel a patch.
        alt: what the heat shows, in words.
        box: left, top, width and height of the strongest patch in percent; None where no patch is positive.
        strongest: where it is and its value, in words.
        ratio: width over height.
    """

    style: str
    heat: str
    alt: str
    box: tuple[str, str, str, str] | None
    strongest: str
    ratio: str


@dataclass(frozen=True)
class Shown:
    """One sample of a neuron."""

    name: str
    sample: int
    verdict: str
    pictures: tuple[Picture, ...]
    tokens: tuple[Token, ...]


@dataclass(frozen=True)
class Card:
    """One neuron."""

    neuron: str
    label: str
    words: str
    shares: tuple[tuple[str, str, str], ...]
    """Class, its name and its share, in words."""
    widths: tuple[str, ...]
    """The same shares as numbers."""
    notes: tuple[str, ...]
    image_top: str
    text_top: str
    samples: tuple[Shown, ...]


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
    """Three digits, without an exponent where it is readable.

    >>> number(3.14159), number(0.0), number(1234.5)
    ('3.14', '0', '1234')
    """
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


class Pictures:
    """The pictures of a page, each stored once however many neurons show it."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}

    def add(self, image: Any) -> str:
        """Name of the CSS class of a picture."""
        return self.names.setdefault(data_uri(image), f"i{len(self.names)}")


def card(row: dict[str, Any], close: Sequence[CloseUp], rule: Rule | None, pictures: Pictures) -> Card:
    """The card of one neuron.

    Args:
        row: its row of the classification table.
        close: its top samples.
        rule: thresholds; None where they are not known, and then no sample gets a verdict.
        pictures: where the pictures of the page are collected.
    """
    peak, applies = float(row["peak"]), row["label"] in LABELS
    image_top = _top([p for c in close for p in c.patches], peak)
    text_top = _top([c.values for c in close], peak)
    shares = tuple((label, NAMES[label], _percent(row[f"p_{label}"])) for label in LABELS) if applies else ()
    own = _percent(row[f"p_{row['label']}"]) if applies else ""
    notes = [f"peak {number(peak)}"]
    if float(row["peak_all_tokens"]) > peak:
        notes.append(f"{number(float(row['peak_all_tokens']))} at template tokens")
    if applies:
        notes.append("a tie" if row["tie"] else "confident" if row["confident"] else "not confident")
        notes.append(f"shares of its {row['n_samples']} top samples")
    return Card(
        neuron=str(row["neuron"]),
        label=str(row["label"]),
        words=f"{NAMES[row['label']]} {own}" if applies else "sees images only",
        shares=shares,
        widths=tuple(f"{row[f'p_{label}']:.4f}" for label in LABELS) if applies else (),
        notes=tuple(notes),
        image_top=number(image_top),
        text_top=number(text_top) if any(c.tokens for c in close) else "",
        samples=tuple(_shown(c, peak, (image_top, text_top), rule if applies else None, pictures) for c in close),
    )


def _percent(share: float) -> str:
    return percent(round(share * 10_000), 10_000)


def _top(values: Sequence[np.ndarray], peak: float) -> float:
    """End of a colour scale: the largest value, at least `FLOOR` of the peak."""
    return max([FLOOR * peak, *(float(v.max()) for v in values if v.size)])


def _shown(c: CloseUp, peak: float, tops: tuple[float, float], rule: Rule | None, pictures: Pictures) -> Shown:
    drawn = tuple(_picture(i, p, tops[0], pictures) for i, p in zip(c.images, c.patches, strict=True))
    counts = _over(c.values, peak, rule.t_text) if rule else np.zeros(c.values.shape, bool)
    share = share_of(c.values, tops[1])
    tokens = tuple(_token(*one) for one in zip(c.tokens, c.values, share, counts, joints(c.tokens), strict=True))
    return Shown(visible(c.name), c.sample, _verdict(c, peak, rule) if rule else "", drawn, tokens)


def _over(values: Float[np.ndarray, "..."], peak: float, threshold: float) -> np.ndarray:
    """Which activations exceed a threshold, by the arithmetic of `classify`."""
    scaled = normalise(torch.from_numpy(values.astype(np.float32)).reshape(1, -1), torch.tensor([peak]))
    return (scaled > threshold).numpy().reshape(values.shape)


def _verdict(c: CloseUp, peak: float, rule: Rule) -> str:
    """What the rule makes of a sample, with the counts that it rests on."""
    sees = sum(int(_over(p, peak, rule.t_visual).sum()) for p in c.patches)
    reads = int(_over(c.values, peak, rule.t_text).sum())
    kind = {(True, False): "visual", (False, True): "text", (True, True): "multimodal", (False, False): "unknown"}
    label = kind[sees >= rule.n_visual, reads >= rule.n_text]
    patches, tokens = "patch" if sees == 1 else "patches", "token" if reads == 1 else "tokens"
    return f"{NAMES[label]} sample: {sees} {patches}, {reads} {tokens} above threshold"


def _picture(image: Any, patches: Float[np.ndarray, "rows columns"], top: float, pictures: Pictures) -> Picture:
    rows, columns = patches.shape
    row, column = divmod(int(patches.argmax()), columns)
    best = float(patches[row, column])
    where = f"strongest patch {number(best)} at row {row + 1}, column {column + 1} of {rows} × {columns}"
    box = (_cent(column, columns), _cent(row, rows), _cent(1, columns), _cent(1, rows)) if best > 0 else None
    if box is None:
        where = f"no patch is positive; largest {number(best)}"
    alt = f"Activation at {rows} by {columns} patches; {where}."
    return Picture(
        pictures.add(image), data_uri(heat(patches, top)), alt, box, where, f"{image.width / image.height:.4f}"
    )


def _cent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.4f}%"


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


def _token(token: str, value: float, share: float, counts: bool, joined: bool) -> Token:
    return Token(
        text=visible(token),
        title=f"{number(float(value))}",
        share=f"{100 * share:.0f}%",
        dark=round(100 * share) >= DARK_FROM,
        counts=bool(counts),
        newline="\n" in token,
        joined=joined,
    )
