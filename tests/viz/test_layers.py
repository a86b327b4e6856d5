"""The figure of classes by layer says what the table says."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import seeds
from rich.console import Console

from vlm_neurons.viz import layer_tables, layers_svg
from vlm_neurons.viz.layers import BAR, MODALITIES, NAMES, percent

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


def test_a_share_below_one_percent_keeps_the_figure_well_formed() -> None:
    table = random_table(2, 400).assign(label="unknown")
    table.loc[[0, 400], "label"] = "visual"
    assert "&lt;1 %" in layers_svg(table)
    ElementTree.fromstring(layers_svg(table))


@pytest.mark.parametrize("n_layers", [1, 4, 32])
def test_every_bar_is_as_long_as_its_share_and_says_its_count(n_layers: int) -> None:
    tables = [random_table(n_layers, 97), random_table(n_layers, 60, "post"), random_table(n_layers, 60, "post", "-")]
    root = ElementTree.fromstring(layers_svg(pd.concat(tables)))
    counted: list[Counter[tuple[str, str]]] = [Counter() for _ in tables]
    width: list[Counter[str]] = [Counter() for _ in tables]
    place = -1
    for element in root:
        if element.get("class") == "head":
            place += 1
        if element.get("data-label"):
            key = (element.get("data-layer"), element.get("data-label"))
            counted[place][key] = int(element.get("data-count"))
            bar = element.find(f"{SVG}rect")
            width[place][key[0]] += float(bar.get("width"))
            n = len(tables[place]) if key[0] == "all" else len(tables[place]) // n_layers
            assert float(bar.get("width")) == pytest.approx(BAR * counted[place][key] / n, abs=0.01)
            title = element.find(f"{SVG}title").text
            assert f"{counted[place][key]:,} of {n:,} neurons {NAMES[key[1]]}" in title
    for table, found, total in zip(tables, counted, width, strict=True):
        expected = Counter(zip(table["layer"].astype(str), table["label"], strict=True))
        if n_layers > 1:
            expected += Counter(("all", label) for label in table["label"])
        else:
            found = Counter({k: v for k, v in found.items() if k[0] != "all"})
        assert found == expected
        assert all(v == pytest.approx(BAR, abs=0.05) for v in total.values())


def test_bars_of_a_layer_lie_side_by_side_inside_the_picture() -> None:
    root = ElementTree.fromstring(layers_svg(random_table(32, 50)))
    width, height = (float(v) for v in root.get("viewBox").split()[2:])
    ends: dict[str, float] = {}
    for group in root.iter(f"{SVG}g"):
        bar = group.find(f"{SVG}rect")
        x, right = float(bar.get("x")), float(bar.get("x")) + float(bar.get("width"))
        assert x == pytest.approx(ends.get(group.get("data-layer"), x), abs=0.02)
        assert right <= width and float(bar.get("y")) + float(bar.get("height")) <= height
        ends[group.get("data-layer")] = right


def test_the_figure_says_in_words_what_it_shows() -> None:
    table = random_table(3, 40)
    root = ElementTree.fromstring(layers_svg(table))
    for label in MODALITIES:
        words = f"{percent((table['label'] == label).sum(), len(table))} {NAMES[label]}"
        assert words in root.find(f"{SVG}desc").text and words in root.get("aria-label")


def test_hostile_site_names_are_text() -> None:
    table = random_table(2, 9, site='</text><script>alert(1)</script>"&\x00\ufffe')
    root = ElementTree.fromstring(layers_svg(table))
    assert not list(root.iter(f"{SVG}script"))


def test_neurons_without_class_give_a_figure_that_says_so() -> None:
    table = random_table(2, 9, site="projector").assign(label="not_applicable")
    assert "No neuron has a class" in "".join(ElementTree.fromstring(layers_svg(table)).itertext())
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
