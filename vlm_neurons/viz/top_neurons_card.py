"""The neurons that one sample makes stand out: where in its picture and its words, layer by layer."""

from __future__ import annotations

import string
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from vlm_neurons.tokens import TokenKind
from vlm_neurons.viz.colours import COLORS, FRAME, TOKEN
from vlm_neurons.viz.drawing import HEADING, INK, SOFT, Drawing, drawing, lines_of, panel, sheet, tip, width_of, write
from vlm_neurons.viz.wording import NAMES, decimals, number, shortened, site_name, visible

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from PIL import Image

    from vlm_neurons.models import Batch
    from vlm_neurons.tokens import Patch

PICTURE, GAP, LINE, WIDE = 150, 22, 16, 560  # units: width of a picture, beside it, a line, all
LONGEST, WORD = 34, 16  # letters of a concept, of a token
LEGEND = (
    "Letter or word: where a neuron has its largest activation. z: by how many standard deviations its mean here is "
    "above that of the run's samples. r: of its concept over all data."
)
HEADS = {"picture": "At image patches", "text": "At tokens of the response"}
NEEDED = ("neuron", "site", "layer", "side", "z", "peak", "patch", "token")


@dataclass(frozen=True)
class Standout:
    """A line of the card.

    Attributes:
        neuron: its id.
        layer: what it stands under: site and layer, in words.
        label: its class; `""` where it is not known.
        z: how far it stands out, in words.
        where: letter of its patch, or its word.
        place: number of the patch in the batch; -1 on the side of the text.
        concept: what it answers to over all data, with r; `""` where that is not known.
        said: all of it in a sentence.
    """

    neuron: str
    layer: str
    label: str
    z: str
    where: str
    place: int
    concept: str
    said: str


def standouts(table: pd.DataFrame, side: str) -> list[Standout]:
    """The lines of one side: site by site, layer by layer, those that stand out most first.

    Raises:
        ValueError: a column is missing.
    """
    if missing := [name for name in NEEDED if name not in table]:
        raise ValueError(f"table has no column {missing[0]!r}; pass what vn.top_neurons returns")
    own = table[table["side"] == side].to_dict("records")
    rows = sorted(own, key=lambda row: (row["site"], _pole(row), row["layer"], -row["z"]))
    letters = dict(zip(dict.fromkeys(row["patch"] for row in rows), _letters(), strict=False))
    return [_line(row, letters) for row in rows]


def _pole(row: dict[str, Any]) -> str:
    return "-" if str(row["neuron"]).endswith("-") else "+"


def _letters() -> list[str]:
    one = list(string.ascii_uppercase)
    return [*one, *(a + b for a in one for b in one)]


def _line(row: dict[str, Any], letters: dict[int, str]) -> Standout:
    known = row.get("phrase")
    where = letters[row["patch"]] if row["side"] == "picture" else _word(str(row["token"]))
    concept = ""
    if isinstance(known, str) and known and row["r"] == row["r"]:
        concept = f"{shortened(visible(known), LONGEST)}, r {decimals(row['r'])}"
    label, neuron = str(row.get("label", "")), visible(str(row["neuron"]))
    at = f"patch {where}" if row["side"] == "picture" else f"“{where}”"
    named = f"{neuron} ({NAMES[label]})" if label in NAMES else neuron
    said = f"{named}: z {number(row['z'])}, largest activation {number(row['peak'])} at {at}"
    return Standout(
        neuron, f"{site_name(str(row['site']), _pole(row))}, layer {row['layer']}", label if label in COLORS else "",
        f"z {row['z']:.1f}", where, int(row["patch"]), concept,
        said + (f"; over all data: {concept}" if concept else ""),
    )  # fmt: skip


def _word(token: str) -> str:
    return shortened(visible(token).strip() or visible(token), WORD)


def top_neurons_figure(batch: Batch, table: pd.DataFrame, row: int, title: str = "") -> Drawing:
    """The picture with the patches where neurons have their largest activation, the words where they have it, and
    beside them the neurons by layer.

    Args:
        batch: the sample's.
        table: what `vn.top_neurons` returned for it.
        row: the sample.
        title: stands above.
    """
    lines = {side: standouts(table, side) for side in HEADS}
    images = dict.fromkeys(p.image for i, p in enumerate(batch.patches) if int(batch.row_of_patches[i]) == row)
    shown = [(i, batch.seen_image(i)) for i in images]
    words = _words(batch, row, {one.where for one in lines["text"]})
    tall = sum(PICTURE * picture.height / picture.width + 8 for _, picture in shown)
    below = HEADING + 14 + max(tall, _height(lines["picture"])) + GAP if shown else 0.0
    text = HEADING + 14 + words.height + 8 + _height(lines["text"]) + GAP if words.placed else 0.0
    legend = lines_of(LEGEND, WIDE)
    figure = drawing(WIDE, below + text + LINE * len(legend), _in_words(lines), title)
    for i, line in enumerate(legend):
        write(sheet(figure), 0, below + text + LINE * i + 11, line, color=SOFT)
    if shown:
        write(sheet(figure), 0, HEADING, HEADS["picture"], HEADING, weight="bold")
        top = HEADING + 14.0
        for i, picture in shown:
            top = _draw_picture(figure, picture, top, [p for p in _marked(batch, lines["picture"]) if p[0].image == i])
        _draw_lines(figure, lines["picture"], PICTURE + GAP, HEADING + 14.0)
    if words.placed:
        write(sheet(figure), 0, below + HEADING, HEADS["text"], HEADING, weight="bold")
        _draw_words(figure, words, below + HEADING + 14)
        _draw_lines(figure, lines["text"], 0, below + HEADING + 14 + words.height + 8)
    return figure


def _height(lines: list[Standout]) -> float:
    return LINE * (len(lines) + len({one.layer for one in lines})) if lines else LINE


def _marked(batch: Batch, lines: list[Standout]) -> list[tuple[Patch, str, str]]:
    """Patches that have a letter, their letter, and who has its largest activation there."""
    found: dict[int, list[Standout]] = {}
    for one in lines:
        found.setdefault(one.place, []).append(one)
    return [(batch.patches[i], own[0].where, "; ".join(o.said for o in own)) for i, own in found.items() if i >= 0]


def _draw_picture(figure: Drawing, picture: Image.Image, top: float, marked: list[tuple[Patch, str, str]]) -> float:
    """Returns where the next may begin."""
    from matplotlib.patches import Rectangle

    tall = PICTURE * picture.height / picture.width
    axes = panel(figure, 0, top, PICTURE, tall)
    axes.imshow(np.asarray(picture), aspect="auto", interpolation="nearest")
    axes.set(xticks=[], yticks=[], xlim=(0, picture.width), ylim=(picture.height, 0))
    for patch, letter, said in marked:
        left, upper, right, lower = patch.box
        box = Rectangle((left, upper), right - left, lower - upper, fill=False, edgecolor=FRAME, linewidth=1.2)
        tip(box, said)
        axes.add_patch(box)
        write(axes, (left + right) / 2, (upper + lower) / 2, letter, 8, ha="center", va="center", color="#ffffff",
              weight="bold", bbox={"facecolor": "#000000b0", "edgecolor": "none", "pad": 0.8})  # fmt: skip
    return top + tall + 8


def _draw_lines(figure: Drawing, lines: list[Standout], left: float, top: float) -> None:
    words = sheet(figure)
    if not lines:
        write(words, left, top + 11, "no neuron varies here", color=SOFT)
    names = max((width_of(one.neuron) for one in lines), default=0.0)
    places = max((width_of(one.where) for one in lines), default=0.0)
    y = top
    for layer, own in groupby(lines, key=lambda one: one.layer):
        write(words, left, y + 11, layer, style="italic")
        y += LINE
        for one in own:
            _swatch(words, one, left, y)
            write(words, left + 16, y + 11, one.neuron)
            write(words, left + 24 + names, y + 11, one.z)
            write(words, left + 66 + names, y + 11, one.where, weight="bold")
            write(words, left + 80 + names + places, y + 11, one.concept)
            y += LINE


def _swatch(axes: Axes, one: Standout, left: float, y: float) -> None:
    from matplotlib.patches import Rectangle

    color = COLORS[one.label][0] if one.label else "none"
    box = Rectangle((left + 2, y + 3), 9, 9, facecolor=color, edgecolor=SOFT, linewidth=0.5)
    tip(box, one.said)
    axes.add_patch(box)


@dataclass(frozen=True)
class Words:
    """Tokens of a response in lines: left, line, width, token, and whether it is the word of a neuron."""

    placed: list[tuple[float, int, float, str, bool]]

    @property
    def height(self) -> float:
        """Of all lines."""
        return LINE * (1 + max((line for _, line, *_ in self.placed), default=-1))


def _words(batch: Batch, row: int, marked: set[str]) -> Words:
    kinds, placed = batch.kinds[row].tolist(), list[tuple[float, int, float, str, bool]]()
    x, line = 0.0, 0
    for token, kind in zip(batch.tokens(row), kinds, strict=True):
        if kind != TokenKind.TEXT:
            continue
        word = _word(token)
        wide = width_of(word)
        if x + wide > WIDE and x:
            x, line = 0.0, line + 1
        placed.append((x, line, wide, word, word in marked))
        x += wide + 5
    return Words(placed)


def _draw_words(figure: Drawing, words: Words, top: float) -> None:
    from matplotlib.patches import Rectangle

    axes = sheet(figure)
    for x, line, wide, word, marked in words.placed:
        if marked:
            axes.add_patch(Rectangle((x - 1.5, top + LINE * line), wide + 3, LINE - 2, facecolor=TOKEN, alpha=0.45,
                                     edgecolor="none"))  # fmt: skip
        write(axes, x, top + LINE * line + 11, word, color=INK)


def _in_words(lines: dict[str, list[Standout]]) -> str:
    said = "; ".join(one.said for own in lines.values() for one in own)
    return f"Neurons that stand out on this sample. {said or 'None varies.'}"
