"""What a newcomer stumbles over is said before the scan begins, or not called what it is not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from runs import one_of_two

import vlm_neurons as vn
from vlm_neurons.data import ImageTextData, describe
from vlm_neurons.models import HookedVLM
from vlm_neurons.scanning import planning, scan


@pytest.fixture(scope="module")
def model() -> HookedVLM:
    processor = tiny.processor()
    return HookedVLM(tiny.llava(processor.tokenizer), processor)


def dogs(n: int, **more: Any) -> ImageTextData:
    return ImageTextData.from_samples([{"image": tiny.image(), "response": f"{i} dogs", **more} for i in range(n)])


def test_more_top_samples_than_there_are_take_the_memory_of_those_that_are(
    tmp_path: Path, model: HookedVLM, capsys: pytest.CaptureFixture[str]
) -> None:
    data = dogs(5)
    run = scan(model, data, top_n=1_000_000, block_size=2, out=tmp_path / "run")
    assert "top_n=1,000,000: there are 5 samples, so all 5 are kept" in capsys.readouterr().err
    assert run.top("blocks.0.mlp.hook_act").sample_ids.shape[1] == 5
    other = scan(model, data, top_n=5, block_size=2, out=tmp_path / "other", progress=False)
    for column in run.columns:
        assert torch.equal(run.top(*column).sample_ids, other.top(*column).sample_ids)
        assert torch.equal(run.top(*column).text, other.top(*column).text)
    assert scan(model, data, top_n=1_000_000, block_size=2, out=tmp_path / "run", progress=False).complete


def test_states_that_do_not_fit_into_memory_are_refused_before_anything_is_made(
    tmp_path: Path, model: HookedVLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = planning.free_memory(torch.device("cpu"))
    assert free is None or 2**20 < free < 2**50
    monkeypatch.setattr(planning, "free_memory", lambda device: 2**10)
    with pytest.raises(ValueError, match=r"top_n=50: the states of all neurons need .* GiB are free on cpu: choose"):
        scan(model, dogs(60), out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "scan.json").exists()


def double(tensor: torch.Tensor, hook: Any) -> torch.Tensor:
    return tensor * 2


def halve(tensor: torch.Tensor, hook: Any) -> torch.Tensor:
    return tensor / 2


@pytest.mark.parametrize("then", ["without hooks", "the same hook", "another hook"])
def test_a_scan_under_hooks_is_gone_on_with_by_no_other_call(tmp_path: Path, model: HookedVLM, then: str) -> None:
    data = dogs(4)
    with one_of_two(), model.hooks(fwd_hooks=[("blocks.0.hook_mlp_out", double)]):
        run = scan(model, data, out=tmp_path / "run", block_size=2, progress=False)
    assert "blocks.0" in run.info["hooked"] and "hook_" in run.info["hooked"]
    hook = {"without hooks": [], "the same hook": [("blocks.0.hook_mlp_out", double)]}
    with (
        model.hooks(fwd_hooks=hook.get(then, [("blocks.0.hook_mlp_out", halve)])),
        pytest.raises(ValueError, match="holds another scan; hooked: 'by hooks on"),
    ):
        scan(model, data, out=tmp_path / "run", block_size=2, progress=False)


def test_a_scan_without_hooks_is_not_gone_on_with_under_hooks(tmp_path: Path, model: HookedVLM) -> None:
    data = dogs(4)
    scan(model, data, out=tmp_path / "run", progress=False)
    model.bridge.add_hook("blocks.0.hook_mlp_out", double)
    try:
        with pytest.raises(ValueError, match=r"hooked: None there, 'by hooks on .*' here"):
            scan(model, data, out=tmp_path / "run", progress=False)
    finally:
        model.bridge.reset_hooks()
    assert scan(model, data, out=tmp_path / "run", progress=False).complete


@pytest.mark.parametrize("n", [1, 3])
def test_a_class_that_rests_on_few_samples_is_not_called_confident(tmp_path: Path, model: HookedVLM, n: int) -> None:
    table = vn.classify(scan(model, dogs(n), top_n=4, out=tmp_path / "few", progress=False))
    assert (table["n_samples"] == n).all() and not table["confident"].any()
    enough = vn.classify(scan(model, dogs(4), top_n=4, out=tmp_path / "run", progress=False))
    largest = enough[[f"p_{name}" for name in ("visual", "text", "multimodal", "unknown")]].max(axis=1)
    assert enough["confident"].tolist() == (largest > 0.8).tolist() and enough["confident"].any()


def test_a_prompt_that_no_sample_is_asked_is_refused(
    tmp_path: Path, model: HookedVLM, capsys: pytest.CaptureFixture[str]
) -> None:
    own = dogs(3, prompt="How many?")
    with pytest.raises(ValueError, match=r"prompt='What\?': all 3 samples have a question of their own.*null"):
        scan(model, own, prompt="What?", out=tmp_path / "run", progress=False)
    with pytest.raises(ValueError, match=r"prompt='What\?': every sample has a question of its own"):
        describe(model, own, tmp_path / "c.jsonl", prompt="What?", progress=False)
    assert not (tmp_path / "c.jsonl").exists() and not (tmp_path / "run" / "scan.json").exists()
    some = ImageTextData.from_samples([*own, *dogs(2)])
    scan(model, some, prompt="What?", out=tmp_path / "run")
    assert "prompt='What?' is asked of 2 of 5 samples" in re.sub(r"\s+", " ", capsys.readouterr().err)
    scan(model, own, out=tmp_path / "own", progress=False)


def test_pictures_that_were_moved_after_the_scan_name_the_option(tmp_path: Path, model: HookedVLM) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(6):
        tiny.image().save(photos / f"{i}.png")
    (tmp_path / "d.jsonl").write_text(
        "".join(f'{{"image": "photos/{i}.png", "response": "{i} dogs"}}\n' for i in range(6))
    )
    run = scan(model, tmp_path / "d.jsonl", top_n=2, out=tmp_path / "run", progress=False)
    photos.rename(tmp_path / "moved")
    with pytest.raises(OSError, match=r"\.png.* with data= or on the command line --data"):
        vn.gather_evidence(model, run.open_data(), run, ["L0N0"], progress=False)
    folder = scan(model, tmp_path / "moved", top_n=2, out=tmp_path / "other", progress=False)
    (tmp_path / "moved").rename(photos)
    with pytest.raises(ValueError, match=r"cannot be opened again.* --data"):
        folder.open_data()
