"""A neuron's card as one picture, for viewers that strip scripts and styles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from PIL import Image

from vlm_neurons.viz.cards.charts import score_svg, sequence_svg
from vlm_neurons.viz.cards.content import Compared, Content, caption, group_names, has_text, strongest_places
from vlm_neurons.viz.cards.maps import strongest_patch
from vlm_neurons.viz.cards.raster import font, raster
from vlm_neurons.viz.cards.sheet import MARGIN, SCALE, WIDTH, Column, Sheet, columns
from vlm_neurons.viz.cards.tokens import strip
from vlm_neurons.viz.layers import COLORS
from vlm_neurons.viz.page import number, shortened, visible
from vlm_neurons.viz.pictures import gradient, heat

if TYPE_CHECKING:
    from vlm_neurons.evidence import Exemplar

FRAME, TALLEST = "#D55E00", 400  # tallest: units that a picture may take
PATCH_SINK, TOKEN_SINK = "white dot: sink patch, not counted", "dotted: sink, not counted"


def card_picture(shown: Content) -> Image.Image:
    """A card as a picture: what `card_html` shows, in the same order; long texts are cut.

    Returns:
        RGB, two pixels a unit, 800 units wide.
    """
    sheet = Sheet()
    _head(sheet, shown)
    _said(sheet, shown)
    left = sheet.left
    _exemplar(sheet, shown.strongest, shown.tops, Column(left, 380))
    sheet.left, sheet.width = left, WIDTH - 2 * MARGIN
    sheet.chart(sequence_svg(shown.strongest, width=460), 460)
    _scales(sheet, shown)
    if shown.compared:
        _title(sheet, "Real and simulated, both from 0 to 10")
        _row(sheet, [partial(_both, sheet, one) for one in shown.compared], 2)
    names = group_names(shown.evidence)
    for group, exemplars in shown.groups.items():
        _title(sheet, names[group].capitalize())
        _row(sheet, [partial(_exemplar, sheet, e, shown.tops) for e in exemplars], 3)
    return sheet.finished()


def figure_picture(title: str, svg: str) -> Image.Image:
    """A chart of ours under its title, with a margin."""
    drawn = raster(svg, SCALE)
    sheet = Sheet(drawn.width / SCALE + 2 * MARGIN)
    sheet.write(title, 14, "bold")
    sheet.y += 6
    sheet.y += sheet.paste(drawn, sheet.left, sheet.y, sheet.width)
    return sheet.finished()


def _head(sheet: Sheet, shown: Content) -> None:
    sheet.write(visible(shown.evidence.neuron), 17, "bold")
    if shown.classes.headline:
        sheet.write(shown.classes.headline, 13, "bold")
    sheet.write(" · ".join(shown.classes.notes), 11, "soft")
    if shown.classes.shares:
        x = sheet.left
        for label, _, _, share in shown.classes.shares:
            sheet.box(x, sheet.y + 2, 420 * float(share), 8, COLORS[label][0])
            x += 420 * float(share)
        sheet.y += 14
        _legend(sheet, [(COLORS[label][0], f"{name} {share}") for label, name, share, _ in shown.classes.shares])
    sheet.y += 4


def _legend(sheet: Sheet, entries: Sequence[tuple[str, str]]) -> None:
    """Colours with their names, on one line."""
    x, left, y = sheet.left, sheet.left, sheet.y
    for color, words in entries:
        sheet.box(x, y + 3, 8, 8, color)
        sheet.left, sheet.y = x + 12, y
        sheet.line(words, 11, "soft")
        x += 12 + font(11 * SCALE).getlength(words) / SCALE + 14
    sheet.left = left


def _said(sheet: Sheet, shown: Content) -> None:
    if shown.explained is not None:
        start = sheet.y
        sheet.left, sheet.width = sheet.left + 12, sheet.width - 12
        sheet.write(shortened(shown.explained.text, 400), 15)
        sheet.left, sheet.width = sheet.left - 12, sheet.width + 12
        sheet.box(sheet.left, start, 3, sheet.y - start, FRAME if shown.explained.failed else COLORS["visual"][0])
        if shown.explained.description:
            sheet.write(shortened(shown.explained.description, 500), 11.5)
        if shown.explained.source:
            sheet.write(f"explained by {shortened(shown.explained.source, 200)}", 11, "soft")
    if shown.scored is not None:
        sheet.write(shown.scored.sentence, 12.5)
        if shown.scored.details:
            sheet.write(shown.scored.details, 11, "soft")
        if shown.scored.r is not None:
            sheet.chart(score_svg(shown.scored), 340)
    sheet.y += 6


def _title(sheet: Sheet, words: str) -> None:
    sheet.y += 8
    sheet.box(sheet.left, sheet.y, sheet.width, 0.5, "#d5d5d5")
    sheet.y += 8
    sheet.write(words, 13, "bold")
    sheet.y += 3


def _row(sheet: Sheet, draw: Sequence[Callable[[Column], None]], n: int) -> None:
    """Things side by side; each is a function of its column."""
    left, width, start = sheet.left, sheet.width, sheet.y
    ends = []
    for one, column in zip(draw, columns(sheet, n), strict=False):
        sheet.y = start
        one(column)
        ends.append(sheet.y)
        sheet.left, sheet.width = left, width
    sheet.y = max(ends, default=start)


def _exemplar(sheet: Sheet, e: Exemplar, tops: tuple[float, float], column: Column) -> None:
    sheet.left, sheet.width = column.left, column.width
    for image, values, sinks in zip(e.seen.images, e.patch_acts, e.seen.patch_sinks, strict=True):
        _maps(sheet, image, [values], sinks, tops[0])
    if has_text(e):
        sheet.tokens(strip(e.seen, e.token_acts, tops[1]))
    sheet.write(shortened(caption(e), 160), 10, "soft")
    for line in strongest_places(e):
        sheet.write(line, 10, "soft")


def _both(sheet: Sheet, one: Compared, column: Column) -> None:
    sheet.left, sheet.width = column.left, column.width
    e = one.real
    for place, image in enumerate(e.seen.images):
        series = [e.patch_acts[place], *([one.simulated.patch_acts[place]] if one.sees else [])]
        _maps(sheet, image, series, e.seen.patch_sinks[place], 10)
        sheet.write("image, real" + (", simulated" if one.sees else " (patches were not simulated)"), 10, "soft")
    if has_text(e):
        sheet.write("tokens, real" + ("" if one.reads else " (not simulated)"), 10, "soft")
        sheet.tokens(strip(e.seen, e.token_acts, 10))
    if one.reads:
        sheet.write("tokens, simulated", 10, "soft")
        sheet.tokens(strip(e.seen, one.simulated.token_acts, 10, "simulated"))
    sheet.chart(sequence_svg(e, None if one.failure else one.simulated, width=420), column.width)
    if one.failure:
        sheet.write(shortened(one.failure, 200), 11)
    sheet.write(shortened(caption(e), 160), 10, "soft")


def _maps(
    sheet: Sheet, image: Image.Image, series: Sequence[Float[np.ndarray, "rows columns"]], sinks: np.ndarray, top: float
) -> None:
    """The picture, and beside it the heat of each series over it; the strongest patch framed, sinks dotted."""
    picture = image.convert("RGB")
    width = min((sheet.width - 4 * len(series)) / (1 + len(series)), TALLEST * picture.width / picture.height)
    height = sheet.paste(picture, sheet.left, sheet.y, width)
    for i, values in enumerate(series):
        x = sheet.left + (i + 1) * (width + 4)
        sheet.paste(picture, x, sheet.y, width)
        sheet.paste(heat(values, top), x, sheet.y, width, height)
        rows, columns_ = values.shape
        w, h = width / columns_, height / rows
        for row, column in np.argwhere(sinks):
            sheet.box(x + (column + 0.35) * w, sheet.y + (row + 0.35) * h, 0.3 * w, 0.3 * h, "#ffffff")
        if not np.isnan(values).all() and np.nanmax(values) > 0:
            row, column = strongest_patch(values)
            sheet.box(x + column * w, sheet.y + row * h, w, h, None, FRAME)
    sheet.y += height + 6


def _scales(sheet: Sheet, shown: Content) -> None:
    bars = []
    if shown.evidence.sees_images:
        bars.append(("patches", gradient(96), shown.tops[0]))
    if shown.evidence.sees_text:
        steps = np.linspace(0, 1, 96)[None, :, None]
        orange = 255 + steps * (np.array([0xE6, 0x9F, 0x00]) - 255)
        bars.append(("tokens", Image.fromarray(orange.round().astype(np.uint8)), shown.tops[1]))
    x, left, y = sheet.left, sheet.left, sheet.y
    for name, bar, top in bars:
        for words in (f"{name}: 0 ", None, f" {number(top)}"):
            if words is None:
                sheet.paste(bar.resize((96, 10)), x, y + 2, 96)
                sheet.box(x, y + 2, 96, 10, None)
                x += 96
            else:
                sheet.y, sheet.left = y, x
                sheet.line(words, 11, "soft")
                x += font(11 * SCALE).getlength(words) / SCALE
        x += 24
    sheet.left, sheet.y = left, y + (18 if bars else 0)
    told = ["orange frame: strongest patch"] if shown.evidence.sees_images else []
    told += [PATCH_SINK] if shown.patch_sinks else []
    told += [TOKEN_SINK] if shown.token_sinks else []
    if told:
        sheet.write("; ".join(told), 10, "soft")
