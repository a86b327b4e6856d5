"""Folds of a data set, and the files in `concepts/` that hold their sums.

A file holds the sums of one fold over some blocks, and says which. Every block leaves one file a fold before it counts
as done; then its sums are added to those of the blocks that the same process did before, so that at most two files a
fold and process are there. A crash in between leaves a file whose blocks another one holds too: the one that holds more
counts. What is of a block that was never finished is made anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from vlm_neurons._files import write_atomic
from vlm_neurons.scanning.concept_sums import add_up

if TYPE_CHECKING:
    from torch import Tensor

    from vlm_neurons.data.survey import Facts

FOLDER = "concepts"


def folds_of(facts: Sequence[Facts], folds: int) -> list[int]:
    """The fold of every sample: samples that share a picture share it, and folds are as equal as can be.

    >>> folds = folds_of(vn.scenes(8, seed=0).facts, 4)
    >>> sorted(folds)
    [0, 0, 1, 1, 2, 2, 3, 3]
    """
    home: dict[str, str] = {}

    def root(key: str) -> str:
        while home.setdefault(key, key) != key:
            key = home[key]
        return key

    keys = [[*one.digests] or [f"text {one.prompt} {one.response}"] for one in facts]
    for own in keys:
        for key in own[1:]:
            home[root(key)] = root(own[0])
    groups = sorted({root(own[0]) for own in keys}, key=lambda key: hashlib.sha256(key.encode()).digest())
    fold = {key: number % folds for number, key in enumerate(groups)}
    return [fold[root(own[0])] for own in keys]


def by_fold(ids: Iterable[int], folds: Sequence[int], size: int) -> list[list[int]]:
    """Batches of sample ids, each of one fold, fold by fold.

    >>> by_fold(range(5), [0, 1, 0, 1, 0], 2)
    [[0, 2], [4], [1, 3]]
    """
    own: dict[int, list[int]] = {}
    for i in ids:
        own.setdefault(folds[i], []).append(i)
    return [own[f][i : i + size] for f in sorted(own) for i in range(0, len(own[f]), size)]


def part_path(path: Path, fold: int, blocks: Sequence[int]) -> Path:
    """File of the sums of a fold over some blocks."""
    digest = hashlib.sha256(json.dumps(sorted(blocks)).encode()).hexdigest()[:12]
    return path / FOLDER / f"fold{fold}-{min(blocks):06d}-{len(blocks)}-{digest}.safetensors"


def write_part(path: Path, run: str, fold: int, blocks: Sequence[int], tensors: dict[str, Tensor]) -> None:
    """Store the sums of a fold over some blocks; `run` is the run's identity."""
    metadata = {"run": run, "fold": str(fold), "blocks": json.dumps(sorted(blocks))}
    write_atomic(part_path(path, fold, blocks), lambda temporary: save_file(tensors, temporary, metadata))


def parts(path: Path, run: str, fold: int, done: Iterable[int]) -> list[tuple[Path, list[int]]]:
    """Files that together hold a fold's sums over blocks that are done, each block once; largest first.

    Raises:
        ValueError: a file is torn or of another run, or two overlap without one holding all of the other.
    """
    found = []
    for file in sorted((path / FOLDER).glob(f"fold{fold}-*.safetensors")):
        try:
            with safe_open(file, framework="pt") as opened:
                told = opened.metadata() or {}
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{file} cannot be read ({error}); delete it and the blocks that it holds (its name has the first "
                "and how many), and scan again"
            ) from error
        if told.get("run") != run:
            raise ValueError(f"{file} belongs to another run: move it away")
        found.append((file, json.loads(told["blocks"])))
    done, held, chosen = {*done}, set[int](), []
    for file, blocks in sorted(found, key=lambda one: -len(one[1])):
        if not {*blocks} <= done or {*blocks} <= held:
            continue
        if {*blocks} & held:
            raise ValueError(
                f"{file} and another file there both hold block {min({*blocks} & held)}, which cannot be told apart "
                "once it is summed up: merge runs that did different blocks"
            )
        held |= {*blocks}
        chosen.append((file, blocks))
    return chosen


def read_part(file: Path, prefix: str = "") -> dict[str, Tensor]:
    """The sums of a file whose names start with a prefix, without it."""
    with safe_open(file, framework="pt") as opened:
        return {
            name.removeprefix(prefix): opened.get_tensor(name) for name in _names(opened) if name.startswith(prefix)
        }


def join(path: Path, run: str, fold: int, blocks: Sequence[int]) -> None:
    """Make one file of all that hold some blocks, all of which are done, and remove those.

    Raises:
        ValueError: see `parts`, or a block is in none of them.
    """
    chosen = parts(path, run, fold, blocks)
    if missing := sorted({*blocks} - {b for _, own in chosen for b in own}):
        raise ValueError(
            f"{path / FOLDER} lacks the sums of fold {fold} in blocks {missing}: delete these blocks, and scan again"
        )
    target = part_path(path, fold, blocks)
    if len(chosen) > 1:
        total: dict[str, torch.Tensor] = {}
        for file, _ in sorted(chosen, key=lambda one: min(one[1])):
            add_up(total, read_part(file))
        write_part(path, run, fold, blocks, total)
    for file in (path / FOLDER).glob(f"fold{fold}-*.safetensors"):
        if file != target and {*_blocks_of(file)} <= {*blocks}:
            file.unlink(missing_ok=True)


def _blocks_of(file: Path) -> list[int]:
    with safe_open(file, framework="pt") as opened:
        return list(json.loads((opened.metadata() or {})["blocks"]))


def _names(opened: Any) -> list[str]:
    return list(opened.keys())
