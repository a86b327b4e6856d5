"""The page holds the run's numbers, loads nothing, and is the same every time."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import tiny
from hostile import HOSTILE, Made

from vlm_neurons.classification import classify
from vlm_neurons.data import ImageTextData
from vlm_neurons.evidence import looking
from vlm_neurons.models import HookedVLM
from vlm_neurons.reporting import report
from vlm_neurons.scanning import scan
from vlm_neurons.synthetic import scenes
from vlm_neurons.tokens import MODALITIES


class Reader(HTMLParser):
    """Collects tags with their attributes, and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_same_run_same_bytes(made: Made, tmp_path: Path) -> None:
    again = report(made.run.path, out=tmp_path / "report.html", model=made.model, data=made.data)
    assert again.read_bytes() == (made.run.path / "report.html").read_bytes()
    assert again.with_suffix(".json").read_bytes() == (made.run.path / "report.json").read_bytes()


def test_what_was_not_measured_has_no_section(made: Made) -> None:
    for title in ("Does the neuron follow?", "Does the model say what the neuron is for?", "Trained or random?"):
        assert title not in made.page
    numbers = json.loads((made.run.path / "report.json").read_text(encoding="utf-8"))
    assert not (numbers["edits"] or numbers["faithfulness"] or numbers["trained_or_random"])


def test_the_page_runs_its_own_scripts_only_and_has_no_address_to_load(made: Made) -> None:
    tags = Reader(made.page).tags
    assert not {tag for tag, _ in tags} & {"iframe", "object", "embed", "base", "form"}
    inline = re.findall(r"<script>(.*?)</script>", made.page, re.S)
    run = [a for tag, a in tags if tag == "script" and a.get("type") != "application/json"]  # others are data
    assert len(inline) == len(run) == 3
    hashes = {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in inline}
    policy = next(a["content"] for tag, a in tags if a.get("http-equiv") == "Content-Security-Policy") or ""
    allowed = re.search(r"script-src ([^;]*);", policy)
    assert allowed and set(allowed[1].split()) == {f"'sha256-{h}'" for h in hashes}
    assert policy.startswith("default-src 'none'; ") and "img-src data:;" in policy
    for tag, attributes in tags:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ("src", "href", "srcset", "action", "data"):
            address = attributes.get(name)
            assert address is None or address.startswith(("data:", "#")), (tag, address)
    styles = re.findall(r"<style>(.*?)</style>", made.page, re.S)
    addresses = [a for style in styles for a in re.findall(r"url\(\s*[\"']?([^\"')]*)", style)]
    assert addresses and all(a.startswith("data:image/") for a in addresses)
    assert not any("@import" in style for style in styles)


def test_every_hostile_text_is_there_as_text(made: Made) -> None:
    text = "".join(Reader(made.page).text)
    assert "{{ 7 * 7 }}" in text  # not rendered as a template
    assert HOSTILE[2] in text  # the model's name
    assert "empty response" in text and "broken image" in text and HOSTILE[4] in text


def test_neurons_of_every_class_that_has_any_are_shown_with_their_shares(made: Made) -> None:
    ids = {a["id"] for tag, a in Reader(made.page).tags if a.get("class") == "vn-card"}
    assert ids <= set(made.table["neuron"])
    for (site, pole, label), rows in made.table[made.table["peak"] > 0].groupby(["site", "pole", "label"]):
        shown = rows[rows["neuron"].isin(ids)]
        assert len(shown) == min(5, len(rows)), (site, pole, label)
    for _, row in made.table[made.table["neuron"].isin(ids) & made.table["label"].isin(MODALITIES)].iterrows():
        card = made.page.split(f'id="{row["neuron"]}"', 1)[1].split("</article>")[0]
        for label in MODALITIES:
            name = "multi-modal" if label == "multimodal" else label
            assert f"{name} {100 * row[f'p_{label}']:.0f} %" in card


def test_a_card_without_evidence_costs_its_strongest_samples(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    data, looked = scenes(40, seed=2), []

    def count(model: Any, samples: Any, *more: Any) -> Any:
        looked.extend(one.sample for one in samples)
        return look_into(model, samples, *more)

    look_into = looking.look_into
    monkeypatch.setattr(looking, "look_into", count)
    run = scan(made.model, data, out=made.run.path.parent / "few", progress=False)
    page = report(run, out=run, model=made.model, data=data, n_neurons=1).read_text(encoding="utf-8")
    cards = page.count('<article class="vn-card"')
    assert 0 < cards <= len(MODALITIES) and len(looked) <= 3 * cards + 6 < len(data)


def test_counts_above_threshold_agree_with_the_shares(made: Made) -> None:
    run = scan(made.model, made.data, top_n=3, batch_size=1, out=made.run.path.parent / "three", progress=False)
    table = classify(run).set_index("neuron")
    page = report(run, out=run, model=made.model, data=made.data, n_neurons=10).read_text(encoding="utf-8")
    cards = re.findall(r'<article class="vn-card" id="(.*?)"(.*?)</article>', page, re.S)
    assert cards
    for neuron, card in cards:
        verdicts = re.findall(r"(visual|text|multi-modal|unknown) sample: ", card)
        assert len(verdicts) == table.loc[neuron, "n_samples"] == 3  # all of the top samples are shown
        for label in MODALITIES:
            share = verdicts.count("multi-modal" if label == "multimodal" else label) / 3
            assert share == pytest.approx(table.loc[neuron, f"p_{label}"])


def test_without_neurons_neither_model_nor_data_is_needed(made: Made, tmp_path: Path) -> None:
    page = report(made.run, out=tmp_path / "bare.html", n_neurons=0).read_text(encoding="utf-8")
    assert "Classes by layer" in page and 'class="vn-card"' not in page and "<tr data-n=" not in page


def test_an_unclassified_run_is_classified_first(made: Made, tmp_path: Path) -> None:
    stored = made.run.path / "neurons.parquet"
    before = stored.read_bytes()
    stored.unlink()
    try:
        one = report(made.run, out=tmp_path / "a.html", n_neurons=0).read_bytes()
        assert not stored.exists(), "a report writes no labels"
    finally:
        stored.write_bytes(before)
    assert report(made.run, out=tmp_path / "a.html", n_neurons=0).read_bytes() == one


def test_other_thresholds_are_told_or_left_out(made: Made, tmp_path: Path) -> None:
    stored = made.run.path / "neurons.parquet"
    before = stored.read_bytes()
    try:
        made.run.save(classify(made.run, t_visual=6.0, n_visual=1, t_text=7.0, n_text=1))
        page = report(made.run, tmp_path / "b.html", made.model, made.data).read_text(encoding="utf-8")
    finally:
        stored.write_bytes(before)
    told = "at least 1 image" in page and "exceed 6" in page and "exceed 7" in page
    assert told or ("thresholds that the classes come from are not recorded" in page and " sample: " not in page)


def test_a_model_and_data_in_memory_need_not_be_given_again(made: Made, tmp_path: Path) -> None:
    again = report(made.run, out=tmp_path / "a.html").read_bytes()
    assert again == report(made.run.path, tmp_path / "a.html", made.model, made.data).read_bytes()


def test_data_in_memory_whose_responses_the_model_wrote_need_not_be_given_again(tmp_path: Path) -> None:
    model = HookedVLM.from_pretrained("tiny-llava-scenes")
    told = ImageTextData.from_samples([{"image": s.images[0]} for s in scenes(3, seed=1)])
    run = scan(model, told, out=tmp_path / "run", progress=False)
    run.save(classify(run))
    assert "red" in report(run, out=tmp_path / "a.html", n_neurons=1).read_text(encoding="utf-8")


def test_what_cannot_be_found_again_is_asked_for_by_name(made: Made, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pass model="):
        report(made.run.path, out=tmp_path / "x.html", data=made.data)
    with pytest.raises(ValueError, match="pass data="):
        report(made.run.path, out=tmp_path / "x.html", model=made.model)
    other = HookedVLM(tiny.llava(made.model.tokenizer), made.model.processor)
    with pytest.raises(ValueError, match="not the model"):
        report(made.run, out=tmp_path / "x.html", model=other, data=made.data)
    fewer = ImageTextData.from_samples([made.data[i] for i in range(3)])
    with pytest.raises(ValueError, match="3 samples"):
        report(made.run, out=tmp_path / "x.html", model=made.model, data=fewer)
    with pytest.raises(ValueError, match="n_neurons"):
        report(made.run, out=tmp_path / "x.html", n_neurons=-1)
    assert not (tmp_path / "x.html").exists()


def test_many_skipped_samples_are_counted_not_listed(made: Made, tmp_path: Path) -> None:
    run = replace(made.run)
    run.__dict__["skipped"] = [{"id": i, "name": f"s{i}", "reason": "too long", "detail": "d"} for i in range(33)]
    page = report(run, out=tmp_path / "s.html", n_neurons=0).read_text(encoding="utf-8")
    assert "33 too long" in page and "and 13 more, in skipped.jsonl" in page and "s19" in page and "s20<" not in page
