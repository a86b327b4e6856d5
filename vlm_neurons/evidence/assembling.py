"""The evidence of neurons, put together from what they did on each sample."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from vlm_neurons.evidence.activations import parts_of
from vlm_neurons.evidence.exemplars import Exemplar, Group, Split, arrange, remaining
from vlm_neurons.evidence.pieces import Met, Shelf
from vlm_neurons.evidence.rows import rows_batch
from vlm_neurons.evidence.written import Written, shown, written

if TYPE_CHECKING:
    import pyarrow as pa

    from vlm_neurons.units import Neuron

_BYTES = 2**25  # of values in memory at once
_TOGETHER = 32  # neurons whose rows are made at once


class Row(NamedTuple):
    """One neuron on one sample.

    Attributes:
        sample, one: the sample.
        group, split, rank: see `Exemplar`.
        values: at all places.
    """

    sample: int
    one: Met
    group: Group
    split: Split
    rank: int
    values: Float[np.ndarray, "place"]


class Rows(NamedTuple):
    """One neuron on some samples, as lists: an object for each of thousands of rows costs collections of garbage.

    Attributes:
        samples, ones, groups, splits, ranks, values: those of each `Row`.
    """

    samples: list[int]
    ones: list[Met]
    groups: list[Group]
    splits: list[Split]
    ranks: list[int]
    values: list[np.ndarray]

    def each(self) -> Iterator[Row]:
        """One after the other."""
        return map(Row, *self)


@dataclass(frozen=True)
class Wanted:
    """Which samples neurons are shown on. Neurons have numbers, those of a hook in a row.

    Attributes:
        tops: of every neuron, ids of its top samples, the strongest first.
        drawn: the random draw that all share.
        n_first: so many of it are to be exemplars, the rest is the pool.
        n_rest: so many exemplars beside its top samples a neuron has at most.
        hooks: hook -> the number of its first neuron, and of the first that is not its own.
        units: of every neuron the unit behind it (see `written`), if that is another one; looked at on its top samples.
    """

    tops: Sequence[Sequence[int]]
    drawn: Sequence[int]
    n_first: int
    n_rest: int
    hooks: Mapping[str, tuple[int, int]]
    units: Sequence[Neuron | None]

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

    def behind(self, sample: int, hook: str) -> list[int]:
        """Numbers of the neurons of which a sample is a top one and that have their unit at a hook, in order."""
        return self._behind[sample, hook]

    @cached_property
    def _behind(self) -> dict[tuple[int, str], list[int]]:
        found: dict[tuple[int, str], list[int]] = {}
        for number, (top, unit) in enumerate(zip(self.tops, self.units, strict=True)):
            if unit is not None:
                for sample in top:
                    found.setdefault((sample, unit.hook), []).append(number)
        return found

    def parts(self, n_places: int) -> list[tuple[int, int]]:
        """Numbers of neurons that are put together at once, from and to: as many as memory has room for."""
        size = max(1, _BYTES // (4 * n_places * max(1, len(self.drawn))))
        return [(k, min(k + size, len(self.tops))) for k in range(0, len(self.tops), size)]

    def rest(self, number: int) -> tuple[list[int], list[int]]:
        """Samples of a neuron beside its top ones: those that may be exemplars, and those of the pool."""
        own = set(self.tops[number])  # are neither
        others = [i for i in self.drawn[: self.n_first] if i not in own][: self.n_rest]
        known = {*own, *others}
        return others, [i for i in self.drawn if i not in known]


def rows_of(
    wanted: Wanted, samples: Mapping[int, Met], shelf: Shelf, part: tuple[int, int]
) -> Iterator[tuple[int, Rows]]:
    """Of every neuron of a part its number and its rows: exemplars, then the pool."""
    shared = _shared_keys(samples)
    for hook, (start, end) in wanted.hooks.items():
        first, last = max(start, part[0]), min(end, part[1])
        if first < last:
            yield from _of_hook(wanted, samples, shared, shelf, hook, first, last)


def _shared_keys(samples: Mapping[int, Met]) -> dict[int, list[object]]:
    """Of every sample those of its keys that another sample has too: only these keep samples apart."""
    met = Counter(key for one in samples.values() for key in one.keys)
    return {i: [key for key in one.keys if met[key] > 1] for i, one in samples.items()}


def _of_hook(
    wanted: Wanted, samples: Mapping[int, Met], shared: Mapping[int, list[object]], shelf: Shelf, hook: str,
    first: int, last: int,
) -> Iterator[tuple[int, Rows]]:  # fmt: skip
    start = wanted.hooks[hook][0]
    there = [i for i in wanted.drawn if hook in samples[i].blocks]
    values = {i: shelf.values(samples[i], hook, first - start, last - start) for i in there}
    peaks = [peaks_at(samples[i], v).tolist() for i, v in values.items()]
    own, keys = _own(wanted, hook), shared.__getitem__

    for row, number in enumerate(range(first, last)):
        others, pool = wanted.rest(number)
        if len(there) < len(wanted.drawn):
            others, pool = ([i for i in part if i in values] for part in (others, pool))
        peak = dict(zip(there, (of_sample[row] for of_sample in peaks), strict=True))
        placed = arrange(wanted.tops[number], others, keys, peak.__getitem__)
        left = remaining((i for i, *_ in placed), pool, keys)

        def at(sample: int, number: int = number, row: int = row) -> np.ndarray:
            if sample in values:
                return values[sample][row]
            place = bisect_left(own[sample], number)
            return shelf.values(samples[sample], hook, place, place + 1)[0]

        shown_on = [i for i, *_ in placed] + left
        yield (
            number,
            Rows(
                shown_on,
                [samples[i] for i in shown_on],
                [group for _, group, _, _ in placed] + ["pool"] * len(left),
                [split for _, _, split, _ in placed] + ["test"] * len(left),
                [rank for *_, rank in placed] + [*range(len(left))],
                [at(i) for i in shown_on],
            ),
        )


def _own(wanted: Wanted, hook: str) -> dict[int, list[int]]:
    """Of samples that were not drawn, the neurons of a hook that want them, in order."""
    found: dict[int, list[int]] = {}
    shared = set(wanted.drawn)
    for number in range(*wanted.hooks[hook]):
        for sample in wanted.tops[number]:
            if sample not in shared:
                found.setdefault(sample, []).append(number)
    return found


def written_at(
    wanted: Wanted, samples: Mapping[int, Met], shelf: Shelf, number: int, rows: Rows, state: str
) -> Written | None:
    """What the unit behind a neuron did in the samples that show it."""
    unit = wanted.units[number]
    strong = shown(rows.each())
    if unit is None or not strong:
        return None
    gates, posts = [], []
    for row in strong:
        place = bisect_left(wanted.behind(row.sample, unit.hook), number)
        posts.append(shelf.values(row.one, behind_name(unit.hook), place, place + 1)[0])
        gates.append(row.values)
    return written(np.concatenate(gates).astype(float), np.concatenate(posts).astype(float), state)


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
    for row in rows.each():
        assert row.one.seen is not None
        maps, tokens = parts_of(row.one.seen, row.values)
        found.append(Exemplar(row.one.seen, row.group, row.split, row.rank, maps, tokens))
    return tuple(found)


def batches_of(
    wanted: Wanted, samples: Mapping[int, Met], shelf: Shelf, part: tuple[int, int], state: str
) -> Iterator[tuple[int, Written | None, pa.RecordBatch]]:
    """Of every neuron of a part its number, what the unit behind it did, and its rows as a batch of a file."""
    every = rows_of(wanted, samples, shelf, part)
    while some := list(islice(every, _TOGETHER)):
        batches = _batches([rows for _, rows in some])
        for (number, rows), batch in zip(some, batches, strict=True):
            yield number, written_at(wanted, samples, shelf, number, rows, state), batch


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
