"""One run out of several that did different blocks of the same scan, on machines that share no disk."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from vlm_neurons._files import write_atomic
from vlm_neurons.data import ImageTextData
from vlm_neurons.scanning.blocks import open_block
from vlm_neurons.scanning.identity import differences
from vlm_neurons.scanning.run import Run
from vlm_neurons.scanning.writing import finish, start
from vlm_neurons.synthetic import open_data


def merge(runs: Sequence[str | Path | Run], out: str | Path, data: ImageTextData | str | Path | None = None) -> Run:
    """One run out of several that did different blocks of the same scan, on machines that share no disk.

    On machine k of K scan with `RANK=k WORLD_SIZE=K` in the environment, into a directory of its own; bring the
    directories together, and merge. The result is that of one process, tensor for tensor.

    Args:
        runs: the run directories. A block that several have is taken from the first.
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
    return _merge([run if isinstance(run, Run) else Run.load(run) for run in runs], Path(out), data)


def _merge(runs: list[Run], out: Path, data: ImageTextData | str | Path | None) -> Run:
    first = runs[0]
    for run in runs[1:]:
        if found := differences(first.info, run.info, first.path, run.path):
            raise ValueError(f"{run.path} and {first.path} are not parts of one scan; {found}")
    sources: dict[int, Path] = {}
    for run in runs:
        for block in sorted({*range(run.n_blocks)} - {*run.missing_blocks()}):
            with open_block(run.block_path(block), run.identity, block):
                sources.setdefault(block, run.block_path(block))
    if missing := sorted({*range(first.n_blocks)} - {*sources}):
        raise ValueError(f"blocks {missing} of {first.n_blocks} are in none of the runs; scan again to make them")
    if data is None:
        data = first.open_source()
    elif not isinstance(data, ImageTextData):
        data = open_data(data)
    if data.fingerprint() != first.info["data"]["fingerprint"]:
        raise ValueError(
            f"{data.source} is not what was scanned (its fingerprint differs); pass the data of the scan as data="
        )
    run = start(out, first.info)
    for block, source in sources.items():
        if not run.block_path(block).exists():
            write_atomic(run.block_path(block), partial(shutil.copyfile, source))
    finish(run, data, first.info["parameters"]["prompt"])
    return run
