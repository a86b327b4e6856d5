"""The heat map of layers by positions shows every value once, in its place, and leaves padding out."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import tiny

from vlm_neurons import HookedVLM
from vlm_neurons.show.heatmap import heat_map_svg


def test_every_position_is_a_cell_with_its_value() -> None:
    tok = tiny.tokenizer()
    model = HookedVLM(tiny.llava(tok), tiny.processor(tok))
    batch = model.prepare([tiny.image(), None], ["Hi <b>", "What colour is the train? Is it blue?"], ["A & B", "C"])
    values = np.random.default_rng().normal(size=(2, batch.input_ids.shape[1]))
    svg = heat_map_svg(values, batch, title="a < b")
    ET.fromstring(svg)
    real = batch.attention_mask[0].bool().numpy()
    cells = [float(v) for v in re.findall(r'data-value="([^"]+)"', svg)]
    assert sorted(cells) == pytest.approx(sorted(values[:, real].ravel()), rel=1e-3)
    first = batch.patches[0]
    at = int((batch.patch_index[0] == 0).nonzero())
    named = re.search(rf"<title>layer 1, patch row {first.row}, column {first.column}: ([^<]+)<", svg)
    assert named and float(named[1]) == pytest.approx(values[1, at], rel=1e-2)
    with pytest.raises(ValueError, match="0 images"):
        heat_map_svg(values, batch, row=1)
    with pytest.raises(ValueError, match="positions"):
        heat_map_svg(values[:, :3], batch)
