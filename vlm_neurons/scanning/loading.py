"""Samples -> batches, prepared ahead in the background; what cannot be scanned is set aside with its reason."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader, Dataset

from vlm_neurons._text import not_utf8, printable
from vlm_neurons.models import Batch, RowError
from vlm_neurons.scanning.blocks import Skip
from vlm_neurons.tokens import TokenKind

if TYPE_CHECKING:
    from vlm_neurons.data import ImageTextData, Sample
    from vlm_neurons.models import HookedVLM

AHEAD = 2  # batches that wait, prepared, while the model works on another


@dataclass(frozen=True)
class Loaded:
    """A batch and what was left out of it.

    Attributes:
        ids: sample ids of the rows.
        batch: None if nothing is left.
        skipped: samples that were left out.
        told: what `tell` says of the batch; None where nobody is asked.
    """

    ids: list[int]
    batch: Batch | None
    skipped: list[Skip]
    told: Any = None


def known_skips(data: ImageTextData, prompt: str) -> dict[int, Skip]:
    """Samples that need not be loaded to see that they cannot be scanned: file names that are not UTF-8, which no table
    can hold, empty responses and duplicates."""
    skips = {}
    for i, one in enumerate(data.facts):
        if reason := next(filter(None, map(not_utf8, [one.name, *filter(None, one.paths)])), ""):
            skips[i] = Skip(i, printable(one.name), "unusable", f"the file's name or path: {reason}; rename it")
        elif one.response is not None and not one.response.strip():
            skips[i] = Skip(i, one.name, "empty response", repr(one.response))
    for repeated, first in data.duplicates(prompt).items():
        same = f"same images, prompt and response as sample {first} ({printable(data.facts[first].name)})"
        skips.setdefault(repeated, Skip(repeated, data.facts[repeated].name, "duplicate", same))
    return skips


def load(
    model: HookedVLM,
    data: ImageTextData,
    ids: Sequence[int],
    prompt: str,
    known: Mapping[int, Skip],
    tell: Callable[[Batch, Sequence[Sample]], Any] | None = None,
) -> Loaded:
    """Prepare the samples `ids` as one batch, without those that cannot be scanned.

    Args:
        model: that they are prepared for.
        data: where they are.
        ids: which.
        prompt: question for samples without one of their own.
        known: samples that are left out.
        tell: is asked about the batch and its samples.
    """
    skipped = [known[i] for i in ids if i in known]
    rows: list[tuple[Sample, list[Any]]] = []
    for sample in (data[i] for i in ids if i not in known):
        try:
            images = sample.load_images()
        except OSError as error:
            skipped.append(Skip(sample.id, sample.name, "broken image", str(error)))
            continue
        if sample.response is None:
            skipped.append(
                Skip(
                    sample.id,
                    sample.name,
                    "no response",
                    "the model could not be asked for one; captions.jsonl has the reason",
                )
            )
            continue
        rows.append((sample, images))
    while rows:
        row, reason, detail, batch = _try(model, rows, prompt)
        if batch is not None:
            samples = [sample for sample, _ in rows]
            return Loaded([s.id for s in samples], batch, skipped, None if tell is None else tell(batch, samples))
        sample, _ = rows.pop(row)
        skipped.append(Skip(sample.id, sample.name, reason, detail))
    return Loaded([], None, skipped)


def _try(model: HookedVLM, rows: list[tuple[Sample, list[Any]]], prompt: str) -> tuple[int, str, str, Batch | None]:
    """A batch, or the first row that cannot be in one, with reason and detail."""
    try:
        batch = model.prepare(
            [images for _, images in rows],
            [sample.question(prompt) for sample, _ in rows],
            [sample.response for sample, _ in rows],
        )
    except RowError as error:
        limit = getattr(model.config.text_config, "max_position_embeddings", None)
        too_long = limit is not None and f"takes {limit}" in error.reason
        return error.row, "too long" if too_long else "unusable", error.reason, None
    except Exception as error:
        error.add_note(f"while preparing samples {[sample.name for sample, _ in rows]}")
        raise
    has_text = batch.mask(TokenKind.TEXT).any(1).tolist()
    if not all(has_text):
        row = has_text.index(False)
        return row, "empty response", f"{rows[row][0].response!r} gives no token", None
    return 0, "", "", batch


def ahead(
    make: Callable[[Sequence[int]], Loaded], chunks: Sequence[Sequence[int]], workers: int = 0, beside: bool = True
) -> Iterator[Loaded]:
    """`make` of every chunk in order, the next ones in `workers` processes or, if `beside`, in a background thread:
    for a model on a GPU. A model on the CPU has its threads on every core, and one more only disturbs them."""
    if workers:
        loader = DataLoader(
            _Chunks(make, chunks),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=AHEAD,
            collate_fn=_as_it_is,
            worker_init_fn=_leave_ctrl_c,
            multiprocessing_context="fork",  # the model is there already: nothing is copied or pickled to the workers
        )
        yield from loader
        return
    if not beside:
        yield from map(make, chunks)
        return
    pool = ThreadPoolExecutor(1, thread_name_prefix="load")
    waiting: deque[Future[Loaded]] = deque()
    todo = iter(chunks)
    try:
        while True:
            while len(waiting) < AHEAD and (chunk := next(todo, None)) is not None:
                waiting.append(pool.submit(make, chunk))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class _Chunks(Dataset[Loaded]):
    make: Callable[[Sequence[int]], Loaded]
    chunks: Sequence[Sequence[int]]

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, place: int) -> Loaded:
        loaded = self.make(self.chunks[place])
        if loaded.batch is None:
            return loaded
        # A tokenizer takes longer to send than to make a batch with; the scan has no use for it.
        return replace(loaded, batch=replace(loaded.batch, _tokenizer=None, _image_processor=None))


def _leave_ctrl_c(worker: int) -> None:
    """Ctrl-C goes to every process of a terminal: the one that scans ends its workers, at once; one that stopped by
    itself would wait for its last batches to be fetched."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _as_it_is(loaded: Any) -> Any:
    return loaded
