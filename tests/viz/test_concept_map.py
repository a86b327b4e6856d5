"""The map of concepts counts neurons of every layer by their concept, where its interval is above 0."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import vlm_neurons as vn
from vlm_neurons.viz.concept_map import NONE, OTHERS, concept_figure, concept_maps

NAMES = ["red", "blue", "round", "<b>&", "dark"]
RANDOM = [{"site": "gate", "pole": "+", "layer": layer, "side": "picture", "n": 8, "concepts": {"k:red": layer}}
          for layer in range(3)]  # fmt: skip


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(4)
    rows = [
        {"site": "gate", "pole": "+", "layer": layer, "side": side, "concept": f"k:{name}", "phrase": f"{name} things",
         "r": rng.random(), "r_low": rng.uniform(-0.2, 0.5)}
        for side in ("picture", "text") for layer in range(3)
        for name in rng.choice(NAMES, 40, p=[0.4, 0.3, 0.15, 0.1, 0.05])
    ]  # fmt: skip
    rows[0] |= {"concept": "", "r": np.nan, "r_low": np.nan}
    made = pd.DataFrame(rows)
    made.attrs["random"] = RANDOM
    return made


def test_counts_are_those_of_the_table(table):
    maps = concept_maps(table, 3)
    assert [(one.site, one.side, one.layers) for one in maps] == [("gate", s, [0, 1, 2]) for s in ("picture", "text")]
    for one in maps:
        own = table[(table["side"] == one.side) & (table["r_low"] > 0)]
        assert one.concepts[3:] == [OTHERS, NONE] and one.sizes == [40, 40, 40]
        for name in one.concepts[:3]:
            there = own[own["phrase"] == name]
            assert one.counts[name] == [int((there["layer"] == layer).sum()) for layer in range(3)]
            assert one.r[name] == pytest.approx(there["r"].median())
        totals = np.array([one.counts[name] for name in one.concepts]).sum(0)
        assert totals.tolist() == [40, 40, 40]
        assert sum(one.counts[NONE]) == 120 - len(own)
    assert maps[0].random["red things"] == [0, 1, 2] and maps[0].random[NONE] == [8, 7, 6]
    assert maps[1].random == {}


def test_what_is_drawn_says_every_count_and_no_markup(table):
    view = vn.viz.show_concepts(table)
    html = view.fragment.html
    assert "&lt;b&gt;&amp; things" in html and "<b>&" not in html
    one = concept_maps(table)[0]
    for layer in range(3):
        n = one.counts["red things"][layer]
        assert f"layer {layer}: {n} of 40 neurons" in html and f"layer {layer}: {layer} of 8 random units" in html
    figure = concept_figure(concept_maps(table))
    labels = [axes.get_label() for axes in figure.axes[1:]]
    assert labels == ["gate: SiLU(gate), at image patches: neurons", "gate: SiLU(gate), at image patches: random units",
                      "gate: SiLU(gate), at tokens of responses: neurons"]  # fmt: skip


def test_other_tables_are_refused(table):
    with pytest.raises(ValueError, match=r"no column 'r_low'; pass what run\.concepts"):
        vn.viz.show_concepts(table.drop(columns="r_low"))
    with pytest.raises(TypeError, match=r"run\.concepts"):
        vn.viz.show_concepts([])
