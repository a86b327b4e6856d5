"""The card of a sample says every neuron that stands out on it, its layer, where it is strongest, and no markup."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tiny

import vlm_neurons as vn
from vlm_neurons.viz.top_neurons_card import standouts


@pytest.fixture(scope="module")
def batch():
    processor, rng = tiny.processor(), np.random.default_rng(5)
    model = vn.HookedVLM(tiny.llava(processor.tokenizer), processor)
    images = [tiny.image(40, 40, rng) for _ in range(2)]
    return model.prepare([[images[0]], [images[1]], None], "What?", ["a red dog", "a <b>&blue dog", "a size"])


def row(neuron: str, side: str, z: float, patch: int = -1, token: str = "", **more):
    layer, site = int(neuron.removeprefix("post:")[1]), "post" if neuron.startswith("post") else "gate"
    return {"neuron": neuron, "site": site, "layer": layer, "side": side, "z": z, "peak": 1.5, "patch": patch,
            "token": token, "rank": 1.0, "phrase": f"concept of {neuron}", "r": 0.25, "label": "visual",
            **more}  # fmt: skip


@pytest.fixture(scope="module")
def table(batch):
    first = int((batch.row_of_patches == 1).nonzero()[0])
    return pd.DataFrame([
        row("L1N5", "picture", 9.0, first + 2), row("L0N3", "picture", 3.0, first), row("L1N4", "picture", 4.0, first),
        row("post:L1N7-", "picture", 2.0, first + 2, label="<i>", phrase="<script>", r=0.5),
        row("L0N3", "text", 5.0, token=" <b>"), row("L1N1", "text", 4.0, token=" dog", phrase="", r=np.nan),
    ])  # fmt: skip


def test_neurons_stand_under_their_layers_the_highest_z_first(table):
    lines = standouts(table, "picture")
    assert [one.neuron for one in lines] == ["L0N3", "L1N5", "L1N4", "post:L1N7-"]
    assert [one.where for one in lines] == ["A", "B", "A", "B"], "one letter a patch"
    assert [one.layer.split(",")[0] for one in lines][-2:] == ["gate: SiLU(gate)", "post"]
    assert [one.label for one in lines] == ["visual", "visual", "visual", ""]
    assert lines[1].said == ("L1N5 (visual): z 9, largest activation 1.5 at patch B; over all data: concept of L1N5, "
                             "r .25")  # fmt: skip
    assert standouts(table, "text")[1].said == "L1N1 (visual): z 4, largest activation 1.5 at “dog”"


def test_the_page_says_all_of_them_and_no_markup_and_the_picture_has_a_frame_a_patch(batch, table):
    view = vn.viz.show_top_neurons(batch, table, row=1)
    html = view.fragment.html
    for side in ("picture", "text"):
        assert all(one.neuron in html for one in standouts(table, side))
    assert "&lt;script&gt;, r .50" in html and "<script>, r" not in html and "<b>" not in html and "<i>" not in html
    figure = view.static()
    picture = next(axes for axes in figure.axes if axes.images)
    frames = [p for p in picture.patches if p.get_facecolor()[3] == 0]
    patch = batch.patches[int(table["patch"][1])]
    assert len(frames) == 2 and [*frames[0].get_xy()] == [*patch.box[:2]]
    assert [t.get_text() for t in picture.texts] == ["A", "B"]


def test_a_sample_without_a_picture_shows_its_words_alone(batch, table):
    figure = vn.viz.show_top_neurons(batch, table[table["side"] == "text"], row=2).static()
    assert not [axes for axes in figure.axes if axes.images]
    said = [text.get_text() for text in figure.axes[0].texts]
    assert "At image patches" not in said and {"a", "z", "L0N3"} <= {*said}


def test_nothing_that_stands_out_is_said(batch, table):
    said = [text.get_text() for text in vn.viz.show_top_neurons(batch, table[:0], row=0).static().axes[0].texts]
    assert said.count("no neuron varies here") == 2


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"table": 3}, TypeError, "give the table that vn.top_neurons returns"),
        ({"batch": "x"}, TypeError, "give what model.prepare returns"),
        ({"row": 3}, IndexError, "row=3: the batch has 3 rows"),
    ],
)
def test_what_cannot_be_shown_is_refused_by_name(batch, table, change, error, words):
    with pytest.raises(error, match=words):
        vn.viz.show_top_neurons(**{"batch": batch, "table": table, **change})
    with pytest.raises(ValueError, match="no column 'z'; pass what"):
        vn.viz.show_top_neurons(batch, table.drop(columns="z")).static()
