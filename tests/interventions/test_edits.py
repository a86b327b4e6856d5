"""Edits of pictures and texts: what is changed, what is measured, and whether neurons with known rules follow."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import seeds
import tiny

import vlm_neurons as vn
from vlm_neurons import planted, stats
from vlm_neurons.concepts.concept import Concept
from vlm_neurons.interventions.edits import effects, rendered, texts
from vlm_neurons.interventions.edits.asking import asked
from vlm_neurons.interventions.edits.keeping import Kept
from vlm_neurons.interventions.edits.measures import Followed, Levels, measured, plain
from vlm_neurons.interventions.edits.regions import Part, whole
from vlm_neurons.interventions.edits.running import peaks
from vlm_neurons.interventions.edits.sharing import shared
from vlm_neurons.interventions.edits.trials import MISSING, Inputs, Row, Sheet, Trial, Wanted
from vlm_neurons.synthetic.scene import Scene


@pytest.mark.parametrize("side", ["picture", "text"])
def test_peaks_are_the_largest_positive_activations_of_each_input(model: vn.HookedVLM, side: Any) -> None:
    ids = ["L0N3", "post:L1N5", "post:L1N5-", "P0N4", "V0N2"]
    neurons = [vn.Neuron.parse(one) for one in ids]
    rows = [
        Row([tiny.image() for _ in range(k)], "Hi", said) for k, said in ((1, "A dog."), (2, "It is red."), (1, "A"))
    ]
    found = peaks(model, [lambda row=row: row for row in rows], neurons, side, 2, lambda done: None)
    for row, acts in zip(rows, found, strict=True):
        batch = model.prepare([list(row.images)], [row.prompt], [row.response] if side == "text" else None)
        _, cache = model.run_with_cache(batch)
        for neuron, act in zip(neurons, acts, strict=True):
            values = cache[neuron.hook][..., neuron.index] * (-1 if neuron.pole == "-" else 1)
            if neuron.site in ("gate", "post"):
                first = (batch.patch_index >= 0) & (batch.patch_index < batch.patch_counts[0])
                values = values[first if side == "picture" else batch.mask("text")]
            elif side == "text":
                assert np.isnan(act)
                continue
            elif neuron.site == "vision":
                values = values.reshape(-1, values.shape[-1])[:1, 1:]  # without the class token
            elif neuron.site == "projector":
                values = values.reshape(-1, batch.patch_counts[0])[:1]
            assert act == pytest.approx(max(0.0, float(values.max())), abs=1e-5), neuron.id


def random_sheet(rng: np.random.Generator, n: int, inputs: int) -> Sheet:
    """Trials of random inputs, some without others and controls; most others start from what is named, or are in its
    place."""

    def pair(first: int | None = None) -> Any:
        one, two = (int(x) for x in rng.integers(inputs, size=2))
        kind = rng.random()
        if first is not None and kind < 0.2:  # from where nothing is, or back to there
            one, two = (first + 1, two) if kind < 0.1 else (two, first + 1)
        elif first is not None and kind < 0.8:
            one = first
        return MISSING if rng.random() < 0.3 else (one, two)

    trials = [
        Trial(i, 2 * i, 2 * i + 1, bool(rng.random() < 0.5), {k: pair(2 * i) for k in ("shape", "shade")}, pair(), i)
        for i in range(n)
    ]
    return Sheet.of(trials, n + 3)


def test_measures_are_those_of_a_plain_loop() -> None:
    rng = seeds.rng()
    sheet = random_sheet(rng, 150, 310)
    acts = np.maximum(rng.normal(size=310), 0).astype(np.float32)
    levels = Levels.of(acts)
    found = measured(Followed.of(sheet, acts, levels), sheet.others, rng)
    present, absent = acts[sheet.present], acts[sheet.absent]
    sd = np.std(acts.astype(float))
    assert found["change"] == pytest.approx(
        np.mean([(p - a) / sd for p, a in zip(present, absent, strict=True)]), rel=1e-5
    )
    inserted = [p for p, brought in zip(present, sheet.brought, strict=True) if brought]
    assert found["sufficiency"] == pytest.approx(np.mean([p > np.percentile(acts, 95) for p in inserted]))
    middle = np.median([a for a in acts if a > 0])
    lost = [1 - a / p for p, a in zip(present, absent, strict=True) if p >= middle]
    assert found["necessity"] == pytest.approx(np.mean(lost), rel=1e-5)
    sizes = {
        name: np.mean([abs(acts[b] - acts[a]) / sd for a, b in pairs if a >= 0])
        for name, pairs in zip(sheet.others, sheet.other, strict=True)
    }
    taken = {
        name: [
            1 - acts[b] / acts[p] if a == p else (acts[b if a == q else a] - acts[q]) / acts[p]
            for (a, b), p, q in zip(pairs, sheet.present, sheet.absent, strict=True)
            if (a == p or q in (a, b)) and acts[p] >= middle
        ]
        for name, pairs in zip(sheet.others, sheet.other, strict=True)
    }
    assert min(map(len, taken.values())) >= 10
    assert found["necessity_margin"] == pytest.approx(np.mean(lost) - max(map(np.mean, taken.values())), rel=1e-5)
    assert found["other"] == max(sizes, key=lambda name: sizes[name])
    assert found["specificity"] == pytest.approx(found["change"] - max(sizes.values()), rel=1e-5)
    assert found["over_background"] == pytest.approx(found["change"] - sizes["shade"], rel=1e-5)
    assert found["control"] == pytest.approx(np.mean([abs(acts[b] - acts[a]) / sd for a, b in sheet.control if a >= 0]))
    assert found["change_low"] <= found["change"] <= found["change_high"]
    assert sheet.left_out == 3


def test_an_edit_that_changes_nothing_is_counted_and_is_no_evidence() -> None:
    same = Trial(0, 4, 4, False, {}, MISSING, 4)
    sheet = Sheet.of([same, Trial(1, 1, 2, False, {}, MISSING, 1)], 2)
    assert sheet.unchanged == 1 and sheet.present.tolist() == [1]


def test_sign_flips_give_the_share_of_all_signs() -> None:
    values = seeds.rng().normal(0.4, 1, 9)
    sums = [np.dot(signs, values) for signs in product((-1, 1), repeat=9)]
    exact = np.mean([s >= values.sum() - 1e-9 for s in sums])
    assert stats.sign_flip(values, seeds.rng(), 20_000) == pytest.approx(exact, abs=0.02)


def worlds(inputs: Inputs) -> list[Scene]:
    return [key[0] for key in inputs._numbers]


def test_what_two_neurons_ask_for_is_drawn_and_run_once() -> None:
    data, inputs = vn.scenes(12, seed=seeds.number(1000)), Inputs()
    wanted = asked("red regions")[0][0]
    first = rendered.trials(data, range(12), wanted, inputs, 0)
    n = len(inputs.made)
    assert rendered.trials(data, range(12), wanted, inputs, 0) == first and len(inputs.made) == n


@pytest.mark.parametrize("edit", [*rendered.KIND_OF, "object"])
def test_scenes_of_a_trial_differ_in_what_is_named_only(edit: str) -> None:
    data, inputs = vn.scenes(20, seed=seeds.number(1000)), Inputs()
    named = {"color": "red", "shape": "ring", "size": "large", "place": "top left"}
    kind = rendered.KIND_OF.get(edit, "color")
    wanted = Wanted("picture", edit, (((kind, named[kind]),),))
    found = rendered.trials(data, range(20), wanted, inputs, 0)
    shown = worlds(inputs)
    assert len(found) > 5
    for one in found:
        present, absent, before, drawn = shown[one.present], shown[one.absent], one.control, data.worlds[one.sample]
        having = [t for t in present.things if rendered.is_named(t, wanted)]
        assert len(having) == 1 and not any(rendered.is_named(t, wanted) for t in absent.things)
        assert len(set(present.things) - set(absent.things)) == 1 and present.texture == absent.texture
        assert edit == "object" or (absent == drawn) == one.brought or present == drawn
        assert before == MISSING or shown[before[0]] != shown[before[1]]
        if before != MISSING and edit not in ("object", "resize"):
            assert not any(rendered.is_named(t, wanted) for number in before for t in shown[number].things)


def test_an_object_is_no_more_necessary_than_another_one_to_a_neuron_for_objects() -> None:
    data, inputs = vn.scenes(30, seed=seeds.number(1000)), Inputs()
    wanted = Wanted("picture", "object", ((("color", "red"),),))
    sheet = Sheet.of(rendered.trials(data, range(30), wanted, inputs, 0), 30)
    margins = []
    for rule in (lambda scene: len(scene.things), lambda scene: sum(t.color == "red" for t in scene.things)):
        acts = np.array([rule(scene) for scene in worlds(inputs)], np.float32)
        margins.append(plain(Followed.of(sheet, acts, Levels.of(acts)))["necessity_margin"])
    assert margins == pytest.approx([0, 1])


def vocabulary(model: vn.HookedVLM, said: list[str], rendered: bool) -> texts.Vocabulary:
    return texts.Vocabulary.of(said, ["red"], model.tokenizer, rendered)


@pytest.mark.parametrize("edit", ["replace", "word"])
def test_texts_of_a_trial_differ_in_the_named_word_only(model: vn.HookedVLM, edit: str) -> None:
    data, inputs = vn.scenes(20, seed=seeds.number(1000)), Inputs()
    words = vocabulary(model, [data[i].response for i in range(20)], True)
    found = texts.trials(data, range(20), Wanted("text", edit, ((("word", "red"),),)), inputs, 0, words)
    said = [key[1] for key in inputs._numbers]
    assert len(found) == 20
    for one in found:
        present, absent = said[one.present].split(), said[one.absent].split()
        assert "red" in present and "red" not in absent
        without = [w for w in present if w != "red"]
        if edit == "word":
            assert [w for w in absent] == without
        else:
            changed = {(a, b) for a, b in zip(present, absent, strict=True) if a != b}
            assert {a for a, _ in changed} == {"red"} and {b for _, b in changed} <= set(words.by_class["color"])
        assert one.brought == ("red" not in data[one.sample].response.split())
    if edit == "word":  # to a neuron for long texts any word is as necessary
        acts = np.array([len(text.split()) for text in said], np.float32)
        assert plain(Followed.of(Sheet.of(found, 20), acts, Levels.of(acts)))["necessity_margin"] == pytest.approx(0)


@pytest.fixture(scope="module")
def follows() -> pd.DataFrame:
    """Two planted neurons of pictures and one of words, with true words, and one that is told another's."""
    model = vn.HookedVLM.from_pretrained("tiny-llava-scenes")
    fit, red, ring = vn.scenes(120, seed=seeds.PLANTED), Concept("color", "red"), Concept("shape", "ring")
    shared: dict[str, Any] = {"layer": 2, "peaks": True, "reading": planted.read(model, fit, "blocks.2.mlp.hook_in")}
    with (
        planted.plant(model, fit, red, index=3, words=False, **shared),
        planted.plant(model, fit, ring, index=4, words=False, acts=True, **shared),
        planted.plant(model, fit, red, index=5, regions=False, **shared),
        planted.plant(model, fit, red, index=6, **shared),
    ):
        told = {
            "L2N3": "red regions",
            "L2N4": "rings",
            "L2N5": "the word 'red'",
            "L2N6": "blue regions; the word 'cyan'",
        }
        kinds = ["repaint", "reshape", "replace"]
        made = [
            vn.input_effects(model, vn.scenes(60, seed=1), told, edits=kinds, n=12, seed=3, progress=False)
            for _ in range(2)
        ]
    pd.testing.assert_frame_equal(*made)  # the same seed, the same numbers
    return made[0].set_index(["neuron", "edit"])


def test_planted_neurons_follow_what_they_were_made_for(follows: pd.DataFrame) -> None:
    for key in (("L2N3", "repaint"), ("L2N4", "reshape"), ("L2N5", "replace")):
        row = follows.loc[key]
        assert row.specificity > 0 and row.necessity > 0.5 and row.q < 0.05 and row.control < row.change / 2, key


def test_wrong_words_move_a_neuron_no_more_than_the_control_does(follows: pd.DataFrame) -> None:
    for edit in ("repaint", "replace"):
        row = follows.loc["L2N6", edit]
        assert row.change < row.control + 0.2 and row.specificity < 0 and row.p > 0.05
    row = follows.loc["L2N3", "repaint"]
    assert row.n_sham == 1 and row.sham_change < 0.2 and row.sham_specificity < 0


def test_words_that_no_edit_tests_are_said_so_not_scored(model: vn.HookedVLM) -> None:
    told = {"L0N1": "dogs", "L0N2": "no clear pattern", "L0N3": "the top of the image", "L0N4": "red regions"}
    data = vn.ImageTextData.from_samples([{"image": tiny.image(), "prompt": "Hi", "response": "A dog."}] * 10)
    found = vn.input_effects(model, data, told, progress=False).set_index("neuron")
    assert found["change"].isna().all() and (found["edit"] == "").all()
    assert found.loc["L0N1", "note"] == "no concept for dogs"
    assert found.loc["L0N3", "note"] == "not edited: position:top"
    assert "this neuron has no boxes or regions" in found.loc["L0N4", "note"]


def test_a_side_that_cannot_be_edited_is_told_beside_the_other(model: vn.HookedVLM) -> None:
    told = {"L0N1": "red regions; the word 'dog'", "P0N2": "red regions; the word 'dog'"}
    said = vn.ImageTextData.from_samples([{"image": tiny.image(), "prompt": "Hi", "response": "A dog."}] * 10)
    seen = vn.ImageTextData.from_samples([{"image": tiny.image(), "prompt": "Hi"}] * 10)
    options: dict[str, Any] = {"edits": ["word", "keep", "repaint"], "n": 10, "progress": False}
    row = vn.input_effects(model, said, told, **options).set_index("neuron")
    assert row.loc["L0N1", "edit"] == "word" and "cannot be drawn anew" in row.loc["L0N1", "note"]
    boxes = {neuron: {0: [(0, 0, 4, 4)]} for neuron in told}
    row = vn.input_effects(model, seen, told, boxes=boxes, **options).set_index("neuron")
    assert (row["edit"] == "keep").all() and "texts are not edited: no sample" in row.loc["L0N1", "note"]
    assert "the neuron does not see them" in row.loc["P0N2", "note"]


def test_bad_arguments_are_refused_by_name(model: vn.HookedVLM) -> None:
    data = vn.scenes(12)
    with pytest.raises(ValueError, match="edits=paint: choose from repaint"):
        vn.input_effects(model, data, {"L0N1": "red regions"}, edits=["paint"])
    for odd in (5, "remove"):
        with pytest.raises(ValueError, match=rf"edits={odd!r}: give a list, such as \['repaint'\], of repaint"):
            vn.input_effects(model, data, {"L0N1": "red regions"}, edits=odd)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"generate=5: give a function from a prompt to a picture"):
        vn.input_effects(model, data, {"L0N1": "red regions"}, generate=5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="give a dict from ids"):
        vn.input_effects(model, data, ["red"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="5 samples have a picture"):
        vn.input_effects(model, vn.scenes(5), {"L0N1": "red regions"})
    with pytest.raises(TypeError, match="data=a list"):
        vn.input_effects(model, [], {"L0N1": "red"})  # type: ignore[arg-type]


def test_a_killed_run_goes_on_and_a_finished_one_is_read(
    model: vn.HookedVLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlm_neurons.interventions.edits import planning

    data = vn.ImageTextData.from_samples(
        [
            {"image": tiny.image(), "prompt": "Hi", "response": f"A dog and {w} cat."}
            for w in ("a", "the", "one", "two") * 3
        ]
    )
    told = {"L0N1": "the word 'dog'", "L1N2": "the word 'the'"}
    options: dict[str, Any] = {"n": 12, "batch_size": 2, "progress": False}
    monkeypatch.setattr(planning, "PART", 1)
    expected = vn.input_effects(model, data, told, **options)
    plain, calls = model.observe, []

    def killed(*args: Any, **more: Any) -> None:
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt
        plain(*args, **more)

    monkeypatch.setattr(model, "observe", killed)
    with pytest.raises(KeyboardInterrupt):
        vn.input_effects(model, data, told, **options, out=tmp_path)
    kept = len(list(tmp_path.glob("edits/parts-*/*")))
    assert kept == 8
    calls[:] = [0] * 20
    pd.testing.assert_frame_equal(vn.input_effects(model, data, told, **options, out=tmp_path), expected)
    went_on = len(calls) - 20
    calls[:] = [0] * 20
    pd.testing.assert_frame_equal(vn.input_effects(model, data, told, **options, out=tmp_path), expected)
    assert len(calls) == 20 and not list(tmp_path.glob("edits/parts-*"))  # read, not run
    vn.input_effects(model, data, told, **options, out=tmp_path / "at once")
    assert len(calls) - 20 == went_on + kept
    one = vn.input_effects(model, data, {"L2N3": "the word 'dog' \ud800"}, **options, out=tmp_path)
    kept = pd.read_parquet(tmp_path / "edits" / "effects.parquet")
    assert {*one["neuron"]} == {"L2N3"} and {*kept["neuron"]} == {"L2N3", *told}
    part = kept[kept["edit"] == "word"]
    np.testing.assert_allclose(part["q"], stats.false_discovery(part["p"].to_numpy(float)))
    np.testing.assert_allclose(one["q"], kept.loc[kept["neuron"] == "L2N3", "q"])
    (tmp_path / "edits" / "effects.parquet").write_bytes(b"no table")
    with pytest.raises(ValueError, match=r"cannot be read.*move it away"):
        vn.input_effects(model, data, told, **options, out=tmp_path)


def test_a_change_that_was_tried_once_is_not_the_largest() -> None:
    n = 30
    tried = np.full((2, n), 0.5)
    tried[1] = np.nan
    tried[1, 0] = 9
    flat, yes = np.ones(n), np.ones(n, bool)
    followed = Followed(flat, tried, np.array([True, False]), flat, flat, flat, flat, tried / 20, yes, yes)
    found = measured(followed, ("shade", "words: rare"), seeds.rng())
    assert (found["other"], found["other_change"], found["note"]) == ("shade", 0.5, "")
    assert found["specificity"] == found["specificity_low"] == 0.5
    assert found["necessity_margin"] == pytest.approx(1 - 0.5 / 20)
    few = Followed(flat, tried[1:], np.array([False]), flat, flat, flat, flat, tried[1:], yes, yes)
    alone = measured(few, ("words: rare",), seeds.rng())
    assert alone["other_change"] == 9 and "tried on 1" in str(alone["note"])


@pytest.mark.parametrize("n_control", [0, 1, 9, 10, 24])
def test_p_rests_on_all_trials_where_few_have_a_control(n_control: int) -> None:
    n, yes = 24, np.ones(24, bool)
    change, control = np.full(n, 2.0), np.full(n, np.nan)
    control[:n_control] = 3.0  # where something is compared, the control moves it more
    followed = Followed(
        change, np.zeros((0, n)), np.zeros(0, bool), control, *[np.ones(n)] * 3, np.zeros((0, n)), yes, yes
    )
    found = measured(followed, (), seeds.rng())
    assert found["n_control"] == n_control and (found["p"] < 0.01) == (n_control < 10)  # type: ignore[operator]
    assert bool(found.get("note")) == (n_control in (1, 9))
    few = Followed(
        change[:5],
        np.zeros((0, 5)),
        np.zeros(0, bool),
        np.full(5, 3.0),
        *[np.ones(5)] * 3,
        np.zeros((0, 5)),
        yes[:5],
        yes[:5],
    )
    assert measured(few, (), seeds.rng())["p"] == 1  # of few trials, all with a control


def test_shams_are_no_regions_or_prompts_of_the_same_words() -> None:
    one, other, third = (Wanted("picture", "remove", ((("region", key),),)) for key in ("L0N1", "L0N2", "L0N3"))
    told = {"L0N1": "cups", "L0N2": "a blue cup; spoons", "L0N3": "dogs"}
    bits = whole(np.eye(8, dtype=bool)), whole(np.eye(8, dtype=bool)[::-1])
    regions = {"L0N1": {0: bits[0]}, "L0N2": {1: bits[0]}, "L0N3": {0: bits[1], 1: []}}
    assert shared(one, other, regions, told) and not shared(one, third, regions, told)  # boxes overlap, pixels do not
    assert shared(one, third, {**regions, "L0N3": {0: [Part(3, 3, 5, 5)]}}, told)
    asked_for = [Wanted("picture", "generate", ((("prompt", words),),)) for words in ("cups", "A cup", "dogs")]
    assert shared(*asked_for[:2], {}) and not shared(asked_for[0], asked_for[2], {})


def test_shams_name_nothing_that_the_words_name() -> None:
    def said(kind: str, value: str) -> Wanted:
        return Wanted("text", "word", (((kind, value),),))

    def drawn(*pairs: tuple[str, str]) -> Wanted:
        return Wanted("picture", "object", (pairs,))

    boxes = {
        "L0N1": {0: [Part(0, 0, 9, 9)]},
        "L0N2": {0: [Part(8, 8, 20, 20)]},
        "L0N3": {0: [Part(9, 0, 20, 9)], 1: [Part(0, 0, 9, 9)]},
    }
    one, two, three = (drawn(("region", name)) for name in boxes)
    assert shared(one, two, boxes) and shared(two, one, boxes) and not shared(one, three, boxes)
    assert shared(drawn(), drawn(("color", "red")), {}) and shared(drawn(("color", "red")), drawn(), {})
    assert not shared(drawn(("color", "red")), drawn(("color", "blue")), {})
    assert shared(said("word", "Red"), said("class", "colors"), {}) and shared(
        said("after", "a"), said("word", "a"), {}
    )
    assert not shared(said("word", "dog"), said("class", "colors"), {})


def test_words_with_a_hyphen_are_found_whole(model: vn.HookedVLM) -> None:
    data = vn.ImageTextData.from_samples([{"image": tiny.image(), "response": "An x-ray of the ray."}])
    words = texts.Vocabulary.of(["An x-ray of the ray."], ["x-ray"], model.tokenizer, False)
    inputs = Inputs()
    (one,) = texts.trials(data, [0], Wanted("text", "word", ((("word", "x-ray"),),)), inputs, 0, words)
    said = [key[1] for key in inputs._numbers]
    assert not one.brought and (said[one.present], said[one.absent]) == ("An x-ray of the ray.", "An of the ray.")
    assert texts.Text(inputs, data[0], words, ()).other_words("An x-ray", frozenset({"x-ray"})) == ["an"]


def test_inputs_are_numbered_the_same_in_every_process() -> None:
    data, inputs = vn.scenes(8, seed=1), Inputs()
    wanted = Wanted("picture", "repaint", ((("color", "red"),),))
    for one in rendered.trials(data, range(8), wanted, inputs, 0):
        assert [k for k in one.others if k in ("shape", "size", "place")] == [
            k for k in ("shape", "size", "place") if k in one.others
        ]  # not in the order of a set, which is another one in every process


def test_what_decides_the_numbers_decides_what_is_kept(
    model: vn.HookedVLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = vn.ImageTextData.from_samples([{"image": tiny.image(), "prompt": "Hi", "response": "A dog."}] * 10)
    names: list[str] = []
    plain = effects.identity
    monkeypatch.setattr(effects, "identity", lambda *told: names.append(plain(*told)) or names[-1])
    words = {"L0N1": "dogs", "L0N2": "no clear pattern"}  # nothing is run
    reverse = dict(reversed(words.items()))
    more: tuple[dict[str, Any], ...] = ({}, {"edits": []}, {"edits": ["word"]})
    for told, options in ((words, more[0]), (words, more[0]), (reverse, more[0]), (words, more[1]), (words, more[2])):
        found = vn.input_effects(model, data, told, out=tmp_path, progress=False, **options)
        assert list(found["neuron"]) == list(told)
    with model.bridge.hooks(fwd_hooks=[("blocks.0.mlp.hook_post", lambda value, hook: value)]):
        vn.input_effects(model, data, words, out=tmp_path, progress=False)
    assert names[0] == names[1] and len(set(names)) == 5


def test_sites_of_another_make_are_another_call(model: vn.HookedVLM) -> None:
    names = []
    for scale in (1, 2):
        made = vn.sites.register(vn.sites.Directions({"a": scale * np.ones(4)}, hook="blocks.0.hook_out", name="mend"))
        try:
            names.append(effects.identity(model, vn.scenes(10), [vn.Neuron.parse("mend:a")], []))
        finally:
            vn.sites.forget(made.name)
    assert names[0] != names[1]


def test_parts_of_other_inputs_are_not_gone_on_with(tmp_path: Path) -> None:
    one, other = Inputs(), Inputs()
    for inputs, keys in ((one, "ab"), (other, "ba")):
        for key in keys:
            inputs.number(key, lambda: Row([], "", None))
    Kept(tmp_path, "same", one.fingerprint()).put("text", 0, np.ones((2, 1), np.float32), np.zeros(2, np.int64))
    assert Kept(tmp_path, "same", one.fingerprint()).part("text", 0) is not None
    assert Kept(tmp_path, "same", other.fingerprint()).part("text", 0) is None
