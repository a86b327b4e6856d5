"""The evidence of neurons, put together from what they did on each sample."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, chain, islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from vlm_neurons.evidence.activations import Units, parts_of
from vlm_neurons.evidence.exemplars import Exemplar, Group, Split, arrange, remaining
from vlm_neurons.evidence.pieces import Met, Shelf
from vlm_neurons.evidence.rows import rows_batch
from vlm_neurons.evidence.written import Written, behind, shown, written

if TYPE_CHECKING:
    import pyarrow as pa

    from vlm_neurons.units import Neuron

_BYTES = 2**25  # of values in memory at once
_TOGETHER = 32  # neurons whose rows are made at once


class Rows(NamedTuple):
    """One neuron on some samples, as lists: an object for each of thousands of rows costs collections of garbage.

    Attributes:
        samples, ones: ids, and what they are.
        groups, splits, ranks: see `Exemplar`.
        values: at all places of each.
    """

    samples: list[int]
    ones: list[Met]
    groups: list[Group]
    splits: list[Split]
    ranks: list[int]
    values: list[np.ndarray]


@dataclass(frozen=True)
class Wanted:
    """Which samples neurons are shown on. Neurons have numbers, those of a hook in a row.

    Attributes:
        neurons: what is looked at, by hook.
        tops: of every neuron, ids of its top samples, the strongest first.
        drawn: the random draw that all share.
        n_first: so many of it are to be exemplars, the rest is the pool.
        n_rest: so many exemplars beside its top samples a neuron has at most.
    """

    neurons: Sequence[Neuron]
    tops: Sequence[Sequence[int]]
    drawn: Sequence[int]
    n_first: int
    n_rest: int

    @cached_property
    def hooks(self) -> dict[str, tuple[int, int]]:
        """Hook -> the number of its first neuron, and of the first that is not its own."""
        sizes = Counter(neuron.hook for neuron in self.neurons)
        ends = accumulate(sizes.values())
        return {hook: (end - size, end) for (hook, size), end in zip(sizes.items(), ends, strict=True)}

    @cached_property
    def units(self) -> list[Neuron | None]:
        """Of every neuron the unit behind it (see `written`), if that is another one; looked at on its top samples."""
        return [unit if (unit := behind(neuron)).hook != neuron.hook else None for neuron in self.neurons]

    @cached_property
    def by_sample(self) -> dict[int, np.ndarray]:
        """Numbers of the neurons that want a sample, in order; all of them want those that were drawn."""
        every = np.arange(len(self.tops))
        own: dict[int, list[int]] = {}
        shared = set(self.drawn)
        for number, top in enumerate(self.tops):
            for sample in top:
                if sample not in shared:
                    own.setdefault(sample, []).append(number)
        return {sample: np.array(own[sample]) if sample in own else every for sample in sorted({*own, *shared})}

    def of_hook(self, sample: int, hook: str) -> np.ndarray:
        """Numbers of the neurons of a hook that want a sample, in order."""
        there = self.by_sample[sample]
        return there[slice(*np.searchsorted(there, self.hooks.get(hook, (0, 0))))]

    def behind(self, sample: int, hook: str) -> list[int]:
        """Numbers of the neurons of which a sample is a top one and that have their unit at a hook, in order."""
        return self._behind[sample][hook]

    @cached_property
    def _behind(self) -> dict[int, dict[str, list[int]]]:
        found: dict[int, dict[str, list[int]]] = {}
        for number, (top, unit) in enumerate(zip(self.tops, self.units, strict=True)):
            if unit is not None:
                for sample in top:
                    found.setdefault(sample, {}).setdefault(unit.hook, []).append(number)
        return found

    def units_of(self, sample: int) -> dict[str, Units]:
        """What is looked at on a sample, by hook: the neurons that want it, and behind these `behind`."""
        if len(self.by_sample[sample]) == len(self.tops):
            found = dict(self._units)
        else:
            own = {hook: self.of_hook(sample, hook) - first for hook, (first, _) in self.hooks.items()}
            found = {hook: self._units[hook].some(numbers) for hook, numbers in own.items() if len(numbers)}
        for hook, numbers in self._behind.get(sample, {}).items():
            units = Units.of([unit for k in numbers if (unit := self.units[k]) is not None])
            found[hook] = found[hook].then(units) if hook in found else units
        return found

    @cached_property
    def _units(self) -> dict[str, Units]:
        return {hook: Units.of(self.neurons[slice(*own)]) for hook, own in self.hooks.items()}

    def parts(self, n_places: int) -> list[tuple[int, int]]:
        """Numbers of neurons that are put together at once, from and to: as many as memory has room for."""
        n_samples = len(self.drawn) + 2 * max(map(len, self.tops), default=0)  # top ones, and the unit behind there
        size = max(1, _BYTES // (4 * n_places * max(1, n_samples)))
        return [(k, min(k + size, len(self.tops))) for k in range(0, len(self.tops), size)]

    def rest(self, number: int) -> tuple[list[int], list[int]]:
        """Samples of a neuron beside its top ones: those that may be exemplars, and those of the pool."""
        own = set(self.tops[number])  # are neither
        others = [i for i in self.drawn[: self.n_first] if i not in own][: self.n_rest]
        known = {*own, *others}
        return others, [i for i in self.drawn if i not in known]


@dataclass(frozen=True)
class Part:
    """Neurons that are put together at once.

    Attributes:
        wanted, samples, shelf: what was looked at.
        first, last: numbers of the first neuron, and of the first that comes behind.
    """

    wanted: Wanted
    samples: Mapping[int, Met]
    shelf: Shelf
    first: int
    last: int
    _read: dict[tuple[int, str], tuple[int, np.ndarray]] = field(default_factory=dict)

    def rows(self) -> Iterator[tuple[int, Rows]]:
        """Of every neuron its number and its rows: exemplars, then the pool."""
        shared = _shared_keys(self.samples)
        for hook, (start, end) in self.wanted.hooks.items():
            first, last = max(start, self.first), min(end, self.last)
            if first < last:
                yield from self._of_hook(shared, hook, start, first, last)

    def _of_hook(
        self, shared: Mapping[int, list[object]], hook: str, start: int, first: int, last: int
    ) -> Iterator[tuple[int, Rows]]:
        wanted, samples = self.wanted, self.samples
        there = [i for i in wanted.drawn if hook in samples[i].blocks]
        values = {i: self.shelf.values(samples[i], hook, first - start, last - start) for i in there}
        peaks = [peaks_at(samples[i], v).tolist() for i, v in values.items()]
        own, keys = _own(wanted, hook), shared.__getitem__

        for row, number in enumerate(range(first, last)):
            others, pool = wanted.rest(number)
            if len(there) < len(wanted.drawn):
                others, pool = ([i for i in part if i in values] for part in (others, pool))
            peak = dict(zip(there, (of_sample[row] for of_sample in peaks), strict=True))
            placed = arrange(wanted.tops[number], others, keys, peak.__getitem__)
            left = remaining((i for i, *_ in placed), pool, keys)
            shown_on = [i for i, *_ in placed] + left
            yield (
                number,
                Rows(
                    shown_on,
                    [samples[i] for i in shown_on],
                    [group for _, group, _, _ in placed] + ["pool"] * len(left),
                    [split for _, _, split, _ in placed] + ["test"] * len(left),
                    [rank for *_, rank in placed] + [*range(len(left))],
                    [values[i][row] if i in values else self._one(i, hook, own[i], number) for i in shown_on],
                ),
            )

    def written(self, number: int, rows: Rows, state: str) -> Written | None:
        """What the unit behind a neuron did in the samples that show it."""
        unit = self.wanted.units[number]
        if unit is None or not (strong := shown(zip(rows.groups, rows.splits, strict=True))):
            return None
        at, name = [rows.samples[k] for k in strong], behind_name(unit.hook)
        posts = [self._one(i, name, self.wanted.behind(i, unit.hook), number) for i in at]
        gates = np.concatenate([rows.values[k] for k in strong])
        return written(gates.astype(float), np.concatenate(posts).astype(float), state)

    def _one(self, sample: int, name: str, every: Sequence[int], number: int) -> Float[np.ndarray, "place"]:
        """Values of a neuron on a sample that not all want: those of the whole part are read together.

        Args:
            sample: its id.
            name: see `Met.blocks`.
            every: numbers of the neurons that have values there, in order.
            number: of the neuron.
        """
        if (found := self._read.get((sample, name))) is None:
            first, last = bisect_left(every, self.first), bisect_left(every, self.last)
            found = self._read[sample, name] = first, self.shelf.values(self.samples[sample], name, first, last)
        first, values = found
        return values[bisect_left(every, number) - first]


def _shared_keys(samples: Mapping[int, Met]) -> dict[int, list[object]]:
    """Of every sample those of its keys that another sample has too: only these keep samples apart."""
    met = Counter(key for one in samples.values() for key in one.keys)
    return {i: [key for key in one.keys if met[key] > 1] for i, one in samples.items()}


def _own(wanted: Wanted, hook: str) -> dict[int, list[int]]:
    """Of samples that were not drawn, the neurons of a hook that want them, in order."""
    found: dict[int, list[int]] = {}
    shared = set(wanted.drawn)
    for number in range(*wanted.hooks[hook]):
        for sample in wanted.tops[number]:
            if sample not in shared:
                found.setdefault(sample, []).append(number)
    return found


def behind_name(hook: str) -> str:
    """What values of units behind neurons go by, beside those of neurons of the same hook."""
    return f"behind {hook}"


def peaks_at(one: Met, values: Float[np.ndarray, "neuron place"]) -> Float[np.ndarray, "neuron"]:
    """`Exemplar.peak` of some neurons on a sample."""
    counted = values[:, one.text]
    if not counted.shape[1]:
        return np.full(len(values), -np.inf)
    return np.fmax(np.fmax.reduce(counted, axis=1), -np.inf)  # NaN where there is none


def exemplars_of(rows: Rows) -> tuple[Exemplar, ...]:
    """As exemplars, of samples that are in memory."""
    found = []
    for _, one, group, split, rank, values in zip(*rows, strict=True):
        assert one.seen is not None
        maps, tokens = parts_of(one.seen, values)
        found.append(Exemplar(one.seen, group, split, rank, maps, tokens))
    return tuple(found)


def batches_of(part: Part, state: str) -> Iterator[tuple[int, Written | None, pa.RecordBatch]]:
    """Of every neuron of a part its number, what the unit behind it did, and its rows as a batch of a file."""
    every = part.rows()
    while some := list(islice(every, _TOGETHER)):
        batches = _batches([rows for _, rows in some])
        for (number, rows), batch in zip(some, batches, strict=True):
            yield number, part.written(number, rows, state), batch


def _batches(every: Sequence[Rows]) -> Iterator[pa.RecordBatch]:
    """The rows of each neuron; they are made together, since many small arrays take longer than a large one."""
    samples, ones, groups, splits, ranks, values = (list(chain(*own)) for own in zip(*every, strict=True))
    whole = rows_batch(
        [one.key for one in ones], samples, groups, splits, ranks, [one.grids for one in ones],
        [own[: one.n_patches] for own, one in zip(values, ones, strict=True)],
        [own[one.n_patches :] for own, one in zip(values, ones, strict=True)],
    )  # fmt: skip
    start = 0
    for own in every:
        yield whole.slice(start, len(own.samples))
        start += len(own.samples)
