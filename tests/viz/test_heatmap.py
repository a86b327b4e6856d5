"""The heat map of layers by positions shows every value once, in its place, and leaves padding out."""

from __future__ import annotations

import numpy as np
import pytest
import seeds
import tiny

from vlm_neurons import HookedVLM
from vlm_neurons.tokens import TokenKind
from vlm_neurons.viz.drawing import pixels
from vlm_neurons.viz.heat_map import heat_map


def test_every_position_is_a_cell_with_its_value() -> None:
    tok = tiny.tokenizer()
    model = HookedVLM(tiny.llava(tok), tiny.processor(tok))
    batch = model.prepare([tiny.image(), None], ["Hi <b>", "What colour is the train? Is it blue?"], ["A & B", "C"])
    values = seeds.rng().normal(size=(2, batch.input_ids.shape[1]))
    panels = {axes.get_label(): axes.images[0] for axes in heat_map(values, batch, title="a < b").axes if axes.images}
    kinds = batch.kinds[0].numpy()
    assert panels.keys() == {f"layer {i}, {what}" for i in (0, 1) for what in ("patches", "tokens")}
    top = np.abs(values[:, kinds != int(TokenKind.PAD)]).max()
    for layer in (0, 1):
        tokens, patches = (np.asarray(panels[f"layer {layer}, {what}"].get_array()) for what in ("tokens", "patches"))
        others = ~np.isin(kinds, [int(TokenKind.VISUAL), int(TokenKind.PAD)])
        np.testing.assert_allclose(tokens[0], values[layer, others])
        for at, index in enumerate(batch.patch_index[0].tolist()):
            if index >= 0:
                patch = batch.patches[index]
                assert patches[patch.row, patch.column] == values[layer, at]
        assert patches.size == (kinds == int(TokenKind.VISUAL)).sum()
    assert {image.get_clim() for image in panels.values()} == {(-top, top)}  # one scale for all
    with pytest.raises(ValueError, match="0 images"):
        heat_map(values, batch, row=1)
    with pytest.raises(ValueError, match="positions"):
        heat_map(values[:, :3], batch)


def test_every_column_of_tokens_has_a_label_and_nothing_is_cut_at_the_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    tok = tiny.tokenizer()
    model = HookedVLM(tiny.llava(tok), tiny.processor(tok))
    batch = model.prepare([tiny.image()], ["Hi \n\n there"], [" blue"])
    tokens = [*batch.tokens(0)[:-1], " incomprehensible"]
    monkeypatch.setattr(type(batch), "tokens", lambda *_: tokens)
    values = np.ones((2, batch.input_ids.shape[1]))
    figure = heat_map(values, batch, title="a long title " * 8)
    labels = [text.get_text() for text in figure.axes[0].texts if text.get_rotation()]
    assert len(labels) == int((batch.kinds[0] != int(TokenKind.VISUAL)).sum())
    assert all(label.strip() for label in labels) and "↵" in labels
    drawn = np.asarray(pixels(figure).convert("L"))
    edges = (drawn[:8], drawn[-4:], drawn[:, :8], drawn[:, -8:])
    assert all((edge == 255).all() for edge in edges) and (drawn < 80).any()
