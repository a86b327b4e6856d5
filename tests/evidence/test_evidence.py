"""Evidence is what the neuron did, its splits share nothing, and it survives a round trip to disk."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import time
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import seeds
import tiny
import torch
from PIL import Image

import vlm_neurons as vn
from vlm_neurons.concepts import Concept, pixel_bank, visual_bank
from vlm_neurons.evidence import SPLITS, activations, assembling, load, looking, save
from vlm_neurons.evidence.exemplars import Seen, peaks_of
from vlm_neurons.evidence.written import behind, flat
from vlm_neurons.planted.weights import rows_of
from vlm_neurons.units import Neuron

NEURONS = ["L0N3", "L1N7", "post:L1N5", "post:L1N5-", "P0N2", "V1N6"]
NOTHING = np.full((2, 2), np.nan)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[vn.HookedVLM, vn.ImageTextData, vn.Run]:
    rng = seeds.rng()
    samples = []
    for i in range(30):
        image = (
            None if i == 5 else [tiny.image(60, 33, rng), tiny.image(rng=rng)] if i == 9 else tiny.image(33, 50, rng)
        )
        samples.append({"image": image, "response": f"There are {i} dogs on the grass.", "name": f"s{i}"})
    samples.append({"image": samples[0]["image"], "response": "The train is blue.", "name": "the image of s0 again"})
    data = vn.ImageTextData.from_samples(samples)
    model = vn.HookedVLM(tiny.llava(), tiny.processor())
    out = tmp_path_factory.mktemp("run")
    sites = ["gate", "post", "projector", "vision"]
    run = vn.scan(model, data, site=sites, top_n=8, batch_size=5, out=out, progress=False)
    return model, data, run


def test_activations_equal_a_cache_read_by_hand(made: tuple[vn.HookedVLM, vn.ImageTextData, vn.Run]) -> None:
    model, data, run = made
    evidence = vn.gather_evidence(model, data, run, NEURONS, n_top=8, n_spare=6, progress=False)
    rows = run.samples.set_index("id")
    for name, one in evidence.items():
        neuron = Neuron.parse(name)
        for e in one.exemplars:
            row = rows.loc[e.seen.sample]
            batch = model.prepare([data[e.seen.sample].load_images()], [row["prompt"]], [row["response"]])
            _, cache = model.run_with_cache(batch, names_filter=neuron.hook)
            kept = cache[neuron.hook]
            kept = batch.by_patch(neuron.hook, kept)[0] if neuron.site in ("projector", "vision") else kept
            raw = kept[..., neuron.index].float().numpy()
            raw = -raw if neuron.pole == "-" else raw
            words = (batch.kinds[0] != vn.TokenKind.VISUAL).numpy()
            if neuron.site in ("projector", "vision"):
                patches = raw.reshape(len(e.seen.images), 4, 4)
                assert np.isnan(e.token_acts).all() and not one.sees_text
            else:
                patches = raw[0][~words].reshape(-1, 4, 4)
                np.testing.assert_allclose(e.token_acts, raw[0][words], rtol=1e-5, atol=1e-4)
            np.testing.assert_allclose(np.array(e.patch_acts).reshape(patches.shape), patches, rtol=1e-5, atol=1e-4)
            assert list(e.seen.tokens) == [t for t, w in zip(batch.tokens(0), words, strict=True) if w]
            assert [tuple(b) for box in e.seen.boxes for b in box.reshape(-1, 4)] == [p.box for p in batch.patches]
            assert e.seen.token_sinks[0] and not e.scored_tokens()[0]


@pytest.mark.parametrize(("n_top", "n_drawn"), [(1, 0), (5, 0), (5, 40), (400, 1)])
def test_what_is_in_memory_at_once_does_not_grow_with_the_neurons(n_top: int, n_drawn: int) -> None:
    chosen = [Neuron.parse(f"L0N{k}") for k in range(7000)]
    tops, drawn = [range(n_top)] * len(chosen), range(1000, 1000 + n_drawn)
    wanted = assembling.Wanted(chosen, tops, drawn, 0, 0)
    parts = wanted.parts(n_places := 600)
    assert [k for part in parts for k in range(*part)] == list(range(7000))
    for first, last in parts:  # a neuron and the unit behind it on its top samples, the neuron on those that were drawn
        assert (last - first) * (2 * n_top + n_drawn) * n_places * 4 <= 2**25


@pytest.mark.parametrize("on_disk", [False, True])
def test_what_few_neurons_want_is_read_for_each_of_them(
    made: tuple[vn.HookedVLM, vn.ImageTextData, vn.Run],
    on_disk: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, data, run = made
    names = [
        *(f"L0N{k}" for k in range(16)),
        "L1N2",
        *(f"post:L1N{k}{p}" for k in (0, 2, 3) for p in ("", "-")),
        "P0N4",
    ]
    monkeypatch.setattr(assembling, "_BYTES", 2**14)  # some neurons at a time, not all
    small: dict[str, Any] = {"n_top": 2, "n_spare": 0, "n_pool": 0, "progress": False}
    found = vn.gather_evidence(model, data, run, names, **small, out=tmp_path if on_disk else None)
    drawn = {e.seen.sample for one in found.values() for e in one.exemplars if e.group == "random"}
    own = {e.seen.sample for one in found.values() for e in one.exemplars if e.group == "top"} - drawn
    assert len(drawn) < 8 < len(own)
    neurons = [unit for name in names for unit in (Neuron.parse(name), behind(Neuron.parse(name)))]
    rows, by_hand = run.samples.set_index("id"), {}
    for i in drawn | own:
        row = rows.loc[i]
        sample = activations.Look(i, "", data[i].load_images(), row["prompt"], row["response"])
        ((_, by_hand[i]),) = activations.look(model, [sample], [neurons])
    for name, one in found.items():
        for e in one.exemplars:
            maps, tokens = by_hand[e.seen.sample][name]
            for ours, theirs in zip((*e.patch_acts, e.token_acts), (*maps, tokens), strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-4)
        unit = behind(Neuron.parse(name)).id
        if unit == name.removesuffix("-"):
            assert one.written is None
            continue
        (first,) = (e.seen.sample for e in one.exemplars if e.group == "top" and e.split == "explain")
        gate, post = (flat(*by_hand[first][which]) for which in (name, unit))
        strong = gate >= gate.max() / 2
        assert one.written is not None and one.written.post == pytest.approx(post[strong].mean(), rel=1e-3, abs=1e-5)


def test_the_negative_pole_is_negated_at_every_place_and_no_zero_is_negative(
    made: tuple[vn.HookedVLM, vn.ImageTextData, vn.Run],
) -> None:
    model, data, _ = made
    up, one = rows_of(model, "post", 1, 5)["up"], data[9]
    plus = [Neuron.parse(name) for name in ("L1N7", "post:L1N5", "P0N2", "V1N6")]
    minus = [replace(neuron, pole="-") for neuron in plus]
    asked = activations.Look(9, "s9", one.load_images(), "What is it?", one.response)
    kept = up.clone()
    try:
        with torch.no_grad():
            up.zero_()
        ((_, found),) = activations.look(model, [asked], [[*plus, *minus]])
    finally:
        up.data.copy_(kept)
    for neuron, other in zip(plus, minus, strict=True):
        (maps, tokens), (negated, of_tokens) = found[neuron.id], found[other.id]
        for values, own in zip((*maps, tokens), (*negated, of_tokens), strict=True):
            np.testing.assert_array_equal(own, -values)
            for zeros in (own[own == 0], values[values == 0]):
                assert not np.signbit(zeros).any()
    assert (found["post:L1N5"][0][1] == 0).all() and (found["V1N6"][0][1] != 0).any()


def test_splits_share_no_sample_and_no_image(made: tuple[vn.HookedVLM, vn.ImageTextData, vn.Run]) -> None:
    model, data, run = made
    evidence = vn.gather_evidence(model, data, run, NEURONS, n_top=8, n_spare=6, progress=False)
    for one in evidence.values():
        groups = [{d for e in one.split(s) for d in (e.seen.sample, *e.seen.image_digests)} for s in SPLITS]
        assert all(groups) and not any(groups[i] & groups[j] for i, j in [(0, 1), (0, 2), (1, 2)])
        for split in ("select", "test"):
            kinds = [e.group for e in one.split(split)]
            assert kinds.count("top") == kinds.count("random") > 0 and "quantile" not in kinds
        top = [e.peak for e in one.exemplars if e.group == "top"]
        assert top == sorted(top, reverse=True)
        assert {e.seen.sample for e in one.exemplars} >= set() and any(e.group == "quantile" for e in one.exemplars)
    again = vn.gather_evidence(model, data, run, NEURONS, n_top=8, n_spare=6, progress=False)
    assert {k: v.digest for k, v in again.items()} == {k: v.digest for k, v in evidence.items()}


def test_with_few_samples_as_many_are_random_as_are_top(
    made: tuple[vn.HookedVLM, vn.ImageTextData, vn.Run], tmp_path: Path
) -> None:
    model = made[0]
    data = vn.ImageTextData.from_samples(
        [{"image": tiny.image(), "response": f"Dog {i}.", "name": str(i)} for i in range(24)]
    )
    run = vn.scan(model, data, top_n=50, batch_size=8, out=tmp_path, progress=False)
    (one,) = vn.gather_evidence(model, data, run, "L0N3", progress=False).values()
    for split in ("explain", "select", "test"):
        groups = [e.group for e in one.split(split)]
        assert groups.count("top") == groups.count("random") > 0


def test_an_exemplar_in_two_splits_is_refused() -> None:
    one = vn.Evidence.from_arrays("x", tokens=[["a"], ["b"]], token_acts=[np.ones(1), np.zeros(1)])
    first = one.exemplars[0]
    other = vn.evidence.Exemplar(first.seen, "random", "test", 0, first.patch_acts, first.token_acts)
    with pytest.raises(ValueError, match="in the splits"):
        vn.Evidence("x", 1.0, (first, other))


def test_saved_evidence_is_the_same_and_neurons_are_added(
    made: tuple[vn.HookedVLM, vn.ImageTextData, vn.Run], tmp_path: Path
) -> None:
    model, data, run = made
    first = vn.gather_evidence(model, data, run, NEURONS[:4], n_top=6, n_spare=4, out=run, progress=False)
    second = vn.gather_evidence(model, data, run, NEURONS[3:], n_top=8, n_spare=4, out=run, progress=False)
    stored = load(run.path)
    assert {k: v.digest for k, v in stored.items()} == {k: v.digest for k, v in {**first, **second}.items()}
    kinds = [p.name.split("-")[0] for p in (run.path / "evidence").iterdir()]
    assert sorted(kinds) in (["neurons", "neurons", "samples"], ["neurons", "neurons", "samples", "samples"])
    one, two = stored["L1N7"].exemplars[0], first["L1N7"].exemplars[0]
    assert one.seen.places == two.seen.places and (one.seen.kinds == two.seen.kinds).all()
    assert [i.tobytes() for i in one.seen.images] == [i.tobytes() for i in two.seen.images]
    with pytest.raises(FileNotFoundError, match="gather_evidence"):
        load(tmp_path)


def counted(monkeypatch: pytest.MonkeyPatch) -> Any:
    """How many samples go through the model, in all processes together; pieces are of four."""
    total, look = multiprocessing.get_context("fork").Value("i", 0), looking.look_into

    def count(model: Any, samples: Any, *more: Any) -> Any:
        with total.get_lock():
            total.value += len(samples)
        return look(model, samples, *more)

    monkeypatch.setattr(looking, "SAMPLES", 5)
    monkeypatch.setattr(looking, "look_into", count)
    return total


def test_killed_again_and_again_it_goes_on_and_the_result_is_the_same(
    made: tuple[vn.HookedVLM, vn.ImageTextData, vn.Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data, run = made
    whole = vn.gather_evidence(model, data, run, NEURONS, n_top=6, n_spare=4, progress=False)
    total, context = counted(monkeypatch), multiprocessing.get_context("fork")
    call = partial(vn.gather_evidence, model, data, run, NEURONS, n_top=6, n_spare=4, out=tmp_path, progress=False)
    for n in (1, 3):
        child = context.Process(target=call)
        child.start()
        while len(list(tmp_path.glob("evidence/.looked-*/*.f32"))) < n:
            time.sleep(0.005)
        os.kill(child.pid or 0, signal.SIGKILL)
        child.join()
    assert not list(tmp_path.glob("evidence/neurons-*")) and (before := total.value) < len(data) + 10
    found = call()
    assert {k: (v.digest, v.written) for k, v in found.items()} == {k: (v.digest, v.written) for k, v in whole.items()}
    assert total.value - before <= len(data) - 15, "three pieces are not looked at again"
    assert [p.name.split("-")[0] for p in (tmp_path / "evidence").glob("*") if p.name[0] == "."] == []
    before = total.value
    assert list(call()) == NEURONS and total.value == before, "what is finished is not gathered again"


def test_processes_that_make_the_same_call_share_its_samples_and_each_has_all(
    made: tuple[vn.HookedVLM, vn.ImageTextData, vn.Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data, run = made
    total, context = counted(monkeypatch), multiprocessing.get_context("fork")
    found = context.Queue()

    def work() -> None:
        one = vn.gather_evidence(model, data, run, NEURONS, n_top=6, n_spare=4, out=tmp_path, progress=False)
        found.put({k: v.digest for k, v in one.items()})

    both = [context.Process(target=work) for _ in range(2)]
    for process in both:
        process.start()
    told = [found.get(timeout=60) for _ in both]
    whole = vn.gather_evidence(model, data, run, NEURONS, n_top=6, n_spare=4, progress=False)
    assert told == [{k: v.digest for k, v in whole.items()}] * 2
    assert total.value == 2 * len(data), "the samples once by both together, and once for the comparison"


def test_another_model_is_noticed(made: tuple[vn.HookedVLM, vn.ImageTextData, vn.Run]) -> None:
    model, data, run = made
    other = vn.HookedVLM(tiny.llava(model.tokenizer), model.processor)
    with pytest.raises(ValueError, match="another model or other data"):
        vn.gather_evidence(other, data, run, NEURONS, n_top=4, progress=False)


def test_sixteen_bit_pictures_of_arrays_are_scaled_too() -> None:
    grey = seeds.rng().integers(0, 65536, (8, 8), dtype=np.uint16)
    one = vn.Evidence.from_arrays("probe", images=[Image.fromarray(grey)], patch_acts=[np.ones((2, 2))])
    assert (np.asarray(one.exemplars[0].seen.images[0]) == (grey >> 8)[..., None]).all()


def test_arrays_of_any_direction_become_evidence(tmp_path: Path) -> None:
    rng = seeds.rng()
    n = 23
    images = [None if i == 4 else tiny.image(48, 24, rng) for i in range(n)]
    patches = [None if i == 4 else rng.normal(size=(2, 4)) for i in range(n)]
    tokens = [["<s>", " a", " b"][: 1 + i % 3] for i in range(n)]
    values = [rng.normal(size=len(t)) for t in tokens]
    one = vn.Evidence.from_arrays(
        "probe", images=images, patch_acts=patches, tokens=tokens, token_acts=values, n_top=10, seed=3
    )
    best = [max([*(p.ravel() if p is not None else []), *v]) for p, v in zip(patches, values, strict=True)]
    top = [e.seen.sample for e in one.exemplars if e.group == "top"]
    assert top == np.argsort(best)[::-1][:10].tolist() and one.peak == pytest.approx(max(best))
    assert (one.scale(np.array([-1.0, one.peak / 2, 2 * one.peak])) == [0, 5, 10]).all()
    save({"probe": one}, tmp_path)
    assert load(tmp_path)["probe"].digest == one.digest
    assert not one.exemplars[0].scored_tokens()[0] and one.exemplars[0].scored_tokens(sinks=True)[0]
    with pytest.raises(ValueError, match="token_acts"):
        vn.Evidence.from_arrays("x", tokens=[["a"]], token_acts=[np.zeros(2)])
    with pytest.raises(ValueError, match="list in images; give one PIL image a sample"):
        vn.Evidence.from_arrays("x", images=[[images[0]] * 2], patch_acts=[[np.ones((2, 2)), np.ones((3, 3))]])
    with pytest.raises(ValueError, match="go together"):
        vn.Evidence.from_arrays("x", images=images)


def test_a_residual_stream_far_above_the_rest_marks_a_sink(
    made: tuple[vn.HookedVLM, vn.ImageTextData, vn.Run],
) -> None:
    from vlm_neurons.evidence.activations import Look, look

    model, data, _ = made
    sample = Look(0, "", data[0].load_images(), "Hi", "A dog.")
    ((seen, _),) = look(model, [sample], [[Neuron.parse("L0N0")]])
    assert isinstance(seen, Seen) and seen.token_sinks.sum() == 1 and not seen.patch_sinks[0].any()

    def inflate(tensor, hook):  # type: ignore[no-untyped-def]
        tensor[:, 4:6] *= 1000
        return tensor

    with model.hooks(fwd_hooks=[("blocks.0.hook_out", inflate)]):
        ((seen, _),) = look(model, [sample], [[Neuron.parse("L0N0")]])
    batch = model.prepare([data[0].load_images()], ["Hi"], ["A dog."])
    expected = np.zeros(batch.kinds.shape[1], bool)
    expected[[0, 4, 5]] = True
    visual = (batch.kinds[0] == vn.TokenKind.VISUAL).numpy()
    assert (seen.token_sinks == expected[~visual]).all()
    assert (seen.patch_sinks[0].ravel() == expected[visual]).all()


def test_a_digest_changes_with_everything_that_a_score_depends_on() -> None:
    rng = seeds.rng()
    images, patches, values = [tiny.image(rng=rng)], [rng.random((4, 4))], [rng.random(3)]
    one = vn.Evidence.from_arrays("p", images=images, patch_acts=patches, tokens=[["a", " b", " c"]], token_acts=values)
    (e,) = one.exemplars
    others = [
        replace(e.seen, kinds=e.seen.kinds[::-1] + 1), replace(e.seen, token_sinks=~e.seen.token_sinks),
        replace(e.seen, patch_sinks=(~e.seen.patch_sinks[0],)), replace(e.seen, boxes=(e.seen.boxes[0] + 1,)),
        replace(e.seen, places=(2,)), replace(e.seen, source="elsewhere"),
        replace(e.seen, truth={("color", "red"): np.ones((4, 4))}), replace(e.seen, tokens=("a", " b", " d")),
    ]  # fmt: skip
    digests = {replace(one, exemplars=(replace(e, seen=seen),)).digest for seen in others}
    digests |= {replace(one, exemplars=(replace(e, patch_acts=(e.patch_acts[0].reshape(2, 8),)),)).digest, one.digest}
    assert len(digests) == 10 and one.digest == replace(one, exemplars=(replace(e),)).digest


def test_sinks_are_marked_whichever_hooks_are_looked_at(
    made: tuple[vn.HookedVLM, vn.ImageTextData, vn.Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data, _ = made
    last = f"blocks.{model.n_layers - 1}.hook_in"
    run = vn.scan(model, data, site=["gate", last], top_n=4, batch_size=5, out=tmp_path / "run", progress=False)
    monkeypatch.setattr(activations, "SINK", 1.0)  # half of all positions
    names = ["L0N3", f"{last}:2", f"{last}:1"]
    alone, together = (
        vn.gather_evidence(model, data, run, which, n_top=3, n_spare=0, progress=False) for which in (names[:1], names)
    )
    for one, other in zip(alone["L0N3"].exemplars, together["L0N3"].exemplars, strict=True):
        assert one.seen.token_sinks.sum() > 1 or any(s.any() for s in one.seen.patch_sinks)
        np.testing.assert_array_equal(one.seen.token_sinks, other.seen.token_sinks)
        np.testing.assert_array_equal(one.seen.patch_sinks, other.seen.patch_sinks)


def arrays(n: int = 8, **options: object) -> vn.Evidence:
    rng = seeds.rng()
    given = {"images": [tiny.image(rng=rng) for _ in range(n)], "patch_acts": [rng.random((2, 2)) for _ in range(n)],
             "tokens": [[" a", " b"]] * n, "token_acts": [rng.random(2) for _ in range(n)]}  # fmt: skip
    return vn.Evidence.from_arrays("x", **{**given, **options})  # type: ignore[arg-type]


def test_samples_that_share_an_image_are_told() -> None:
    same = tiny.image(rng=seeds.rng())
    with pytest.warns(UserWarning, match="x: 7 of 8 samples repeat the image of another"):
        assert len(arrays(images=[same] * 8).exemplars) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(arrays().exemplars) == 8


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"peak": float("nan")}, "peak=nan"), ({"peak": float("inf")}, "peak=inf"), ({"peak": -1.0}, "peak=-1"),
        ({"n_top": -1}, "n_top=-1"), ({"tokens": [[1, 2]] * 8}, "token 1.*decode"),
        ({"tokens": [["\ud800", "b"]] * 8}, "half of a character"),
        ({"patch_acts": [NOTHING] * 8, "token_acts": [NOTHING[0]] * 8}, "every activation is NaN"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_arrays_that_mean_nothing_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"x.*{message}|{message}"):
        arrays(**wrong)


def test_a_negative_number_of_samples_is_refused(made: tuple[vn.HookedVLM, vn.ImageTextData, vn.Run]) -> None:
    for wrong in ({"n_top": -1}, {"n_top": 0}, {"n_spare": -1}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}=.*whole number"):
            vn.gather_evidence(*made, "L0N3", progress=False, **wrong)


@pytest.mark.parametrize("n", [3, 32])
def test_data_of_another_length_than_the_scans_is_refused_by_its_length(
    n: int, made: tuple[vn.HookedVLM, vn.ImageTextData, vn.Run]
) -> None:
    model, data, run = made
    other = vn.ImageTextData.from_samples([data[0]] * n)
    with pytest.raises(ValueError, match=f"data= has {n} samples, .* was made with 31"):
        vn.gather_evidence(model, other, run, "L0N3", progress=False)


def test_truth_is_what_the_data_set_knows_and_not_what_a_source_is_called(tmp_path: Path) -> None:
    white = Image.new("RGB", (64, 64), "white")
    one = vn.Evidence.from_arrays(
        "x", images=[white], patch_acts=[np.ones((8, 8))], source={"data": "scenes:n=1,seed=0"}
    )
    seen = one.exemplars[0].seen
    assert seen.truth is None and visual_bank(seen) is pixel_bank(seen)  # it was "pink cross"
    model, data = vn.HookedVLM.from_pretrained("tiny-llava-scenes"), vn.scenes(4, seed=0)
    other = vn.ImageTextData.from_samples([data[i] for i in (3, 2, 1, 0)])  # known wherever the sample goes
    run = vn.scan(model, other, top_n=2, out=tmp_path, progress=False)
    vn.gather_evidence(model, other, run, "L2N304", n_top=2, out=run, progress=False)
    for e in load(run.path)["L2N304"].exemplars:
        (maps,) = visual_bank(e.seen)
        for kind, word in (("color", "pink"), ("shape", "cross"), ("object", None)):
            expected = data.concept(kind, word)[3 - e.seen.sample]
            np.testing.assert_array_equal(maps[Concept(kind, word or "")], expected)


SIGNS = {
    "blank": lambda i, w: [f" {w}" if i else w],
    "SentencePiece": lambda i, w: [f"▁{w}"],
    "bytes": lambda i, w: [f"Ġ{w}" if i else w],
    "WordPiece": lambda i, w: [w[:2], f"##{w[2:]}"] if w == "comet" else [w],
    "words": lambda i, w: [w],
}  # fmt: skip


@pytest.mark.parametrize("convention", SIGNS)
def test_words_are_told_apart_in_the_tokens_of_any_convention(convention: str) -> None:
    rng = seeds.rng()
    texts = [rng.choice(["the", "comet", "eats", "old", "bread", "here"], 6).tolist() for _ in range(60)]
    cut = [[(token, word) for i, word in enumerate(t) for token in SIGNS[convention](i, word)] for t in texts]
    tokens = [[token for token, _ in pairs] for pairs in cut]
    values = [np.array([float(word == "comet") for _, word in pairs]) for pairs in cut]
    words = True if convention == "words" else None
    one = vn.Evidence.from_arrays("x", tokens=tokens, token_acts=values, words=words)
    told = {" ".join(t) for t in texts}
    assert {"".join(e.seen.tokens).strip() for e in one.exemplars} <= told
    assert vn.explain({"x": one}, "dissection", progress=False)["x"].text.split(";")[0] == "the word 'comet'"


def test_tokens_without_a_sign_of_where_words_begin_are_asked_about() -> None:
    given = {"tokens": [["air", "plane", "."]], "token_acts": [np.arange(3.0)]}
    with pytest.raises(ValueError, match=r"x: tokens 'air', 'plane'.* pass words=True .*words=False"):
        vn.Evidence.from_arrays("x", **given)
    for words, text in ((True, "air plane ."), (False, "airplane.")):
        one = vn.Evidence.from_arrays("x", words=words, **given)
        assert "".join(one.exemplars[0].seen.tokens) == text


def test_bytes_of_other_letters_are_decoded_and_special_tokens_stay() -> None:
    tokens = [["<s>", "ĠcafÃ©", "Ċ", "中"]]
    one = vn.Evidence.from_arrays("x", tokens=tokens, token_acts=[np.arange(4.0)])
    assert one.exemplars[0].seen.tokens == ("<s>", " café", "\n", "中") and one.exemplars[0].seen.token_sinks[0]


def test_evidence_of_rows_of_a_table_has_their_labels_and_is_written_only_where_told(
    made: tuple[vn.HookedVLM, vn.ImageTextData, vn.Run], tmp_path: Path
) -> None:
    model, data, run = made
    rows = pd.DataFrame({"neuron": NEURONS[:2], "label": ["visual", "text"], "layer": [0, 1]})
    before = sorted(p.name for p in run.path.rglob("*"))
    found = vn.gather_evidence(model, data, run, rows, n_top=2, n_spare=0, progress=False)
    assert {n: e.label for n, e in found.items()} == {"L0N3": "visual", "L1N7": "text"}
    assert sorted(p.name for p in run.path.rglob("*")) == before
    vn.gather_evidence(model, data, run, rows[:1], n_top=2, n_spare=0, out=tmp_path, progress=False)
    assert load(tmp_path)["L0N3"].label == "visual"
    with pytest.raises(ValueError, match="neurons= is DataFrame without label"):
        vn.gather_evidence(model, data, run, rows[["neuron"]], progress=False)


def test_peaks_of_many_exemplars_are_those_of_each(made: tuple[vn.HookedVLM, vn.ImageTextData, vn.Run]) -> None:
    evidence = vn.gather_evidence(*made, ["L0N3"], n_top=8, n_spare=6, progress=False)
    exemplars = [*evidence["L0N3"].exemplars]  # some with two images, one with none
    blind = replace(exemplars[0], patch_acts=tuple(np.full_like(p, np.nan) for p in exemplars[0].patch_acts))
    silent = replace(blind, token_acts=np.full_like(blind.token_acts, np.nan))
    several = [silent, *exemplars[:3], blind, *exemplars[3:], silent]
    assert peaks_of(several).tolist() == [e.peak for e in several] and peaks_of([silent]).tolist() == [-np.inf]
    assert peaks_of([]).tolist() == []


def test_of_no_neurons_there_is_no_evidence(made: tuple[vn.HookedVLM, vn.ImageTextData, vn.Run]) -> None:
    made[2].save(vn.classify(made[2]))
    assert vn.gather_evidence(*made, [], progress=False) == {}
    again = pickle.loads(pickle.dumps(made[2]))  # noqa: S301 - our own, as to another process
    assert again.identity == made[2].identity
