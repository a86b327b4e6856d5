"""Charts of many values: activations of a neuron, scores of many neurons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from vlm_neurons.tokens import MODALITIES
from vlm_neurons.viz.cards.charts import OTHER, PATCH, SOFT, TOKEN, WIDTH, line, rect, svg, text
from vlm_neurons.viz.cards.content import group_names
from vlm_neurons.viz.cards.words import decimals
from vlm_neurons.viz.layers import COLORS, NAMES, percent
from vlm_neurons.viz.page import counted, number, visible

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.evidence import Evidence

LEFT, RIGHT, TALL, LINE = 46, WIDTH - 6, 92, 13
EDGES = np.linspace(0, 10, 21)
LEGEND = ("square: r of a neuron, pale unless q < .05;", "line: 95 % interval; dash: null, if measured")
AXES = (
    "across: activation, 10 is the neuron's largest",
    "up: share of places, log scale",
    "bars: random samples, line: top samples",
)
LEAST = 1e-4  # the axis of shares is logarithmic and ends here: most places have no activation


def distribution_svg(evidence: Evidence, t_visual: float, t_text: float) -> str:
    """Activations of a neuron on the 0-10 scale, one panel per modality: bars for the random samples, a line for the
    strongest ones, and the threshold from which a place counts."""
    parts: list[str] = []
    words = []
    y = 0.0
    sides = (("image patches", "patches", t_visual, PATCH), ("text tokens", "tokens", t_text, TOKEN))
    for name, unit, threshold, color in sides:
        random, top = (_values(evidence, unit, group) for group in ("random", "top"))
        if not random.size and not top.size:
            continue
        told = [
            f"{_above(values, threshold)} of {values.size:,} in {group}"
            for values, group in ((random, group_names(evidence)["random"]), (top, "top samples"))
            if values.size
        ]
        name += f" above {number(threshold)}"
        words.append(f"{name}: {', '.join(told)}")
        parts += _said(name, told, y)
        y += 12 + LINE * len(told) + 12
        parts += list(_panel(random, top, threshold, color, y))
        y += TALL + 13 + LINE * (len(AXES) + 1) + 8
    if not parts:
        parts, y = [text(0, 14, "No sample has an activation.")], 24.0
    return svg(WIDTH, y, "; ".join(words) or "No sample has an activation.", parts, "vn-distribution")


def _said(name: str, lines: Sequence[str], y: float) -> list[str]:
    """A heading, and lines below it."""
    return [text(0, y + 12, name, "head"), *(text(0, y + 12 + LINE * (i + 1), words) for i, words in enumerate(lines))]


def _values(evidence: Evidence, unit: str, group: str) -> Float[np.ndarray, " n"]:
    found = [np.zeros(0)]
    for e in evidence.exemplars:
        if e.group == group:
            counted = e.scored_patches() if unit == "patches" else (e.scored_tokens(),)
            every = e.patch_acts if unit == "patches" else (e.token_acts,)
            found += [evidence.scale(v[m]).astype(float) for v, m in zip(every, counted, strict=True)]
    return np.concatenate(found)


def _above(values: Float[np.ndarray, " n"], threshold: float) -> str:
    return percent(int((values > threshold).sum()), values.size)


def _panel(random: np.ndarray, top: np.ndarray, threshold: float, color: str, y: float) -> Iterator[str]:
    def across(value: float) -> float:
        return LEFT + (RIGHT - LEFT) * value / 10

    def up(share: float) -> float:
        return TALL * max(0.0, 1 - np.log10(max(share, LEAST)) / np.log10(LEAST))

    for share in (1.0, 0.01, LEAST):
        yield line(LEFT, y + TALL - up(share), RIGHT, y + TALL - up(share), SOFT)
        yield text(LEFT - 4, y + TALL - up(share) + 3, f"{100 * share:g} %", "end")
    for i, share in enumerate(_shares(random)):
        if share >= LEAST:
            left, width = across(EDGES[i]), across(EDGES[1]) - across(0)
            yield rect(left + 0.5, y + TALL - up(share), width - 1, up(share), color)
    shares = _shares(top)
    if len(shares):
        steps = "".join(
            f"L{across(EDGES[i]):.1f} {y + TALL - up(s):.1f}L{across(EDGES[i + 1]):.1f} {y + TALL - up(s):.1f}"
            for i, s in enumerate(shares)
        )
        yield f'<path d="M{steps[1:]}" fill="none" stroke="{OTHER}"/>'
    yield line(across(threshold), y - 4, across(threshold), y + TALL, "currentColor", dash=True)
    beside = (-4, "end") if threshold > 6 else (4, "")
    yield text(across(threshold) + beside[0], y + 8, f"threshold {number(threshold)}", beside[1])
    for value in range(0, 11, 2):
        yield text(across(value), y + TALL + 13, str(value), "mid")
    for i, words in enumerate(AXES):
        yield text(LEFT, y + TALL + 13 + LINE * (i + 1), words)


def _shares(values: np.ndarray) -> np.ndarray:
    return np.histogram(values, EDGES)[0] / values.size if values.size else np.zeros(0)


def scores_svg(scores: pd.DataFrame) -> str:
    """Scores by class, best first: a dot with its interval, and what other neurons' explanations reach.

    Args:
        scores: what `score` returns; `r` has to be there, `r_low`, `r_high`, `r_null`, `q` and `label` may be.
    """
    parts: list[str] = []
    words = []
    y = 0.0
    for name, color, rows in _by_class(_numbers(scores)):
        told = scores_in_words(rows)
        words.append(f"{name}: {', '.join(told)}")
        lines = [", ".join([*told[i : i + 3], *[""] * (len(told) > i + 3)]) for i in range(0, len(told), 3)]
        parts += _said(name, lines, y)
        y += 16 + LINE * len(lines)
        found = rows[rows["r"].notna()].sort_values("r", ascending=False, kind="stable")
        if len(found):
            parts += list(_dots(found, color, y + 8))
            y += TALL + 24
    if not parts:
        parts, y = [text(0, 14, "No scores.")], 24.0
    elif scores["r"].notna().any():
        parts += [text(0, y + 8 + LINE * i, words) for i, words in enumerate(LEGEND)]
        y += 3 + LINE * len(LEGEND)
    return svg(WIDTH, y, ". ".join(words) or "No scores.", parts, "vn-scores")


def _numbers(scores: pd.DataFrame) -> pd.DataFrame:
    """A table from elsewhere may have None, infinities, or numbers as objects."""
    import pandas as pd

    there = [c for c in ("r", "r_low", "r_high", "r_null", "q") if c in scores]
    numbers = {c: pd.to_numeric(scores[c], errors="coerce") for c in there}
    return scores.assign(**{c: values.where(np.isfinite(values)) for c, values in numbers.items()})


def _by_class(scores: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    key = next((c for c in ("label", "modality") if c in scores), None)
    if key is None:
        if len(scores):
            yield "all neurons", PATCH, scores
        return
    named = scores[key].fillna("without a class").astype(str)
    order = [*MODALITIES, *sorted(set(named) - set(MODALITIES))]
    for label in order:
        rows = scores[named == label]
        if len(rows):
            yield NAMES.get(label, visible(label)), COLORS.get(label, (SOFT, ""))[0], rows


def scores_in_words(rows: pd.DataFrame) -> list[str]:
    """Some scores, in the parts of one sentence."""
    there = rows[rows["r"].notna()]
    parts = [counted(len(rows), "neuron")]
    if len(there):
        parts.append(f"median r {decimals(float(there['r'].median()))}")
        if "r_null" in rows and there["r_null"].notna().any():
            parts.append(f"their null {decimals(float(there['r_null'].median()))}")
        if "q" in rows and there["q"].notna().any():
            parts.append(f"{percent(int((there['q'] < 0.05).sum()), len(there))} with q < .05")
    if len(there) < len(rows):
        parts.append(f"{len(rows) - len(there)} without a score")
    return parts


def _dots(rows: pd.DataFrame, color: str, y: float) -> Iterator[str]:
    columns = [rows[c].astype(float) for c in ("r", "r_low", "r_null") if c in rows]
    least = min(0.0, *(float(np.floor(c.min() * 4) / 4) for c in columns if c.notna().any()))

    def height(value: float) -> float:
        return y + TALL * (1 - (value - least) / (1 - least))

    for value in sorted({least, 0.0, 0.5, 1.0}):
        yield line(LEFT, height(value), RIGHT, height(value), SOFT)
        yield text(LEFT - 4, height(value) + 3, decimals(value), "end")
    step = min(24.0, (RIGHT - LEFT - 6) / len(rows))
    size = min(6.0, max(1.5, step * 0.7))
    for i, row in enumerate(rows.to_dict("records")):
        x = LEFT + 6 + (i + 0.5) * step
        low, high, null = (float(row.get(c, np.nan)) for c in ("r_low", "r_high", "r_null"))
        if low == low and high == high:
            yield line(x, height(low), x, height(high), color)
        if null == null:
            yield rect(x - size / 2, height(null) - 0.75, size, 1.5, OTHER)
        sure = float(row.get("q", np.nan)) < 0.05
        yield rect(x - size / 2, height(row["r"]) - size / 2, size, size, color, 1 if sure else 0.45)
