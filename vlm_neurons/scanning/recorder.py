"""From the units of one forward pass into the states of a block."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vlm_neurons.models.reading import Values, each, of_tokens, readers
from vlm_neurons.scanning.blocks import Column, ColumnInfo, States, Sums
from vlm_neurons.scanning.chunks import entering, look
from vlm_neurons.scanning.concept_job import ConceptJob, Told
from vlm_neurons.scanning.dictionary_fits import Fitting
from vlm_neurons.scanning.fired import Fired, P, Rows
from vlm_neurons.scanning.fused import Fused, Parts
from vlm_neurons.scanning.listed import Listed
from vlm_neurons.scanning.moments import Moments, image_means, of_both
from vlm_neurons.scanning.state import Waiting
from vlm_neurons.scanning.summarise import (
    Extremes,
    RowTokens,
    extremes,
    rows_by_image,
    rows_by_kind,
    summarise,
)
from vlm_neurons.sites import at
from vlm_neurons.sites.sparse import Sparse
from vlm_neurons.tokens import TokenKind
from vlm_neurons.units import Pole

if TYPE_CHECKING:
    from vlm_neurons.models import Batch, HookedVLM


POLES: tuple[Pole, Pole] = "+", "-"


def measure_columns(model: HookedVLM, places: Sequence[str], batch: Batch, fast: bool = False) -> list[ColumnInfo]:
    """Run a batch once to see the width and dtype of every layer of the sites.

    Raises:
        ValueError: a place holds no units by token or patch, or is not read in this batch.
    """
    seen: dict[str, Tensor] = {}
    listed: set[str] = set()

    def see(place: str, values: Tensor, defined: Tensor | None) -> None:
        acts, _, _ = of_tokens(model, batch, place, values, defined)
        seen[place] = torch.empty(acts.shape[-1], dtype=acts.dtype, device="meta")

    def see_listed(place: str, values: Sparse) -> None:
        seen[place] = torch.empty(values.shape[-1], dtype=values.value.dtype, device="meta")
        listed.add(place)

    model.observe(batch, readers(places, see, listed=see_listed), fast=fast)
    missing = [place for place in places if place not in seen]
    if missing:
        raise ValueError(f"no sample has an image, so {missing[0]!r} never has a value; leave its site out")
    columns = []
    for place in places:
        site, layer = at(place)
        d, dtype = seen[place].shape[0], str(seen[place].dtype).removeprefix("torch.")
        for pole in POLES[: 1 + site.signed]:
            columns.append(ColumnInfo(place, pole, site.name, layer, site.indexed_by, d, dtype, place in listed))
    return columns


class Recorder:
    """States that take in batches.

    Args:
        model: what is scanned.
        columns: layers and poles.
        top_n: samples kept per neuron.
        n_visual: values kept per sample at visual tokens.
        n_text: the same at text tokens.
        fast: run the model by `HookedVLM.observe(..., fast=True)`.
        before: states of other samples of the same run. What cannot enter these cannot be among the top samples of
            the run, and need not be looked at closely; the states made here lack it.
        fused: summaries by compiled code, where rows hold both pictures and text; see `vlm_neurons.scanning.fused`.
        concepts: what is summed up of concepts.
    """

    def __init__(
        self,
        model: HookedVLM,
        columns: Sequence[ColumnInfo],
        top_n: int,
        n_visual: int,
        n_text: int,
        fast: bool = False,
        before: States | None = None,
        fused: Fused | None = None,
        concepts: ConceptJob | None = None,
    ) -> None:
        self.model, self.columns, self.fast, self.before = model, columns, fast, before or {}
        self.fused, self.concepts = fused, concepts
        self.sums = None if concepts is None else concepts.recorder()
        self.n_visual, self.n_text = n_visual, n_text
        self.states = {c.column: c.empty(top_n, n_visual, n_text, model.device) for c in columns}
        self.moments = {c.column: Moments.empty(c.rows, model.device) for c in columns if c.indexed_by == "row"}
        # of what is listed, states have rows for what fired alone
        self.rows = {c.column: Rows(c.d, model.device) for c in columns if c.listed}
        self.waiting: dict[Column, Waiting] = {}
        self.fitting = Fitting()
        self.poles: dict[str, list[Pole]] = {}
        for column in columns:
            self.poles.setdefault(column.hook, []).append(column.pole)
        self.by_image = {c.hook: c.indexed_by == "image" for c in columns}

    def see(self, batch: Batch, ids: Sequence[int], names: Sequence[str], told: Told | None = None) -> None:
        """Run a batch and take in what its units are.

        Args:
            batch: the batch.
            ids: sample id of every row.
            names: what to call the rows in an error.
            told: what the bank of concepts says of the batch.

        Raises:
            FloatingPointError: an activation is not finite; the message names sample and site.
        """
        broken: dict[str, Tensor] = {}
        by_kind = rows_by_kind(batch.kinds)
        sample_ids = torch.tensor(ids, device=self.model.device)

        def take_in(place: str, values: Tensor, defined: Tensor | None) -> None:
            read = of_tokens(self.model, batch, place, values, defined)
            if (place, "+") in self.rows:
                return take_listed(place, Sparse.of(values))
            if self.sums is not None:
                self.sums.take_in(place, *read)
            if self.by_image[place]:
                rows = rows_by_image(batch.row_of_patches[read[2]], len(batch))
                broken[place] = self._update(place, read, rows, sample_ids, None)
            else:
                broken[place] = self._update(place, read, by_kind, sample_ids, batch.kinds)

        # Sites indexed by image hold nothing for a batch of text-only samples.
        places = [place for place in self.poles if batch.pixel_values is not None or not self.by_image[place]]
        if not places:
            return

        def fit(place: str, tensors: dict[str, Tensor], values: Tensor | Sparse) -> None:
            self.fitting.see(place, tensors, values, batch.kinds)

        def take_listed(place: str, values: Sparse) -> None:
            if self.sums is not None:
                if (place, "+") not in self.rows:  # its sums have a row for every unit
                    return take_in(place, values.dense(), None)
                self.sums.take_in_listed(place, values)
            broken[place] = self._update_listed(place, values, batch.kinds, by_kind, sample_ids)

        looks = {hook: [fn] for hook, fn in readers(places, take_in, fit, take_listed).items()}
        if self.concepts is not None and self.sums is not None and told is not None:
            self.sums.begin(batch, self.concepts.asked.maps(told, self.model.device))
            for hook, fns in self.concepts.observers(self.sums).items():
                looks[hook] = [*looks.get(hook, ()), *fns]
        self.model.observe(batch, {hook: partial(each, fns) for hook, fns in looks.items()}, fast=self.fast)
        self._refuse(broken, ids, names)

    def _update(self, place: str, read: Values, rows: list[RowTokens], ids: Tensor, kinds: Tensor | None) -> Tensor:
        values, defined, _ = read
        broken = torch.zeros(len(rows), dtype=torch.bool, device=values.device)
        for pole in self.poles[place]:
            column = place, pole
            acts = values if defined is None else values.masked_fill(~defined, torch.inf if pole == "-" else -torch.inf)
            if self.states[column].peak_all.device != acts.device:  # a model spread over devices
                self._move(column, acts.device)
            ids = ids.to(acts.device)
            if self.fused is not None and kinds is not None and defined is None:
                summary, found, means = self.fused(acts, kinds, self.n_visual, self.n_text, pole)
                means = of_both(means, rows)
            else:
                there = None if defined is None else defined.flatten(0, 1)
                summary, found, means = self._in_steps(column, acts.flatten(0, 1), rows, ids, there)
            broken |= found.broken()
            if column in self.moments:
                self.moments[column].update(*means)
            if acts.device.type == "cpu":
                self.waiting.setdefault(column, Waiting()).add(self.states[column], summary, ids, found.peak_all)
            else:
                self.states[column].update(summary, ids, found.peak_all)
        return broken

    def _update_listed(
        self, place: str, values: Sparse, kinds: Tensor, by_kind: list[RowTokens], ids: Tensor
    ) -> Tensor:
        (pole,) = self.poles[place]
        column, ids = (place, pole), ids.to(values.value.device)
        if self.states[column].peak_all.device != ids.device:
            self._move(column, ids.device)
        listed = Listed.of(values if column not in self.rows else self._of_rows(column, values, kinds), kinds)
        found = listed.extremes
        summary = listed.entering(by_kind, self._enters(column, found, ids), self.n_visual, self.n_text)
        self.moments[column].update(*listed.means(by_kind))
        self.states[column].update(summary, ids, found.peak_all)
        return found.broken()

    def _of_rows(self, column: Column, values: Sparse, kinds: Tensor) -> Sparse:
        """The values by row of the state, which is given rows for units that fire for the first time."""
        rows, real = self.rows[column], kinds.to(values.unit.device).flatten()[values.position] != TokenKind.PAD
        unit = values.unit[real]
        rows.add(unit)
        self.states[column] = rows.grown(self.states[column])
        self.moments[column] = rows.grown(self.moments[column])
        shape = *values.shape[:-1], len(self.states[column].peak_all)
        return Sparse(shape, values.position[real], rows.of[unit], values.value[real])

    def _in_steps(
        self, column: Column, acts: Tensor, rows: list[RowTokens], ids: Tensor, defined: Tensor | None
    ) -> Parts:
        """The summaries one after the other."""
        pole = column[1]
        if acts.device.type != "cpu":  # to ask which columns can enter would stop a GPU in every layer
            found = extremes(acts, rows, pole)
            summary = summarise(acts, rows, self.n_visual, self.n_text, pole)
        else:
            chunks, found = look(acts, rows, pole)
            summary = entering(chunks, self._enters(column, found, ids), self.n_visual, self.n_text)
        return summary, found, image_means(acts, rows, pole, defined)

    def _enters(self, column: Column, found: Extremes, ids: Tensor) -> Tensor:
        before, floor = self.before.get(column), None
        if isinstance(before, Fired):
            there = torch.zeros(found.score.shape[1], dtype=torch.int64, device=ids.device)
            there[1 : len(self.rows[column])] = before.rows[self.rows[column].units]
            floor = before.part.floor[there]
        elif before is not None:
            floor = before.floor
        return self.states[column].enters(found.score, ids, floor)

    def _move(self, column: Column, device: torch.device) -> None:
        self.states[column] = self.states[column].to(device)
        if column in self.moments:
            self.moments[column] = self.moments[column].to(device)
        if column in self.before:
            self.before[column] = self.before[column].to(device)
        if column in self.rows:
            self.rows[column] = self.rows[column].to(device)

    @property
    def kept(self) -> tuple[States, Sums]:
        """States and moments as a block stores them."""
        for column, waiting in self.waiting.items():
            waiting.into(self.states[column])

        def kept(parts: dict[Column, P]) -> dict[Column, P | Fired[P]]:
            return {c: self.rows[c].kept(part) if c in self.rows else part for c, part in parts.items()}

        return kept(self.states), kept(self.moments)

    def _refuse(self, broken: dict[str, Tensor], ids: Sequence[int], names: Sequence[str]) -> None:
        """One look at the flags of all hooks after the pass: looking at each would stop a GPU in every layer."""
        if not bool(torch.stack([flags.any().to(self.model.device) for flags in broken.values()]).any()):
            return
        hook, row = next((h, int(f.nonzero()[0])) for h, f in broken.items() if f.any())
        raise FloatingPointError(
            f"sample {ids[row]} ({names[row]}) has activations at {hook!r} that are not finite. In float16 a large "
            "model can overflow: load it in bfloat16 or float32. Otherwise look at this sample, or leave it out"
        )
