"""Models of the hub: a revision is honoured and recorded, what is on this machine needs no network, errors say why."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from safetensors.torch import load_file, save_file

import vlm_neurons as vn
from vlm_neurons import zoo
from vlm_neurons.models.load import _not_there

LOAD = """
import sys
import vlm_neurons as vn
for i, asked in enumerate(sys.argv[2:]):
    name, _, revision = asked.partition(" ")
    model = vn.HookedVLM.from_pretrained(name, device="cpu", revision=revision or None)
    run = vn.scan(model, vn.scenes(2, seed=0), "gate", top_n=1, out=f"{sys.argv[1]}/{i}", progress=False)
    print(run.info["model"]["name"], model.fingerprint())
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of Hugging Face's with two revisions of a model, as downloads leave it."""
    folder, source = tmp_path_factory.mktemp("home"), zoo.path("tiny-llava-scenes")
    assert source is not None
    repo = folder / "hub" / "models--someone--scenes"
    for commit, name in (("a" * 40, "main"), ("b" * 40, "v2")):
        shutil.copytree(source, repo / "snapshots" / commit, ignore=shutil.ignore_patterns("README.md"))
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / name).write_text(commit)
    weights = repo / "snapshots" / ("b" * 40) / "model.safetensors"
    tensors = load_file(weights)
    save_file({name: tensor * 1.01 for name, tensor in tensors.items()}, weights, metadata={"format": "pt"})
    return folder


def test_a_model_that_is_here_needs_no_network_and_is_the_revision_that_was_asked_for(
    home: Path, tmp_path: Path
) -> None:
    environment = {**os.environ, "HF_HOME": str(home), "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    asked = ["someone/scenes", "someone/scenes v2", "someone/scenes@v2"]
    command = [sys.executable, "-c", LOAD, str(tmp_path), *asked]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0 and "Retrying" not in done.stderr, done.stderr[-2000:]
    (newest, own), *others = (line.split() for line in done.stdout.splitlines())
    assert newest == "someone/scenes" and [name for name, _ in others] == ["someone/scenes@v2"] * 2
    assert others[0][1] == others[1][1] != own


@pytest.mark.parametrize("name", ["someone/scenes", "someone/scenes@v2"])
def test_a_model_that_is_here_is_found_where_the_hub_may_not_be_asked(home: Path, name: str) -> None:
    code = f"from vlm_neurons import zoo; print(*zoo.find({name!r}))"
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    commit = "b" if name.endswith("v2") else "a"
    assert done.stdout.split() == [str(home / "hub/models--someone--scenes/snapshots" / (commit * 40)), "{}"]


def test_a_revision_that_is_not_here_is_not_another_one(home: Path) -> None:
    code = "from vlm_neurons import zoo; zoo.find('someone/scenes@v3')"
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert "'someone/scenes@v3' is no directory here" in done.stderr and "HF_HUB_OFFLINE forbids" in done.stderr


def test_a_gated_model_says_how_to_log_in() -> None:
    told = OSError("You are trying to access a gated repo.\nMake sure to have access to it")
    said = str(_not_there("google/gemma-3-4b-it", "google/gemma-3-4b-it", told))
    assert "accept its terms at https://huggingface.co/google/gemma-3-4b-it" in said and "hf auth login" in said


def test_a_processor_that_needs_torchvision_names_the_package_and_the_extra(tmp_path: Path) -> None:
    if importlib.util.find_spec("torchvision"):
        pytest.skip("torchvision is installed")
    tok = tiny.tokenizer()
    tiny.llava(tok).save_pretrained(tmp_path)
    tiny.processor(tok).save_pretrained(tmp_path)
    file = tmp_path / "processor_config.json"
    settings = json.loads(file.read_text())
    settings["image_processor"]["image_processor_type"] = "Sam2ImageProcessor"  # transformers has no other
    file.write_text(json.dumps(settings))
    with pytest.raises(ImportError, match=r"torchvision alone: pip install 'vlm-neurons\[torchvision\]'"):
        vn.HookedVLM.from_pretrained(str(tmp_path))
