"""Our own SVGs as pictures, so that a chart is drawn once and shown both ways.

It knows what `charts`, `plots`, `layers` and `heatmap` use: rect, line, path (M L h v z), text (that may be turned) and
g; not SVG at large.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ElementTree
from functools import lru_cache
from importlib.resources import files

from PIL import Image, ImageColor, ImageDraw, ImageFont

INK, PAPER = "#1c1c1c", "#ffffff"
FINER = 2  # drawn so much larger, then made smaller: slanted lines and letters get smooth edges
SIZES = {"vn-layers": (11.0, 13.0), "vn-chart": (10.0, 12.0)}  # of words and of headings, as in the style sheets
_TURNED = re.compile(r"rotate\((\S+) ")  # about the place of the words
_COMMAND = re.compile(r"([MLhvz])([^MLhvz]*)")
Color = tuple[int, int, int, int]


@lru_cache(maxsize=64)
def font(size: float) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which has the letters of many scripts; it comes with the package."""
    data = (files("vlm_neurons.viz") / "fonts" / "DejaVuSans.ttf").read_bytes()
    return ImageFont.truetype(io.BytesIO(data), size, layout_engine=ImageFont.Layout.BASIC)


def raster(svg: str, scale: float = 2) -> Image.Image:
    """An SVG of ours as a picture on white.

    Args:
        svg: what one of our functions returned.
        scale: pixels per drawing unit.
    """
    root = ElementTree.fromstring(svg)
    _, _, width, height = (float(v) for v in root.attrib["viewBox"].split())
    finer = scale * FINER
    image = Image.new("RGB", (round(width * finer), round(height * finer)), PAPER)
    name = next((kind for kind in SIZES if kind in root.get("class", "").split()), "vn-chart")
    canvas = _Canvas(ImageDraw.Draw(image, "RGBA"), finer, *SIZES[name])
    for element in root.iter():
        canvas.draw(element)
    return image.reduce(FINER)


class _Canvas:
    """Draws elements at a scale."""

    def __init__(self, pen: ImageDraw.ImageDraw, scale: float, size: float, heading: float) -> None:
        self.pen, self.scale, self.size, self.heading = pen, scale, size, heading

    def draw(self, element: ElementTree.Element) -> None:
        match element.tag.rpartition("}")[2]:
            case "rect":
                self._rect(element)
            case "line":
                self._line(element)
            case "path":
                self._path(element)
            case "text":
                self._text(element)

    def _numbers(self, element: ElementTree.Element, *names: str) -> list[float]:
        return [float(element.get(name, 0)) * self.scale for name in names]

    def _rect(self, element: ElementTree.Element) -> None:
        x, y, width, height = self._numbers(element, "x", "y", "width", "height")
        if width > 0 and height > 0:
            box = (round(x), round(y), max(round(x + width) - 1, round(x)), max(round(y + height) - 1, round(y)))
            edge = _color(element, "stroke") if element.get("stroke") else None
            self.pen.rectangle(box, fill=_color(element, "fill"), outline=edge, width=max(1, round(self.scale * 0.4)))

    def _line(self, element: ElementTree.Element) -> None:
        x1, y1, x2, y2 = self._numbers(element, "x1", "y1", "x2", "y2")
        color, width = _color(element, "stroke"), max(1, round(self.scale * 0.8))
        dashes = [float(v) * self.scale for v in element.get("stroke-dasharray", "").split()]
        if not dashes:
            self.pen.line((x1, y1, x2, y2), fill=color, width=width)
            return
        length = max(((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5, 1e-9)
        at, step = 0.0, sum(dashes)
        while at < length:
            a, b = at / length, min(at + dashes[0], length) / length
            ends = (x1 + a * (x2 - x1), y1 + a * (y2 - y1), x1 + b * (x2 - x1), y1 + b * (y2 - y1))
            self.pen.line(ends, fill=color, width=width)
            at += step

    def _path(self, element: ElementTree.Element) -> None:
        x = y = 0.0
        points: list[tuple[float, float]] = []
        every: list[list[tuple[float, float]]] = []
        for command, rest in _COMMAND.findall(element.get("d", "")):
            numbers = [float(v) * self.scale for v in rest.split()]
            if command == "M":
                points = []
                every.append(points)
            if command in "ML":
                x, y = numbers
            elif command == "h":
                x += numbers[0]
            elif command == "v":
                y += numbers[0]
            if command != "z":
                points.append((x, y))
        for points in every:
            if element.get("fill") not in (None, "none") and len(points) > 2:
                self.pen.polygon(points, fill=_color(element, "fill"))
            if element.get("stroke") and len(points) > 1:
                self.pen.line(points, fill=_color(element, "stroke"), width=max(1, round(self.scale)))

    def _text(self, element: ElementTree.Element) -> None:
        kinds = element.get("class", "").split()
        heading = "head" in kinds
        x, y = self._numbers(element, "x", "y")
        style = re.search(r"fill:(#\w+)", element.get("style", ""))
        words, face = "".join(element.itertext()), font((self.heading if heading else self.size) * self.scale)
        if turned := _TURNED.match(element.get("transform", "")):
            self._turned(words, face, x, y, float(turned[1]))
            return
        self.pen.text(
            (x, y), words, fill=style[1] if style else INK, features=None, font=face,
            anchor="ms" if "mid" in kinds else "rs" if "end" in kinds else "ls",
            stroke_width=self.scale * 0.15 if heading else 0,
        )  # fmt: skip

    def _turned(self, words: str, face: ImageFont.FreeTypeFont, x: float, y: float, degrees: float) -> None:
        """Words that begin at a place and are turned about it, clockwise as in SVG."""
        reach = round(face.getlength(words) + 2 * face.size)
        mask = Image.new("L", (2 * reach, 2 * reach))
        ImageDraw.Draw(mask).text((reach, reach), words, fill=255, font=face, anchor="ls")
        mask = mask.rotate(-degrees, Image.Resampling.BICUBIC)
        self.pen.bitmap((round(x) - reach, round(y) - reach), mask, fill=INK)


def _color(element: ElementTree.Element, name: str) -> Color:
    color = element.get(name, INK)
    red, green, blue = ImageColor.getrgb(INK if color == "currentColor" else color)[:3]
    opacity = float(element.get(f"{name}-opacity", 0.6 if element.tag.endswith("line") else 1))
    return red, green, blue, round(255 * opacity)
