"""Folds of a data set, and the files in `concepts/` that hold their sums.

A file holds the sums of one fold over some blocks, and says which. Every block leaves one file a fold before it counts
as done; then its sums are added to those of the blocks that the same process did before, so that at most two files a
fold and process are there. A crash in between leaves a file whose blocks another one holds too: the one that holds more
counts. What is of a block that was never finished is made anew. Only one process at a time puts files together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from vlm_neurons._files import locked, write_atomic
from vlm_neurons.scanning.concept_listed import aligned
from vlm_neurons.scanning.concept_sums import add_up
from vlm_neurons.scanning.planning import batched

if TYPE_CHECKING:
    from torch import Tensor

    from vlm_neurons.data.survey import Facts

FOLDER = "concepts"
SHIFTS = "shifts.safetensors"
ROUNDING = 1e-6  # by so much the same shifts differ from machine to machine


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

    >>> by_fold(range(5), [0, 1, 0, 1, 0], 2)  # each as `batched`
    [[0, 2], [4], [1, 3]]
    """
    own: dict[int, list[int]] = {}
    for i in ids:
        own.setdefault(folds[i], []).append(i)
    return [batch for fold in sorted(own) for batch in batched(own[fold], size)]


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
    for file in _files(path, fold):
        with suppress(FileNotFoundError):  # another process has put it into a larger one
            found.append((file, _blocks_of(file, run)))
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


def read_part(file: Path, names: Iterable[str] | None = None, prefix: str = "") -> dict[str, Tensor]:
    """The sums of a file, all or some, without a prefix of their names."""
    with safe_open(file, framework="pt") as opened:
        wanted = opened.keys() if names is None else names
        return {name.removeprefix(prefix): opened.get_tensor(name) for name in wanted}


def names_in(file: Path) -> list[str]:
    """Names of the sums of a file, sorted."""
    with safe_open(file, framework="pt") as opened:
        return sorted(opened.keys())


def join(path: Path, run: str, fold: int, blocks: Sequence[int]) -> None:
    """Make one file of all that hold some blocks, all of which are done, and remove those. A file that holds these and
    others, which the last of several processes makes, is left as it is.

    Raises:
        ValueError: see `parts`, or a block is in none of them.
    """
    with locked(path / FOLDER / ".lock"):
        _join(path, run, fold, blocks)


def _join(path: Path, run: str, fold: int, blocks: Sequence[int]) -> None:
    if any({*blocks} < {*_blocks_of(file, run)} for file in _files(path, fold)):
        return
    chosen = parts(path, run, fold, blocks)
    if missing := sorted({*blocks} - {b for _, own in chosen for b in own}):
        raise ValueError(
            f"{path / FOLDER} lacks the sums of fold {fold} in blocks {missing}: delete these blocks, and scan again"
        )
    target = part_path(path, fold, blocks)
    if len(chosen) > 1:
        total: dict[str, torch.Tensor] = {}
        for file, _ in sorted(chosen, key=lambda one: min(one[1])):
            total, more = aligned(total, read_part(file))
            add_up(total, more)
        write_part(path, run, fold, blocks, total)
    for file in _files(path, fold):
        if file != target and {*_blocks_of(file, run)} <= {*blocks}:
            file.unlink(missing_ok=True)


def _files(path: Path, fold: int) -> list[Path]:
    return sorted((path / FOLDER).glob(f"fold{fold}-*.safetensors"))


def _blocks_of(file: Path, run: str) -> list[int]:
    try:
        with safe_open(file, framework="pt") as opened:
            told = opened.metadata() or {}
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{file} cannot be read ({error}); delete it and the blocks that it holds (its name has the first and how "
            "many), and scan again"
        ) from error
    if told.get("run") != run:
        raise ValueError(f"{file} belongs to another run: move it away")
    return list(json.loads(told["blocks"]))


def keep_shifts(path: Path, run: str, shifts: dict[str, Tensor]) -> dict[str, Tensor]:
    """What is taken off values before they are summed up: that of the call that began a run, which is stored where
    none is. Sums of other shifts cannot be added up.

    Raises:
        ValueError: the file is torn, or of another run.
    """
    file = path / FOLDER / SHIFTS
    if not file.exists():
        with locked(path / FOLDER / ".lock"):
            if not file.exists():  # by another process meanwhile
                told = {"run": run, "blocks": "[]"}
                write_atomic(file, lambda temporary: save_file(shifts, temporary, told))
    _blocks_of(file, run)
    return read_part(file)


def check_shifts(paths: Sequence[Path]) -> Path:
    """The file of the shifts that parts of a scan have in common.

    Raises:
        ValueError: a part has none, or they differ.
    """
    files = [path / FOLDER / SHIFTS for path in paths]
    if lacking := [file for file in files if not file.is_file()]:
        raise ValueError(f"{lacking[0]} is missing, without which the sums in its folder cannot be read")
    first = read_part(files[0])
    for file in files[1:]:
        own = read_part(file)
        if own.keys() != first.keys() or not all(torch.allclose(own[n], first[n], ROUNDING, 0.0) for n in own):
            raise ValueError(
                f"{file} and {files[0]} differ: sums that were shifted differently cannot be added up. Copy scan.json "
                f"and concepts/{SHIFTS} of one machine into the run directories of all before they scan"
            )
    return files[0]
