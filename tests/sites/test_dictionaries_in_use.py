"""Latents of dictionaries are units like neurons: scanned, classified, explained and edited."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import brute_force as brute
import pytest
import seeds
import tiny
import torch
from torch import Tensor, nn

import vlm_neurons as vn
from vlm_neurons import sites
from vlm_neurons.hooks import ablate, patch, record, scale
from vlm_neurons.sites.coder import Coder
from vlm_neurons.tokens import MODALITIES

HOOK, IN, OUT = "blocks.1.hook_resid_post", "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out"
D, N = 32, 50


class Mine(nn.Module):
    """A user's own module."""

    def __init__(self, d: int = D, n: int = N) -> None:
        super().__init__()
        self.W_dec = nn.Parameter(torch.randn(n, d) / d**0.5)
        self.bias = nn.Parameter(torch.randn(d) * 0.1)

    def encode(self, x: Tensor) -> Tensor:
        return ((x - self.bias) @ self.W_dec.T - 0.2).relu()

    def decode(self, z: Tensor) -> Tensor:
        return z @ self.W_dec + self.bias


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
def sae() -> Iterator[sites.SAE]:
    yield sites.register(sites.SAE.wrap(Mine(), HOOK, name="mine"))  # type: ignore[misc]
    sites.forget("mine")


def held(batch: vn.Batch, hook: str) -> Tensor:
    return model().run_with_cache(batch, names_filter=hook)[1][hook]


def replaced(batch: vn.Batch, hook_name: str, new: Tensor) -> Tensor:
    return model().run_with_hooks(batch, fwd_hooks=[(hook_name, lambda tensor, hook: new)])


def test_values_and_labels_equal_brute_force(sae: sites.SAE, tmp_path: Any) -> None:
    """Dense encode of everything, then the rule."""
    run = vn.scan(model(), data(), ["gate", sae], 4, 3, 2, batch_size=3, out=tmp_path, progress=False)
    assert run.info["model"]["forward"] == "transformers, fused attention"
    table = vn.classify(run, n_visual=3).set_index("neuron")
    values: dict[int, tuple[Tensor, list[int]]] = {}
    for start in (0, 3, 6):
        batch = batch_of(range(start, start + 3))
        seen: dict[str, Tensor] = {}
        model().observe(batch, {HOOK: lambda t, seen=seen: seen.__setitem__(HOOK, t.clone())}, fast=True)
        z = sae.codes.encode(seen[HOOK]).detach()  # of the whole batch: matrices of other shapes differ in last digits
        for row in range(3):
            real = batch.attention_mask[row].bool()
            values[start + row] = z[row][real], batch.kinds[row][real].tolist()
    for j in range(0, N, 3):
        recordings = [brute.Recording(i, v[:, j].tolist(), k) for i, (v, k) in values.items()]
        row, best = table.loc[f"mine:L1F{j}"], brute.top(recordings, 4)
        assert row["peak"] == brute.peak(recordings, brute.VISUAL, brute.TEXT)
        assert [row[f"p_{one}"] for one in MODALITIES] == list(brute.classify(recordings, 4, 2.0, 3, 3.0, 2).values())
        assert run.top("mine:L1").sample_ids[j].tolist() == [r.id for r in best]


@cache
def world() -> tuple[vn.HookedVLM, vn.ImageTextData]:
    return vn.HookedVLM.from_pretrained("tiny-llava-scenes", device="cpu"), vn.scenes(60, seed=3)


@cache
def planted() -> tuple[Coder, list[str]]:
    """A dictionary whose latents are exactly the colours of patches, and words of the response: least squares."""
    own, scenes = world()
    hook, xs, targets = "blocks.2.hook_resid_post", [], []
    names = ["red", "blue", "green", "cyan", "circle", "square"]
    for start in range(0, len(scenes), 20):
        some = [scenes[i] for i in range(start, start + 20)]
        batch = own.prepare([s.load_images() for s in some], [s.prompt for s in some], [s.response for s in some])
        x = own.run_with_cache(batch, names_filter=hook)[1][hook]
        wanted = torch.zeros(*x.shape[:2], len(names))
        for row in range(len(some)):
            tokens = batch.tokens(row)
            for j, name in enumerate(names):
                if j < 4:
                    shown = torch.tensor(scenes.concept("color", name)[start + row] > 0.5).flatten().float()
                    wanted[row, batch.mask("visual")[row], j] = shown
                else:
                    text = batch.mask("text")[row].tolist()
                    wanted[row, :, j] = torch.tensor(
                        [float(t and name in word) for t, word in zip(text, tokens, strict=False)]
                    )
        real = batch.attention_mask.bool()
        xs.append(x[real])
        targets.append(wanted[real])
    x, y = torch.cat(xs), torch.cat(targets)
    ones = torch.cat([x, torch.ones(len(x), 1)], 1)
    weights = torch.linalg.lstsq(ones, y).solution
    return Coder(weights[:-1], weights[-1] - 0.2, torch.linalg.pinv(weights[:-1]), torch.zeros(x.shape[1])), names


def test_a_planted_dictionary_gets_its_labels_explanations_and_scores_and_a_random_one_does_not(tmp_path: Any) -> None:
    (own, scenes), (coder, names) = world(), planted()
    hook = "blocks.2.hook_resid_post"
    drawn = seeds.rng().normal(size=(coder.d_in, 60)) * float(coder.W_enc.norm(dim=0).mean() / coder.d_in**0.5)
    w = torch.tensor(drawn, dtype=torch.float32)
    noise = Coder(w, torch.full((60,), -0.2), w.T.clone(), torch.zeros(coder.d_in))
    given = [sites.SAE(one, hook, name, hook) for one, name in ((coder, "planted"), (noise, "random"))]
    try:
        run = vn.scan(own, scenes, given, 8, batch_size=20, concepts=vn.concepts.Truth() + vn.concepts.Words(),
                      null_directions=0, out=tmp_path, progress=False)  # fmt: skip
        table = vn.classify(run, n_visual=2).set_index("neuron")  # small things cover two patches
        found = run.concepts(min_images=2).set_index(["neuron", "side"])
        ids = [f"{name}:L2F{j}" for name in ("planted", "random") for j in range(len(names))]
        evidence = vn.gather_evidence(own, scenes, run, ids, n_top=8, n_spare=8, n_pool=60, progress=False)
    finally:
        for one in given:
            sites.forget(one.name)
    labels = [table.label[f"planted:L2F{j}"] for j in range(len(names))]
    assert labels == ["visual"] * 4 + ["text"] * 2
    for j, name in enumerate(names):
        row = found.loc[(f"planted:L2F{j}", "picture" if j < 4 else "text")]
        assert name in row["concept"] and row["r"] > 0.7, (name, row["concept"], row["r"])
    of_random = found[found.index.get_level_values("neuron").str.startswith("random")]
    colours = of_random[of_random.concept.astype(str).str.startswith("color:")]
    assert not (colours.r > 0.7).any()
    assert (table[table.site == "random"].label == "multimodal").mean() > 0.1
    explanations = vn.explain(evidence, explainer="dissection", progress=False)
    said = [explanations[one].text for one in ids[: len(names)]]
    assert said == [f"{name} regions" for name in names[:4]] + [f"the word '{name}'" for name in names[4:]]
    scores = vn.score(explanations, evidence, simulator="concepts", n_permutations=999, progress=False)
    r = scores.groupby(scores.neuron.str.startswith("planted")).r
    assert r.min()[True] > 0.85 and r.median()[False] < 0.75


@torch.no_grad()
def test_edits_keep_the_error_term_and_equal_a_manual_edit(sae: sites.SAE) -> None:
    batch = batch_of(range(3))
    x = held(batch, HOOK)
    z, rows = sae.codes.encode(x), sae.codes.rows
    source = {f"mine:L1F{j}": torch.rand(x.shape[:2]) for j in (3, 8)}
    visual = batch.mask("visual")[..., None]
    new = torch.stack([*source.values()], -1)
    cases = {
        "ablate": (ablate("mine:L1F3", to=2.0), (2 - z[..., [3]]) @ rows[[3]]),
        "scale": (scale("mine:L1F3, mine:L1F8", by=3.0), 2 * z[..., [3, 8]] @ rows[[3, 8]]),
        "patch": (patch([*source], source, where="visual"), visual * ((new - z[..., [3, 8]]) @ rows[[3, 8]])),
        "whole": (ablate("mine:L1"), -z @ rows),
    }
    for name, (pairs, added) in cases.items():
        found = model().run_with_hooks(batch, fwd_hooks=pairs)
        torch.testing.assert_close(found, replaced(batch, HOOK, x + added), rtol=1e-5, atol=1e-5, msg=name)
    same = model().run_with_hooks(batch, fwd_hooks=scale("mine:L1", by=1.0))
    assert torch.equal(same, model()(batch))
    seen: dict[str, Tensor] = {}
    model().run_with_hooks(batch, fwd_hooks=record(["mine:L1F3", "mine:L1F8"], seen))
    assert torch.equal(torch.stack([*seen.values()], -1), z[..., [3, 8]])


@torch.no_grad()
def test_a_transcoder_reads_the_mlps_input_and_edits_its_output() -> None:
    coder = Coder(torch.randn(D, 20) / D**0.5, torch.zeros(20), torch.randn(20, D), torch.zeros(D))
    sites.register(sites.Transcoder(coder, IN, "tc", OUT))
    try:
        batch = batch_of(range(3))
        read, written = held(batch, IN), held(batch, OUT)
        new = written - coder.encode(read)[..., [4]] @ coder.W_dec[[4]]
        found = model().run_with_hooks(batch, fwd_hooks=ablate("tc:L1F4"))
        torch.testing.assert_close(found, replaced(batch, OUT, new), rtol=1e-5, atol=1e-5)
        shares = vn.interventions.direct_logit_attribution(model(), batch, ["tc:L1F4"], token=5)
        assert shares.shape == (3, 1) and bool(shares.isfinite().all())
    finally:
        sites.forget("tc")


def test_evidence_effects_and_attribution_take_latents(sae: sites.SAE, tmp_path: Any) -> None:
    run = vn.scan(model(), data(), sae, 4, batch_size=3, out=tmp_path, progress=False)
    found = vn.gather_evidence(model(), data(), run, "mine:L1F3", n_top=3, n_spare=2, progress=False)["mine:L1F3"]
    one = found.exemplars[0]
    batch = batch_of(range(one.seen.sample, one.seen.sample + 1))
    z = sae.codes.encode(held(batch, HOOK))[0, :, 3].detach()
    torch.testing.assert_close(
        torch.tensor(one.patch_acts[0]).ravel(), z[batch.mask("visual")[0]], rtol=1e-3, atol=1e-3
    )
    clean, corrupted = batch_of(range(1)), batch_of(range(1))
    corrupted.pixel_values.mul_(-1)

    def metric(logits: Tensor) -> Tensor:
        return logits[:, -1, 3] - logits[:, -1, 7]

    given = {
        "corrupted": corrupted,
        "clean": clean,
        "patching_metric": metric,
        "neurons": {"all": sae.ids("mine:L1", "+", N)},
    }
    patched, guessed = vn.patch_neurons(model(), **given), vn.attribute_neurons(model(), **given)
    assert patched.effect.abs().item() > 1e-4 and guessed.effect.isna().sum() == 0


def test_bfloat16_is_encoded_in_float32() -> None:
    sae = sites.SAE.wrap(Mine(), HOOK, name="half")
    x = torch.randn(2, 3, D).bfloat16()
    values, _ = sae.read({HOOK: x})
    assert torch.equal(values, sae.codes.encode(x.float()))
    assert torch.equal(sae.edit({HOOK: x}, None, values)[HOOK], x)


class Normalising(Mine):
    def encode(self, x: Tensor) -> Tensor:
        self.scale = x.norm(dim=-1, keepdim=True)
        return super().encode(x / self.scale)

    def decode(self, z: Tensor) -> Tensor:
        return super().decode(z) * self.scale


class OfBatch(Mine):
    def encode(self, x: Tensor) -> Tensor:
        z = super().encode(x)
        return z * (z >= z.flatten().topk(10).values[-1])


class Transposed(Mine):
    def decode(self, z: Tensor) -> Tensor:
        return z @ self.W_dec.flip(0)


class Pairs(Mine):
    def encode(self, x: Tensor) -> Any:
        return x.topk(3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Normalising, "decode is not z @ W_dec"),
        (Transposed, "decode is not z @ W_dec"),
        (OfBatch, "depends on the other vectors of the batch"),
        (Pairs, r"encode of \(4, 32\) gave a topk"),
    ],
)
def test_an_object_that_would_be_edited_wrongly_is_refused(given: type[Mine], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sites.SAE.wrap(given(), HOOK, name="s")


def test_an_object_that_is_no_dictionary_and_weights_that_are_not_finite_are_named() -> None:
    with pytest.raises(TypeError, match=r"a Linear has no encode, decode, W_dec: .*set its W_dec = weight\.T"):
        sites.SAE.wrap(nn.Linear(2, 2), HOOK, name="s")
    broken = Mine()
    with torch.no_grad():
        broken.W_dec[3, 1] = torch.nan
    with pytest.raises(ValueError, match=r"W_dec has 1 of 1600 numbers that are not finite, the first at \[3, 1\]"):
        sites.SAE.wrap(broken, HOOK, name="s")


def test_other_weights_are_another_site(sae: sites.SAE) -> None:
    assert sae.fingerprint() == sites.SAE.wrap(sae.codes.given, HOOK, name="mine").fingerprint()
    with pytest.raises(ValueError, match="another site is called 'mine'"):
        sites.register(sites.SAE.wrap(Mine(), HOOK, name="mine"))


def test_a_wrong_width_and_a_wrong_layer_are_named(tmp_path: Any) -> None:
    try:
        with pytest.raises(ValueError, match=r"wide is made for vectors of 33 numbers, .*hook_map"):
            vn.scan(model(), data(), sites.SAE.wrap(Mine(33), HOOK, name="wide"), out=tmp_path, progress=False)
        with pytest.raises(ValueError, match=r"wide is at blocks.1.hook_resid_post; write wide:L1F3"):
            ablate("wide:L0F3")
        with pytest.raises(IndexError, match=r"wide:L1F99"):
            sites.forget("wide")
            sites.register(sites.SAE.wrap(Mine(), HOOK, name="wide"))
            model().run_with_hooks(batch_of(range(1)), fwd_hooks=ablate("wide:L1F99"))
    finally:
        sites.forget("wide")
