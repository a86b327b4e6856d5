"""Directions of the residual stream are units like neurons: scanned, classified, looked at and edited."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import brute_force as brute
import numpy as np
import pytest
import seeds
import tiny
import torch
from torch import Tensor

import vlm_neurons as vn
from vlm_neurons import sites
from vlm_neurons.hooks import ablate, patch, record, scale
from vlm_neurons.tokens import MODALITIES, TokenKind

HOOK = "blocks.1.hook_resid_post"
D = 32


@cache
def model() -> vn.HookedVLM:
    tok = tiny.tokenizer()
    return vn.HookedVLM(tiny.llava(tok), tiny.processor(tok))


@cache
def data() -> vn.ImageTextData:
    words = ["A", "dog", "is", "in", "the", "red", "picture", "with", "two", "blue", "cats", "and", "a", "train"]
    return vn.ImageTextData.from_samples(
        [{"image": tiny.image(), "response": " ".join(words[i:]) + f" {i}.", "prompt": "Hi"} for i in range(9)]
    )


def batch_of(ids: range) -> vn.Batch:
    samples = [data()[i] for i in ids]
    return model().prepare([s.load_images() for s in samples], ["Hi"] * len(ids), [s.response for s in samples])


@pytest.fixture
def probe() -> Iterator[sites.Directions]:
    rng = seeds.rng()
    vectors = {name: rng.normal(size=D).astype(np.float32) for name in ("red", "left", "two")}
    yield sites.register(sites.Directions(vectors, hook=HOOK, name="probe"))  # type: ignore[misc]
    sites.forget("probe")


def held(batch: vn.Batch, hook: str = HOOK) -> Tensor:
    return model().run_with_cache(batch, names_filter=hook)[1][hook]


def with_residual(batch: vn.Batch, new: Tensor) -> Tensor:
    return model().run_with_hooks(batch, fwd_hooks=[(HOOK, lambda tensor, hook: new)])


def test_values_and_labels_equal_brute_force(probe: sites.Directions, tmp_path: Any) -> None:
    run = vn.scan(model(), data(), ["gate", probe], 4, 3, 2, batch_size=3, out=tmp_path, progress=False)
    assert run.info["model"]["forward"] == "transformers, fused attention"
    table = vn.classify(run, n_visual=3).set_index("neuron")
    values: dict[int, tuple[Tensor, list[int]]] = {}
    for start in (0, 3, 6):
        batch = batch_of(range(start, start + 3))
        seen: dict[str, Tensor] = {}
        model().observe(batch, {HOOK: lambda t, seen=seen: seen.__setitem__(HOOK, t.clone())}, fast=True)
        for row in range(3):
            real = batch.attention_mask[row].bool()
            values[start + row] = seen[HOOK][row][real] @ probe.vectors.T, batch.kinds[row][real].tolist()
    for j, name in enumerate(("red", "left", "two")):
        for pole, sign in (("", 1), ("-", -1)):
            recordings = [brute.Recording(i, (sign * v[:, j]).tolist(), k) for i, (v, k) in values.items()]
            row = table.loc[f"probe:{name}{pole}"]
            assert row["peak"] == pytest.approx(brute.peak(recordings, brute.VISUAL, brute.TEXT), rel=1e-5)
            shares = brute.classify(recordings, 4, 2.0, 3, 3.0, 2)
            assert [row[f"p_{one}"] for one in MODALITIES] == list(shares.values())
            best = brute.top(recordings, 4)
            assert run.top("probe:L1", pole or "+").sample_ids[j].tolist() == [r.id for r in best]


def test_planted_directions_get_their_class_and_random_ones_do_not_all(tmp_path: Any) -> None:
    """Directions that are exactly 'is a patch' and 'is a word' of the response, by least squares over all tokens."""
    own, scenes = vn.HookedVLM.from_pretrained("tiny-llava-scenes", device="cpu"), vn.scenes(24, seed=3)
    hook = "blocks.2.hook_resid_post"
    batch = own.prepare([s.load_images() for s in scenes], [s.prompt for s in scenes], [s.response for s in scenes])
    real = batch.attention_mask.bool()
    x, kinds = own.run_with_cache(batch, names_filter=hook)[1][hook][real], batch.kinds[real]
    planted = {
        name: torch.linalg.lstsq(x, (kinds == kind).float()[:, None]).solution[:, 0]
        for name, kind in (("patch", TokenKind.VISUAL), ("word", TokenKind.TEXT))
    }
    drawn = {f"random{i}": seeds.rng().normal(size=x.shape[1]) for i in range(40)}
    try:
        run = vn.scan(
            own, scenes, sites.Directions(planted | drawn, hook, "d"), 12, batch_size=12, out=tmp_path, progress=False
        )
        label = vn.classify(run).set_index("neuron").label
    finally:
        sites.forget("d")
    assert (label["d:patch"], label["d:word"]) == ("visual", "text")
    random = label[[f"d:random{i}" for i in range(40)]]
    assert (random == "multimodal").mean() > 0.3 and not (random == "visual").all()


@torch.no_grad()
def test_edits_move_along_the_direction_and_no_further(probe: sites.Directions) -> None:
    batch = batch_of(range(3))
    x, v = held(batch), probe.vectors[0]
    unit = v / v.dot(v)
    old = (x @ v)[..., None]
    expected = {
        "ablate": (ablate("probe:red", to=2.0), x + (2 - old) * unit),
        "negative": (ablate("probe:red-", to=2.0), x + (-2 - old) * unit),
        "scale": (scale("probe:red", by=3.0), x + 2 * old * unit),
    }
    source = {"probe:red": torch.rand(x.shape[:2])}
    visual = batch.mask("visual")[..., None]
    patched = torch.where(visual, x + (source["probe:red"][..., None] - old) * unit, x)
    expected["patch"] = patch("probe:red", source, where="visual"), patched
    for name, (pairs, new) in expected.items():
        found = model().run_with_hooks(batch, fwd_hooks=pairs)
        torch.testing.assert_close(found, with_residual(batch, new), rtol=1e-5, atol=1e-5, msg=name)


@torch.no_grad()
def test_several_directions_get_all_their_values_and_unchanged_ones_change_nothing(probe: sites.Directions) -> None:
    batch, seen = batch_of(range(3)), dict[str, Tensor]()
    ids = ["probe:red", "probe:left-", "probe:two"]
    model().run_with_hooks(batch, fwd_hooks=ablate(ids, to=torch.tensor([1.0, 2.0, -3.0])) + record(ids, seen))
    for one, value in zip(ids, (1.0, 2.0, -3.0), strict=True):
        torch.testing.assert_close(seen[one], torch.full_like(seen[one], value), rtol=0, atol=1e-4)
    assert torch.equal(model().run_with_hooks(batch, fwd_hooks=scale(ids, by=1.0)), model()(batch))


def test_evidence_and_readout_are_of_the_direction(probe: sites.Directions, tmp_path: Any) -> None:
    run = vn.scan(model(), data(), probe, 4, batch_size=3, out=tmp_path, progress=False)
    found = vn.gather_evidence(model(), data(), run, "probe:left-", n_top=3, n_spare=2, progress=False)["probe:left-"]
    for exemplar in found.exemplars:
        batch = batch_of(range(exemplar.seen.sample, exemplar.seen.sample + 1))
        expected = -(held(batch) @ probe.vectors[1])[0]
        visual = batch.mask("visual")[0]
        np.testing.assert_allclose(exemplar.patch_acts[0].ravel(), expected[visual].numpy(), rtol=1e-3, atol=1e-3)
    words = vn.interventions.logit_lens(model(), "probe:left", k=2)
    assert words.neuron.tolist() == ["probe:left"] and len(words.raises[0]) == 2


def test_a_run_is_read_without_its_directions_and_goes_on_only_with_them(
    probe: sites.Directions, tmp_path: Any
) -> None:
    run = vn.scan(model(), data(), probe, 4, batch_size=3, out=tmp_path, progress=False)
    assert sites.parse("probe:L1F1") == sites.parse("probe:left")
    sites.forget("probe")
    try:
        assert vn.classify(vn.Run.load(run.path)).neuron.tolist()[:2] == ["probe:L1F0", "probe:L1F1"]
        other = sites.Directions(dict(zip("abc", probe.vectors * 2, strict=True)), HOOK, "probe")
        with pytest.raises(ValueError, match=r"sites\.probe"):
            vn.scan(model(), data(), other, 4, batch_size=3, out=tmp_path, progress=False)
    finally:
        vn.sites.forget("probe")
        sites.register(probe)


def test_bfloat16_is_computed_in_float32() -> None:
    probe = sites.Directions({"a": torch.randn(D)}, HOOK, "half")
    x = torch.randn(2, 3, D).bfloat16()
    values, _ = probe.read({HOOK: x})
    assert torch.equal(values, x.float() @ probe.vectors.T)
    assert torch.equal(probe.edit({HOOK: x}, None, values)[HOOK], x)
    assert probe.edit({HOOK: x}, None, values + 1)[HOOK].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ({}, "holds no direction"),
        ({"a:b": torch.ones(D)}, "cannot be called 'a:b'"),
        ({"a": torch.ones(D), "b": torch.ones(D + 1)}, r"b is \(33,\)"),
        ({"a": torch.zeros(D)}, "a is 0 everywhere"),
        ({"a": torch.full((D,), float("nan"))}, "a has 32 of 32 numbers that are not finite"),
    ],
)
def test_what_is_no_direction_is_refused(vectors: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sites.Directions(vectors, HOOK, "bad")


def test_a_wrong_width_a_wrong_hook_and_an_unknown_name_are_named(tmp_path: Any) -> None:
    given = {"out": tmp_path, "progress": False}
    try:
        with pytest.raises(ValueError, match=r"wide is made for vectors of 33 numbers, .*hook_map"):
            vn.scan(model(), data(), sites.Directions({"a": torch.ones(33)}, HOOK, "wide"), **given)
        with pytest.raises(ValueError, match=r"site 'far': .* has no hook 'blocks.9.hook_resid_post'"):
            vn.scan(model(), data(), sites.Directions({"a": torch.ones(D)}, "blocks.9.hook_resid_post", "far"), **given)
        with pytest.raises(ValueError, match=r"wide has no such direction; it has a"):
            ablate("wide:b")
        with pytest.raises(ValueError, match=r"wide is at blocks.1.hook_resid_post; write wide:L1F0"):
            ablate("wide:L0F0")
    finally:
        sites.forget("wide")
        sites.forget("far")
