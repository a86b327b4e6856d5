"""Where a neuron is active in a picture: as a picture, and in numbers and words for models that take none."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

from vlm_neurons.concepts.concept import Concept, phrase
from vlm_neurons.concepts.visual import Maps, pixel_bank

if TYPE_CHECKING:
    from vlm_neurons.evidence import Seen

Style = Literal["paper", "boxes"]
STYLES: dict[str, str] = {
    "paper": "faded to white where it is 0 and untouched where it is 10",
    "boxes": "with a frame around every place above half of the strongest one",
}
SIDE = 320  # pixels of each part
HEAD = 30  # pixels above, for its name
_GAP = 8
KINDS = ("color", "brightness", "texture", "edge", "object")  # that have a share of a patch
SHARE = 0.1  # what covers less is not named
PLACES = 4


def faded(image: Image.Image, scaled: Float[np.ndarray, "rows columns"], boxes: np.ndarray) -> Image.Image:
    """The paper's overlay: pixel * (a / 10) + 255 * (1 - a / 10), a from 0 to 10 (section 3.3, second hand)."""
    pixels = np.asarray(image.convert("RGB"), dtype=float)
    share = np.zeros(pixels.shape[:2])
    for value, (left, top, right, bottom) in _each(scaled, boxes):
        share[top:bottom, left:right] = value / 10
    return Image.fromarray(np.rint(pixels * share[..., None] + 255 * (1 - share[..., None])).astype(np.uint8))


def framed(image: Image.Image, scaled: Float[np.ndarray, "rows columns"], boxes: np.ndarray) -> Image.Image:
    """Frames around the places above half of the strongest, twice as large as the image."""
    zoom = max(1, SIDE // max(image.size))
    large = image.convert("RGB").resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)
    draw, top = ImageDraw.Draw(large), np.nanmax(scaled, initial=0)
    for value, box in _each(scaled, boxes):
        if value > top / 2 and value >= 1:
            left, upper, right, lower = (zoom * edge for edge in box)
            draw.rectangle((left, upper, right - 1, lower - 1), outline=(255, 0, 255), width=2)
    return large


def panel(seen: Seen, number: int, scaled: Float[np.ndarray, "rows columns"], style: Style = "paper") -> Image.Image:
    """Image, overlay and the four strongest places, side by side.

    Args:
        seen: the sample.
        number: which image of it.
        scaled: activation at every patch, 0-10; NaN counts as 0.
        style: of the overlay, see `STYLES`.

    Raises:
        ValueError: no such style.
    """
    if style not in STYLES:
        raise ValueError(f"style {style!r}: choose from {', '.join(STYLES)}")
    image, boxes = seen.images[number], seen.boxes[number]
    overlay = (faded if style == "paper" else framed)(image, scaled, boxes)
    parts = [_fit(image), _fit(overlay), strongest(image, scaled, boxes)]
    sheet = Image.new("RGB", (3 * SIDE + 2 * _GAP, SIDE), (128, 128, 128))
    for i, part in enumerate(parts):
        sheet.paste(part, (i * (SIDE + _GAP), 0))
    return sheet


def named(sheet: Image.Image, name: str) -> Image.Image:
    """The same with its name above: chat templates may move pictures away from the words beside them."""
    font = ImageFont.load_default(20)
    whole = Image.new("RGB", (sheet.width, sheet.height + HEAD), (255, 255, 255))
    whole.paste(sheet, (0, HEAD))
    ImageDraw.Draw(whole).text((4, 3), name, fill=(0, 0, 0), font=font)
    return whole


def strongest(image: Image.Image, scaled: Float[np.ndarray, "rows columns"], boxes: np.ndarray) -> Image.Image:
    """The four strongest places with their surroundings (three patches across), apart from each other."""
    sheet = Image.new("RGB", (SIDE, SIDE), (255, 255, 255))
    left_over = np.nan_to_num(scaled).copy()
    half, draw, font = SIDE // 2, ImageDraw.Draw(sheet), ImageFont.load_default(18)
    for i in range(4):
        row, column = np.unravel_index(int(left_over.argmax()), left_over.shape)
        value = float(left_over[row, column])
        if value < 1:
            break
        around = boxes[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2].reshape(-1, 4)
        (left, top), (right, bottom) = np.nanmin(around, 0)[:2].tolist(), np.nanmax(around, 0)[2:].tolist()
        crop = image.crop((int(left), int(top), ceil(right), ceil(bottom))).resize(
            (half - 4, half - 4), Image.Resampling.BICUBIC
        )
        x, y = (i % 2) * half, (i // 2) * half
        sheet.paste(crop, (x + 2, y + 2))
        draw.rectangle((x + 2, y + 2, x + 44, y + 26), fill=(0, 0, 0))
        draw.text((x + 6, y + 3), f"{value:.1f}", fill=(255, 255, 255), font=font)
        left_over[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = 0
    return sheet


def _each(scaled: np.ndarray, boxes: np.ndarray) -> list[tuple[float, tuple[int, int, int, int]]]:
    """Value and pixel box of every patch that has one."""
    found = []
    for value, box in zip(np.nan_to_num(scaled).ravel(), boxes.reshape(-1, 4), strict=True):
        if not np.isnan(box).any():
            left, top, right, bottom = (round(float(v)) for v in box)
            found.append((float(value), (left, top, right, bottom)))
    return found


def _fit(image: Image.Image) -> Image.Image:
    """As large as fits a square, on white."""
    scale = SIDE / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    kind = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.BICUBIC
    sheet = Image.new("RGB", (SIDE, SIDE), (255, 255, 255))
    sheet.paste(image.resize(size, kind), (0, 0))
    return sheet


def written(seen: Seen, number: int, scaled: Float[np.ndarray, "rows columns"]) -> dict[str, Any]:
    """What `prompts/written.jinja` is given.

    Args:
        seen: the sample.
        number: which image of it.
        scaled: activation at every patch, 0-10, without NaN.

    Returns:
        `grid` (a line of whole numbers per row of patches), `whole` (what the image is made of), and `places`: of up
        to four strongest patches that do not round to 0, row and column from 1 on, value, and what they are made of.
    """
    maps = pixel_bank(seen)[number]
    order = np.argsort(-scaled, axis=None, kind="stable")[:PLACES]
    spots = [(int(i // scaled.shape[1]), int(i % scaled.shape[1])) for i in order]
    return {
        "grid": [" ".join(str(round(float(v))) for v in row) for row in scaled],
        "whole": _shares({c: float(m.mean()) for c, m in maps.items()}),
        "places": [
            {"row": r + 1, "column": c + 1, "value": round(float(scaled[r, c])), "made_of": _patch(maps, r, c)}
            for r, c in spots if round(float(scaled[r, c])) >= 1
        ],
    }  # fmt: skip


def _patch(maps: Maps, row: int, column: int) -> str:
    here = {concept: float(m[row, column]) for concept, m in maps.items()}
    where = [c.value for c, share in here.items() if c.kind == "position" and share == 1]
    return _shares(here) + (f"; at: {', '.join(where)}" if where else "")


def _shares(shares: dict[Concept, float]) -> str:
    named = [(c, s) for c, s in shares.items() if c.kind in KINDS and s >= SHARE]
    named.sort(key=lambda n: (KINDS.index(n[0].kind), -n[1]))
    return ", ".join(f"{phrase([c]).removesuffix(' regions')} {s:.0%}" for c, s in named)
