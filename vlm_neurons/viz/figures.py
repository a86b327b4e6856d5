"""Figures of many values: classes by layer, activations of a neuron, scores of many neurons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from vlm_neurons.tokens import MODALITIES
from vlm_neurons.viz.card_content import group_names
from vlm_neurons.viz.class_counts import shares
from vlm_neurons.viz.colours import COLORS, PATCH, TOKEN
from vlm_neurons.viz.drawing import (
    GRID,
    HEADING,
    INK,
    WORDS,
    Drawing,
    drawing,
    panel,
    sheet,
    tip,
    width_of,
    write,
)
from vlm_neurons.viz.wording import NAMES, counted, decimals, number, percent, shortened, site_name, visible

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from vlm_neurons.evidence import Evidence

WIDTH, LEFT = 366, 52  # of a figure, in units; where its axes begin
LINE = 13.5  # of words
BARS = WIDTH - LEFT - 46  # width of 100 %, beside the counts
ROW, FIRST, BETWEEN = 17, 42, 20  # of bars: height, place of the first, space between panels
TALL = 96  # height of other axes
EDGES = np.linspace(0, 10, 21)
LEAST = 1e-4  # the axis of shares is logarithmic and ends here: most places have no activation


def layers_figure(table: pd.DataFrame, title: str = "") -> Drawing:
    """Classes by layer: one panel per site and pole, one bar of shares per layer, and one of all layers.

    Args:
        table: what `classify` returns; its columns site, pole, layer and label are read.
        title: stands above.

    Returns:
        A Figure with one axes a panel. Bars are as long as the class's share in percent.

    >>> figure = layers_figure(table)
    >>> [label.get_text() for label in figure.axes[1].get_yticklabels()]
    ['layer 0', 'layer 1', 'layer 2', 'layer 3', 'all']
    """
    counts = shares(table)
    panels = [part for _, part in counts.groupby(["site", "pole"], sort=False)]
    if not panels:
        return _empty("No neuron has a class: nothing here sees both pictures and text.", title)
    tops = np.cumsum([0, *(FIRST + ROW * _rows(part) + BETWEEN for part in panels)])
    figure = drawing(WIDTH, float(tops[-1]) - BETWEEN + 6, _layers_in_words(counts), title)
    words = sheet(figure)
    for part, top in zip(panels, tops.tolist(), strict=False):
        first, total = part.iloc[0], part.iloc[-1]
        write(words, 0, top + 13, _site(first, total), HEADING, weight="bold")
        write(words, WIDTH, top + 13, f"{total['n']:,} neurons", ha="right")
        x = 0.0
        for label in MODALITIES:
            said = f"{NAMES[label]} {percent(total[label], total['n'])}"
            words.scatter([x + 5], [top + 26], 60, COLORS[label][0], marker="s")
            write(words, x + 14, top + 30, said)
            x += 23 + width_of(said)
        _bars(panel(figure, LEFT, top + FIRST, BARS, ROW * _rows(part)), part)
    return figure


def _rows(part: pd.DataFrame) -> int:
    """Bars of a panel: a site with one layer needs none for all layers."""
    return len(part) if len(part) > 2 else 1


def _site(first: pd.Series, total: pd.Series) -> str:
    words, room = site_name(first["site"], first["pole"]), WIDTH - width_of(f"{total['n']:,} neurons") - 10
    while width_of(words, HEADING, bold=True) > room:
        words = shortened(words, len(words) - 1)
    return words


def _bars(axes: Axes, part: pd.DataFrame) -> None:
    for place, row in enumerate(part.head(_rows(part)).to_dict("records")):
        name, left = "all" if row["layer"] == "all" else f"layer {row['layer']}", 0.0
        for label in MODALITIES:
            share = 100 * row[label] / row["n"]
            if not row[label]:
                continue
            (bar,) = axes.barh([place], [share], 0.82, left, color=COLORS[label][0], label=label)
            said = percent(row[label], row["n"])  # "<1 %"
            tip(bar, f"{name}: {row[label]:,} of {row['n']:,} neurons {NAMES[label]} ({said})")
            if share >= 11:  # room for "100 %"
                write(axes, left + share / 2, place, said, color=COLORS[label][1], ha="center", va="center_baseline")
            left += share
        write(axes, 102, place, f"{row['n']:,}", va="center_baseline")
    n = _rows(part)
    names = ["all" if layer == "all" else f"layer {layer}" for layer in part["layer"].head(n)]
    axes.set(xlim=(0, 100), ylim=(n - 0.5, -0.5), xticks=[], yticks=range(n), yticklabels=names)
    if n > 1:
        axes.axhline(n - 1.5, -LEFT / BARS, 1 + 46 / BARS, color=GRID, linewidth=0.8, clip_on=False)


def _layers_in_words(counts: pd.DataFrame) -> str:
    """What the figure shows, for those who do not see it."""
    sentences = []
    for (site, pole), part in counts.groupby(["site", "pole"], sort=False):
        total = part.iloc[-1]
        listed = ", ".join(f"{percent(total[label], total['n'])} {NAMES[label]}" for label in MODALITIES)
        layers = f"{len(part) - 1} layers" if len(part) > 2 else "one layer"
        sentences.append(f"{site_name(site, pole)}; {total['n']:,} neurons in {layers}: {listed}.")
    return "Shares of the classes by layer. " + " ".join(sentences)


def distribution_figure(evidence: Evidence, t_visual: float, t_text: float, title: str = "") -> Drawing:
    """Activations of a neuron on the 0-10 scale, one axes per modality: bars for the random samples, a line for the
    strongest ones, and the threshold from which a place counts.

    Args:
        evidence: of the neuron.
        t_visual: threshold of patches.
        t_text: threshold of tokens.
        title: stands above.
    """
    sides = []
    for name, unit, threshold, color in (
        ("image patches", "patches", t_visual, PATCH),
        ("text tokens", "tokens", t_text, TOKEN),
    ):
        random, top = (_values(evidence, unit, group) for group in ("random", "top"))
        if random.size or top.size:
            sides.append((f"{name} above {number(threshold)}", random, top, threshold, color))
    if not sides:
        return _empty("No sample has an activation.", title)
    named = group_names(evidence)["random"]
    told = [[_above(v, s[3], group) for v, group in ((s[1], named), (s[2], "top samples")) if v.size] for s in sides]
    tops = np.cumsum([0, *(22 + LINE * len(lines) + TALL + 42 for lines in told)])
    spoken = "; ".join(f"{side[0]}: {', '.join(lines)}" for side, lines in zip(sides, told, strict=True))
    figure = drawing(WIDTH, float(tops[-1]), spoken, title)
    words = sheet(figure)
    for (name, random, top, threshold, color), lines, y in zip(sides, told, tops.tolist(), strict=False):
        _said(words, y, name, lines)
        axes = panel(figure, LEFT, y + 22 + LINE * len(lines), WIDTH - LEFT - 8, TALL)
        _histogram(axes, random, top, threshold, color)
    return figure


def _histogram(axes: Axes, random: np.ndarray, top: np.ndarray, threshold: float, color: str) -> None:
    named: list[tuple[Any, str]] = []
    if random.size:
        bars = axes.bar(EDGES[:-1], _shares(random), EDGES[1] * 0.94, align="edge", color=color)
        named.append((bars, "random samples"))
    if top.size:
        named.append((axes.stairs(_shares(top), EDGES, color=INK, linewidth=1.2, baseline=None), "top samples"))
    named.append((axes.axvline(threshold, color=INK, linewidth=1, linestyle="--"), f"threshold {number(threshold)}"))
    axes.set(xlim=(0, 10), ylim=(LEAST, 1), yscale="log", xticks=range(0, 11, 2))
    axes.set_yticks([1, 0.01, LEAST], ["100 %", "1 %", "0.01 %"], minor=False)
    axes.set_yticks([], minor=True)
    axes.grid(axis="y", color=GRID, linewidth=0.4, alpha=0.5)
    axes.set_axisbelow(True)
    axes.set_xlabel("activation, 10 is the neuron's largest; up: share of places", fontsize=WORDS, color=INK)
    handles, labels = zip(*named, strict=True)
    axes.legend(handles, labels, fontsize=WORDS, labelcolor=INK, loc="upper right", framealpha=0, borderpad=0)


def _values(evidence: Evidence, unit: str, group: str) -> Float[np.ndarray, " n"]:
    found = [np.zeros(0)]
    for e in evidence.exemplars:
        if e.group == group:
            counts = e.scored_patches() if unit == "patches" else (e.scored_tokens(),)
            every = e.patch_acts if unit == "patches" else (e.token_acts,)
            found += [evidence.scale(v[m]).astype(float) for v, m in zip(every, counts, strict=True)]
    return np.concatenate(found)


def _above(values: Float[np.ndarray, " n"], threshold: float, group: str) -> str:
    return f"{percent(int((values > threshold).sum()), values.size)} of {values.size:,} in {group}"


def _shares(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " bin"]:
    return np.histogram(values, EDGES)[0] / values.size


def scores_figure(scores: pd.DataFrame, title: str = "") -> Drawing:
    """Scores by class, best first: a square with its interval, and a dash for what other neurons' explanations reach.

    Args:
        scores: what `score` returns; `r` has to be there, `r_low`, `r_high`, `r_null`, `q` and `label` may be.
        title: stands above.
    """
    classes = list(_by_class(_numbers(scores)))
    if not classes:
        return _empty("No scores.", title)
    told = [scores_in_words(rows) for _, _, rows in classes]
    lines = [[", ".join([*t[i : i + 3], *[""] * (len(t) > i + 3)]) for i in range(0, len(t), 3)] for t in told]
    drawn = [rows["r"].notna().any() for _, _, rows in classes]
    tops = np.cumsum([0, *(26 + LINE * len(one) + (TALL + 22) * has for one, has in zip(lines, drawn, strict=True))])
    spoken = ". ".join(f"{name}: {', '.join(t)}" for (name, _, _), t in zip(classes, told, strict=True))
    figure = drawing(WIDTH, float(tops[-1]) + 2 * LINE * any(drawn), spoken, title)
    words = sheet(figure)
    for (name, color, rows), said, has, y in zip(classes, lines, drawn, tops.tolist(), strict=False):
        _said(words, y, name, said)
        if has:
            axes = panel(figure, LEFT, y + 26 + LINE * len(said), WIDTH - LEFT - 8, TALL)
            _squares(axes, rows[rows["r"].notna()].sort_values("r", ascending=False, kind="stable"), color)
    if any(drawn):
        write(words, 0, float(tops[-1]) + 4, "square: r on a side, pale unless q < .05; line: 95 % interval;")
        write(words, 0, float(tops[-1]) + 4 + LINE, "dash: null, if measured")
    return figure


def _numbers(scores: pd.DataFrame) -> pd.DataFrame:
    """A table from elsewhere may have None, infinities, or numbers as objects."""
    import pandas as pd

    there = [c for c in ("r", "r_low", "r_high", "r_null", "q") if c in scores]
    numbers = {c: pd.to_numeric(scores[c], errors="coerce") for c in there}
    return scores.assign(**{c: values.where(np.isfinite(values)) for c, values in numbers.items()})


def _by_class(scores: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    if "label" not in scores:
        if len(scores):
            yield "all neurons", PATCH, scores
        return
    named = scores["label"].fillna("without a class").astype(str)
    for label in [*MODALITIES, *sorted(set(named) - set(MODALITIES))]:
        rows = scores[named == label]
        if len(rows):
            yield NAMES.get(label, visible(label)), COLORS.get(label, (GRID, ""))[0], rows


def scores_in_words(rows: pd.DataFrame) -> list[str]:
    """Some scores, in the parts of one sentence."""
    there = rows[rows["r"].notna()]
    parts = [counted(rows["neuron"].nunique() if "neuron" in rows else len(rows), "neuron")]
    if "side" in rows and rows["side"].nunique() > 1:
        parts.append(f"{len(rows)} sides")
    if len(there):
        parts.append(f"median r {decimals(float(there['r'].median()))}")
        if "r_null" in rows and there["r_null"].notna().any():
            parts.append(f"their null {decimals(float(there['r_null'].median()))}")
        if "q" in rows and there["q"].notna().any():
            parts.append(f"{percent(int((there['q'] < 0.05).sum()), len(there))} with q < .05")
    if len(there) < len(rows):
        parts.append(f"{len(rows) - len(there)} without a score")
    return parts


def _squares(axes: Axes, rows: pd.DataFrame, color: str) -> None:
    columns = [rows[c].astype(float) for c in ("r", "r_low", "r_null") if c in rows]
    least = min(0.0, *(float(np.floor(c.min() * 4) / 4) for c in columns if c.notna().any()))
    x, size = np.arange(len(rows)), min(6.0, max(1.5, 0.7 * (WIDTH - LEFT - 8) / len(rows)))
    if "r_low" in rows and "r_high" in rows:
        axes.vlines(x, rows["r_low"].astype(float), rows["r_high"].astype(float), color, linewidth=1)
    if "r_null" in rows:
        axes.scatter(x, rows["r_null"].astype(float), (1.4 * size) ** 2, INK, marker="_", linewidths=1.2)
    sure = rows["q"].astype(float) < 0.05 if "q" in rows else np.zeros(len(rows), bool)
    pale: Any = np.where(sure, 1, 0.45)
    axes.scatter(x, rows["r"].astype(float), size**2, color, marker="s", linewidths=0, alpha=pale)
    ticks = sorted({least, 0.0, 0.5, 1.0})
    axes.set(xlim=(-1, max(len(rows), 14)), ylim=(least - 0.04, 1.04), xticks=[])
    axes.set_yticks(ticks, [decimals(v) for v in ticks])
    axes.grid(axis="y", color=GRID, linewidth=0.4, alpha=0.5)
    axes.set_axisbelow(True)


def _said(words: Axes, y: float, name: str, lines: Sequence[str]) -> None:
    """A heading, and lines below it."""
    write(words, 0, y + 12, name, HEADING, weight="bold")
    for i, said in enumerate(lines):
        write(words, 0, y + 13 + LINE * (i + 1), said)


def _empty(words: str, title: str) -> Drawing:
    figure = drawing(WIDTH, 24, words, title)
    write(sheet(figure), 0, 14, words)
    return figure
