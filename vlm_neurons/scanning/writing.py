"""Beginning a run directory, telling whether one is the same scan, and finishing it."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from vlm_neurons._files import write_atomic
from vlm_neurons._text import to_json
from vlm_neurons.scanning.blocks import (
    FORMAT,
    check_place,
    moments_of,
    open_block,
    skipped_of,
    state_of,
    tensor_name,
)
from vlm_neurons.scanning.identity import differences, noteworthy
from vlm_neurons.scanning.run import Run

if TYPE_CHECKING:
    from vlm_neurons.data import ImageTextData


def start(path: Path, info: dict[str, Any]) -> Run:
    """Begin a run, or go on with the one that is there.

    Raises:
        ValueError: the directory holds a run of another model, other data or other parameters; nothing is changed.

    Warns:
        UserWarning: threads or versions differ where that decides no number.
    """
    check_place(path)
    file = path / "scan.json"
    if not file.exists():
        text = to_json(info, indent=1) + "\n"
        write_atomic(file, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    run = Run.load(path)
    if found := differences(run.info, info, "there", "here"):
        raise ValueError(
            f"{path} holds another scan; {found}. Make these the same to go on with it, or choose another directory. "
            "Nothing was changed."
        )
    if found := noteworthy(run.info, info):
        warnings.warn(f"{path} was begun with other {found}. Its blocks say which they were made with", stacklevel=3)
    return run


def finish(run: Run, data: ImageTextData, prompt: str) -> None:
    """Merge all blocks into `scan.safetensors`, and write `samples.parquet` and `skipped.jsonl`.

    Several processes may do this at once: each writes the same files whole.
    """
    files = [open_block(run.block_path(block), run.identity, block) for block in range(run.n_blocks)]
    _write_samples(run, data, prompt, files)
    skipped = sorted((s for file in files for s in skipped_of(file)), key=lambda s: s.id)
    lines = "".join(json.dumps(asdict(s), ensure_ascii=False) + "\n" for s in skipped)
    write_atomic(run.path / "skipped.jsonl", lambda temporary: temporary.write_text(lines, encoding="utf-8"))
    tensors: dict[str, torch.Tensor] = {}
    for info in run.info["columns"]:
        column = info["hook"], info["pole"]
        for read in (state_of, moments_of) if info["indexed_by"] == "row" else (state_of,):
            merged: Any = read(files[0], column)
            for file in files[1:]:
                merged.merge(read(file, column))
            tensors |= {tensor_name(column, name): tensor for name, tensor in merged.tensors().items()}
    made = sorted({file.metadata()["made_with"] for file in files})
    metadata = {"format": str(FORMAT), "run": run.identity, "made_with": f"[{', '.join(made)}]"}
    write_atomic(run.path / "scan.safetensors", lambda temporary: save_file(tensors, temporary, metadata))


def _write_samples(run: Run, data: ImageTextData, prompt: str, files: list[Any]) -> None:
    import pandas as pd

    scanned = {
        name: torch.cat([file.get_tensor(f"samples/{name}") for file in files]).tolist()
        for name in ("id", "n_visual_tokens", "n_text_tokens")
    }
    samples = [data[i] for i in scanned["id"]]
    table = pd.DataFrame(
        {
            "id": scanned["id"],
            "name": [s.name for s in samples],
            "images": [s.image_paths for s in samples],
            "prompt": [s.question(prompt) for s in samples],
            "response": [s.response for s in samples],
            "n_visual_tokens": scanned["n_visual_tokens"],
            "n_text_tokens": scanned["n_text_tokens"],
        }
    )
    write_atomic(run.path / "samples.parquet", lambda temporary: table.to_parquet(temporary, index=False))
