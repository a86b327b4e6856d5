"""Before a scan starts: what it is given, which of several processes this is, and what it will cost, its pace aside."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vlm_neurons._text import not_utf8
from vlm_neurons.data import DEFAULT_PROMPT
from vlm_neurons.models import HookedVLM, guards
from vlm_neurons.scanning.blocks import ColumnInfo
from vlm_neurons.scanning.moments import Moments
from vlm_neurons.sites import Site, named
from vlm_neurons.sites import names as site_names

if TYPE_CHECKING:
    from vlm_neurons.data import ImageTextData
    from vlm_neurons.models import HookedVLM

TIMED = 3  # batches
ENOUGH = 10.0  # seconds that are timed
COPIES = 3  # of the state of all neurons: a block's, that of all before it, and both put together


@dataclass(frozen=True)
class Cost:
    """What is ahead of this process.

    Attributes:
        state: bytes of the state of all neurons, in memory and in every block.
        latents: bytes that come to it if all latents of dictionaries fire.
        disk: bytes that blocks and result will take beyond what is there.
        free: bytes that are free where they go.
    """

    state: int
    latents: int
    disk: int
    free: int

    def check(self, path: Path) -> None:
        """Raise OSError if the disk is too small."""
        if self.disk > self.free:
            raise OSError(
                f"{path}: blocks and result need {self.disk / 2**20:,.1f} MiB, {self.free / 2**20:,.1f} MiB are free. "
                "Free some, choose another directory, or larger blocks (block_size=), each of which stores a state"
            )


def state_bytes(columns: Sequence[ColumnInfo], top_n: int, n_visual: int, n_text: int) -> int:
    """Bytes of the state of all neurons; of latents that are listed as they fire, of none that fires."""
    meta = torch.device("meta")
    states = sum(c.empty(top_n, n_visual, n_text, meta).nbytes for c in columns)
    return states + sum(Moments.empty(c.rows, meta).nbytes for c in columns if c.indexed_by == "row")


def kept_samples(info: dict[str, Any]) -> int:
    """Samples kept per neuron: `top_n`, or all where there are fewer. `info` is the content of `scan.json`."""
    return min(info["parameters"]["top_n"], info["data"]["n"])


def check_memory(
    columns: Sequence[ColumnInfo], parameters: dict[str, Any], n: int, device: torch.device, say: Callable[[str], Any]
) -> None:
    """Say where `top_n` is more than there is to keep, and refuse what does not fit into memory, before it is tried.

    Raises:
        ValueError: the states are too large; the message says how large.
    """
    top_n = parameters["top_n"]
    if top_n > n:
        say(f"top_n={top_n:,}: there are {n:,} samples, so all {n:,} are kept, and no class is called confident.")
    state = state_bytes(columns, min(top_n, n), parameters["n_visual"], parameters["n_text"])
    free = free_memory(device)
    if free is not None and COPIES * state > free:
        raise ValueError(
            f"top_n={top_n:,}: the states of all neurons need {COPIES * state / 2**30:,.1f} GiB of memory "
            f"({COPIES} of {state / 2**30:,.1f}), {free / 2**30:,.1f} GiB are free on {device}: choose a smaller top_n "
            "(the paper: 50), or fewer sites"
        )
    most = state_bytes([replace(c, listed=False) for c in columns], min(top_n, n), parameters["n_visual"],
                       parameters["n_text"])  # fmt: skip
    if free is not None and COPIES * most > free:
        say(
            f"If all latents of dictionaries fire, the states need {COPIES * most / 2**30:,.1f} GiB of memory "
            f"({free / 2**30:,.1f} GiB are free on {device}); the scan can be stopped, and begun with a smaller top_n."
        )


def free_memory(device: torch.device) -> int | None:
    """Bytes that can be had there, as far as the system tells; None where it does not."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = []
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found.append(next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")))
    with suppress(OSError, ValueError):  # "max" is no number
        limits = Path("/sys/fs/cgroup")
        found.append(int((limits / "memory.max").read_text()) - int((limits / "memory.current").read_text()))
    return min(found, default=None)


def check_prompt_asked(prompt: str, data: ImageTextData, say: Callable[[str], Any]) -> None:
    """Refuse a question that no sample is asked, since each has its own.

    Raises:
        ValueError: as above.
    """
    asked = sum(one.prompt is None for one in data.facts)
    if prompt != DEFAULT_PROMPT and asked < len(data):
        if asked == 0:
            raise ValueError(
                f"prompt={prompt!r}: all {len(data):,} samples have a question of their own, so none is asked this: "
                'leave prompt out, or take the prompts out of the data ("prompt": null)'
            )
        say(f"prompt={prompt!r} is asked of {asked:,} of {len(data):,} samples; the others have their own.")


def measure(path: Path, columns: Sequence[ColumnInfo], info: dict[str, Any], n_blocks: int, sums: int = 0) -> Cost:
    """The cost of `n_blocks` blocks and the result; `sums` are bytes of sums of concepts."""
    kept = kept_samples(info), info["parameters"]["n_visual"], info["parameters"]["n_text"]
    state, most = state_bytes(columns, *kept), state_bytes([replace(c, listed=False) for c in columns], *kept)
    return Cost(state, most - state, state * (n_blocks + 1) + sums, shutil.disk_usage(path).free)


@dataclass
class Pace:
    """Tells once how long a sample takes, from the first three batches of the scan itself, or its first ten seconds:
    none is run for this alone.

    Attributes:
        tell: is told the seconds of one sample, all of it.
        device: of the model.
    """

    tell: Callable[[float], object]
    device: torch.device
    told: bool = False
    _began: float = 0.0
    _samples: list[int] = field(default_factory=list)

    def begin(self) -> None:
        """A block begins, maybe again."""
        self._began = time.perf_counter()
        self._samples.clear()

    def done(self, samples: int, last: bool) -> None:
        """A batch of samples is done, which may all have been left out; the last of its block, or not."""
        if self.told:
            return
        self._samples += [samples] if samples else []
        if not self._samples:
            return
        if last or len(self._samples) == TIMED or time.perf_counter() - self._began > ENOUGH:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.told = True
            self.tell((time.perf_counter() - self._began) / sum(self._samples))


def batched(ids: Sequence[int], size: int) -> list[list[int]]:
    """Batches of ids that are ordered by length: the first, the middle and the last of them to begin with, so that
    their pace is that of all (`Pace`).

    >>> batched(range(9), 2)
    [[0, 1], [4, 5], [8], [2, 3], [6, 7]]
    """
    batches = [list(ids[i : i + size]) for i in range(0, len(ids), size)]
    soon = sorted({0, len(batches) // 2, len(batches) - 1} & {*range(len(batches))}) if size > 1 else []
    return [batches[i] for i in soon] + [one for i, one in enumerate(batches) if i not in soon]


# SLURM_NTASKS is set in a batch script too, which is one process; SLURM_STEP_NUM_TASKS only in what srun started.
_VARIABLES = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"))


def place(environment: Mapping[str, str] | None = None) -> tuple[int, int]:
    """This process's number and the number of processes.

    Raises:
        ValueError: one of the two variables is missing or no whole number, or the number is not below the number of
            processes.

    >>> place({"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "8"})
    (2, 8)
    """
    environment = os.environ if environment is None else environment
    for rank_name, world_name in _VARIABLES:
        found = {name: environment[name] for name in (rank_name, world_name) if name in environment}
        if world_name not in found and (rank_name not in found or rank_name.startswith("SLURM")):
            continue  # a SLURM batch script has SLURM_PROCID=0, and is one process
        for name in (rank_name, world_name):
            if not found.get(name, "").strip().isdecimal():
                is_now = f"is {found[name]!r}" if name in found else "is not set"
                raise ValueError(
                    f"{name} {is_now} in the environment, which has {found}: every process needs {rank_name}=0, 1 ... "
                    f"and the common {world_name}; torchrun and srun set both. For one process unset both"
                )
        rank, world = int(found[rank_name]), int(found[world_name])
        if not 0 <= rank < world:
            raise ValueError(
                f"{rank_name}={rank} with {world_name}={world} in the environment: {rank_name} has to be 0 to "
                f"{world - 1}"
            )
        return rank, world
    return 0, 1


def check_model_and_prompt(model: Any, prompt: Any) -> None:
    """Raise ValueError for what is no `HookedVLM`, or one in training mode, and for a prompt that is no text."""
    if not isinstance(model, HookedVLM):
        remedy = "HookedVLM.from_pretrained(name) loads one, HookedVLM(model, processor) takes one of transformers"
        raise ValueError(
            f"model={model if isinstance(model, str) else type(model).__name__!r} is no HookedVLM: {remedy}"
        )
    guards.check_evaluating(model.bridge)
    if not isinstance(prompt, str) or not_utf8(prompt):
        raise ValueError(f"prompt={prompt!a}: the question for the samples without one of their own, as a string")


def places_of(model: HookedVLM, site: str | Site | Sequence[str | Site]) -> tuple[list[str], list[str]]:
    """The names of the sites, each once, and the places of their layers. Objects among them are registered.

    Raises:
        ValueError: what is no site, or one that the model has no layer of.
    """
    given = [site] if isinstance(site, str | Site) else list(site) if isinstance(site, Sequence) else []
    names, places = [], []
    for one in given if all(isinstance(one, str | Site) for one in given) else []:
        if isinstance(one, str) and one not in site_names():
            names.append(one)
            places += model.site_hooks(one)  # a hook, or an error that says what is like it
            continue
        found = named(one)
        own = found.places(model.hook_dict)
        if not own:
            hooks = [*found.hooks([0]), *found.fitted(0)] if not found.layered else []
            what = f"hook {' or '.join(map(repr, hooks))}" if hooks else "layer with its hooks"
            raise ValueError(f"site {found.name!r}: {model.name} has no {what} (model.hook_map() lists all)")
        names.append(found.name)
        places += own
    if not places:
        raise ValueError(
            f"site={site!r}: choose from {', '.join(site_names())}, or name a hook such as blocks.0.hook_mlp_out"
        )
    return list(dict.fromkeys(names)), list(dict.fromkeys(places))
