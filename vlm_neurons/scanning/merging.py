"""One run out of several that did different blocks of the same scan, on machines that share no disk."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vlm_neurons._files import write_atomic
from vlm_neurons.scanning.blocks import open_block
from vlm_neurons.scanning.run import Run
from vlm_neurons.scanning.writing import differences, finish, start
from vlm_neurons.synthetic import open_data

if TYPE_CHECKING:
    from vlm_neurons.data import ImageTextData


def merge(runs: Sequence[Run], out: Path, data: ImageTextData | str | Path | None = None) -> Run:
    """See `Run.merge`."""
    from vlm_neurons.data import ImageTextData

    if not runs:
        raise ValueError("no runs to merge")
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
