"""Code that lies in a checkpoint is never run, not even where a terminal would say yes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import vlm_neurons as vn
from vlm_neurons import zoo
from vlm_neurons.autointerp.client.local import open_model

CODE = """
from pathlib import Path
from transformers import CLIPImageProcessor, PretrainedConfig, PreTrainedModel
Path({flag!r}).touch()
class Config(PretrainedConfig):
    model_type = "other"
class Images(CLIPImageProcessor):
    pass
class Model(PreTrainedModel):
    config_class = Config
"""


def checkpoint(folder: Path, flag: Path, part: str) -> Path:
    """The embedded model, with code for one part of it."""
    shutil.copytree(zoo.path("tiny-llava-scenes"), folder)
    (folder / "code.py").write_text(CODE.format(flag=str(flag)))
    if part == "images":
        file = folder / "processor_config.json"
        whole = json.loads(file.read_text())
        images: dict[str, Any] = whole.pop("image_processor")
        images |= {"auto_map": {"AutoImageProcessor": "code.Images"}, "image_processor_type": "Images"}
        (folder / "preprocessor_config.json").write_text(json.dumps(images))
        file.write_text(json.dumps(whole))
    else:
        file = folder / "config.json"
        here = {"auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}, "model_type": "other"}
        file.write_text(json.dumps(json.loads(file.read_text()) | here))
    return folder


@pytest.mark.parametrize("part", ["images", "config"])
@pytest.mark.parametrize("load", [
    vn.HookedVLM.from_pretrained, lambda folder: open_model("AutoModelForImageTextToText", folder),
    lambda folder: open_model("AutoModel", folder),
])  # fmt: skip
def test_code_of_a_checkpoint_is_not_run_whatever_the_terminal_says(tmp_path, monkeypatch, part, load):
    monkeypatch.setattr("builtins.input", lambda *question: "y")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = checkpoint(tmp_path / "model", tmp_path / "ran", part)
    with pytest.raises((ValueError, OSError)):
        load(folder)
    assert not (tmp_path / "ran").exists()
