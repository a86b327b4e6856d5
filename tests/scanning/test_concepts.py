"""r of every unit with every concept, from one pass, equals that of all activations kept: at every site, both poles, in
any batches, blocks and order, after an interruption, by several processes and after a merge."""

from __future__ import annotations

import shutil
from contextlib import suppress

import numpy as np
import pandas as pd
import pytest
import seeds
import tiny
import torch
from banks import Given, Means
from safetensors.torch import load_file, save_file
from scipy import stats
from sites.test_partly_defined import Halves

import vlm_neurons as vn
from vlm_neurons.models.reading import of_tokens, readers
from vlm_neurons.protocols import Concept, Maps
from vlm_neurons.scanning import merge
from vlm_neurons.scanning.concept_files import folds_of
from vlm_neurons.scanning.concept_moments import FoldSums
from vlm_neurons.scanning.concept_table import Summed
from vlm_neurons.scanning.nulls import random_units
from vlm_neurons.scanning.viewing import views_of
from vlm_neurons.sites.coder import Coder

RESIDUAL = "blocks.1.hook_resid_post"
SITES = ["gate", "post", "projector", "vision", RESIDUAL, Halves()]
N, FOLDS = 26, 4
SIDES = ("picture", "text")


class Offset(Means):
    """The same concepts far from 0."""

    name = "offset"

    def maps(self, view):
        picture, text = super().maps(view)
        return Maps(picture + 3000, text - 50)


@pytest.fixture(scope="module")
def model():
    processor = tiny.processor()
    hf = tiny.llava(processor.tokenizer, seed=5)
    down = hf.model.language_model.layers[1].mlp.down_proj
    down.bias = torch.nn.Parameter(torch.zeros(len(down.weight)))
    down.bias.data[3] = 3000.0  # one coordinate far from 0
    yield vn.HookedVLM(hf, processor)
    with suppress(ValueError):  # it is known from the first scan on that has it
        vn.sites.forget("half")


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(11)
    words = ["dogs", "are", "here", "red", "trees", "in", "a", "row", "of", "cats"]
    pictures = [tiny.image(30 + i, 36, rng) for i in range(N)]
    pictures[9] = pictures[2]  # the same picture, another response
    samples = []
    for i in range(N):
        images = [pictures[i], pictures[i - 1]] if i == 6 else None if i in (4, 15) else pictures[i]
        text = " ".join(rng.choice(words, rng.integers(2, 9)))
        samples.append({"image": images, "response": f"{text} {i}.", "name": f"sample {i}"})
    return vn.ImageTextData.from_samples(samples)


@pytest.fixture(scope="module")
def kept(model, data):
    return all_kept(model, data, SITES)


def all_kept(model, data, sites, fast=False):
    """Of every sample the maps of the bank, and the values of all units at its patches and response tokens."""
    places = [p for site in sites for p in places_of(model, site)]
    found = []
    for sample in data:
        batch = model.prepare([sample.load_images()], [sample.question(vn.data.DEFAULT_PROMPT)], [sample.response])
        view = views_of(batch, [sample], [data.image_digests[sample.id]])[0]
        acts = {}

        def keep(place, values, defined, batch=batch, acts=acts):
            values, defined, patch = of_tokens(model, batch, place, values, defined)
            flat = values[0].double()
            flat = flat if defined is None else flat.masked_fill(~defined[0], np.nan)
            if patch is not None:
                acts[place, "picture"] = flat.numpy(), patch.numpy()
                return
            index = batch.patch_index[0]
            acts[place, "picture"] = flat[index >= 0].numpy(), index[index >= 0].numpy()
            acts[place, "text"] = flat[batch.mask("text")[0]].numpy(), slice(None)

        read = [p for p in places if sample.images or not p.startswith(("vision", "projector"))]
        model.observe(batch, readers(read, keep), fast=fast)
        found.append((view, acts))
    return found


def places_of(model, site):
    chosen = vn.sites.named(site)
    return [chosen.place(layer) for layer in chosen.layers(model.hook_dict)]


def reference(kept, place, side, bank, samples):
    """r of each pair by its definition, over the places where both are known."""
    a, c = [], []
    for i in samples:
        view, acts = kept[i]
        if (place, side) in acts:
            values, where = acts[place, side]
            a.append(values)
            c.append(getattr(bank.maps(view), side)[where].astype(float))
    a, c = np.concatenate(a), np.concatenate(c)
    r = np.zeros((a.shape[1], c.shape[1]))
    for k in range(c.shape[1]):
        known = ~np.isnan(c[:, k])
        x = a[known]
        y = np.where(np.isnan(x), np.nan, c[known, k][:, None])
        x, y = (v - np.nansum(v, 0) / np.maximum((~np.isnan(v)).sum(0), 1) for v in (x, y))
        varies = (np.nanmax(abs(x), 0, initial=0) > 1e-9) & (np.nanmax(abs(y), 0, initial=0) > 1e-9)
        scale = np.sqrt(np.nansum(x * x, 0) * np.nansum(y * y, 0))
        r[varies, k] = (np.nansum(x * y, 0) / np.where(varies, scale, 1))[varies]
    return r


def scanned(model, data, out, **options):
    options = {"site": SITES, "concepts": Means(), "folds": FOLDS, "null_directions": 0, **options}
    return vn.scan(model, data, top_n=2, out=out, progress=False, **options)


def fold_sums(run, place, side, d=None):
    summed = Summed.of(run.path, run.identity, run.info, run.n_blocks)
    d = d or next(c["d"] for c in run.info["columns"] if c["hook"] == place)
    return FoldSums.of(summed.read(f"{place}/{side}/"), d, len(summed.concepts[side]))


def assert_equal_to_all_kept(run, kept, data, bank, least=4000):
    checked = 0
    home = folds_of(data.facts, FOLDS)
    for place in dict.fromkeys(c["hook"] for c in run.info["columns"]):
        for side in SIDES[: 1 if place.startswith(("vision", "projector")) else 2]:
            sums = fold_sums(run, place, side)
            for folds in (range(FOLDS), [0, 2]):
                samples = [i for i in range(N) if home[i] in folds]
                r = sums.over(folds).r()[0].numpy()
                np.testing.assert_allclose(r, reference(kept, place, side, bank, samples), atol=1e-5)
                checked += r.size
    assert checked > least


def test_every_site_equals_all_activations_kept(model, data, kept, tmp_path):
    run = scanned(model, data, tmp_path, batch_size=5)
    assert_equal_to_all_kept(run, kept, data, Means())


def test_a_model_in_bfloat16_has_the_r_of_its_own_activations(data, tmp_path):
    """Each sample alone: in bfloat16 the company of a sample changes its activations."""
    processor = tiny.processor()
    model = vn.HookedVLM(tiny.llava(processor.tokenizer, seed=6), processor).to(torch.bfloat16)
    sites = ["gate", "post", "projector", RESIDUAL]
    run = scanned(model, data, tmp_path, site=sites, batch_size=1)
    assert {c["dtype"] for c in run.info["columns"]} == {"bfloat16"}
    assert_equal_to_all_kept(run, all_kept(model, data, sites, fast=True), data, Means(), least=2000)


def test_concepts_and_units_far_from_0_are_as_exact(model, data, kept, tmp_path):
    run = scanned(model, data, tmp_path, batch_size=4, concepts=Offset(), site=["gate", RESIDUAL])
    means = np.concatenate([k[1][RESIDUAL, "picture"][0] for k in kept if (RESIDUAL, "picture") in k[1]])
    assert (abs(means.mean(0)) > 300 * means.std(0)).any()
    for side in SIDES:
        r = fold_sums(run, RESIDUAL, side).over(range(FOLDS)).r()[0].numpy()
        np.testing.assert_allclose(r, reference(kept, RESIDUAL, side, Offset(), range(N)), atol=1e-5)


@pytest.fixture(scope="module")
def few():
    """A dictionary of which some latents fire, few of them at a time, and most nowhere."""
    rng = seeds.rng()
    rows = torch.tensor(rng.normal(size=(300, 32)), dtype=torch.float32)
    rows = rows / rows.norm(dim=1, keepdim=True)
    coder = Coder(rows.T.contiguous(), torch.zeros(300), rows, torch.zeros(32), "jumprelu", torch.full((300,), 2.2),
                  norm="layer_norm")  # fmt: skip
    yield vn.sites.register(vn.sites.SAE(coder, "blocks.0.hook_resid_post", "few", "blocks.0.hook_resid_post"))
    vn.sites.forget("few")


@pytest.fixture(scope="module")
def kept_few(model, data, few):
    return all_kept(model, data, [few])


@pytest.fixture(scope="module")
def once_few(model, data, few, tmp_path_factory):
    return scanned(model, data, tmp_path_factory.mktemp("few") / "run", site=few, batch_size=8)


def test_latents_of_which_few_fire_equal_all_activations_kept_and_fired_ones_alone_have_sums(
    model, data, few, kept_few, once_few, tmp_path
):
    assert_equal_to_all_kept(once_few, kept_few, data, Means(), least=2000)
    blocks = scanned(model, data, tmp_path, site=few, batch_size=3, block_size=7)
    assert_equal_to_all_kept(blocks, kept_few, data, Means(), least=2000)
    assert_same_table(blocks, once_few)
    for run in (blocks, once_few):
        for fold in (run.path / "concepts").glob("fold*"):
            sums = load_file(fold)
            for side in SIDES:
                units = sums[f"few:L0/{side}/units"]
                assert 3 < len(units) < 200 and (units.diff() > 0).all()
                assert {len(sums[f"few:L0/{side}/{name}"]) for name in ("a", "aa", "ac")} == {1 + len(units)}


def test_latents_of_two_processes_change_nothing(model, data, few, once_few, tmp_path, monkeypatch):
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        scanned(model, data, tmp_path / rank, site=few, block_size=5, batch_size=2)
    assert_same_table(merge([tmp_path / "0", tmp_path / "1"], tmp_path / "both", data), once_few)


class Stops(Means):
    """Means that fail at one sample while they are asked to."""

    at: str | None = None

    def maps(self, view):
        if view.name == self.at:
            raise RuntimeError("stop")
        return super().maps(view)


@pytest.fixture(scope="module")
def once(model, data, tmp_path_factory):
    return scanned(model, data, tmp_path_factory.mktemp("once") / "run", site=["gate", "vision"], batch_size=8)


def assert_same_table(a, b):
    one, other = a.concepts(min_images=2), b.concepts(min_images=2)
    assert len(one) == len(other) and (one["r"] != 0).any()
    pd.testing.assert_frame_equal(one, other, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("batch_size", "block_size"), [(1, 1000), (5, 6), (3, 13)])
def test_batches_and_blocks_change_nothing(model, data, once, tmp_path, batch_size, block_size):
    run = scanned(model, data, tmp_path, site=["gate", "vision"], batch_size=batch_size, block_size=block_size)
    assert_same_table(run, once)
    assert len(list((tmp_path / "concepts").glob("fold*"))) == FOLDS  # one file a fold, nothing left over


def test_order_changes_nothing(model, data, once, tmp_path):
    order = seeds.rng().permutation(N)
    run = scanned(model, vn.ImageTextData.from_samples([data[int(i)] for i in order]), tmp_path,
                  site=["gate", "vision"], batch_size=4, block_size=9)  # fmt: skip
    assert_same_table(run, once)


def test_a_scan_that_was_stopped_goes_on(model, data, once, tmp_path):
    bank = Stops()
    options = {"site": ["gate", "vision"], "concepts": bank, "block_size": 6, "batch_size": 2}
    for bank.at in ("sample 8", "sample 14", "sample 14"):
        with pytest.raises(RuntimeError, match="stop"):
            scanned(model, data, tmp_path, **options)
    bank.at = None
    assert_same_table(scanned(model, data, tmp_path, **options), once)


def test_a_crash_between_a_block_and_its_sums_leaves_nothing_twice(model, data, once, tmp_path):
    bank = Stops()
    bank.at = "sample 14"
    options = {"site": ["gate", "vision"], "concepts": bank, "block_size": 6, "batch_size": 2}
    with pytest.raises(RuntimeError, match="stop"):
        scanned(model, data, tmp_path / "a", **options)
    old = {f.name: f.read_bytes() for f in (tmp_path / "a" / "concepts").iterdir()}
    bank.at = "sample 20"
    with pytest.raises(RuntimeError, match="stop"):
        scanned(model, data, tmp_path / "a", **options)
    for name, content in old.items():  # as if what was added up had not been removed
        (tmp_path / "a" / "concepts" / name).write_bytes(content)
    bank.at = None
    assert_same_table(scanned(model, data, tmp_path / "a", **options), once)


def test_processes_and_merged_runs_change_nothing(model, data, once, tmp_path, monkeypatch):
    options = {"site": ["gate", "vision"], "block_size": 5, "batch_size": 2}
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        together = scanned(model, data, tmp_path / "one", **options)
        apart = scanned(model, data, tmp_path / rank, **options)
        assert not apart.complete
    assert_same_table(together, once)
    assert_same_table(merge([tmp_path / "0", tmp_path / "1"], tmp_path / "both", data), once)
    shifts = tmp_path / "1" / "concepts" / "shifts.safetensors"
    other = {name: shift + 1 for name, shift in load_file(shifts).items()}
    for file in (tmp_path / "1" / "concepts").glob("fold*"):
        file.unlink()
    with pytest.raises(ValueError, match="lacks the sums of fold 0 in blocks"):
        merge([tmp_path / "0", tmp_path / "1"], tmp_path / "broken", data)
    save_file(other, shifts)
    with pytest.raises(ValueError, match="sums that were shifted differently cannot be added up"):
        merge([tmp_path / "0", tmp_path / "1"], tmp_path / "broken2", data)
    shifts.unlink()
    with pytest.raises(ValueError, match="is missing, without which"):
        merge([tmp_path / "0", tmp_path / "1"], tmp_path / "broken3", data)


def test_a_run_goes_on_with_the_shifts_that_it_was_begun_with(model, data, kept, tmp_path):
    bank, options = Stops(), {"site": [RESIDUAL], "block_size": 9, "batch_size": 3}
    bank.at = "sample 3"
    with pytest.raises(RuntimeError, match="stop"):
        scanned(model, data, tmp_path, concepts=bank, **options)
    bank.at, file = None, tmp_path / "concepts" / "shifts.safetensors"
    run, begun = vn.Run.load(tmp_path), load_file(file)
    assert begun[f"{RESIDUAL}/picture"][3] == pytest.approx(3000, abs=100)
    begun[f"{RESIDUAL}/picture"] = begun[f"{RESIDUAL}/picture"] + 0.25  # as another machine's first batch may have it
    save_file(begun, file, {"run": run.identity, "blocks": "[]"})
    run = scanned(model, data, tmp_path, concepts=bank, **options)
    assert torch.equal(load_file(file)[f"{RESIDUAL}/picture"], begun[f"{RESIDUAL}/picture"])
    sums, acts = fold_sums(run, RESIDUAL, "picture"), np.concatenate([k[1][RESIDUAL, "picture"][0] for k in kept])
    places = sums.over(range(FOLDS)).n[0, :, 0]
    shifted = acts.sum(0) - len(acts) * begun[f"{RESIDUAL}/picture"].double().numpy()
    assert (places == len(acts)).all()
    np.testing.assert_allclose(sums.over(range(FOLDS)).a[0, :, 0], shifted, atol=0.05)


def test_maps_made_by_workers_change_nothing(model, data, once, tmp_path):
    assert_same_table(scanned(model, data, tmp_path, site=["gate", "vision"], batch_size=8, workers=1), once)


def test_a_bank_that_is_a_model_is_asked_by_the_batch(model, data, once, tmp_path):
    asked: list[int] = []

    class Model(Means):
        on_device = True

        def maps(self, view):
            raise AssertionError("never")

        def maps_of_batch(self, views, device):
            asked.append(len(views))
            return [Means().maps(view) for view in views]

    assert_same_table(scanned(model, data, tmp_path, site=["gate", "vision"], concepts=Model(), batch_size=8), once)
    assert max(asked) > 1


def best_of(r, allowed):
    return int(np.where(allowed, r, -np.inf).argmax())


def held_out_interval(told, leave):
    """Of the mean of r of two concepts, one a half; `leave`: of each half the r with each of its folds left out."""
    z, variance = np.arctanh(sum(told) / 2), 0.0
    for half in (0, 1):
        each = np.arctanh((np.array(leave[half]) + told[1 - half]) / 2)
        variance += (len(each) - 1) / len(each) * ((each - each.mean()) ** 2).sum()
    wide = stats.t.ppf(0.975, FOLDS - 2) * np.sqrt(variance)
    return np.tanh(z - wide), np.tanh(z + wide)


def test_a_row_tells_the_concept_chosen_on_one_half_and_reported_on_the_other(model, data, kept, tmp_path):
    run = scanned(model, data, tmp_path, batch_size=5, site=["post"])
    table = run.concepts(min_images=2)
    place, home, bank = "blocks.1.mlp.hook_post", folds_of(data.facts, FOLDS), Means()

    def over(folds):
        return reference(kept, place, "picture", bank, [i for i in range(N) if home[i] in folds])

    halves, r_whole = ([0, 2], [1, 3]), over(range(FOLDS))
    r_half = [over(half) for half in halves]
    leave = [[over([f for f in half if f != out]) for out in half] for half in halves]
    r_fold = [over([f]) for f in range(FOLDS)]
    allowed = np.array([True, True, True, True])
    specific = allowed & np.array([not c.generic for c in bank.concepts("picture")])
    names = [c.name for c in bank.concepts("picture")]
    rows = table[(table["hook"] == place) & (table["side"] == "picture")].set_index(["index", "pole"])
    for (j, pole), row in rows.iterrows():
        sign = 1 if pole == "+" else -1
        whole = best_of(sign * r_whole[j], allowed)
        first, second = (best_of(sign * r[j], allowed) for r in r_half)
        assert row["concept"] == names[whole] and row["halves_agree"] == (first == second == whole)
        told = [sign * r_half[0][j, second], sign * r_half[1][j, first]]
        assert row["r"] == pytest.approx(sum(told) / 2, abs=2e-5)
        assert row["r_all"] == pytest.approx(sign * r_whole[j, whole], abs=2e-5)
        without = [[sign * r[j, k] for r in own] for own, k in zip(leave, (second, first), strict=True)]
        low, high = held_out_interval(told, without)
        assert (row["r_low"], row["r_high"]) == (pytest.approx(low, abs=1e-3), pytest.approx(high, abs=1e-3))
        assert row["specific"] == names[best_of(sign * r_whole[j], specific)]
        assert row["generic"] == "position:top" and row["n_folds"] == FOLDS
        assert row["folds_agree"] == sum(best_of(sign * r[j], allowed) == whole for r in r_fold)
    assert ((table["r_low"] <= table["r"]) & (table["r"] <= table["r_high"])).all()


def test_units_gone_through_a_few_at_a_time_are_told_the_same(once, monkeypatch):
    monkeypatch.setattr("vlm_neurons.scanning.concept_table.AT_ONCE", 7)
    fresh = vn.Run.load(once.path)
    pd.testing.assert_frame_equal(fresh.concepts(min_images=2), once.concepts(min_images=2), rtol=0, atol=1e-12)


def test_a_concept_is_not_chosen_below_min_images(once):
    few = once.concepts(min_images=1000)
    assert (few["concept"] == "").all() and set(few["side"]) == set(SIDES)
    text = once.concepts(min_images=3)
    text = text[text["side"] == "text"]
    assert set(text["concept"]) <= {"letter:e", "length:"} and (text["n_images"] <= N).all()


def few_pictures(n, with_picture):
    rng = np.random.default_rng(0)
    pictures = [tiny.image(30 + i, 36, rng) if i < with_picture else None for i in range(n)]
    return vn.ImageTextData.from_samples(
        [{"image": p, "response": f"red dogs are {i}.", "name": f"sample {i} a"} for i, p in enumerate(pictures)]
    )


def test_folds_without_pictures_are_left_out_of_what_pictures_say(model, tmp_path):
    data, place, bank = few_pictures(30, 7), "vision.1.mlp.hook_post", Means()
    run = scanned(model, data, tmp_path, site=["gate", "vision"], folds=8)
    table = run.concepts(min_images=1)
    seen, home = all_kept(model, data, ["vision"]), folds_of(data.facts, 8)
    there = sorted({home[i] for i in range(7)})
    assert 4 <= len(there) < 8
    halves = [reference(seen, place, "picture", bank, [i for i in range(7) if home[i] in there[h::2]]) for h in (0, 1)]
    rows = table[table["hook"] == place]
    assert (rows["n_folds"] == len(there)).all() and set(table[table["side"] == "text"]["n_folds"]) == {8}
    for j, row in enumerate(rows.itertuples()):
        first, second = (best_of(r[j], True) for r in halves)
        assert row.r == pytest.approx((halves[1][j, first] + halves[0][j, second]) / 2, abs=2e-5)


def test_too_few_folds_with_pictures_are_said(model, tmp_path):
    run = scanned(model, few_pictures(12, 1), tmp_path / "a", site="vision")
    with pytest.raises(ValueError, match="of 4 folds 1 with annotated pictures; 4 are needed"):
        run.concepts(min_images=1)
    run = scanned(model, few_pictures(12, 1), tmp_path / "b", site="gate")
    with pytest.warns(UserWarning, match="1 with annotated pictures, 4 with annotated responses"):
        assert set(run.concepts(min_images=1)["side"]) == {"text"}
    run = scanned(model, few_pictures(3, 3), tmp_path / "c", site="gate")
    with pytest.raises(ValueError, match="3 with annotated pictures, 3 with annotated responses"):
        run.concepts(min_images=1)


def test_a_table_without_one_concept_has_all_columns(once):
    empty, full = once.concepts(min_images=10_000), once.concepts(min_images=1)
    assert empty.columns.tolist() == full.columns.tolist() and len(empty) == len(full)
    assert (empty["concept"] == "").all() and empty["r"].isna().all() and (empty["n_folds"] == full["n_folds"]).all()


class Single(Means):
    """One concept a side."""

    def concepts(self, side):
        return super().concepts(side)[:1]

    def maps(self, view):
        return Maps(*(values[:, :1] for values in super().maps(view)))


def test_one_concept_alone_has_no_runner_up(model, data, tmp_path):
    table = scanned(model, data, tmp_path, site="gate", concepts=Single()).concepts(min_images=1)
    assert set(table["concept"]) == {"color:red", "length:"}
    assert (table["runner_up"] == "").all() and (table["runner_up_phrase"] == "").all()
    assert table["r_runner_up"].isna().all()


def test_random_units_read_what_the_layer_reads_and_p_is_the_share_above(model, data, kept, tmp_path):
    run = scanned(model, data, tmp_path, site=["gate", "post", "vision"], null_directions=30, batch_size=6)
    gate, post = "blocks.1.mlp.hook_act", "blocks.1.mlp.hook_post"
    for units in random_units(model, [gate, post], 30):
        weight = model.bridge.original_model.model.language_model.layers[1].mlp.gate_proj.weight
        assert set(units.gate.norm(dim=0).numpy().round(4)) <= set(weight.norm(dim=1).detach().numpy().round(4))
        seen = [(view, {}) for view, _ in kept]
        for sample, (_, acts) in zip(data, seen, strict=True):
            images, question = [sample.load_images()], [sample.question(vn.data.DEFAULT_PROMPT)]
            batch = model.prepare(images, question, [sample.response])

            def keep(x, batch=batch, acts=acts, units=units):
                value = torch.nn.functional.silu(x[0].double() @ units.gate.double())
                value = value if units.up is None else value * (x[0].double() @ units.up.double())
                index = batch.patch_index[0]
                acts["r", "picture"] = value[index >= 0].numpy(), index[index >= 0].numpy()
                acts["r", "text"] = value[batch.mask("text")[0]].numpy(), slice(None)

            model.observe(batch, {"blocks.1.mlp.hook_in": keep})
        r = fold_sums(run, units.place, "picture", 30).over(range(FOLDS)).r()[0].numpy()
        np.testing.assert_allclose(r, reference(seen, "r", "picture", Means(), range(N)), atol=1e-5)
    table = run.concepts(min_images=2)
    assert table[table["site"] == "vision"]["p_random"].isna().all()
    of_post = table[table["hook"] == post]
    assert (of_post["p_random"] * 31).round(4).isin(range(1, 32)).all()
    sums, (told,) = fold_sums(run, units.place, "picture", 30), [
        one for one in table.attrs["random"] if (one["site"], one["layer"]) == ("post", 1)
        and (one["side"], one["pole"]) == ("picture", "-")
    ]  # fmt: skip
    counts = dict.fromkeys((c.name for c in Means().concepts("picture")), 0)
    halves, whole = ([0, 2], [1, 3]), sums.over(range(FOLDS)).r()[0].numpy()
    half = [sums.over(folds).r()[0].numpy() for folds in halves]
    leave = [np.stack([sums.over([f]).r()[0].numpy() for f in folds[::-1]]) for folds in halves]  # of two folds
    for j in range(30):
        k = best_of(-whole[j], True)
        by = [best_of(-r[j], True) for r in half]  # chosen by each half, told on the other
        both = [-half[0][j, by[1]], -half[1][j, by[0]]]
        without = [-leave[h][:, j, by[1 - h]] for h in (0, 1)]
        counts[[*counts][k]] += bool(held_out_interval(both, without)[0] > 0)
    assert told["n"] == 30 and told["concepts"] == {name: n for name, n in counts.items() if n}
    for _, layer in of_post.groupby(["side", "pole"]):
        assert layer.sort_values("focus")["p_random"].is_monotonic_decreasing
    told = table["r_specific"] - table["r_generic"].fillna(0) + table["share_one"]
    assert np.allclose(table["focus"], told, equal_nan=True) and table["focus"].notna().any()


@pytest.mark.parametrize(
    ("bank", "message"),
    [
        ("pixels", "is no bank of concepts"),
        (Given(value=np.inf), "bank 'given', sample sample 0, picture: the map of 'given:given' is infinite"),
        (Given() + Given("b", 1j), "give real numbers"),
    ],
)
def test_a_bank_that_cannot_be_used_is_refused_at_the_start(model, data, tmp_path, bank, message):
    with pytest.raises(ValueError, match=message):
        scanned(model, data, tmp_path / "run", concepts=bank, site="gate")
    assert not (tmp_path / "run").exists()


class Odd(Means):
    def __init__(self, what):
        self.what, self.n = what, 0

    def concepts(self, side):
        if self.what == "empty":
            return ()
        if self.what == "many":
            return tuple(Concept("word", str(i)) for i in range(200_000))
        return super().concepts(side) * (1 + (self.what == "twice"))

    def maps(self, view):
        picture, text = super().maps(view)
        self.n += 1
        if self.what == "changes":
            return Maps(picture + self.n, text)
        return Maps(picture[1:], text) if self.what == "short" else Maps(picture, text)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("empty", "has no concepts"), ("many", "200,000 concepts of the picture"), ("twice", "twice"),
        ("changes", "gives other maps of sample"), ("short", r"a map of \(15, 4\); 16 patches x 4 concepts"),
    ],
)  # fmt: skip
def test_a_bank_that_is_wrong_is_named_before_hours_are_spent(model, data, tmp_path, what, message):
    with pytest.raises(ValueError, match=message):
        scanned(model, data, tmp_path / "run", concepts=Odd(what), site="gate")


def test_what_a_bank_says_of_the_model_is_printed_and_kept(model, data, tmp_path, capsys):
    class Remarks(Given):
        def remark(self, model):
            return f"the bank shares its eyes with {model.adapter.name}"

    for bank in (Remarks("a") + Given("b"), Given()):
        run = vn.scan(model, data, site="gate", top_n=2, out=tmp_path / bank.name, concepts=bank, null_directions=0)
        told = capsys.readouterr().err
        assert ("shares its eyes with llava" in told) == (bank.name == "a+b")
        assert run.info["concepts"].get("remark", "") == bank.remark(model)


def test_sums_that_do_not_fit_are_refused_before_anything_is_there(model, data, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("vlm_neurons.scanning.engine.free_memory", lambda device: 10_000)
        with pytest.raises(ValueError, match=r"sums of .* GiB are free: scan fewer sites"):
            scanned(model, data, tmp_path / "run", site="gate")
    assert not (tmp_path / "run").exists()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=60_000))
    scanned(model, data, tmp_path / "without", site="gate", concepts=None)
    with pytest.raises(OSError, match=r"need .* MiB, 0.1 MiB are free"):
        scanned(model, data, tmp_path / "run", site="gate")


def test_a_run_goes_on_only_with_the_same_concepts(model, data, once):
    with pytest.raises(ValueError, match=r"parameters.concepts: 'means' there, 'offset' here"):
        scanned(model, data, once.path, site=["gate", "vision"], batch_size=8, concepts=Offset())
    with pytest.raises(ValueError, match=r"parameters.folds: 4 there, 5 here"):
        scanned(model, data, once.path, site=["gate", "vision"], batch_size=8, folds=5)


def test_a_run_without_concepts_says_so(model, data, tmp_path):
    run = scanned(model, data, tmp_path, concepts=None, site="gate", batch_size=8)
    assert "concepts" not in run.info["parameters"]
    with pytest.raises(ValueError, match="was scanned without concepts"):
        run.concepts()


def test_all_neurons_of_a_run_are_explained_from_its_concepts(once, model, data, tmp_path):
    table = once.concepts(min_images=2)
    explanations = vn.explain(once, min_images=2, out=tmp_path)
    assert set(explanations) == set(table["neuron"]) and len(explanations) == 2 * 44 + 3 * 40
    sides = table.set_index(["neuron", "side"])
    for neuron, one in explanations.items():
        for side in SIDES:
            row = sides.loc[(neuron, side)] if (neuron, side) in sides.index else None
            counts = row is not None and row["r_low"] > 0
            assert (side in one.by_side) == counts
            assert not counts or one.by_side[side] == row["phrase"]
        assert one.text == ("; ".join(one.by_side.values()) or "no clear pattern")
    back = vn.autointerp.store.read_explanations(tmp_path)
    assert {n: e.to_record() for n, e in back.items()} == {n: e.to_record() for n, e in explanations.items()}
    lines = len((tmp_path / "explanations.jsonl").read_text().splitlines())
    assert vn.explain(once, min_images=2, out=tmp_path).keys() == explanations.keys()
    assert len((tmp_path / "explanations.jsonl").read_text().splitlines()) == lines == len(explanations)
    with pytest.raises(ValueError, match="a run is explained by its concepts"):
        vn.explain(once, "dissection")


def test_a_neuron_with_a_label_is_explained_on_the_sides_of_its_class(model, data, tmp_path):
    run = scanned(model, data, tmp_path, site="gate", batch_size=8)
    table = vn.classify(run)
    run.save(table)
    explanations = vn.explain(run, min_images=2)
    for label, side in (("visual", "text"), ("text", "picture")):
        own = table[table["label"] == label]["neuron"]
        assert not any(side in explanations[neuron].by_side for neuron in own)
