"""The heat map of layers by positions shows every value once, in its place, and leaves padding out."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html import unescape

import numpy as np
import pytest
import seeds
import tiny

from vlm_neurons import HookedVLM
from vlm_neurons.tokens import TokenKind
from vlm_neurons.viz.cards.charts import svg
from vlm_neurons.viz.cards.raster import raster
from vlm_neurons.viz.heatmap import heat_map_svg


def test_every_position_is_a_cell_with_its_value() -> None:
    tok = tiny.tokenizer()
    model = HookedVLM(tiny.llava(tok), tiny.processor(tok))
    batch = model.prepare([tiny.image(), None], ["Hi <b>", "What colour is the train? Is it blue?"], ["A & B", "C"])
    values = seeds.rng().normal(size=(2, batch.input_ids.shape[1]))
    drawn = heat_map_svg(values, batch, title="a < b")
    ET.fromstring(drawn)
    real = batch.attention_mask[0].bool().numpy()
    cells = [float(v) for v in re.findall(r'data-value="([^"]+)"', drawn)]
    assert sorted(cells) == pytest.approx(sorted(values[:, real].ravel()), rel=1e-3)
    first = batch.patches[0]
    at = int((batch.patch_index[0] == 0).nonzero())
    named = re.search(rf"<title>layer 1, patch row {first.row}, column {first.column}: ([^<]+)<", drawn)
    assert named and float(named[1]) == pytest.approx(values[1, at], rel=1e-2)
    with pytest.raises(ValueError, match="0 images"):
        heat_map_svg(values, batch, row=1)
    with pytest.raises(ValueError, match="positions"):
        heat_map_svg(values[:, :3], batch)


def test_every_column_of_tokens_has_a_label_and_nothing_is_cut_at_the_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    tok = tiny.tokenizer()
    model = HookedVLM(tiny.llava(tok), tiny.processor(tok))
    batch = model.prepare([tiny.image()], ["Hi \n\n there"], [" blue"])
    tokens = [*batch.tokens(0)[:-1], " incomprehensible"]
    monkeypatch.setattr(type(batch), "tokens", lambda *_: tokens)
    values = np.ones((2, batch.input_ids.shape[1]))
    drawn = heat_map_svg(values, batch, title="a long title " * 8)
    labels = [unescape(label) for label in re.findall(r"<text[^>]*rotate[^>]*>([^<]*)<", drawn)]
    assert len(labels) == int((batch.kinds[0] != int(TokenKind.VISUAL)).sum())
    assert all(label.strip() for label in labels) and "↵" in labels
    pixels = np.asarray(raster(drawn).convert("L"))
    edges = (pixels[:8], pixels[-4:], pixels[:, :8], pixels[:, -8:])
    assert all((edge == 255).all() for edge in edges) and (pixels < 80).any()


def test_turned_words_of_a_picture_stand_where_they_stand_in_a_browser() -> None:
    drawn = svg(100, 100, "", ['<text x="20" y="80" transform="rotate(-90 20 80)">lllllllll</text>'])
    ink = np.argwhere(np.asarray(raster(drawn, scale=3).convert("L")) < 128) / 3
    (top, left), (bottom, right) = ink.min(0), ink.max(0)
    assert left > 10 and right < 21 and 40 < top < 65 and 75 < bottom < 81  # upwards from its place, left of it
