"""Beginning a run directory, finishing it, and merging several that did different blocks of one scan."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from vlm_neurons._files import put_on_disk, write_atomic
from vlm_neurons._text import to_json
from vlm_neurons.data import ImageTextData
from vlm_neurons.scanning.blocks import (
    FORMAT,
    check_place,
    moments_of,
    open_block,
    skipped_of,
    state_of,
    tensor_name,
)
from vlm_neurons.scanning.concept_files import FOLDER, SHIFTS, check_shifts, join, parts
from vlm_neurons.scanning.dictionary_fits import fits_of
from vlm_neurons.scanning.identity import differences, noteworthy
from vlm_neurons.scanning.run import Run
from vlm_neurons.synthetic import open_data

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
    if run.info["format"] != info["format"]:
        raise ValueError(
            f"{path} was begun by an earlier version of this package (format {run.info['format']}, now "
            f"{info['format']}): its results can be read, but it cannot be gone on with; choose another directory. "
            "Nothing was changed."
        )
    if found := differences(run.info, info, "there", "here"):
        how = f" (torch.set_num_threads({run.info['threads']}) before the call)" if "threads: " in found else ""
        raise ValueError(
            f"{path} holds another scan; {found}. Make these the same{how} to go on with it, or choose another "
            "directory. Nothing was changed."
        )
    if found := noteworthy(run.info, info):
        warnings.warn(f"{path} was begun with other {found}. Its blocks say which they were made with", stacklevel=3)
    return run


def finish(run: Run, data: ImageTextData, prompt: str, elsewhere: Mapping[int, Path] | None = None) -> None:
    """Merge all blocks into `scan.safetensors`, write `samples.parquet` and `skipped.jsonl`, and remove the blocks.

    Several processes may do this at once: each writes the same files whole. Whoever is killed has removed nothing that
    is not in `scan.safetensors`, which is written last and makes the run complete.

    Args:
        run: all of its blocks are done.
        data: what was scanned.
        prompt: question for the samples without one of their own.
        elsewhere: files of blocks that are not in the run directory; they stay.
    """
    places = [(elsewhere or {}).get(block, run.block_path(block)) for block in range(run.n_blocks)]
    try:
        files = [open_block(place, run.identity, block) for block, place in enumerate(places)]
    except FileNotFoundError:
        if not run.complete:  # another process was quicker, else
            raise
        return
    _write_result(run, data, prompt, files)
    files.clear()  # some systems remove no file that is open
    put_on_disk(run.path)
    drop_blocks(run)


def drop_blocks(run: Run) -> None:
    """Remove what a complete run has in `blocks/`, torn files of killed processes too. A run that cannot be written to
    keeps them: its result does not need them."""
    for file in (run.path / "blocks").glob("*.safetensors*"):
        with suppress(OSError):
            file.unlink()


def _write_result(run: Run, data: ImageTextData, prompt: str, files: list[Any]) -> None:
    _write_samples(run, data, prompt, files)
    skipped = sorted((s for file in files for s in skipped_of(file)), key=lambda s: s.id)
    lines = "".join(json.dumps(asdict(s), ensure_ascii=False) + "\n" for s in skipped)
    write_atomic(run.path / "skipped.jsonl", lambda temporary: temporary.write_text(lines, encoding="utf-8"))
    tensors: dict[str, torch.Tensor] = {}
    for info in run.info["columns"]:
        column = info["hook"], info["pole"]
        for read in (state_of, moments_of) if info["indexed_by"] == "row" else (state_of,):
            merged: Any = read(files[0], column, info["d"])
            for file in files[1:]:
                merged.merge(read(file, column, info["d"]))
            tensors |= {tensor_name(column, name): tensor for name, tensor in merged.tensors().items()}
    for place, fit in fits_of(files).items():
        tensors |= {f"{place}/fit/{name}": tensor for name, tensor in fit.tensors().items()}
    for fold in range(run.info["parameters"].get("folds", 0)):
        join(run.path, run.identity, fold, range(run.n_blocks))
    made = sorted({file.metadata()["made_with"] for file in files})
    metadata = {"format": str(FORMAT), "run": run.identity, "made_with": f"[{', '.join(made)}]"}
    write_atomic(run.path / "scan.safetensors", lambda temporary: save_file(tensors, temporary, metadata))


def _write_samples(run: Run, data: ImageTextData, prompt: str, files: list[Any]) -> None:
    import pandas as pd

    scanned = {
        name: torch.cat([file.get_tensor(f"samples/{name}") for file in files]).tolist()
        for name in ("id", "n_visual_tokens", "n_text_tokens")
    }
    samples = [data.facts[i] for i in scanned["id"]]
    table = pd.DataFrame(
        {
            "id": scanned["id"],
            "name": [s.name for s in samples],
            "images": [list(s.paths) for s in samples],
            "prompt": [s.question(prompt) for s in samples],
            "response": [s.response for s in samples],
            "n_visual_tokens": scanned["n_visual_tokens"],
            "n_text_tokens": scanned["n_text_tokens"],
        }
    )
    write_atomic(run.path / "samples.parquet", lambda temporary: table.to_parquet(temporary, index=False))


def merge(runs: Sequence[str | Path | Run], out: str | Path, data: ImageTextData | str | Path | None = None) -> Run:
    """One run out of several that did different blocks of the same scan, on machines that share no disk.

    On machine k of K scan with `RANK=k WORLD_SIZE=K` in the environment, into a directory of its own; bring the
    directories together, and merge. The result is that of one process, tensor for tensor.
    What was made of a finished part afterwards, such as controls and labels, is not copied: make it of the whole run.

    Args:
        runs: the run directories. A block that several have is taken from the first; one that is finished has all.
        out: where the whole run goes.
        data: the data that was scanned, or what `synthetic.open_data` takes; by default it is opened from its source.

    Raises:
        ValueError: the runs differ in model, data or parameters (the message says in what), a block is in none of them
            or torn, or the data is not where it was or not what was scanned.
    """
    if isinstance(runs, str | Path | Run):
        raise ValueError(f"runs={str(getattr(runs, 'path', runs))!r} is one run: give a list of all its parts")
    if not runs:
        raise ValueError("no runs to merge")
    return _merge([Run.load(run) for run in runs], Path(out), data)


def _merge(runs: list[Run], out: Path, data: ImageTextData | str | Path | None) -> Run:
    first = runs[0]
    for run in runs[1:]:
        if found := differences(first.info, run.info, first.path, run.path):
            raise ValueError(f"{run.path} and {first.path} are not parts of one scan; {found}")
    if finished := next((run for run in runs if run.complete), None):
        runs = [finished]
        finished.open_result()  # refuses a torn one
    sources = {} if finished else _blocks_in(runs)
    if data is None:
        data = first.open_source()
    elif not isinstance(data, ImageTextData):
        data = open_data(data)
    if data.fingerprint() != first.info["data"]["fingerprint"]:
        raise ValueError(
            f"{data.source} is not what was scanned (its fingerprint differs); pass the data of the scan as data="
        )
    shifts = check_shifts([part.path for part in runs]) if "folds" in first.info["parameters"] else None
    run = start(out, first.info)
    if shifts is not None:
        write_atomic(run.path / FOLDER / SHIFTS, partial(shutil.copyfile, shifts))
    for part in runs:
        done = {*range(part.n_blocks)} - {*part.missing_blocks()}
        for fold in range(part.info["parameters"].get("folds", 0)):
            for file, _ in parts(part.path, part.identity, fold, done):
                _copy_if_new(file, run.path / FOLDER / file.name)
    if finished is None:
        finish(run, data, first.info["parameters"]["prompt"], sources)
        return run
    for name in ("samples.parquet", "skipped.jsonl", "scan.safetensors"):  # the last one makes the run complete
        _copy_if_new(finished.path / name, run.path / name)
    drop_blocks(run)
    return run


def _blocks_in(runs: list[Run]) -> dict[int, Path]:
    """Where every block is.

    Raises:
        ValueError: one is torn, or in none of the runs.
    """
    found: dict[int, Path] = {}
    for run in runs:
        for block in sorted({*range(run.n_blocks)} - {*run.missing_blocks()}):
            with open_block(run.block_path(block), run.identity, block):
                found.setdefault(block, run.block_path(block))
    if missing := sorted({*range(runs[0].n_blocks)} - {*found}):
        raise ValueError(f"blocks {missing} of {runs[0].n_blocks} are in none of the runs; scan again to make them")
    return found


def _copy_if_new(file: Path, target: Path) -> None:
    if not target.exists():
        write_atomic(target, partial(shutil.copyfile, file))


def check_length(run: Run, data: ImageTextData) -> None:
    """Refuse data that cannot be what was scanned.

    Raises:
        ValueError: it has another number of samples.
    """
    if len(data) != (n := run.info["data"]["n"]):
        raise ValueError(f"data= has {len(data)} samples, {run.path} was made with {n}: pass the data of the scan")
