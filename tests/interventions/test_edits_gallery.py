"""Trials to look at: which are shown, that they are what was measured, and where pictures of them go."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import seeds
from PIL import Image

import vlm_neurons as vn
from vlm_neurons.interventions.edits.gallery import picked
from vlm_neurons.interventions.edits.measures import Followed, Levels
from vlm_neurons.interventions.edits.saving import put

TOLD = {"L2N304": "pink regions; the word 'cyan'", "L3N3": "cyan regions; the word 'pink'"}
OPTIONS: dict[str, Any] = {"edits": ["repaint", "replace"], "n": 10, "progress": False}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("edits")
    model = vn.HookedVLM.from_pretrained("tiny-llava-scenes")
    vn.input_effects(model, vn.scenes(10, seed=9), TOLD, out=home, save_images=home / "pictures", **OPTIONS)
    return home


def test_shown_activations_are_those_that_were_measured(kept: Path) -> None:
    found = vn.interventions.edit_gallery(kept)
    assert [*found] == [*TOLD] and all(len(one.pairs) >= 4 for one in found.values())
    for pair in (pair for one in found.values() for pair in one.pairs):
        for act, e in zip(pair.acts, (pair.before, pair.after), strict=True):
            there = [*e.patch_acts, e.token_acts[e.seen.is_text]]
            assert act == pytest.approx(
                max(0.0, *(float(np.nanmax(p)) for p in there if np.isfinite(p).any())), abs=1e-4
            )
        assert pair.change == pytest.approx(
            (pair.acts[pair.brought] - pair.acts[not pair.brought]) / pair.levels.sd, rel=1e-4
        )
        same = pair.before.seen.images[0].tobytes() == pair.after.seen.images[0].tobytes()
        assert same == (pair.side == "text") and (pair.before.seen.tokens == pair.after.seen.tokens) != same


def test_generated_pictures_tell_of_sufficiency_beside_those_of_other_words(tmp_path: Path) -> None:
    model = vn.HookedVLM.from_pretrained("tiny-llava-scenes")
    told = {"L2N304": "pink regions", "L3N3": "cyan regions", "L3N4": "the word 'cyan'"}
    asked: list[str] = []

    def paint(prompt: str) -> Image.Image:
        asked.append(prompt)
        image = Image.new("RGB", (64, 64), (60, 60, 60))
        place = len(prompt) % 30
        image.paste({"pink": (250, 120, 190), "cyan": (40, 190, 200)}[prompt.split(" regions")[0].split()[-1]],
                    (place, 10, place + 20, 30))  # fmt: skip
        return image

    options: dict[str, Any] = {"edits": ["generate"], "n": 12, "progress": False}
    data = vn.scenes(12, seed=9)
    found = vn.input_effects(model, data, told, generate=paint, out=tmp_path, **options).set_index("neuron")
    row = found.loc["L2N304"]
    assert row.n_images == 10 and row.change > 1 > abs(row.sham_change + row.change) and row.n_sham == 1
    assert np.isnan(row.necessity) and row.n_necessity == 0 and found.loc["L3N4", "edit"] == ""
    n = len(asked)
    assert n == len(set(asked)) == 20
    (tmp_path / "edits" / "effects.parquet").unlink()
    vn.input_effects(model, data, told, generate=paint, out=tmp_path, **options)
    assert len(asked) == n
    asked.clear()
    shades = iter(range(1000))  # without a directory too a picture is made once, even of one that differs every time

    def paint_anew(prompt: str) -> Image.Image:
        shade = 5 * next(shades)
        return paint(prompt).point(lambda value: value - shade)

    odd = vn.input_effects(model, data, told, generate=paint_anew, **options)
    assert len(asked) == 20 and odd["reencoded"].max() < 0.5
    alone = vn.input_effects(model, data, {"L2N304": "pink regions"}, generate=paint, **options).iloc[0]
    assert alone["note"] == "no other neuron names something else"
    with pytest.raises(TypeError, match="gave a str: give a function str -> PIL"):
        vn.input_effects(model, data, told, generate=lambda prompt: prompt, **options)  # type: ignore[arg-type]


def test_the_largest_change_a_typical_one_and_the_hard_negative_are_shown() -> None:
    change = seeds.rng().normal(size=21)
    flat = np.ones(21)
    followed = Followed(change, flat[None], flat[:1] > 0, flat, flat, flat, flat, flat[None], flat > 0, flat > 0)
    present = np.linspace(2, 3, 21)
    order = np.argsort(change)
    levels = Levels(1.0, 1.5, 2.9)
    assert picked(followed, present, levels) == [("followed most", int(order[-1])), ("typical", int(order[10]))]
    silent = int(order[3])
    present[silent] = 0.1
    assert picked(followed, present, levels)[2:] == [("least active", silent)]


def test_saved_pictures_are_named_after_their_pixels_and_stay_in_their_folder(kept: Path, tmp_path: Path) -> None:
    home = kept / "pictures"
    lines = [json.loads(line) for line in (home / "edits.jsonl").read_text().splitlines()]
    named = {name for line in lines for name in (line["with"], line["without"], *(line["control"] or ()))}
    assert {file.name for file in home.iterdir()} == {*named, "edits.jsonl"}
    for name in named:
        image = Image.open(home / name)
        assert name == hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()[:32] + ".png"
    away = tmp_path / "away.txt"
    away.write_text("mine")
    link = tmp_path / put(tmp_path / "first", Image.new("RGB", (3, 2)))
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / link.name).symlink_to(tmp_path / "nowhere")
    put(tmp_path / "second", Image.new("RGB", (3, 2)))  # a link is replaced, not followed
    assert not (tmp_path / "nowhere").exists() and away.read_text() == "mine"
    with pytest.raises(ValueError, match="is a file: give a folder"):
        vn.input_effects(None, vn.scenes(10), TOLD, save_images=away)  # type: ignore[arg-type]


def test_cards_show_trials_before_and_after_and_escape_the_words(kept: Path) -> None:
    gallery = vn.interventions.edit_gallery(kept)["L2N304"]
    gallery.rows.loc[:, "explanation"] = "<b>pink</b>"
    evidence = vn.Evidence.from_arrays("L2N304", tokens=[["a", " cat"]], token_acts=[[0.0, 2.0]])
    html = vn.show_neuron(evidence, edits=gallery).fragment.html
    assert "&lt;b&gt;pink" in html and "<b>pink" not in html
    assert html.count('data-name="before"') == html.count('data-name="after"') == len(gallery.pairs)
    assert "typical: what is named is" in html and "Colours from 0 to" in html
    with pytest.raises(FileNotFoundError, match="no edits in"):
        vn.interventions.edit_gallery(kept / "pictures")
