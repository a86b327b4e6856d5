"""The blocks of a scan: what they share, and how one is scanned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from vlm_neurons.data import ImageTextData
from vlm_neurons.scanning.batching import by_length, halving, size_now, with_batch_size
from vlm_neurons.scanning.blocks import ColumnInfo, Skip, States, claimed, open_block, write_block
from vlm_neurons.scanning.concept_files import write_part
from vlm_neurons.scanning.concept_job import ConceptJob
from vlm_neurons.scanning.fired import Fired
from vlm_neurons.scanning.fused import Fused
from vlm_neurons.scanning.loading import Loaded, ahead, load
from vlm_neurons.scanning.planning import Pace, batched, kept_samples
from vlm_neurons.scanning.recorder import Recorder
from vlm_neurons.scanning.run import Run
from vlm_neurons.tokens import TokenKind

if TYPE_CHECKING:
    from vlm_neurons.models import HookedVLM


@dataclass(frozen=True)
class Job:
    """What all blocks of a scan share."""

    model: HookedVLM
    data: ImageTextData
    run: Run
    columns: list[ColumnInfo]
    known: dict[int, Skip]
    prompt: str
    fast: bool
    workers: int = 0
    fused: Fused | None = None
    concepts: ConceptJob | None = None
    made_with: str = field(kw_only=True)
    before: States = field(default_factory=dict)

    def missing(self) -> list[int]:
        """Blocks to do; those that are there are checked to be of this run."""
        missing = self.run.missing_blocks()
        try:
            for block in sorted({*range(self.run.n_blocks)} - {*missing}):
                with open_block(self.run.block_path(block), self.run.identity, block):
                    pass
        except FileNotFoundError:
            if not self.run.complete:  # another process has merged them, else
                raise
            return []
        return missing

    def ids(self, block: int) -> range:
        size = self.run.info["parameters"]["block_size"]
        return range(block * size, min((block + 1) * size, len(self.data)))

    def scan_blocks(self, blocks: Sequence[int], progress: bool, tell: Callable[[float], object]) -> None:
        """Scan blocks that no other process is at, and write each when it is done. `tell` is told how many seconds a
        sample takes."""
        n, mine = sum(len(self.ids(block)) for block in blocks), list[int]()
        with tqdm(total=n, unit="sample", desc="scan", disable=not progress) as bar:
            pace = Pace(partial(_beside, bar, tell), self.model.device)
            for block in blocks:
                with claimed(self.run.block_path(block)) as to_do:
                    if to_do and not self.run.complete:  # in this order: a run is complete before its blocks go
                        self._scan_in_memory(block, bar, pace)
                        if self.concepts is not None:
                            self.concepts.add_to(self.run.path, self.run.identity, mine, block)
                        mine.append(block)

    def _scan_in_memory(self, block: int, bar: Any, pace: Pace) -> None:
        """Scan a block, again in smaller batches where memory was too small."""
        before = bar.n

        def scan() -> None:
            bar.n = before
            self.scan_block(block, bar, pace)

        halving(self.run, scan, len(self.ids(block)))

    def recorder(self) -> Recorder:
        """An empty one."""
        kept = self.run.info["parameters"]
        return Recorder(
            self.model, self.columns, kept_samples(self.run.info), kept["n_visual"], kept["n_text"], self.fast,
            self.before, self.fused, self.concepts,
        )  # fmt: skip

    def load(self, chunk: Sequence[int]) -> Loaded:
        """The samples of a chunk as a batch."""
        tell = None if self.concepts is None else self.concepts.asked.tell
        return load(self.model, self.data, chunk, self.prompt, self.known, tell)

    def chunks(self, ids: range) -> list[list[int]]:
        """Sample ids in batches, by length, with concepts fold by fold. A batch that loses samples is not filled up,
        so that which samples share a batch depends on nothing else."""
        size = size_now(self.run.info)
        ordered = by_length(ids, self.data.facts, self.prompt) if size > 1 else list(ids)
        return batched(ordered, size) if self.concepts is None else self.concepts.batches(ordered, size)

    def remember(self, states: States) -> None:
        """Merge the states of a finished block into what later ones need not better."""
        for column, state in states.items():
            if (state.units if isinstance(state, Fired) else state.peak_all).device.type == "cpu":
                before: Any = self.before.setdefault(column, state)
                if before is not state:
                    before.merge(state)

    def scan_block(self, block: int, bar: Any, pace: Pace) -> None:
        """Scan one block, and write what it gave."""
        pace.begin()
        recorder, skipped = self.recorder(), list[Skip]()
        counts: dict[str, list[int]] = {"id": [], "n_visual_tokens": [], "n_text_tokens": []}
        chunks, fold = self.chunks(self.ids(block)), -1
        beside = self.model.device.type != "cpu"
        for chunk, loaded in zip(chunks, ahead(self.load, chunks, self.workers, beside), strict=True):
            if chunk is chunks[0] and (beside or self.workers):
                pace.begin()  # the next ones are loaded meanwhile
            fold = self._turn(recorder, block, fold, chunk[0])
            skipped += loaded.skipped
            if loaded.batch is not None:
                names = [self.data.facts[i].name for i in loaded.ids]
                recorder.see(loaded.batch, loaded.ids, names, loaded.told)
                counts["id"] += loaded.ids
                counts["n_visual_tokens"] += loaded.batch.mask(TokenKind.VISUAL).sum(1).tolist()
                counts["n_text_tokens"] += loaded.batch.mask(TokenKind.TEXT).sum(1).tolist()
            bar.update(len(chunk))
            pace.done(len(loaded.ids), chunk is chunks[-1])
        self._turn(recorder, block, fold, None)
        assert len(counts["id"]) + len(skipped) == sum(map(len, chunks)), "every sample is scanned or skipped, once"
        order = torch.tensor(counts["id"], dtype=torch.int32).argsort()
        samples = {name: torch.tensor(values, dtype=torch.int32)[order] for name, values in counts.items()}
        path = self.run.block_path(block)
        states, moments = recorder.kept
        fits = recorder.fitting.tensors()
        made_with = with_batch_size(self.made_with, self.run.info)
        write_block(path, states, moments, fits, samples, skipped, block, self.run.identity, made_with)
        self.remember(states)

    def _turn(self, recorder: Recorder, block: int, fold: int, sample: int | None) -> int:
        """Write the sums of a fold where the next sample is of a later one, before the block counts as done; its
        number. A block without samples of a fold has empty sums of it."""
        if self.concepts is None or recorder.sums is None:
            return fold
        new = self.concepts.asked.folds if sample is None else self.concepts.asked.home[sample]
        for done in range(max(fold, 0), new):
            sums = recorder.sums.flush()
            write_part(self.run.path, self.run.identity, done, [block], sums)
        return new


def _beside(bar: Any, tell: Callable[[float], object], seconds: float) -> None:
    """Tell, with the bar out of the way."""
    with bar.external_write_mode():
        tell(seconds)
