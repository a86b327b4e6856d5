"""Units that are not defined everywhere, and that are read from two hooks: left out of scans and evidence, recorded as
NaN, left alone by edits. What they are where they are not defined is NaN here, so that whoever reads it shows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from torch import Tensor

import vlm_neurons as vn
from vlm_neurons import sites
from vlm_neurons.evidence import load
from vlm_neurons.hooks import ablate, patch, record, scale
from vlm_neurons.hooks.editing import edits
from vlm_neurons.hooks.selecting import targets
from vlm_neurons.interventions.effects import activation_sizes

IN, POST = "blocks.1.hook_in", "blocks.1.mlp.hook_post"
N, NEVER = 44, 43
IDS = [f"half:L1F{i}" for i in range(N)]


@dataclass(frozen=True)
class Halves(sites.Site):
    """An MLP as two experts: the first half of the neurons takes tokens whose residual stream starts with a positive
    number, the second half the others, and the last neuron none."""

    name: str = "half"
    signed: bool = True
    indexed_by: sites.protocol.IndexedBy = "row"

    def layers(self, points: Iterable[str]) -> list[int]:
        return [i for i in range(9) if f"blocks.{i}.mlp.hook_post" in points]

    def hooks(self, layers: Sequence[int]) -> list[str]:
        return [hook for i in layers for hook in (f"blocks.{i}.hook_in", f"blocks.{i}.mlp.hook_post")]

    def read(self, tensors: Any) -> tuple[Tensor, Tensor]:
        residual, post = tensors.values()
        defined = defined_by(residual)
        return post.masked_fill(~defined, torch.nan), defined

    def edit(self, tensors: Any, units: Tensor | None, values: Tensor) -> dict[str, Tensor]:
        _, (hook, post) = tensors.items()
        new = post.clone()
        new[..., slice(None) if units is None else units] = values
        return {hook: torch.where(new.isnan(), post, new)}  # NaN, as was read: no change

    def fingerprint(self) -> str:
        return "halves"


def defined_by(residual: Tensor) -> Tensor:
    first = residual[..., :1] > 0
    half = first.new_zeros(N)
    half[: N // 2] = True
    defined = first == half
    defined[..., NEVER] = False
    return defined


@pytest.fixture(scope="module", autouse=True)
def site() -> Iterator[sites.Site]:
    yield sites.register(Halves())
    sites.forget("half")


@pytest.fixture(scope="module")
def model() -> vn.HookedVLM:
    tok = tiny.tokenizer()
    return vn.HookedVLM(tiny.llava(tok), tiny.processor(tok))


@pytest.fixture
def batch(model: vn.HookedVLM) -> vn.Batch:
    images = [[tiny.image(), tiny.image()], tiny.image(), None]
    return model.prepare(images, tiny.PROMPTS[:3], tiny.RESPONSES[:3])


@pytest.fixture(scope="module")
def data() -> vn.ImageTextData:
    words = ["A", "dog", "is", "in", "the", "red", "picture", "with", "two", "blue", "cats", "and", "a", "train"]
    return vn.ImageTextData.from_samples(
        [{"image": tiny.image(), "response": " ".join(words[i:]) + f" {i}.", "prompt": "Hi"} for i in range(8)]
    )


def read(model: vn.HookedVLM, batch: vn.Batch) -> tuple[Tensor, Tensor]:
    cache = model.run_with_cache(batch, names_filter=[IN, POST])[1]
    return cache[POST], defined_by(cache[IN])


def edited(model: vn.HookedVLM, batch: vn.Batch, new: Tensor) -> Tensor:
    return model.run_with_hooks(batch, fwd_hooks=[(POST, lambda tensor, hook: new)])


@torch.no_grad()
def test_it_is_recorded_as_absent(model: vn.HookedVLM, batch: vn.Batch) -> None:
    values, defined = read(model, batch)
    expected = torch.where(defined, values, torch.nan)
    seen: dict[str, Any] = {}
    model.run_with_hooks(batch, fwd_hooks=record(IDS, seen) + record("half:L1F3-", seen))
    assert torch.equal(torch.stack([seen[i] for i in IDS], -1).nan_to_num(9), expected.nan_to_num(9))
    assert torch.equal(seen["half:L1F3-"].nan_to_num(9), (-expected[..., 3]).nan_to_num(9))
    other = patch(IDS, seen | {i: seen[i].flip(0) for i in IDS})  # absent there, here it adds nothing then
    new = torch.where(defined, expected.flip(0).nan_to_num(0), values)
    assert torch.equal(model.run_with_hooks(batch, fwd_hooks=other), edited(model, batch, new))


@torch.no_grad()
def test_edits_leave_it_alone(model: vn.HookedVLM, batch: vn.Batch) -> None:
    values, defined = read(model, batch)
    mask = batch.mask("visual")[..., None] & defined
    for pairs, new in ((ablate(IDS, to=2.0), 2.0), (scale(IDS, by=3.0), values * 3)):
        assert torch.equal(
            model.run_with_hooks(batch, fwd_hooks=pairs),
            edited(model, batch, torch.where(defined, torch.as_tensor(new), values)),
        )
    source = {i: torch.rand(values.shape[:2]) for i in IDS}
    new = torch.where(mask, torch.stack(list(source.values()), -1), values)
    found = model.run_with_hooks(batch, fwd_hooks=patch(IDS, source, where="visual"))
    assert torch.equal(found, edited(model, batch, new))


@torch.no_grad()
def test_means_and_shuffles_are_of_the_positions_where_it_is_defined(model: vn.HookedVLM, batch: vn.Batch) -> None:
    values, defined = read(model, batch)
    kept: dict[str, Tensor] = {}
    for to in ("mean", "resample"):
        keep = record(POST, kept)
        model.run_with_hooks(batch, fwd_hooks=ablate(IDS, to=to, where="visual") + keep)
        visual = batch.mask("visual")
        assert torch.equal(kept[POST][~visual], values[~visual])
        assert torch.equal(kept[POST][~defined], values[~defined])
        for i in range(NEVER):
            here = visual & defined[..., i]
            old, new = values[here][:, i], kept[POST][here][:, i]
            if to == "mean":
                assert torch.allclose(new, old.mean().expand_as(new), atol=1e-6)
            else:
                assert torch.equal(new.sort().values, old.sort().values)
                others = range(N // 2) if i < N // 2 else range(N // 2, NEVER)
                together = {tuple(row) for row in values[here][:, list(others)].tolist()}
                assert {tuple(row) for row in kept[POST][here][:, list(others)].tolist()} <= together


@torch.no_grad()
def test_the_values_that_were_read_are_no_change(model: vn.HookedVLM, batch: vn.Batch) -> None:
    (whole,) = targets("half:L1", "test")
    assert whole.neurons is None
    pairs = edits(whole, lambda tensors: whole.edit(tensors, None, whole.read(tensors)[0]))
    assert torch.equal(model.run_with_hooks(batch, fwd_hooks=pairs), model(batch))


@torch.no_grad()
def test_patching_and_attribution_count_it_nowhere(model: vn.HookedVLM, batch: vn.Batch) -> None:
    other = model.prepare([[tiny.image(), tiny.image()], tiny.image(), None], tiny.PROMPTS[:3], tiny.RESPONSES[:3])
    values, defined = read(model, other)
    clean, there = read(model, batch)

    def metric(logits: Tensor) -> Tensor:
        return logits[:, -1, 3] - logits[:, -1, 7]

    given = {"corrupted": other, "clean": batch, "patching_metric": metric, "neurons": {"all": IDS, "never": IDS[-1:]}}
    found = vn.patch_neurons(model, **given).set_index("unit")
    new = torch.where(defined, torch.where(there, clean, 0), values)
    expected = metric(edited(model, other, new)) - metric(model(other))
    assert found.effect["all"] == pytest.approx(float(expected.mean()), rel=1e-4, abs=1e-4)
    guessed = vn.attribute_neurons(model, **given).set_index("unit")
    assert found.effect["never"] == pytest.approx(0, abs=1e-4)  # another batch, other last digits
    assert guessed.effect["never"] == 0 and np.isfinite(guessed.effect["all"])


@torch.no_grad()
def test_sizes_are_of_the_positions_where_it_is_defined(model: vn.HookedVLM, batch: vn.Batch) -> None:
    values, defined = read(model, batch)
    counted = defined & batch.attention_mask.bool()[..., None]
    expected = (torch.where(counted, values, 0).double().pow(2).sum((0, 1)) / counted.sum((0, 1)).clamp(min=1)).sqrt()
    found = activation_sizes(model, [batch], ["half:L1"])["half:L1"]
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5)


@pytest.fixture(scope="module")
def run(model: vn.HookedVLM, data: vn.ImageTextData, tmp_path_factory: Any) -> vn.Run:
    out = tmp_path_factory.mktemp("run")
    return vn.scan(model, data, site="half", top_n=8, batch_size=3, out=out, progress=False)


@pytest.mark.parametrize("pole", ["+", "-"])
@torch.no_grad()
def test_it_is_left_out_of_a_scan(model: vn.HookedVLM, data: vn.ImageTextData, run: vn.Run, pole: Any) -> None:
    best = run.top("half:L1", pole)
    scores = torch.full((len(data), N), -torch.inf)
    for i in range(len(data)):
        one = model.prepare([data[i].load_images()], ["Hi"], [data[i].response])
        values, defined = read(model, one)
        counted = defined & (one.mask("visual") | one.mask("text"))[..., None]
        values = -values if pole == "-" else values
        scores[i] = torch.where(counted, values, -torch.inf).amax((0, 1))
    expected = scores.sort(0, descending=True).values.T
    assert torch.allclose(best.scores, expected, rtol=1e-4, atol=1e-4)
    assert best.sample_ids[NEVER].tolist() == [-1] * 8 and (best.sample_ids[0] >= 0).any()


def test_what_is_never_defined_has_no_class(run: vn.Run) -> None:
    table = vn.classify(run).set_index("neuron")
    never = table.loc[f"half:L1F{NEVER}"]
    assert never["n_samples"] == 0 and never["label"] == "unknown" and table["label"].notna().all()
    test = vn.modality_test(run).set_index("neuron")
    assert pd.isna(test.loc[f"half:L1F{NEVER}", "modality_index"]) or test.loc[f"half:L1F{NEVER}", "label"] == "unknown"


@pytest.mark.parametrize("pole", ["+", "-"])
@torch.no_grad()
def test_the_means_of_a_modality_test_are_of_where_it_is_defined(
    model: vn.HookedVLM, data: vn.ImageTextData, run: vn.Run, pole: Any
) -> None:
    """In plain Python, one image at a time; an image where a unit is at no visual or no text token has no means."""
    sums, n = np.zeros((N, 2)), np.zeros(N, int)
    for i in range(len(data)):
        one = model.prepare([data[i].load_images()], ["Hi"], [data[i].response])
        values, defined = read(model, one)
        for unit in range(N):
            means = []
            for kind in ("visual", "text"):
                there = (one.mask(kind) & defined[..., unit])[0]
                positive = [max(-v if pole == "-" else v, 0) for v in values[0, there, unit].tolist()]
                means.append(np.mean(positive) if positive else np.nan)
            if not np.isnan(means).any():
                sums[unit] += means
                n[unit] += 1
    found = run.moments("half:L1", pole)
    np.testing.assert_allclose(found.sums[:, :2].numpy(), sums, rtol=1e-4, atol=1e-5)
    assert found.n_images.tolist() == n.tolist() and n[NEVER] == 0 and n.any()
    assert vn.modality_test(run).query("pole == @pole and layer == 1").n_images.tolist() == n.tolist()


@torch.no_grad()
def test_evidence_is_nan_there(model: vn.HookedVLM, data: vn.ImageTextData, run: vn.Run, tmp_path: Path) -> None:
    neuron, never = "half:L1F2-", f"half:L1F{NEVER}"
    vn.gather_evidence(model, data, run, [neuron, never], n_top=3, n_spare=2, out=tmp_path, progress=False)
    evidence = load(tmp_path / "evidence")
    for e in evidence[neuron].exemplars:
        one = model.prepare([data[e.seen.sample].load_images()], ["Hi"], [data[e.seen.sample].response])
        values, defined = read(model, one)
        expected = torch.where(defined, -values, torch.nan)[0, :, 2]
        np.testing.assert_allclose(
            e.patch_acts[0].ravel(), expected[one.mask("visual")[0]].numpy(), rtol=1e-4, atol=1e-4
        )
        np.testing.assert_allclose(e.token_acts, expected[~one.mask("visual")[0]].numpy(), rtol=1e-4, atol=1e-4)
    assert all(np.isnan(e.token_acts).all() for e in evidence[never].exemplars)


def test_a_run_goes_on_only_with_the_same_site(
    model: vn.HookedVLM, data: vn.ImageTextData, run: vn.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run.info["sites"] == {"half": "halves"}
    monkeypatch.setattr(Halves, "fingerprint", lambda self: "others")
    with pytest.raises(ValueError, match=r"sites.half: 'halves' .*'others'"):
        vn.scan(model, data, site="half", top_n=8, batch_size=3, out=run.path, progress=False)


@torch.no_grad()
def test_what_is_read_together_is_of_one_pass(model: vn.HookedVLM, batch: vn.Batch) -> None:
    """A pass that fails between the two hooks, and one inside them, leave the others as they were."""
    seen: dict[str, Any] = {}
    pairs = record(IDS[:3], seen)
    model.run_with_hooks(batch, fwd_hooks=pairs)
    expected, short = dict(seen), model.prepare([None], ["Hi"], ["A dog"])
    between = "blocks.1.attn.hook_in"

    def fail(tensor: Tensor, hook: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        model.run_with_hooks(short, fwd_hooks=[*pairs, (between, fail)])
    kept = pairs[0][1].__closure__
    assert kept is not None and not any(len(cell.cell_contents) for cell in kept if _is_weak(cell.cell_contents))
    tok = tiny.tokenizer()
    other = vn.HookedVLM(tiny.llava(tok), tiny.processor(tok))

    def inside(tensor: Tensor, hook: Any) -> None:
        other.run_with_hooks(short, fwd_hooks=pairs)

    model.run_with_hooks(batch, fwd_hooks=[*pairs, (between, inside)])
    assert all(torch.allclose(seen[key], expected[key], rtol=0, atol=0, equal_nan=True) for key in expected)


def _is_weak(thing: Any) -> bool:
    return isinstance(thing, WeakKeyDictionary)


def test_what_is_read_together_is_kept_nowhere_but_in_a_pass() -> None:
    """As on a bridge that no HookedVLM was made of, where nothing tells one pass from the next."""
    (_, first), _ = record(IDS[0], {})
    with pytest.raises(RuntimeError, match="this needs a bridge that is a HookedVLM's"):
        first(torch.zeros(1, 2, N))


def test_what_does_not_fire_in_this_order_is_refused(model: vn.HookedVLM, batch: vn.Batch) -> None:
    class Backwards(Halves):
        def hooks(self, layers: Sequence[int]) -> list[str]:
            return super().hooks(layers)[::-1]

    sites.forget("half")
    try:
        sites.register(Backwards())
        with pytest.raises(RuntimeError, match=r"\['blocks.1.mlp.hook_post'\] did not fire before 'blocks.1.hook_in'"):
            model.run_with_hooks(batch, fwd_hooks=record(IDS[0], {}))
    finally:
        sites.forget("half")
        sites.register(Halves())


def test_files_of_a_run_are_read_without_the_site(run: vn.Run) -> None:
    sites.forget("half")
    try:
        again = vn.Run.load(run.path)
        assert again.top("half:L1").scores.shape == (N, 8)
        assert vn.classify(again)["neuron"].iloc[0] == "half:L0F0"
    finally:
        sites.register(Halves())
