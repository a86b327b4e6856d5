"""Dictionaries are read from the files of other libraries as these read them; what they are is checked by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vlm_neurons import sites
from vlm_neurons.sites.reading import read_dictionary

FILES = (
    Path(__file__).parent / "dictionaries"
)  # examples/dictionary_fixtures.py writes them, by the libraries themselves
LENS = FILES / "sae_lens"
ALL = sorted(str(file.parent.relative_to(FILES)) for file in FILES.rglob("expected.safetensors"))
OF_MLPS = [name for name in ALL if "transcoder" in name or name.endswith(".mlp")]
HOOK, IN, OUT = "blocks.1.hook_resid_post", "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out"


def close(found: Tensor, expected: Tensor) -> None:
    """Equal to a millionth of the largest."""
    assert float((found - expected).abs().max()) <= 1e-6 * float(expected.abs().max())


@pytest.mark.parametrize("name", ALL)
def test_it_encodes_and_decodes_as_the_library_that_wrote_it(name: str) -> None:
    """SAELens 6.54.12 (Gemma Scope and Qwen-Scope too), sparsify 1.3.3, dictionary_learning 0.1.0."""
    expected = load_file(FILES / name / "expected.safetensors")
    coder = read_dictionary(FILES / name, name).coder
    encoded = coder.encode(expected["x"])
    close(encoded, expected["encoded"])
    assert torch.equal(encoded > 0, expected["encoded"] > 0) and bool((encoded > 0).any())
    beside = (
        0.0 if coder.skip is None else expected["x"] @ coder.skip
    )  # of a linear path, which decode leaves out there
    close(coder.decode(expected["x"], encoded), expected["decoded"] + beside)
    assert (coder.skip is None) == ("skip" not in name and "affine" not in name and name != "sparsify/layers.1.mlp")


@pytest.mark.parametrize("name", [name for name in ALL if name not in OF_MLPS])
def test_an_edit_adds_what_the_library_decodes_more_and_keeps_the_error(name: str) -> None:
    expected = load_file(FILES / name / "expected.safetensors")
    sae = sites.SAE.load(FILES / name, HOOK, name="s")
    x = {HOOK: expected["x"][None]}
    values, _ = sae.read(x)
    manual = expected["x"] + expected["moved"] - expected["decoded"]
    found = sae.edit(x, torch.tensor([1]), torch.full_like(values[..., :1], 2.0))[HOOK][0]
    torch.testing.assert_close(found, manual, rtol=1e-5, atol=2e-6)
    changed = values.clone()
    changed[..., 1] = 2
    torch.testing.assert_close(sae.edit(x, None, changed)[HOOK][0], manual, rtol=1e-5, atol=2e-6)
    assert torch.equal(sae.edit(x, None, values)[HOOK], x[HOOK])
    assert torch.equal(sae.edit(x, torch.tensor([3, 0]), values[..., [3, 0]])[HOOK], x[HOOK])


@pytest.mark.parametrize("name", OF_MLPS)
def test_a_transcoders_edit_is_added_at_its_output(name: str) -> None:
    expected = load_file(FILES / name / "expected.safetensors")
    coder = sites.Transcoder.load(FILES / name, IN, OUT, name="t")
    assert (coder.hooks([1]), coder.edited(1)) == ([IN], OUT)
    held = {IN: expected["x"][None], OUT: torch.randn(1, *expected["moved"].shape)}
    values, _ = coder.read(held)
    found = coder.edit(held, torch.tensor([1]), torch.full_like(values[..., :1], 2.0))
    manual = held[OUT][0] + expected["moved"] - expected["decoded"]
    torch.testing.assert_close(found[OUT][0], manual, rtol=1e-5, atol=2e-6)
    assert list(found) == [OUT]
    with pytest.raises(ValueError, match=r"is a transcoder: load it with vn\.sites\.Transcoder\.load"):
        sites.SAE.load(FILES / name, name="t")


@pytest.mark.parametrize(
    ("name", "where"), [("layer_1/width_16k", "gemma_scope"), ("AutoEncoder", "dictionary_learning")]
)
def test_a_layer_in_a_path_or_in_settings_has_to_be_the_hooks(name: str, where: str) -> None:
    with pytest.raises(ValueError, match=r"g was trained on 'layer 1' .*give the hook it was trained on"):
        sites.SAE.load(FILES / where / name, "blocks.2.hook_resid_post", name="g")
    with pytest.raises(ValueError, match=r"which is no hook here what was encoded: give hook="):
        sites.SAE.load(FILES / where / name, name="g")


def test_one_of_its_files_stands_for_a_directory() -> None:
    folder = FILES / "gemma_scope" / "layer_1" / "width_16k"
    assert sites.SAE.load(folder / "params.npz", HOOK, name="g").fingerprint() == (
        sites.SAE.load(folder, HOOK, name="g").fingerprint()
    )


def test_qwen_scopes_files_are_read_one_layer_at_a_time_by_the_formula_of_its_page(tmp_path: Path) -> None:
    folder = FILES / "qwen_scope" / "SAE-Res-Qwen3-1.7B-Base-W32K-L0_5"
    sae = sites.SAE.load(folder / "layer1.sae.pt", name="q")
    raw = torch.load(folder / "layer1.sae.pt", weights_only=True)
    x = torch.randn(3, 16)
    best = (x @ raw["W_enc"].T + raw["b_enc"]).topk(5)
    encoded = torch.zeros(3, 24).scatter(1, best.indices, best.values.relu())
    close(sae.codes.encode(x), encoded)
    close(sae.codes.decode(x, encoded), encoded @ raw["W_dec"].T + raw["b_dec"])
    assert sae.hook == "blocks.1.hook_resid_post"
    with pytest.raises(ValueError, match=r"was trained on 'blocks.1.hook_resid_post' .*give the hook"):
        sites.SAE.load(folder, "blocks.2.hook_resid_post", name="q")
    several = tmp_path / folder.name
    shutil.copytree(folder, several)
    shutil.copy(several / "layer1.sae.pt", several / "layer10.sae.pt")
    with pytest.raises(ValueError, match=r"dictionaries of 2 layers: give the file of one, .*layer1.sae.pt"):
        sites.SAE.load(several, name="q")
    assert sites.SAE.load(several / "layer10.sae.pt", name="q").layer == 10
    shutil.copytree(folder, tmp_path / "renamed")
    with pytest.raises(ValueError, match="is nowhere said: keep the directory's own name"):
        sites.SAE.load(tmp_path / "renamed", name="q")


def copied(name: str, tmp_path: Path, facts: dict[str, Any] | None = None, weights: Any = None) -> Path:
    """A fixture with other settings or weights (None takes one out)."""
    folder = tmp_path / name
    shutil.copytree(LENS / name, folder)
    if facts:
        old = json.loads((folder / "cfg.json").read_text())
        (folder / "cfg.json").write_text(json.dumps(old | facts))
    if weights:
        raw = load_file(folder / "sae_weights.safetensors") | weights
        save_file({k: v for k, v in raw.items() if v is not None}, folder / "sae_weights.safetensors")
    return folder


@pytest.mark.parametrize(
    ("name", "facts", "weights", "message"),
    [
        ("jumprelu", None, {"threshold": None}, "lack threshold .*save_inference_model"),
        ("standard", None, {"W_enc": None}, "lack W_enc .*not whole"),
        ("standard", None, {"W_enc": torch.full((16, 24), float("nan"))}, "W_enc has 384 of 384 numbers that are not"),
        ("standard", None, {"b_enc": torch.zeros(23)}, r"b_enc is \(23,\), where W_enc"),
        ("standard", None, {"W_dec": torch.zeros(16, 24)}, r"W_dec is \(16, 24\)|b_dec is \(16,\)"),
        ("topk", {"k": 0}, None, "k=0: TopK needs a whole number"),
        ("standard", {"architecture": "batchtopk"}, None, "'batchtopk' is not read here: save it for use"),
        ("standard", {"architecture": "temporal"}, None, "'temporal' is not read here: wrap it"),
        ("before_6", {"activation_fn_str": "tanh-relu"}, None, "'tanh-relu' is not known"),
        ("standard", {"normalize_activations": "other"}, None, "normalize_activations='other' is not read"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(
    name: str, facts: Any, weights: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        sites.SAE.load(copied(name, tmp_path, facts, weights), name="s")


def test_files_that_are_not_there_or_torn_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing is downloaded"):
        sites.SAE.load(tmp_path / "no", HOOK, name="s")
    (tmp_path / "weights.pt").write_bytes(b"pickle")
    with pytest.raises(ValueError, match=r"weights.pt.*needed is one of sae_weights.safetensors"):
        sites.SAE.load(tmp_path, HOOK, name="s")
    torn = copied("standard", tmp_path)
    (torn / "sae_weights.safetensors").write_bytes((torn / "sae_weights.safetensors").read_bytes()[:999])
    with pytest.raises(ValueError, match=r"cannot be read .*download it again"):
        sites.SAE.load(torn, name="s")


@pytest.mark.parametrize(
    "hook", ["blocks.2.hook_resid_post", "blocks.1.hook_mlp_out", "blocks.1.hook_resid_pre", "blocks.1.hook_resid_mid"]
)
def test_a_dictionary_of_another_place_is_refused_and_one_of_the_same_is_not(hook: str) -> None:
    with pytest.raises(
        ValueError, match=r"s was trained on 'blocks.1.hook_resid_post' .*give the hook it was trained on"
    ):
        sites.SAE.load(LENS / "standard", hook, name="s")
    assert sites.SAE.load(LENS / "standard", "blocks.2.hook_resid_pre", name="s").layer == 2


def test_scales_that_were_not_folded_in_are_said(tmp_path: Path) -> None:
    folder = copied("standard", tmp_path, {"normalize_activations": "expected_average_only_in"})
    with pytest.warns(UserWarning, match="expected_average_only_in.*raw weights, fold it in first"):
        sites.SAE.load(folder, name="s")


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("opened"),))


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": "AutoEncoder"}}))
    torch.save({"bias": Evil()}, tmp_path / "ae.pt")
    with pytest.raises(ValueError, match="holds more than tensors, or is damaged, and is not loaded"):
        sites.SAE.load(tmp_path, HOOK, name="s")
    np.savez(tmp_path / "params.npz", W_enc=np.array([Evil()], dtype=object))
    with pytest.raises(ValueError, match=r"params.npz cannot be read"):
        sites.SAE.load(tmp_path / "params.npz", HOOK, name="s")
    assert not (tmp_path / "opened").exists()


def test_a_threshold_that_was_never_learnt_is_refused(tmp_path: Path) -> None:
    shutil.copytree(FILES / "dictionary_learning" / "BatchTopKSAE", tmp_path, dirs_exist_ok=True)
    raw = torch.load(tmp_path / "ae.pt", weights_only=True)
    torch.save(raw | {"threshold": torch.tensor(-1.0)}, tmp_path / "ae.pt")
    with pytest.raises(ValueError, match=r"threshold is -1\.0: training had not come to it yet"):
        sites.SAE.load(tmp_path, HOOK, name="s")
