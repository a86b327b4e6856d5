"""The page of a scan with concepts shows which concept lives in which layer, and what each neuron answers to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import vlm_neurons as vn
from vlm_neurons.reporting import report
from vlm_neurons.viz.concept_map import concept_maps
from vlm_neurons.viz.rows_in_words import answers

RANKS = "it ranks explanations of one neuron, not neurons"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> vn.Run:
    model = vn.HookedVLM.from_pretrained("tiny-llava-scenes")
    bank = vn.concepts.Truth() + vn.concepts.Words()
    out = tmp_path_factory.mktemp("page") / "run"
    data = vn.scenes(90, seed=0)
    return vn.scan(model, data, concepts=bank, null_directions=32, top_n=5, batch_size=16, out=out, progress=False)


def test_the_page_has_the_map_and_every_card_its_concepts(run: vn.Run, tmp_path: Path) -> None:
    vn.explain(run, out=run)  # of all neurons; the page does not show all of them for it
    page = report(run, out=tmp_path / "page.html", n_neurons=1)
    text, numbers = page.read_text(encoding="utf-8"), json.loads(page.with_suffix(".json").read_text())
    table = run.concepts()
    maps = concept_maps(table)
    assert len(maps) == 2 and numbers["concepts_by_layer"][0]["counts"] == maps[0].counts
    for one in maps:
        n = one.counts[one.concepts[0]][2]
        assert f"layer 2: {n} of 384 neurons" in text and f"<bdi>{one.concepts[0]}</bdi>" in text
    assert text.count(RANKS) == 1 + text.count('<article class="vn-card"') == 1 + len(numbers["neurons"])
    assert len(numbers["neurons"]) <= 4
    for neuron in numbers["neurons"]:
        assert [one["side"] for one in neuron["concepts"]] == ["picture", "text"]
        card = text.split(f'<article class="vn-card" id="{neuron["neuron"]}"')[1].split("</article>")[0]
        for sentence in answers(table, neuron["neuron"]):
            assert sentence.replace("'", "&#39;") in card


def test_a_card_tells_the_concept_with_its_interval_as_page_and_as_picture(run: vn.Run) -> None:
    table = run.concepts(min_images=5)
    sure, other = table[table["side"] == "picture"].sort_values("r")["neuron"].iloc[[-1, 0]]
    evidence = vn.Evidence.from_arrays(sure, tokens=[["a", " cat"]], token_acts=[[0.0, 2.0]])
    card = vn.show_neuron(evidence, concepts=table)
    own = table[(table["neuron"] == sure) & (table["side"] == "picture")].iloc[0]
    assert own["r_low"] > 0
    said = f"{own['phrase']}, r = {own['r']:.2f}".replace("0.", ".")
    assert said in card.fragment.html and RANKS in card.fragment.html
    drawn = " ".join(text.get_text() for axes in card.draw().axes for text in axes.texts)
    assert said in drawn and "not neurons." in drawn
    assert RANKS not in vn.show_neuron(evidence).fragment.html
    with pytest.raises(ValueError, match=f"concepts= has no row of {sure}"):
        vn.show_neuron(evidence, concepts=table[table["neuron"] == other])


def test_too_few_samples_for_concepts_are_told_on_the_page(tmp_path: Path) -> None:
    model = vn.HookedVLM.from_pretrained("tiny-llava-scenes")
    run = vn.scan(model, vn.scenes(3, seed=0), concepts=vn.concepts.Truth(), out=tmp_path / "run", progress=False)
    text = report(run, out=tmp_path / "page.html", n_neurons=0).read_text(encoding="utf-8")
    assert 'id="concepts"' in text and "4 are needed to tell how sure r is" in text
