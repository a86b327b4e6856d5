"""A sheet of paper on which pictures, words and charts are put one below the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

from vlm_neurons.viz.cards.raster import INK, PAPER, font, raster
from vlm_neurons.viz.cards.tokens import Strip

WIDTH, MARGIN, SCALE = 800, 16, 2  # units, units, pixels per unit
SOFT = "#5a5a5a"
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
        written = ""
        for piece in _pieces(words, face, self.width * SCALE):
            if written and face.getlength(written + piece) > self.width * SCALE:
                self.line(written, size, style)
                written = piece.lstrip()
            else:
                written += piece
        self.line(written, size, style)

    def line(self, words: str, size: float, style: Style = "plain") -> None:
        """One line of words, however long."""
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
            if "sink" in cell.kind:
                self._dots(self.left + x + 1, self.y + 1.25 * size, width - 2)
            x += width
        self.y += tall + 2

    def _dots(self, x: float, y: float, width: float) -> None:
        """A dotted line."""
        for i in range(max(1, round(width / 3))):
            self.box(x + 3 * i, y, 1, 1, INK)


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
