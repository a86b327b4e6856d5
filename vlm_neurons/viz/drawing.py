"""Figures of matplotlib that show themselves in a notebook, and the same as pieces of pages; no pyplot, no settings.

Functions of this room measure in drawing units: a point, 1/72 inch, a pixel on a page; the origin is at the top left.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import IO, Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from matplotlib.textpath import text_to_path
from PIL import Image

INK, SOFT, GRID = "#1c1c1c", "#5a5a5a", "#808080"  # of words, of words that matter less, of lines behind
DPI = 144  # two pixels a unit
WORDS, HEADING, TITLE = 9.5, 12.0, 14.0  # sizes of letters
MARGIN = 16  # around a drawing with a title
_SAVED: Any = {"svg.fonttype": "none", "svg.hashsalt": "vlm_neurons", "svg.image_inline": True}
_NOTHING = {"Date": None, "Creator": None, "Format": None, "Type": None}  # of when and by what a drawing was made
_TIP = "vn-tip "
_USED = re.compile(r'(?:url\(#|href="#)([^")]+)')
_REMOVED = re.compile(  # a style sheet that would hold for the whole page, and what every piece of text repeats
    r'<defs>\s*<style.*?</style>\s*</defs>\s*|font-family: [^;"]*;? ?|( transform="rotate\(-0 [^"]*")', re.S
)
_ROOT = 'stroke-linejoin="round" font-family="DejaVu Sans, Verdana, system-ui, sans-serif"'


class Drawing(Figure):
    """A Figure that a notebook shows as a picture, without pyplot. `drawing.axes` and all that is in them can be
    changed; `savefig` is matplotlib's.

    Attributes:
        words: what it shows, for those who do not see it.
        origin: where its units begin: right of it and below it things are drawn.
    """

    words: str = ""
    origin: tuple[float, float] = (0, 0)

    def _repr_png_(self) -> bytes:
        return png(self)


def drawing(width: float, height: float, words: str = "", title: str = "") -> Drawing:
    """An empty one.

    Args:
        width: in units.
        height: the same.
        words: what it shows, for those who do not see it.
        title: stands above; then there are margins around what is drawn, which does not move.
    """
    around, above = (MARGIN, MARGIN + 26) if title else (0, 0)
    size = (width + 2 * around) / 72, (height + above + around) / 72
    made = Drawing(figsize=size, dpi=DPI, facecolor="white")
    made.words, made.origin = words, (around, above)
    if title:
        write(sheet(made), 0, -14, title, TITLE, weight="bold")
    return made


def panel(figure: Drawing, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place of a drawing: words of our size and colour, no box."""
    whole, tall = (72 * float(v) for v in figure.get_size_inches())
    x, y = figure.origin[0] + left, figure.origin[1] + top
    axes = figure.add_axes((x / whole, 1 - (y + height) / tall, width / whole, height / tall))
    axes.patch.set_visible(False)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(which="both", labelsize=WORDS, colors=INK, length=0, pad=4)
    return axes


def sheet(figure: Drawing) -> Axes:
    """Axes over all of a drawing; its data are drawing units. The drawing has one."""
    if not figure.axes:
        figure.add_axes((0, 0, 1, 1)).set_axis_off()
    fit(figure)
    return figure.axes[0]


def fit(figure: Drawing) -> None:
    """Let the data of the sheet of a drawing be units, as large as the drawing is now."""
    width, height = (72 * float(v) for v in figure.get_size_inches())
    x, y = figure.origin
    figure.axes[0].set(xlim=(-x, width - x), ylim=(height - y, -y))


def write(axes: Axes, x: float, y: float, words: str, size: float = WORDS, **how: Any) -> Text:
    """Words as they are: `$` begins no formula, and nothing is in them that a page could not hold."""
    return axes.text(x, y, _plain(words), fontsize=size, parse_math=False, **{"color": INK, **how})


def tip(artist: Artist, words: str) -> None:
    """What a reader sees who points at a part of a drawing on a page."""
    artist.set_gid(_TIP + _plain(words).replace('"', "”"))


def width_of(words: str, size: float = WORDS, bold: bool = False) -> float:
    """Of a line of words, in units."""
    face = FontProperties(size=size, weight="bold" if bold else "normal")  # type: ignore[arg-type]
    with _quiet():
        return float(text_to_path.get_text_width_height_descent(_plain(words), face, False)[0])


def lines_of(words: str, width: float, size: float = WORDS, bold: bool = False) -> list[str]:
    """Words broken into lines at blanks, and inside words where they are too long.

    >>> lines_of("a large dog", 50, 10)
    ['a large', 'dog']
    """
    lines = [""]
    for word in words.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if width_of(longer, size, bold) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        lines[-1] = word
        while len(lines[-1]) > 1 and (long := width_of(lines[-1], size, bold)) > width:
            n = max(1, int(len(lines[-1]) * width / long) - 1)
            lines[-1:] = [lines[-1][:n], lines[-1][n:]]
    return lines


def png(figure: Figure) -> bytes:
    """A drawing as a picture: the same drawing, the same bytes."""
    buffer = io.BytesIO()
    _save(figure, buffer, "png", metadata={"Software": None})
    return buffer.getvalue()


def pixels(figure: Figure) -> Image.Image:
    """A drawing as a picture in memory."""
    buffer = io.BytesIO()
    _save(figure, buffer, "rgba")  # to pack pixels into a PNG takes as long as to draw them
    width, height = (int(inches * DPI) for inches in figure.get_size_inches())
    return Image.frombuffer("RGBA", (width, height), buffer.getvalue(), "raw", "RGBA", 0, 1).convert("RGB")


def svg(figure: Drawing, kind: str = "", alone: bool = False) -> str:
    """A drawing as a piece of a page: words stay words, ink is that of the page, nothing is loaded, no id is another's.

    Args:
        figure: a drawing.
        kind: a CSS class.
        alone: for a file of its own: then the ink follows the reader's preference of light or dark.
    """
    buffer = io.StringIO()
    _save(figure, buffer, "svg", transparent=True, metadata=_NOTHING)
    found = buffer.getvalue()
    found = _REMOVED.sub("", found[found.index("<svg") :]).replace(INK, "currentColor")
    found = re.sub(r">\s+<", "><", re.sub(r"\s*\n\s*", " ", found))
    found = re.sub(rf"<g id=[\"']{_TIP}([^\"'>]*)[\"']>", r"<g><title>\1</title>", found)
    name, used = f"vd{hashlib.sha256(found.encode()).hexdigest()[:8]}-", set(_USED.findall(found))
    found = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}{m[1]}"' if m[1] in used else "", found)
    found = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}", found)
    width = 72 * float(figure.get_size_inches()[0])
    found = re.sub(r' (?:width|height)="[\d.]+pt"', "", found, count=2)
    words = escape(_plain(figure.words), quote=True)
    head = f'<svg width="{width:g}" class="vn-figure {kind}" role="img" aria-label="{words}" {_ROOT} '
    style = (
        "<style>svg{color:#1c1c1c;background:#fff}@media (prefers-color-scheme:dark)"
        "{svg{color:#e6e6e6;background:#1b1e22}}</style>"
    )
    found = found.replace("<svg ", head, 1).rstrip() + "\n"
    return found.replace(">", f">{style}", 1) if alone else found


def _plain(words: str) -> str:
    return "".join(c if c.isprintable() else "�" for c in words)


@contextmanager
def _quiet() -> Iterator[None]:
    """Letters that the font lacks are drawn as boxes; that is no reason to warn."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


def _save(figure: Figure, where: IO[Any], kind: str, **how: Any) -> None:
    with matplotlib.rc_context(_SAVED), _quiet():  # matplotlib reads these three from its settings only
        figure.savefig(where, format=kind, dpi=DPI, **how)
