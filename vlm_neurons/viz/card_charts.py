"""The charts of a card as SVG of our own: its script marks places in them, and a page has hundreds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

import numpy as np
from jaxtyping import Float

from vlm_neurons.evidence import Exemplar
from vlm_neurons.viz.colours import PATCH, TOKEN
from vlm_neurons.viz.rows_in_words import Scored
from vlm_neurons.viz.wording import decimals, number

OTHER, SOFT = "currentColor", "#808080"
WIDTH = 360  # drawing units: nearly a pixel each in a window of 400, so that words stay readable there
HEIGHT, HEAD, FOOT = 64, 14, 17  # the same


def svg(width: float, height: float, words: str, parts: Sequence[str], kind: str = "") -> str:
    """A drawing that takes its ink from the page around it.

    Args:
        width: in units, a pixel each where there is room.
        height: the same.
        words: what it shows, for those who do not see it.
        parts: its elements.
        kind: a CSS class.
    """
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'class="vn-chart {kind}" role="img" aria-label="{escape(words, quote=True)}">{"".join(parts)}</svg>'
    )


def text(x: float, y: float, words: str, kind: str = "") -> str:
    """Words at a place; `kind` is `mid` or `end`."""
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{escape(words)}</text>'


def rect(x: float, y: float, width: float, height: float, fill: str, opacity: float = 1) -> str:
    """A filled rectangle."""
    faint = f' fill-opacity="{opacity:g}"' if opacity < 1 else ""
    return f'<rect x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}" fill="{fill}"{faint}/>'


def line(x1: float, y1: float, x2: float, y2: float, stroke: str = "currentColor") -> str:
    """A thin line."""
    return f'<line x1="{x1:.2f}" y1="{y1:.2f}" x2="{x2:.2f}" y2="{y2:.2f}" stroke="{stroke}"/>'


def segments(e: Exemplar) -> list[tuple[str, int, int, int]]:
    """What stands where in the sequence that the model read: (`"token"`, 0, first, n) and (`"image"`, place, 0, n).
    Tokens are left out where the neuron sees none."""
    found: list[tuple[str, int, int, int]] = []
    before = 0
    for image, place in sorted(enumerate(e.seen.places), key=lambda one: one[1]):
        found += [("token", 0, before, place - before), ("image", image, 0, e.patch_acts[image].size)]
        before = place
    found.append(("token", 0, before, len(e.seen.tokens) - before))
    reads = not np.isnan(e.token_acts).all()
    return [one for one in found if one[3] > 0 and (one[0] == "image" or reads)]


def sequence_svg(exemplar: Exemplar, simulated: Exemplar | None = None, width: float = WIDTH) -> str:
    """Activations along the sequence that the model read: the patches of each image at their place, and the tokens.

    Args:
        exemplar: real activations.
        simulated: the same exemplar with simulated ones, drawn as a line; then both are on the 0-10 scale.
        width: in drawing units.

    Returns:
        An SVG; `data-segments` says for the script what stands where.
    """
    parts = segments(exemplar)
    real = along(exemplar, parts)
    other = along(simulated, parts) if simulated is not None else np.zeros(0)
    highest = 10.0 if simulated is not None else max(float(np.nanmax(real, initial=0.0)), 0.0) or 1.0
    step = width / max(1, len(real))
    drawn = list(_bars(real, parts, highest, step))
    if simulated is not None:
        drawn.append(f'<path d="{_steps(other, highest, step)}" fill="none" stroke="{OTHER}"/>')
    drawn += [line(0, HEAD + HEIGHT, width, HEAD + HEIGHT), text(0, 10, f"activation, 0 to {number(highest)}")]
    if simulated is not None:
        drawn.append(text(width, 10, "bars real, line simulated", "end"))
    drawn += list(_places(parts, step))
    words = f"Activation along the sequence that the model read, from 0 to {number(highest)}."
    found = svg(
        width, HEAD + HEIGHT + FOOT, words, [*drawn, '<rect class="vn-cursor" width="0" height="0"/>'], "vn-seq"
    )
    listed = ";".join(f"{kind} {place} {first} {n}" for kind, place, first, n in parts)
    return found.replace("<svg ", f'<svg data-segments="{listed}" ', 1)


def along(exemplar: Exemplar, parts: Sequence[tuple[str, int, int, int]]) -> Float[np.ndarray, "pos"]:
    """Activations in the order of `segments`."""
    found = [
        exemplar.patch_acts[place].ravel() if kind == "image" else exemplar.token_acts[first : first + n]
        for kind, place, first, n in parts
    ]
    return np.concatenate(found).astype(float) if found else np.zeros(0)


def _bars(values: np.ndarray, parts: Sequence[tuple[str, int, int, int]], highest: float, step: float) -> Iterator[str]:
    start = 0
    for kind, _, _, n in parts:
        tall = np.clip(np.nan_to_num(values[start : start + n]) / highest, 0, 1) * HEIGHT
        moves = "".join(
            f"M{(start + i) * step:.1f} {HEAD + HEIGHT}v{-h:.1f}h{max(step - 0.4, 0.6):.1f}v{h:.1f}z"
            for i, h in enumerate(tall.tolist())
            if h >= 0.05
        )
        yield f'<path d="{moves}" fill="{PATCH if kind == "image" else TOKEN}"/>' if moves else ""
        start += n


def _steps(values: np.ndarray, highest: float, step: float) -> str:
    """A line over the values; it has gaps where there are none."""
    moves, pen = [], False
    for i, value in enumerate(values.tolist()):
        if value != value:
            pen = False
            continue
        y = HEAD + HEIGHT * (1 - min(max(value / highest, 0), 1))
        moves.append(f"{'L' if pen else 'M'}{i * step:.1f} {y:.1f}L{(i + 1) * step:.1f} {y:.1f}")
        pen = True
    return "".join(moves)


def _places(parts: Sequence[tuple[str, int, int, int]], step: float) -> Iterator[str]:
    start = 0
    for kind, place, _, n in parts:
        left, width = start * step, n * step
        color = PATCH if kind == "image" else TOKEN
        yield rect(left, HEAD + HEIGHT + 1, max(width - 0.6, 0.6), 2, color)
        words = f"image {place + 1}: {n} patches" if kind == "image" else f"{n} tokens"
        if width > 6 * len(words):
            yield text(left + width / 2, HEAD + HEIGHT + FOOT - 4, words, "mid")
        start += n


def score_svg(score: Scored) -> str:
    """A score on the line from 0 (or below) to 1, with its interval, its null and its ceiling."""
    assert score.r is not None
    x, least = score.places(10, 300)
    parts = [line(x(least), 26, x(1), 26, SOFT)]
    parts += [line(x(v), 23, x(v), 29, SOFT) + text(x(v), 41, decimals(v), "mid") for v in {least, 0.0, 1.0}]
    if score.ceiling == score.ceiling:
        parts.append(rect(x(score.ceiling) - 1, 18, 2, 13, SOFT) + text(x(score.ceiling), 12, "ceiling", "mid"))
    if score.null == score.null:
        parts.append(rect(x(score.null) - 1, 18, 2, 13, OTHER) + text(x(score.null), 12, "null", "mid"))
    if score.low == score.low:
        parts.append(rect(x(score.low), 24, x(score.high) - x(score.low), 4, PATCH, 0.5))
    parts += [rect(x(score.r) - 4, 22, 8, 8, PATCH), text(322, 29, "r")]
    return svg(340, 44, score.sentence, parts, "vn-score")
