"""A neuron's card as a figure, for viewers that strip scripts and styles, and for papers.

Every function draws something at a place of the sheet and returns where the next thing goes; all in drawing units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.patches import Rectangle
from PIL import Image

from vlm_neurons.viz.card_charts import along, segments
from vlm_neurons.viz.card_content import (
    Compared,
    Content,
    caption,
    group_names,
    has_text,
    strongest_patch,
    strongest_places,
)
from vlm_neurons.viz.colours import COLORS, FRAME, PATCH, TOKEN, gradient, heat, without_sinks
from vlm_neurons.viz.drawing import (
    DPI,
    GRID,
    INK,
    SOFT,
    Drawing,
    drawing,
    fit,
    lines_of,
    pixels,
    sheet,
    width_of,
    write,
)
from vlm_neurons.viz.rows_in_words import Scored
from vlm_neurons.viz.token_strips import ORANGE, Strip, strip
from vlm_neurons.viz.wording import FREQUENCY, decimals, number, shortened, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from vlm_neurons.evidence import Exemplar

    Draw = Callable[[float, float], float]  # left, width -> bottom

WIDTH, MARGIN, GAP = 800, 16, 18  # units
TALLEST = 400  # that a picture may be
LINES = 6  # of tokens that a sample shows
BODY, HEADING, TITLE = 11.0, 13.0, 17.0  # sizes of letters: of all words, of headings, of the name
CHART = 60  # height of activations along the sequence
PATCH_SINK, TOKEN_SINK = "white dot: sink patch, not counted", "dotted: sink, not counted"


def card_figure(shown: Content) -> Drawing:
    """A card as a figure: what `card_html` shows, in the same order; long texts are cut.

    Returns:
        A Figure, 800 units wide and as tall as it needs. Its axes has drawing units as data.
    """
    figure = drawing(WIDTH, 100, f"Card of neuron {visible(shown.evidence.neuron)}.")
    axes, width = sheet(figure), WIDTH - 2 * MARGIN
    y = _head(axes, shown, MARGIN)
    y = _said(axes, shown, y)
    y = _exemplar(axes, shown.strongest, shown.tops, MARGIN, y, 380)
    y = _sequence(axes, shown.strongest, None, MARGIN, y, 460)
    y = _scales(axes, shown, y)
    if shown.compared:
        y = _title(axes, "Real and simulated, both from 0 to 10", y)
        y = _row([lambda x, w, one=one, y=y: _both(axes, one, x, y, w) for one in shown.compared], 2, width)  # type: ignore[misc]
    names = group_names(shown.evidence)
    for group, exemplars in shown.groups.items():
        y = _title(axes, names[group].capitalize(), y)
        y = _row([lambda x, w, e=e, y=y: _exemplar(axes, e, shown.tops, x, y, w) for e in exemplars], 3, width)  # type: ignore[misc]
    figure.set_size_inches(WIDTH / 72, (y + MARGIN) / 72)
    fit(figure)
    return figure


def cards_figure(shown: Sequence[Content]) -> Drawing:
    """Cards side by side, as one figure of their pictures."""
    pictures = [pixels(card_figure(one)) for one in shown]
    tall = max(p.height for p in pictures) * 72 / DPI
    figure = drawing(WIDTH * len(pictures), tall, "Cards of " + " and ".join(visible(s.evidence.neuron) for s in shown))
    axes = sheet(figure)
    for i, one in enumerate(pictures):
        _picture(axes, one, WIDTH * i, 0, WIDTH, one.height * 72 / DPI)
    fit(figure)
    return figure


def _write(
    axes: Axes, words: str, x: float, y: float, width: float, size: float = BODY, color: str = INK, bold: bool = False
) -> float:
    """Words, broken into lines."""
    for line in lines_of(words, width, size, bold):
        write(axes, x, y + size, line, size, color=color, weight="bold" if bold else "normal")
        y += 1.4 * size
    return y


def _box(axes: Axes, x: float, y: float, width: float, height: float, fill: str, edge: str = "none") -> None:
    axes.add_patch(
        Rectangle((x, y), width, height, facecolor=fill, edgecolor=edge, linewidth=0.5 if fill != "none" else 2)
    )


def _picture(axes: Axes, image: Image.Image, x: float, y: float, width: float, height: float) -> None:
    """A picture at a place; one that has to grow keeps its pixels."""
    how = "nearest" if 2 * width > image.width else "antialiased"
    axes.imshow(np.asarray(image), extent=(x, x + width, y + height, y), aspect="auto", interpolation=how)


def _head(axes: Axes, shown: Content, y: float) -> float:
    width = WIDTH - 2 * MARGIN
    y = _write(axes, visible(shown.evidence.neuron), MARGIN, y, width, TITLE, bold=True)
    if shown.classes.headline:
        y = _write(axes, shown.classes.headline, MARGIN, y, width, HEADING, bold=True)
    y = _write(axes, " · ".join(shown.classes.notes), MARGIN, y, width, BODY, SOFT)
    if not shown.classes.shares:
        return y + 4
    x = place = float(MARGIN)
    for label, name, said, share in shown.classes.shares:
        _box(axes, x, y + 2, 420 * float(share), 8, COLORS[label][0])
        x += 420 * float(share)
        _box(axes, place, y + 17, 8, 8, COLORS[label][0])  # and below, with its name
        write(axes, place + 12, y + 25, f"{name} {said}", BODY, color=SOFT)
        place += 26 + width_of(f"{name} {said}", BODY)
    return y + 34


def _said(axes: Axes, shown: Content, y: float) -> float:
    width, told = WIDTH - 2 * MARGIN, shown.explained
    if told is not None:
        start = y
        y = _write(axes, shortened(told.text, 400), MARGIN + 12, y, width - 12, HEADING)
        _box(axes, MARGIN, start, 3, y - start, FRAME if told.failed else PATCH)
        if told.description:
            y = _write(axes, shortened(told.description, 500), MARGIN, y, width)
        if told.source:
            y = _write(axes, f"explained by {shortened(told.source, 200)}", MARGIN, y, width, BODY, SOFT)
    for score in shown.scored:
        y = _write(axes, score.sentence, MARGIN, y, width)
        if score.details:
            y = _write(axes, score.details, MARGIN, y, width, BODY, SOFT)
        if score.r is not None:
            y = _score(axes, score, score.r, y)
    for one in shown.answers:
        y = _write(axes, one, MARGIN, y, width)
    if shown.answers:
        y = _write(axes, FREQUENCY, MARGIN, y, width, BODY, SOFT)
    return y + 6


def _score(axes: Axes, score: Scored, r: float, y: float) -> float:
    """A score on the line from 0 (or below) to 1, with its interval, its null and its ceiling."""
    x, least = score.places(MARGIN + 10, 300)
    axes.plot([x(least), x(1)], [y + 26] * 2, color=GRID, linewidth=0.8)
    for value in sorted({least, 0.0, 1.0}):
        axes.plot([x(value)] * 2, [y + 23, y + 29], color=GRID, linewidth=0.8)
        write(axes, x(value), y + 41, decimals(value), BODY, ha="center")
    for name, value, color in (("ceiling", score.ceiling, GRID), ("null", score.null, INK)):
        if value == value:
            _box(axes, x(value) - 1, y + 18, 2, 13, color)
            write(axes, x(value), y + 13, name, BODY, ha="center")
    if score.low == score.low:
        _box(axes, x(score.low), y + 24, x(score.high) - x(score.low), 4, "#80B8D8")
    _box(axes, x(r) - 4, y + 22, 8, 8, PATCH)
    write(axes, x(1) + 12, y + 29, "r", BODY)
    return y + 50


def _title(axes: Axes, words: str, y: float) -> float:
    axes.plot([MARGIN, WIDTH - MARGIN], [y + 8] * 2, color="#d5d5d5", linewidth=0.8)
    return _write(axes, words, MARGIN, y + 16, WIDTH - 2 * MARGIN, HEADING, bold=True) + 3


def _row(draw: Sequence[Draw], n: int, width: float) -> float:
    """Things side by side, in columns of the n-th part of the width."""
    column = (width - (n - 1) * GAP) / n
    return max(one(MARGIN + i * (column + GAP), column) for i, one in enumerate(draw[:n]))


def _exemplar(axes: Axes, e: Exemplar, tops: tuple[float, float], x: float, y: float, width: float) -> float:
    for image, values, sinks in zip(e.seen.images, e.patch_acts, e.seen.patch_sinks, strict=True):
        y = _maps(axes, image, [values], sinks, tops[0], x, y, width)
    if has_text(e):
        y = _tokens(axes, strip(e.seen, e.token_acts, tops[1]), x, y, width)
    for line in (shortened(caption(e), 160), *strongest_places(e)):
        y = _write(axes, line, x, y, width, BODY, SOFT)
    return y + 4


def _both(axes: Axes, one: Compared, x: float, y: float, width: float) -> float:
    e = one.real
    for place, image in enumerate(e.seen.images):
        series = [e.patch_acts[place], *([one.simulated.patch_acts[place]] if one.sees else [])]
        y = _maps(axes, image, series, e.seen.patch_sinks[place], 10, x, y, width)
        told = "image, real" + (", simulated" if one.sees else " (patches were not simulated)")
        y = _write(axes, told, x, y, width, BODY, SOFT)
    if has_text(e):
        y = _write(axes, "tokens, real" + ("" if one.reads else " (not simulated)"), x, y, width, BODY, SOFT)
        y = _tokens(axes, strip(e.seen, e.token_acts, 10), x, y, width)
    if one.reads:
        y = _write(axes, "tokens, simulated", x, y, width, BODY, SOFT)
        y = _tokens(axes, strip(e.seen, one.simulated.token_acts, 10, "simulated"), x, y, width)
    y = _sequence(axes, e, one.simulated if one.sees or one.reads else None, x, y, width)
    if one.failure:
        y = _write(axes, shortened(one.failure, 200), x, y, width)
    return _write(axes, shortened(caption(e), 160), x, y, width, BODY, SOFT)


def _maps(
    axes: Axes, image: Image.Image, series: Sequence[Float[np.ndarray, "rows columns"]],
    sinks: Bool[np.ndarray, "rows columns"], top: float, left: float, y: float, room: float,
) -> float:  # fmt: skip
    """The picture, and beside it the heat of each series over it; the strongest patch framed, sinks dotted."""
    picture = image.convert("RGB")
    width = min((room - 4 * len(series)) / (1 + len(series)), TALLEST * picture.width / picture.height)
    height = width * picture.height / picture.width
    _picture(axes, picture, left, y, width, height)
    for i, values in enumerate(series):
        x = left + (i + 1) * (width + 4)
        _picture(axes, picture, x, y, width, height)
        counted = np.where(sinks, np.nan, values)
        _picture(axes, heat(without_sinks(values, sinks), top), x, y, width, height)
        w, h = width / values.shape[1], height / values.shape[0]
        for row, column in np.argwhere(sinks):
            _box(axes, x + (column + 0.35) * w, y + (row + 0.35) * h, 0.3 * w, 0.3 * h, "#ffffff")
        if not np.isnan(counted).all() and np.nanmax(counted) > 0:
            row, column = strongest_patch(counted)
            _box(axes, x + column * w, y + row * h, w, h, "none", FRAME)
    return y + height + 6


def _tokens(axes: Axes, shown: Strip, left: float, y: float, width: float, size: float = BODY) -> float:
    """Tokens on their colours, at most `LINES` lines."""
    x, line, tall = 0.0, 1, 1.55 * size
    for i, cell in enumerate(shown.cells):
        words = cell.text
        while len(words) > 1 and width_of(words, size) > width - 2:
            words = words[: len(words) * 3 // 4] + "…"
        blank = width_of("n n", size) - width_of("nn", size)  # those at the ends have no width of their own
        wide = width_of(words.strip(" "), size) + blank * (len(words) - len(words.strip(" "))) + 2
        if x and x + wide > width:
            x, line, y = 0.0, line + 1, y + tall
        if line > LINES:
            return _write(axes, f"and {len(shown.cells) - i + shown.more} more tokens", left, y, width, size, SOFT)
        _box(axes, left + x, y, min(wide, width), tall - 2, cell.color or "#ffffff", "#dddddd")
        begins = left + x + 1 + blank * (len(words) - len(words.lstrip(" ")))
        write(axes, begins, y + 1.05 * size, words.strip(" "), size, color=SOFT if cell.kind else "#000000")
        if "sink" in cell.kind:
            ends = [left + x + 1.5, left + x + wide - 1.5]
            axes.plot(ends, [y + 1.3 * size] * 2, ":", color=INK, linewidth=1.2)
        x += wide
    return y + tall + 2


def _sequence(axes: Axes, e: Exemplar, simulated: Exemplar | None, x: float, y: float, width: float) -> float:
    """Activations along the sequence that the model read; simulated ones as a line."""
    parts = segments(e)
    real = along(e, parts)
    top = 10.0 if simulated is not None else max(float(np.nanmax(real, initial=0.0)), 0.0) or 1.0
    edges, floor = x + width * np.arange(len(real) + 1) / max(1, len(real)), y + 16 + CHART
    write(axes, x, y + 11, f"activation, 0 to {number(top)}", BODY)
    start = 0
    for kind, place, _, n in parts:
        tall = CHART * np.clip(np.nan_to_num(real[start : start + n]) / top, 0, 1)
        color, here = PATCH if kind == "image" else TOKEN, edges[start : start + n + 1]
        axes.bar(here[:-1], -tall, np.diff(here), floor, align="edge", color=color, linewidth=0)
        _box(axes, here[0], floor + 2, here[-1] - here[0] - 0.6, 2, color)
        told = f"image {place + 1}: {n} patches" if kind == "image" else f"{n} tokens"
        if width_of(told, BODY) < here[-1] - here[0]:
            write(axes, float(here[0] + here[-1]) / 2, floor + 15, told, BODY, ha="center")
        start += n
    axes.plot([x, x + width], [floor] * 2, color=INK, linewidth=0.8)
    if simulated is not None:
        guess = floor - CHART * np.clip(along(simulated, parts) / top, 0, 1)
        axes.stairs(guess, edges, baseline=None, color=INK, linewidth=1)
        write(axes, x + width, y + 11, "bars real, line simulated", BODY, ha="right")
    return floor + 26


def _scales(axes: Axes, shown: Content, y: float) -> float:
    x, bars = float(MARGIN), []
    if shown.evidence.sees_images:
        bars.append(("patches", gradient(96), shown.tops[0]))
    if shown.evidence.sees_text:
        orange = 255 + np.linspace(0, 1, 96)[None, :, None] * (np.array(ORANGE) - 255)
        bars.append(("tokens", Image.fromarray(orange.round().astype(np.uint8)), shown.tops[1]))
    for name, bar, top in bars:
        write(axes, x, y + 11, f"{name}: 0", BODY, color=SOFT)
        x += width_of(f"{name}: 0", BODY) + 5
        _picture(axes, bar, x, y + 2, 96, 10)
        write(axes, x + 101, y + 11, number(top), BODY, color=SOFT)
        x += 125 + width_of(number(top), BODY)
    told = ["orange frame: strongest patch"] if shown.evidence.sees_images else []
    told += [PATCH_SINK] if shown.patch_sinks else []
    told += [TOKEN_SINK] if shown.token_sinks else []
    y += 18 if bars else 0
    return _write(axes, "; ".join(told), MARGIN, y, WIDTH - 2 * MARGIN, BODY, SOFT) if told else y
