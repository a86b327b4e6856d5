"""How many samples share a forward pass, and which."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vlm_neurons._files import write_atomic
from vlm_neurons._text import to_json
from vlm_neurons.scanning.blocks import ColumnInfo, read_info

if TYPE_CHECKING:
    from vlm_neurons.data.survey import Facts
    from vlm_neurons.models import Batch, HookedVLM
    from vlm_neurons.scanning.run import Run

MOST = 8
ROOM = 6 * 2**20  # bytes: with less, steps of a batch cost more than what they do; with more, memory is faulted in anew
FITS = "batch_size_that_fits"  # in `scan.json`, once memory was too small for the one that the run began with


def begun_with(path: Path, fits: bool = False) -> int | None:
    """The batch size of the run that is there, or the one that fits; None where none can be gone on with."""
    try:
        info = read_info(path)
        return size_now(info) if fits else int(info["parameters"]["batch_size"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def suitable(model: HookedVLM, columns: Sequence[ColumnInfo], first: Batch) -> int:
    """Samples per forward pass where nobody says.

    On a CPU as many as have, of the widest layer, activations of 6 MiB (measured; see the README). Elsewhere, and at
    the most, 8. It follows from shapes alone, not from timings: a scan that is made twice has the same batches, to the
    last digit.
    """
    if model.device.type != "cpu":
        return MOST
    widest = max([column.d for column in columns] + [getattr(model.cfg, "d_mlp", None) or 0])
    size = torch.empty((), dtype=model.dtype).element_size()
    return max(1, min(MOST, ROOM // (first.input_ids.shape[1] * widest * size)))


def by_length(ids: Iterable[int], facts: Sequence[Facts], prompt: str) -> list[int]:
    """Ids such that neighbours are about as long, the longest first: what does not fit into memory shows at once.

    >>> said = ("one", "one two three", "one two")
    >>> facts = vn.ImageTextData.from_samples([{"image": None, "response": r} for r in said]).facts
    >>> by_length(range(3), facts, "What?")
    [1, 2, 0]
    """

    def length(i: int) -> tuple[int, int]:
        one = facts[i]
        return len(one.digests), len(one.question(prompt)) + len(one.response or "")

    return sorted(ids, key=lambda i: (*(-n for n in length(i)), i))


def size_now(info: dict[str, Any]) -> int:
    """Samples per forward pass of a run that goes on; `info` is the content of `scan.json`."""
    return int(info.get(FITS) or info["parameters"]["batch_size"])


def out_of_memory(do: Callable[[], object]) -> torch.OutOfMemoryError | None:
    """The error without its frames, which hold what the next try needs the memory of."""
    try:
        do()
    except torch.OutOfMemoryError as error:
        return error.with_traceback(None)
    return None


def fewer(error: torch.OutOfMemoryError, n: int, then: str) -> int:
    """Half of n samples that were too many for a forward pass.

    Raises:
        torch.OutOfMemoryError: it was one sample.

    Warns:
        UserWarning: there are more.
    """
    if n == 1:
        raise _with_remedy(error) from error
    warnings.warn(f"out of memory with {n} samples at once: going on with {n // 2}{then}", stacklevel=4)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return n // 2


def halve(run: Run, error: torch.OutOfMemoryError, most: int | None = None) -> None:
    """Go on with half as many samples per forward pass, say so, and keep it in `scan.json`.

    Args:
        run: the run.
        error: what memory was too small for.
        most: samples that there were, where they can be fewer than the run's batch size.

    Raises:
        torch.OutOfMemoryError: there is one sample only.

    Warns:
        UserWarning: it is halved.
    """
    size = size_now(run.info)
    then = f", and so in later calls on {run.path}. Activations of other batch sizes differ in last digits"
    half = fewer(error, min(size, most or size), then)
    now = read_info(run.path)
    run.info[FITS] = min(half, size_now(now))  # another process can have come to less
    text = to_json({**now, FITS: run.info[FITS]}, indent=1) + "\n"
    write_atomic(run.path / "scan.json", lambda temporary: temporary.write_text(text, encoding="utf-8"))


def halving(run: Run, do: Callable[[], object], most: int) -> None:
    """Do what reads `size_now(run.info)`, again in smaller batches where memory was too small; of `most` samples."""
    while (error := out_of_memory(do)) is not None:
        halve(run, error, most)


@contextmanager
def one_sample_at_least() -> Iterator[None]:
    """One sample is run inside: where memory is too small for it, nothing can be halved; the error says what helps."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise _with_remedy(error) from error


def _with_remedy(error: torch.OutOfMemoryError) -> torch.OutOfMemoryError:
    return torch.OutOfMemoryError(
        "there is too little memory for one sample. Free some, load the model in bfloat16 or quantised, spread it over "
        "several GPUs, scan fewer sites or a smaller top_n, or leave the longest samples out. What was finished stays, "
        f"and the same call goes on ({str(error).splitlines()[0] if str(error) else 'no details'})"
    )


def with_batch_size(made_with: str, info: dict[str, Any]) -> str:
    """What a block says of itself, its batch size too."""
    return json.dumps({**json.loads(made_with), "batch_size": size_now(info)})
