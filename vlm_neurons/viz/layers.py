"""Figure of the classes by layer, as one self-contained SVG."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING

from vlm_neurons.tokens import MODALITIES, NOT_APPLICABLE

if TYPE_CHECKING:
    import pandas as pd

NAMES = {"visual": "visual", "text": "text", "multimodal": "multi-modal", "unknown": "unknown"}
# Okabe and Ito 2008, told apart by colour-blind readers; grey for what is not known. The second colour is that of
# letters on it, at a contrast of at least 5.
COLORS = {
    "visual": ("#0072B2", "#ffffff"),
    "text": ("#E69F00", "#000000"),
    "multimodal": ("#009E73", "#000000"),
    "unknown": ("#9A9A9A", "#000000"),
}
MEANINGS = {
    "gate": "SiLU(gate)",
    "post": "SiLU(gate) × up",
    "projector": "hidden layer",
    "vision": "MLPs of the tower",
}

WIDTH, LEFT, BAR, ROW, HEAD = 400, 50, 302, 17, 40  # drawing units, one a pixel at the narrowest


def shares(table: pd.DataFrame) -> pd.DataFrame:
    """How many neurons of each class every layer has: `statistics`, one row a layer.

    Args:
        table: what `classify` returns. Sites whose neurons have no class are left out.

    Raises:
        ValueError: a column is missing, or a label is none of the classes.

    Returns:
        One row per site, pole and layer, and one with the layer `"all"` after them, in the order of the table. Columns
        site, pole, layer, visual, text, multimodal, unknown (counts), n (their sum) and confident.
    """
    import pandas as pd

    from vlm_neurons.classification import statistics

    _check(table)
    rows = []
    counted = statistics(table) if len(table) else table
    for (site, pole, layer), part in counted.groupby(["site", "pole", "layer"], sort=False):
        if set(part["label"]) == set(MODALITIES):
            counts = dict(zip(part["label"], part["count"].astype(int), strict=True))
            n, confident = sum(counts.values()), int(part["confident"].sum())
            rows.append({"site": site, "pole": pole, "layer": layer, **counts, "n": n, "confident": confident})
    return pd.DataFrame(rows, columns=["site", "pole", "layer", *MODALITIES, "n", "confident"])


def _check(table: pd.DataFrame) -> None:
    missing = [name for name in ("site", "pole", "layer", "label", "confident") if name not in table]
    if missing:
        raise ValueError(f"table has no column {missing[0]!r}; pass what vn.classify returns")
    strange = sorted(set(map(str, table["label"])) - {*MODALITIES, NOT_APPLICABLE})
    if strange:
        raise ValueError(f"table has the label {strange[0]!r}; known are {', '.join((*MODALITIES, NOT_APPLICABLE))}")


def percent(count: int, n: int) -> str:
    """A share as people read it: `"<1 %"` is not `"0 %"`.

    >>> percent(1, 1000), percent(0, 5), percent(2, 3)
    ('<1 %', '0 %', '67 %')
    """
    if n and 0 < count / n < 0.005:
        return "<1 %"
    if n and count < n and count / n >= 0.995:
        return ">99 %"
    return f"{100 * count / max(n, 1):.0f} %"


def layers_svg(table: pd.DataFrame) -> str:
    """Classes by layer: one panel per site and pole, one bar of shares per layer.

    Args:
        table: what `classify` returns; its columns site, pole, layer and label are read.

    Returns:
        An SVG document: no scripts and nothing loaded; light and dark by the reader's preference; every bar segment
        has a tooltip and the attributes `data-label`, `data-layer` and `data-count`. Readable from 400 pixels on.
    """
    counts = shares(table)
    panels = [panel for _, panel in counts.groupby(["site", "pole"], sort=False)]
    parts: list[str] = []
    top = 0
    for panel in panels:
        parts += _panel(panel, top)
        top += HEAD + ROW * len(panel) + 18
    if not panels:
        parts, top = ['<text x="0" y="16">No neuron has a class: nothing here sees both pictures and text.</text>'], 26
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="100%" class="vn-layers" '
        f'role="img" aria-label="{_safe(_in_words(counts))}">'
        "<style>.vn-layers{max-width:640px;height:auto;color:#1c1c1c;font:11px system-ui,sans-serif}"
        ".vn-layers text{fill:currentColor}.vn-layers .mid{text-anchor:middle}.vn-layers .end{text-anchor:end}"
        ".vn-layers .head{font-weight:600;font-size:13px}"
        "@media (prefers-color-scheme:dark){.vn-layers{color:#e6e6e6}}"
        "@media print{.vn-layers{color:#000}}</style>"
        f"<title>Classes by layer</title><desc>{_safe(_in_words(counts))}</desc>{''.join(parts)}</svg>"
    )


def _panel(panel: pd.DataFrame, top: int) -> Iterator[str]:
    first = panel.iloc[0]
    layers, total = panel.iloc[:-1], panel.iloc[-1]
    yield f'<text class="head" x="0" y="{top + 13}">{_safe(_short(site_name(first["site"], first["pole"])))}</text>'
    yield f'<text class="end" x="{WIDTH}" y="{top + 13}">{total["n"]:,} neurons</text>'
    x = 0.0
    for label in MODALITIES:
        words = f"{NAMES[label]} {percent(total[label], total['n'])}"
        yield f'<rect x="{x:g}" y="{top + 21}" width="10" height="10" rx="2" fill="{COLORS[label][0]}"/>'
        yield f'<text x="{x + 14:g}" y="{top + 30}">{_safe(words)}</text>'
        x += 24 + 6.1 * len(words)
    y = top + HEAD
    for _, row in layers.iterrows():
        yield from _bar(f"layer {row['layer']}", dict(row[list(MODALITIES)]), y, str(row["layer"]))
        y += ROW
    if len(layers) > 1:
        yield f'<line x1="0" x2="{WIDTH}" y1="{y + 1.5}" y2="{y + 1.5}" stroke="currentColor" stroke-opacity=".4"/>'
        yield from _bar("all", dict(total[list(MODALITIES)]), y + 4, "all")


def _bar(name: str, counts: dict[str, int], y: float, layer: str) -> Iterator[str]:
    n = sum(counts.values())
    yield f'<text x="0" y="{y + 11.5:g}">{name}</text>'
    yield f'<text class="end" x="{WIDTH}" y="{y + 11.5:g}">{n:,}</text>'
    x = float(LEFT)
    for label in MODALITIES:
        width = BAR * counts[label] / n
        if not counts[label]:
            continue
        share = _safe(percent(counts[label], n))  # "<1 %"
        yield (
            f'<g data-label="{label}" data-layer="{layer}" data-count="{counts[label]}">'
            f"<title>{name}: {counts[label]:,} of {n:,} neurons {NAMES[label]} ({share})</title>"
            f'<rect x="{x:.2f}" y="{y:g}" width="{width:.2f}" height="{ROW - 3}" fill="{COLORS[label][0]}"/>'
        )
        if width >= 30:  # room for "100 %"
            fill = f"fill:{COLORS[label][1]}"  # as a style: the style sheet would win over an attribute
            yield f'<text class="mid" x="{x + width / 2:.2f}" y="{y + 11:g}" style="{fill}">{share}</text>'
        yield "</g>"
        x += width


def site_name(site: str, pole: str = "+") -> str:
    """A site in words.

    >>> site_name("post", "-")
    'post, negative side: SiLU(gate) × up'
    """
    words = f"{site}, negative side" if pole == "-" else str(site)
    return f"{words}: {MEANINGS[site]}" if site in MEANINGS else words


def _short(name: str, most: int = 38) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _in_words(counts: pd.DataFrame) -> str:
    """What the figure shows, for those who do not see it."""
    sentences = []
    for (site, pole), panel in counts.groupby(["site", "pole"], sort=False):
        total = panel.iloc[-1]
        listed = ", ".join(f"{percent(total[label], total['n'])} {NAMES[label]}" for label in MODALITIES)
        layers = f"{len(panel) - 1} layers" if len(panel) > 2 else "one layer"
        sentences.append(f"{site_name(site, pole)}; {total['n']:,} neurons in {layers}: {listed}.")
    return "Shares of the classes by layer. " + " ".join(sentences)


def _safe(text: str) -> str:
    """For XML: escaped, without the control characters that XML does not allow."""
    return escape("".join(c if c.isprintable() or c == " " else "�" for c in text))
