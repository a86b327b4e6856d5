"""Which concept lives in which layer: of the neurons of every layer, the share whose concept it is."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlm_neurons.viz.colours import PATCH, TOKEN
from vlm_neurons.viz.drawing import HEADING, INK, SOFT, Drawing, drawing, panel, sheet, tip, width_of, write
from vlm_neurons.viz.wording import AT, percent, shortened, site_name, visible

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

MOST = 12  # concepts of a map; the others are one line
OTHERS, NONE = "other concepts", "none for sure"
COLOR = {"picture": PATCH, "text": TOKEN}
LONGEST = 34  # letters of a concept
ROW, HEAD, GAP, WIDE = 17, 58, 18, 560  # units: a line, above the lines, between maps, room for cells
LEAST = 400  # width of a drawing, so that words are as large on all of a page
STRENGTH = 0.55  # of the strongest cell, on which letters can be read on light and dark pages


@dataclass(frozen=True)
class Map:
    """Shares of the concepts of one side in the layers of a site.

    Attributes:
        site: of the neurons.
        pole: of them.
        side: of the concepts.
        layers: numbers of the layers.
        concepts: in words, those of most neurons first; the last two are all others, and none.
        counts: concept -> neurons of each layer whose concept it is, with an interval of r above 0.
        sizes: neurons of each layer.
        random: concept -> random units of each layer; empty where there are none.
        random_sizes: random units of each layer.
        r: concept -> median r of the neurons whose concept it is; NaN of others and none.
    """

    site: str
    pole: str
    side: str
    layers: list[int]
    concepts: list[str]
    counts: dict[str, list[int]]
    sizes: list[int]
    random: dict[str, list[int]]
    random_sizes: list[int]
    r: dict[str, float]

    @property
    def title(self) -> str:
        """Whose map it is."""
        return f"{site_name(self.site, self.pole)}, {AT[self.side]}"


def concept_maps(table: pd.DataFrame, most: int = MOST) -> list[Map]:
    """The maps of every site, pole and side.

    Args:
        table: what `run.concepts()` returns.
        most: concepts that have a line of their own.

    Raises:
        ValueError: a column is missing.
    """
    if missing := [name for name in ("site", "pole", "layer", "side", "concept", "r_low") if name not in table]:
        raise ValueError(f"table has no column {missing[0]!r}; pass what run.concepts() returns")
    drawn: dict[tuple[Any, ...], dict[str, Any]] = {
        (one["site"], one["pole"], one["side"], one["layer"]): one for one in table.attrs.get("random", ())
    }
    groups = table.groupby(["site", "pole", "side"], sort=False)
    return [_map(key, part, [one for k, one in drawn.items() if k[:3] == key], most) for key, part in groups]


def _map(key: Any, part: pd.DataFrame, drawn: list[dict[str, Any]], most: int) -> Map:
    sure = part[(part["concept"] != "") & (part["r_low"] > 0)]
    phrases = dict(zip(sure["concept"], sure["phrase"], strict=True))
    first = [name for name, _ in Counter(sure["concept"]).most_common(most)]
    layers = sorted(part["layer"].unique().tolist())
    sizes = part.groupby("layer").size()
    table = {layer: Counter(own["concept"]) for layer, own in sure.groupby("layer")}
    random = {one["layer"]: one for one in drawn}
    n_random = [random[layer]["n"] if layer in random else 0 for layer in layers]
    theirs = {layer: Counter(one["concepts"]) for layer, one in random.items()}
    names = [visible(phrases[name]) for name in first]
    r = sure.groupby("concept")["r"].median()
    told = {name: float(r[key]) for name, key in zip(names, first, strict=True)}
    lines = [*names, *([OTHERS] if len(phrases) > len(first) else []), NONE]
    n_own = sizes.loc[layers].tolist()
    site, pole, side = key
    return Map(
        site, pole, side, layers, lines,
        _lines(lines, first, [table.get(layer, Counter()) for layer in layers], n_own), n_own,
        _lines(lines, first, [theirs.get(layer, Counter()) for layer in layers], n_random) if drawn else {}, n_random,
        told,
    )  # fmt: skip


def _lines(lines: list[str], first: list[str], layers: list[Counter[str]], sizes: list[int]) -> dict[str, list[int]]:
    found = {name: [one[key] for one in layers] for name, key in zip(lines, first, strict=False)}
    if OTHERS in lines:
        found[OTHERS] = [sum(n for key, n in one.items() if key not in first) for one in layers]
    # where the neurons have no further concepts, what random units have beside these is no line of its own
    named = [one.total() for one in layers]
    return found | {NONE: [size - n for size, n in zip(sizes, named, strict=True)]}


def concept_figure(maps: list[Map], title: str = "") -> Drawing:
    """Maps below each other: a line a concept, a column a layer; at the right the same of random units.

    >>> figure = concept_figure([])
    >>> figure.words
    'No neuron was summed up with concepts.'
    """
    if not maps:
        figure = drawing(300, 30, "No neuron was summed up with concepts.", title)
        write(sheet(figure), 0, 18, figure.words)
        return figure
    left = max(width_of(shortened(name, LONGEST)) for one in maps for name in one.concepts) + 8
    both = max(len(one.layers) * (2 if one.random else 1) for one in maps)
    cell = min(34.0, max(9.0, WIDE / both))
    rooms = [left + sum(_wide(one, name, cell) for name in _names(one)) + GAP for one in maps]
    width = max(LEAST, *rooms, *(width_of(one.title, HEADING, bold=True) for one in maps)) + 8
    heights = [HEAD + ROW * len(one.concepts) + GAP for one in maps]
    figure = drawing(width, sum(heights) - GAP + 4, _in_words(maps), title)
    top = 0.0
    for one, height in zip(maps, heights, strict=True):
        _draw(figure, one, top, left, cell)
        top += height
    return figure


def _draw(figure: Drawing, one: Map, top: float, left: float, cell: float) -> None:
    words = sheet(figure)
    write(words, 0, top + 13, one.title, HEADING, weight="bold")
    write(words, left - 6, top + HEAD - 6, "layer", color=SOFT, ha="right")
    for line, name in enumerate(one.concepts):
        write(words, 0, top + HEAD + (line + 0.5) * ROW, shortened(name, LONGEST), va="center_baseline",
              color=INK if line < len(one.r) else SOFT)  # fmt: skip
    most = max((n / size for name in one.r for n, size in zip(one.counts[name], one.sizes, strict=True)), default=0)
    x = left
    for name, counts, sizes in zip(_names(one), (one.counts, one.random), (one.sizes, one.random_sizes), strict=False):
        write(words, x, top + 32, f"% of {name}", color=SOFT)
        step = max(1, round(24 / cell))
        for i in range(0, len(one.layers), step):
            write(words, x + (i + 0.5) * cell, top + HEAD - 6, str(one.layers[i]), ha="center")
        axes = panel(figure, x, top + HEAD, len(one.layers) * cell, ROW * len(one.concepts))
        axes.set(xlim=(0, len(one.layers)), ylim=(len(one.concepts), 0), xticks=[], yticks=[])
        _cells(axes, one, counts, sizes, most, cell, name)
        x += _wide(one, name, cell) + GAP


def _names(one: Map) -> list[str]:
    return ["neurons", "random units"] if one.random else ["neurons"]


def _wide(one: Map, name: str, cell: float) -> float:
    """Of the cells of a map, or of the words above them."""
    return max(len(one.layers) * cell, width_of(f"% of {name}"))


def _cells(
    axes: Axes, one: Map, counts: dict[str, list[int]], sizes: list[int], most: float, cell: float, name: str
) -> None:
    axes.set_label(f"{one.title}: {name}")
    for line, concept in enumerate(one.concepts):
        for column, (n, size) in enumerate(zip(counts[concept], sizes, strict=True)):
            share = n / size if size else 0.0
            strength = min(1.0, share / most) if most and line < len(one.r) else 0.0
            (bar,) = axes.barh(
                [line + 0.5], [0.96], 0.94, [column + 0.02], color=COLOR[one.side], alpha=STRENGTH * strength
            )
            tip(bar, f"layer {one.layers[column]}: {n:,} of {size:,} {name} ({percent(n, size)}): {concept}")
            if cell >= 24 and n:
                write(axes, column + 0.5, line + 0.5, percent(n, size).removesuffix(" %"), ha="center",
                      va="center_baseline", color=INK if line < len(one.r) else SOFT)  # fmt: skip


def _in_words(maps: list[Map]) -> str:
    sentences = []
    for one in maps:
        total, n = sum(one.sizes), sum(one.sizes) - sum(one.counts[NONE])
        listed = ", ".join(f"{name} {sum(one.counts[name]):,}" for name in one.concepts[:3] if name in one.r)
        sentences.append(f"{one.title}: {n:,} of {total:,} neurons have a concept for sure; {listed or 'none'}.")
    return "Which concept lives in which layer. " + " ".join(sentences)
