"""The figure of classes by layer says what the table says."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import seeds
from rich.console import Console

from vlm_neurons.tokens import MODALITIES
from vlm_neurons.viz import layer_tables
from vlm_neurons.viz.drawing import svg
from vlm_neurons.viz.figures import layers_figure
from vlm_neurons.viz.wording import NAMES, percent

SVG = "{http://www.w3.org/2000/svg}"


def random_table(n_layers: int, d: int, site: str = "gate", pole: str = "+") -> pd.DataFrame:
    rng = seeds.rng()
    weights = rng.dirichlet([0.4] * 4, n_layers)  # some layers without some classes
    labels = np.concatenate([rng.choice(MODALITIES, d, p=w) for w in weights])
    n = n_layers * d
    return pd.DataFrame(
        {
            "site": site, "pole": pole, "layer": np.repeat(np.arange(n_layers), d),
            "index": np.tile(np.arange(d), n_layers), "label": labels,
            "confident": rng.random(n) < 0.5, "tie": rng.random(n) < 0.1,
        }
    )  # fmt: skip


def drawn(table: pd.DataFrame) -> str:
    return svg(layers_figure(table))


def test_a_share_below_one_percent_keeps_the_figure_well_formed() -> None:
    table = random_table(2, 400).assign(label="unknown")
    table.loc[[0, 400], "label"] = "visual"
    assert "&lt;1 %" in drawn(table)
    ElementTree.fromstring(drawn(table))


@pytest.mark.parametrize("n_layers", [1, 4, 32])
def test_every_bar_is_as_long_as_its_share_and_says_its_count(n_layers: int) -> None:
    tables = [random_table(n_layers, 97), random_table(n_layers, 60, "post"), random_table(n_layers, 60, "post", "-")]
    figure = layers_figure(pd.concat(tables))
    panels = figure.axes[1:]
    assert len(panels) == len(tables)
    tips = [e.text for e in ElementTree.fromstring(svg(figure)).iter(f"{SVG}title")]
    for table, axes in zip(tables, panels, strict=True):
        names = [label.get_text() for label in axes.get_yticklabels()]
        found: Counter[tuple[str, str]] = Counter()
        for bars in axes.containers:
            (bar,) = bars
            name, label = names[round(bar.get_y() + bar.get_height() / 2)], bars.get_label()
            n = len(table) if name == "all" else len(table) // n_layers
            count = round(bar.get_width() * n / 100)
            assert bar.get_width() == pytest.approx(100 * count / n)
            found[name, label] = count
            assert tips.pop(0).startswith(f"{name}: {count:,} of {n:,} neurons {NAMES[label]}")
        expected = Counter(zip("layer " + table["layer"].astype(str), table["label"], strict=True))
        if n_layers > 1:
            expected += Counter(("all", label) for label in table["label"])
        assert found == expected
    assert tips == []


def test_bars_of_a_layer_lie_side_by_side_inside_the_picture() -> None:
    axes = layers_figure(random_table(32, 50)).axes[1]
    ends: dict[float, float] = {}
    for (bar,) in axes.containers:
        assert bar.get_x() == pytest.approx(ends.get(bar.get_y(), 0), abs=1e-6)
        ends[bar.get_y()] = bar.get_x() + bar.get_width()
    assert list(ends.values()) == pytest.approx([100] * 33) and axes.get_xlim() == (0, 100)


def test_the_figure_says_in_words_what_it_shows() -> None:
    table = random_table(3, 40)
    root = ElementTree.fromstring(drawn(table))
    assert root.get("role") == "img"
    for label in MODALITIES:
        words = f"{percent((table['label'] == label).sum(), len(table))} {NAMES[label]}"
        assert words in root.get("aria-label")


def test_hostile_site_names_are_text() -> None:
    name = '</text><script>alert(1)</script>"&$x$\x00\ufffe'
    root = ElementTree.fromstring(drawn(random_table(2, 9, site=name)))
    assert not list(root.iter(f"{SVG}script")) and name[:29] in "".join(root.itertext())
    assert not any("url(" in value and "#" not in value for e in root.iter() for value in e.attrib.values())


def test_figures_on_one_page_share_no_ids_and_carry_no_style_sheet_or_date() -> None:
    pieces = [drawn(random_table(2, 9)), drawn(random_table(3, 9))]
    ids = [i for piece in pieces for i in re.findall(r' id="([^"]*)"', piece)]
    assert len(ids) == len(set(ids))
    for piece in pieces:
        used = re.findall(r'url\(#([^)]*)\)|href="#([^"]*)"', piece)
        assert {a or b for a, b in used} <= set(re.findall(r' id="([^"]*)"', piece))
        assert "<style" not in piece and "<metadata" not in piece and "<text" in piece


def test_neurons_without_class_give_a_figure_that_says_so() -> None:
    table = random_table(2, 9, site="projector").assign(label="not_applicable")
    assert "No neuron has a class" in "".join(ElementTree.fromstring(drawn(table)).itertext())
    assert layer_tables(table) == []


def test_small_shares_are_not_written_as_none() -> None:
    assert percent(1, 10_000) == "<1 %" and percent(9_999, 10_000) == ">99 %"
    assert percent(0, 10) == "0 %" and percent(10, 10) == "100 %" and percent(0, 0) == "0 %"


def test_terminal_tables_hold_the_counts() -> None:
    table = random_table(3, 2000)
    buffer = io.StringIO()
    console = Console(file=buffer, width=120)
    for one in layer_tables(table):
        console.print(one)
    written = buffer.getvalue()
    for layer, here in table.groupby("layer"):
        line = next(line for line in written.splitlines() if line.strip("│ ┃").startswith(f"{layer} "))
        for label in MODALITIES:
            assert f"{(here['label'] == label).sum():,} " in line
