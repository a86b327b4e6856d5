"""A scan of a model equals storing every activation of the same batches."""

from __future__ import annotations

import brute_force as brute
import numpy as np
import pytest
import seeds
import tiny
import torch
from safetensors import safe_open

from vlm_neurons.classification import classify
from vlm_neurons.data import DEFAULT_PROMPT, ImageTextData
from vlm_neurons.models import HookedVLM
from vlm_neurons.scanning import Run, scan
from vlm_neurons.scanning.batching import by_length
from vlm_neurons.tokens import MODALITIES, TokenKind

SITES = ["gate", "post", "projector", "vision", "blocks.1.ln1.hook_out"]  # the last one is the bridge's alone
POST, PROJECTOR, NORMED = "blocks.1.mlp.hook_post", "projector.0.hook_post", "blocks.1.ln1.hook_out"
WORDS = "the red blue dog cat train and people grass picture small two".split()  # noqa: SIM905


def random_data(n, seed=None):
    """Samples with one image, two, or none, prompts of their own or not, long and short responses."""
    rng = seeds.rng() if seed is None else np.random.default_rng(seed)
    entries, said = [], set()
    for _ in range(n):
        images = [tiny.image(int(rng.integers(20, 60)), int(rng.integers(20, 60)), rng) for _ in range(rng.choice(3))]
        response = " ".join(rng.choice(WORDS, rng.integers(1, 9)))
        while response in said:  # a duplicate would be skipped
            response = " ".join(rng.choice(WORDS, rng.integers(1, 9)))
        said.add(response)
        entries.append({"image": images, "response": response, "prompt": rng.choice([None, "Which?", "Name it:"])})
    return ImageTextData.from_samples(entries)


@pytest.fixture(scope="module")
def model():
    processor = tiny.processor()
    return HookedVLM(tiny.llava(processor.tokenizer), processor)


def record(model, data, hooks, batches, prompt="Could you describe the image?"):
    """All that every neuron of every hook does: hook -> sample id -> (values [token, d], kinds)."""
    everything = {hook: {} for hook in hooks}
    for ids in batches:
        samples = [data[i] for i in ids]
        batch = model.prepare(
            [list(s.images) for s in samples], [s.prompt or prompt for s in samples], [s.response for s in samples]
        )
        here = [h for h in hooks if batch.pixel_values is not None or not h.startswith(("vision", "projector"))]
        _, cache = model.run_with_cache(batch, names_filter=here)
        for hook in here:
            values = cache[hook].double()
            for row, i in enumerate(ids):
                if hook.startswith(("vision", "projector")):
                    patches = batch.by_patch(hook, values)[0][batch.row_of_patches == row]
                    everything[hook][i] = patches, [int(TokenKind.VISUAL)] * len(patches)
                else:
                    keep = batch.attention_mask[row].bool()
                    everything[hook][i] = values[row][keep], batch.kinds[row][keep].tolist()
    return everything


def batches_of(data, batch_size, block_size, prompt=DEFAULT_PROMPT):
    n = len(data)
    blocks = [by_length(range(i, min(i + block_size, n)), data.facts, prompt) for i in range(0, n, block_size)]
    return [block[i : i + batch_size] for block in blocks for i in range(0, len(block), batch_size)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scan_and_labels_equal_brute_force_at_equal_batches(tmp_path, dtype):
    processor = tiny.processor()
    model = HookedVLM(tiny.llava(processor.tokenizer), processor).to(dtype)
    data = random_data(15)
    run = scan(model, data, SITES, 6, 3, 2, batch_size=3, block_size=7, out=tmp_path / "run", progress=False)
    table = classify(run, n_visual=3).set_index(["hook", "pole", "index"])
    assert {hook for hook, _ in run.columns} == {hook for site in SITES for hook in model.site_hooks(site)}
    assert [pole for hook, pole in run.columns if hook in (POST, NORMED)] == ["+", "-"] * 2
    everything = record(model, data, sorted({hook for hook, _ in run.columns}), batches_of(data, 3, 7))
    for hook, pole in run.columns:
        found = run.top(hook, pole)
        sign = 1 if pole == "+" else -1
        assert found.visual.dtype == dtype
        for j in range(0, found.sample_ids.shape[0], 5):
            recordings = [brute.Recording(i, (sign * v[:, j]).tolist(), k) for i, (v, k) in everything[hook].items()]
            best = brute.top(recordings, 6)
            n = len(best)  # fewer than 6 where few of the samples drawn have images
            assert found.sample_ids[j].tolist() == [r.id for r in best] + [-1] * (6 - n)
            assert found.visual[j, :n].tolist() == [brute.kept(r, brute.VISUAL, 3) for r in best]
            assert found.text[j, :n].tolist() == [brute.kept(r, brute.TEXT, 2) for r in best]
            assert found.peak_all[j].item() == brute.peak(recordings, 1, 2, 3)
            row = table.loc[(hook, pole, j)]
            if hook.startswith(("vision", "projector")):
                assert row["label"] == "not_applicable" and np.isnan(row["p_visual"])
            else:
                shares = brute.classify(recordings, 6, 2.0, 3, 3.0, 2)
                assert [row[f"p_{name}"] for name in MODALITIES] == list(shares.values())


def test_samples_table_says_what_was_scanned(tmp_path, model):
    data = random_data(6)
    run = scan(model, data, batch_size=4, block_size=5, out=tmp_path, progress=False)
    assert run.samples["id"].tolist() == list(range(6))
    for i, row in run.samples.iterrows():
        assert row["response"] == data[i].response
        assert row["prompt"] == (data[i].prompt or "Could you describe the image?")
        assert row["n_visual_tokens"] == 16 * len(data[i].images) and row["n_text_tokens"] > 0
        assert list(row["images"]) == [None] * len(data[i].images)
    assert run.skipped == [] and run.complete and Run.load(tmp_path).columns == run.columns


def test_what_was_scanned_is_written_down(tmp_path, model):
    run = scan(model, random_data(3), top_n=5, batch_size=2, out=tmp_path, progress=False)
    info = run.info
    assert info["format"] == 6
    assert info["model"]["fingerprint"] == model.fingerprint() and info["model"]["dtype"] == "float32"
    assert (
        info["parameters"] | {"top_n": 5, "batch_size": 2, "block_size": 1000, "sites": ["gate"]} == info["parameters"]
    )
    assert info["threads"] == torch.get_num_threads() and info["versions"]["torch"] == torch.__version__
    assert info["rendered"].count("ASSISTANT:") == 1
    with safe_open(tmp_path / "scan.safetensors", "pt") as file:
        # no more places than samples
        assert file.get_tensor("blocks.0.mlp.hook_act/+/sample_ids").shape == (44, 3)


def test_result_is_the_same_whatever_the_blocks(tmp_path, model):
    """Of larger batches, which samples are in one, and so last digits, depends on the block."""
    data = random_data(12)
    first = scan(model, data, "post", batch_size=1, block_size=12, out=tmp_path / "a", progress=False)
    second = scan(model, data, "post", batch_size=1, block_size=3, out=tmp_path / "b", progress=False)
    for column in first.columns:
        for name, tensor in first.top(*column).tensors().items():
            assert torch.equal(tensor, second.top(*column).tensors()[name])


def test_vision_sites_of_samples_without_images_are_refused(tmp_path, model):
    data = ImageTextData.from_samples([{"image": None, "response": "a cat"}] * 2)
    with pytest.raises(ValueError, match="no sample has an image"):
        scan(model, data, "projector", out=tmp_path, progress=False)
    run = scan(model, data, "gate", out=tmp_path, progress=False)
    assert torch.isinf(run.top("blocks.0.mlp.hook_act").visual).all()
    assert not set(classify(run)["label"]) & {"visual", "multimodal"}


def test_text_only_batches_add_nothing_to_vision_sites(tmp_path, model):
    images = [{"image": tiny.image(), "response": "a cat"}]
    words = [{"image": None, "response": f"{word} cat"} for word in WORDS]
    data = ImageTextData.from_samples(words[:4] + images + words[4:])
    run = scan(model, data, "projector", top_n=3, batch_size=2, block_size=4, out=tmp_path, progress=False)
    assert (run.top(PROJECTOR).sample_ids == torch.tensor([4, -1, -1])).all()
    assert len(run.samples) == len(data)


def test_hooks_that_hold_no_neurons_are_refused(tmp_path, model):
    with pytest.raises(ValueError, match=r"hook_pattern.*\[row, pos, d\]"):
        scan(model, random_data(2, seed=1), "blocks.0.attn.hook_pattern", out=tmp_path, progress=False)
    with pytest.raises(ValueError, match="gates"):
        scan(model, random_data(2), "gates", out=tmp_path, progress=False)


@pytest.mark.parametrize("name", ["top_n", "n_visual", "n_text", "batch_size", "block_size"])
@pytest.mark.parametrize("value", [0, 2.5])
def test_parameters_that_are_no_counts_are_refused(tmp_path, model, name, value):
    with pytest.raises(ValueError, match=f"{name}="):
        scan(model, random_data(2), out=tmp_path, progress=False, **{name: value})


def test_non_finite_activations_stop_the_scan_and_name_sample_and_site(tmp_path):
    processor = tiny.processor()
    broken = tiny.llava(processor.tokenizer)
    unusual = processor.tokenizer("Zwölf")["input_ids"][-1]
    broken.model.language_model.embed_tokens.weight.data[unusual] = float("nan")
    data = ImageTextData.from_samples(
        [{"image": tiny.image(), "response": r, "name": f"n{i}.png"} for i, r in enumerate(("a cat", "a dog", "Zwölf"))]
    )
    with pytest.raises(FloatingPointError, match=r"sample 2 \(n2\.png\).*blocks\.\d\.mlp\.hook_act"):
        scan(HookedVLM(broken, processor), data, batch_size=3, out=tmp_path, progress=False)
    assert not list((tmp_path / "blocks").glob("*"))


def test_progress_and_cost_go_to_stderr_alone(tmp_path, model, capsys):
    scan(model, random_data(2), out=tmp_path / "a")
    loud = capsys.readouterr()
    assert loud.out == "" and "MiB" in loud.err and "2 samples scanned, 0 skipped" in loud.err
    scan(model, random_data(2), out=tmp_path / "b", progress=False)
    quiet = capsys.readouterr()
    assert quiet.out == "" and quiet.err == ""
