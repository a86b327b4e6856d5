"""A neuron's card as one picture, for viewers that strip scripts and styles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

from vlm_neurons.show.cards.charts import score_svg, sequence_svg
from vlm_neurons.show.cards.content import GROUPS, Compared, Content, caption, has_text, strongest_places
from vlm_neurons.show.cards.maps import strongest_patch
from vlm_neurons.show.cards.raster import INK, PAPER, font, raster
from vlm_neurons.show.cards.tokens import Strip, strip
from vlm_neurons.show.layers import COLORS
from vlm_neurons.show.page import number, visible
from vlm_neurons.show.pictures import gradient, heat

if TYPE_CHECKING:
    from vlm_neurons.evidence import Exemplar

WIDTH, MARGIN, SCALE = 800, 16, 2  # units, units, pixels per unit
SOFT, FRAME = "#5a5a5a", "#D55E00"
LINES = 6  # of tokens that a sample shows
Style = Literal["plain", "bold", "soft"]


class Sheet:
    """A white sheet that is written from top to bottom.

    Attributes:
        y: where the next thing goes, in units.
        left: where lines begin.
        width: of the lines.
    """

    def __init__(self, width: float = WIDTH) -> None:
        self.y, self.left, self.width = float(MARGIN), float(MARGIN), width - 2 * MARGIN
        self._image = Image.new("RGB", (round(width * SCALE), 400 * SCALE), PAPER)

    def finished(self) -> Image.Image:
        """What was written."""
        return self._image.crop((0, 0, self._image.width, round((self.y + MARGIN) * SCALE)))

    def _pen(self, down_to: float) -> ImageDraw.ImageDraw:
        if down_to * SCALE > self._image.height - MARGIN * SCALE:
            longer = Image.new("RGB", (self._image.width, round(2 * down_to * SCALE)), PAPER)
            longer.paste(self._image)
            self._image = longer
        return ImageDraw.Draw(self._image)

    def write(self, words: str, size: float = 12, style: Style = "plain") -> None:
        """Words, broken into lines at blanks, and inside words where they are too long."""
        face = font(size * SCALE)
        line = ""
        for piece in _pieces(words, face, self.width * SCALE):
            if line and face.getlength(line + piece) > self.width * SCALE:
                self._line(line, size, style)
                line = piece.lstrip()
            else:
                line += piece
        self._line(line, size, style)

    def _line(self, words: str, size: float, style: Style) -> None:
        pen = self._pen(self.y + 1.4 * size)
        pen.text(
            (self.left * SCALE, (self.y + size) * SCALE), words, fill=SOFT if style == "soft" else INK,
            font=font(size * SCALE), anchor="ls", stroke_width=0.35 if style == "bold" else 0,
        )  # fmt: skip
        self.y += 1.4 * size

    def paste(self, picture: Image.Image, x: float, y: float, width: float, height: float | None = None) -> float:
        """A picture at a place, at a width; returns its height, by default from its form. One that has to grow keeps
        its pixels."""
        height = width * picture.height / picture.width if height is None else height
        size = (round(width * SCALE), round(height * SCALE))
        grows = size[0] > picture.width
        drawn = picture.resize(size, Image.Resampling.NEAREST if grows else Image.Resampling.LANCZOS)
        self._pen(y + height)
        self._image.paste(drawn, (round(x * SCALE), round(y * SCALE)), drawn if drawn.mode == "RGBA" else None)
        return height

    def chart(self, svg: str, width: float) -> None:
        """A chart of ours."""
        self.y += self.paste(raster(svg, SCALE), self.left, self.y, width) + 6

    def box(self, x: float, y: float, width: float, height: float, fill: str | None, frame: str | None = None) -> None:
        """A rectangle; nothing where it has no width."""
        if width * SCALE < 1:
            return
        pen = self._pen(y + height)
        corners = (round(x * SCALE), round(y * SCALE), round((x + width) * SCALE), round((y + height) * SCALE))
        pen.rectangle(corners, fill=fill, outline=frame, width=2 * SCALE if frame and fill is None else 1)

    def tokens(self, shown: Strip, size: float = 11.5) -> None:
        """Tokens on their colours, at most `LINES` lines."""
        face = font(size * SCALE)
        x, line, tall = 0.0, 1, 1.55 * size
        for i, cell in enumerate(shown.cells):
            words = cell.text
            while face.getlength(words) > (self.width - 2) * SCALE:
                words = words[: len(words) * 3 // 4] + "…"
            width = face.getlength(words) / SCALE + 1
            if x and x + width > self.width:
                x, line = 0.0, line + 1
                self.y += tall
            if line > LINES:
                self.write(f"and {len(shown.cells) - i + shown.more} more tokens", size, "soft")
                return
            self.box(self.left + x, self.y, min(width, self.width), tall - 2, cell.color or "#ffffff", "#e4e4e4")
            pen = self._pen(self.y + tall)
            pen.text(
                ((self.left + x + 0.5) * SCALE, (self.y + 1.05 * size) * SCALE), words, font=face, anchor="ls",
                fill=SOFT if cell.kind else "#000000",
            )  # fmt: skip
            x += width
        self.y += tall + 2


def _pieces(words: str, face: ImageFont.FreeTypeFont, width: float) -> Iterator[str]:
    """Words with the blanks before them; a word that no line holds in pieces."""
    for word in words.replace(" ", "\x00 ").split("\x00"):
        while word and face.getlength(word) > width:
            n = max(1, int(len(word) * width / face.getlength(word)) - 1)
            yield word[:n]
            word = word[n:]
        yield word


@dataclass(frozen=True)
class Column:
    """A part of a sheet's width."""

    left: float
    width: float


def columns(sheet: Sheet, n: int, gap: float = 18) -> list[Column]:
    """The width of a sheet in equal parts."""
    width = (sheet.width - (n - 1) * gap) / n
    return [Column(sheet.left + i * (width + gap), width) for i in range(n)]


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
    sheet.chart(sequence_svg(shown.strongest), 460)
    _scales(sheet, shown)
    if shown.compared:
        _title(sheet, "Real and simulated, both from 0 to 10")
        _row(sheet, [partial(_both, sheet, one) for one in shown.compared], 2)
    for group, exemplars in shown.groups.items():
        _title(sheet, GROUPS[group].capitalize())
        _row(sheet, [partial(_exemplar, sheet, e, shown.tops) for e in exemplars], 3)
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
        sheet.write("   ".join(f"{name} {share}" for _, name, share, _ in shown.classes.shares), 11, "soft")
    sheet.y += 4


def _said(sheet: Sheet, shown: Content) -> None:
    if shown.explained is not None:
        start = sheet.y
        sheet.left, sheet.width = sheet.left + 12, sheet.width - 12
        sheet.write(_cut(shown.explained.text, 400), 15)
        sheet.left, sheet.width = sheet.left - 12, sheet.width + 12
        sheet.box(sheet.left, start, 3, sheet.y - start, FRAME if shown.explained.failed else COLORS["visual"][0])
        if shown.explained.description:
            sheet.write(_cut(shown.explained.description, 500), 11.5)
        if shown.explained.source:
            sheet.write(f"explained by {_cut(shown.explained.source, 200)}", 11, "soft")
    if shown.scored is not None:
        sheet.write(shown.scored.sentence, 12.5)
        if shown.scored.details:
            sheet.write(shown.scored.details, 11, "soft")
        if shown.scored.r is not None:
            sheet.chart(score_svg(shown.scored), 340)
    sheet.y += 6


def _cut(words: str, most: int) -> str:
    return words if len(words) <= most else f"{words[: most - 1]}…"


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
    for image, values, sinks in zip(e.seen.images, e.patches, e.seen.patch_sinks, strict=True):
        _maps(sheet, image, [values], sinks, tops[0])
    if has_text(e):
        sheet.tokens(strip(e.seen, e.values, tops[1]))
    sheet.write(_cut(caption(e), 160), 10, "soft")
    for line in strongest_places(e):
        sheet.write(line, 10, "soft")


def _both(sheet: Sheet, one: Compared, column: Column) -> None:
    sheet.left, sheet.width = column.left, column.width
    e = one.real
    for place, image in enumerate(e.seen.images):
        series = [e.patches[place], *([one.simulated.patches[place]] if one.sees else [])]
        _maps(sheet, image, series, e.seen.patch_sinks[place], 10)
        sheet.write("image, real" + (", simulated" if one.sees else ""), 10, "soft")
    if has_text(e):
        sheet.write("real", 10, "soft")
        sheet.tokens(strip(e.seen, e.values, 10))
    if one.reads:
        sheet.write("simulated", 10, "soft")
        sheet.tokens(strip(e.seen, one.simulated.values, 10, "simulated"))
    sheet.chart(sequence_svg(e, None if one.failure else one.simulated, width=420), column.width)
    if one.failure:
        sheet.write(_cut(one.failure, 200), 11)
    sheet.write(_cut(caption(e), 160), 10, "soft")


def _maps(
    sheet: Sheet, image: Image.Image, series: Sequence[Float[np.ndarray, "rows columns"]], sinks: np.ndarray, top: float
) -> None:
    """The picture, and beside it the heat of each series over it; the strongest patch framed, sinks dotted."""
    width = (sheet.width - 4 * len(series)) / (1 + len(series))
    picture = image.convert("RGB")
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
                sheet._line(words, 11, "soft")
                x += font(11 * SCALE).getlength(words) / SCALE
        x += 24
    sheet.left, sheet.y = left, y + 18
