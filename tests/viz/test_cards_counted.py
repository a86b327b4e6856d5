"""What a card colours is what its captions count; one scale; places as `Patch` counts them; one size of letters."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import seeds
import tiny
from matplotlib.text import Text
from neurons_shown import evidence, row, score, simulation

import vlm_neurons as vn
from vlm_neurons.autointerp.explanation import Explanation
from vlm_neurons.evidence import Exemplar
from vlm_neurons.tokens import TokenKind
from vlm_neurons.viz import show_neuron
from vlm_neurons.viz.card_content import content, strongest_places, tops_of
from vlm_neurons.viz.card_figure import card_figure
from vlm_neurons.viz.card_html import patch_map
from vlm_neurons.viz.token_strips import strip


def changed(e: Exemplar, **of_seen: Any) -> Exemplar:
    return replace(e, seen=replace(e.seen, **of_seen))


def test_no_token_is_positive_stands_beside_no_coloured_token() -> None:
    """A prompt's tokens may have any value."""
    one = evidence(seeds.rng()).exemplars[0]
    values = np.where(one.seen.kinds == int(TokenKind.TEXT), -1.0, 40.0)
    e = replace(one, token_acts=values)
    assert "no token is positive" in strongest_places(e)
    shown = strip(e.seen, e.token_acts, 4.0)
    assert [c.color for c in shown.cells] == len(shown.cells) * [""]
    assert any("40" in c.title and "not counted" in c.title for c in shown.cells), "its value is still told"
    counted = strip(e.seen, np.where(np.arange(len(values)) == 8, 4.0, values), 4.0)
    assert [c.index for c in counted.cells if c.color] == [8]


def test_the_strongest_patch_is_one_that_counts_in_words_frame_and_heat() -> None:
    made = evidence(seeds.rng())
    one = made.exemplars[0]
    values = np.full(one.patch_acts[0].shape, -1.0)
    values[0, 1], sinks = 90.0, np.zeros(values.shape, bool)
    sinks[0, 1] = True
    e = changed(replace(one, patch_acts=(values,)), patch_sinks=(sinks,))
    assert "no patch is positive" in strongest_places(e)
    shown = patch_map(e.seen.images[0], values, 4.0, {}, sinks=sinks)
    assert shown.best is None and "no patch is positive" in shown.alt and "90" in shown.values
    dark = patch_map(e.seen.images[0], np.full(values.shape, -1.0), 4.0, {})
    assert shown.heat == dark.heat
    values[-1, 0] = 2.0
    assert f"strongest patch 2, row {values.shape[0] - 1}, column 0" in strongest_places(e)


@pytest.mark.parametrize(("patches", "tokens"), [(4.01, 0.361), (0.361, 4.01), (4.0, 4.0)])
def test_patches_and_tokens_have_one_scale(patches: float, tokens: float) -> None:
    """A visual neuron of 4.01 whose strongest token has 0.361 does not look lexical."""
    made = vn.Evidence.from_arrays(
        "one", images=[tiny.image(32, 32, seeds.rng())], patch_acts=[np.array([[0.0, patches]])],
        tokens=[[" a", " b"]], token_acts=[np.array([0.0, tokens])],
    )  # fmt: skip
    top = max(patches, tokens)
    assert tops_of(made) == pytest.approx((top, top))
    html = show_neuron(made).fragment.html
    color = re.search(r'data-index="1" style="background: #(\w{6})"', html)
    share = tokens / top
    expected = "".join(f"{round(255 + (c - 255) * share):02x}" for c in (0xE6, 0x9F, 0x00))
    assert color is not None and color[1] == expected


def test_places_are_those_of_patch() -> None:
    made = vn.Evidence.from_arrays("one", images=[tiny.image(32, 32, seeds.rng())],
                                   patch_acts=[np.array([[5.0, 0.0], [0.0, 0.0]])])  # fmt: skip
    html = show_neuron(made).fragment.html
    assert "strongest patch 5, row 0, column 0" in html and "at row 0, column 0 of 2 × 2" in html


def test_figures_have_one_size_of_letters_but_for_headings() -> None:
    rng = seeds.rng()
    made = evidence(rng)
    told = Explanation("L3N17", "red", "They are red.", explainer="dissection")
    drawn = card_figure(content(made, row("L3N17"), told, simulation(rng, made), score("L3N17", explanation="red")))
    sizes = {one.get_fontsize() for one in drawn.findobj(Text) if one.get_text()}
    assert sizes == {11.0, 13.0, 17.0}
