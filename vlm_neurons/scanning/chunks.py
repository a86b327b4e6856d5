"""What a CPU looks at of a batch: the largest value of a few neighbouring tokens first, and then of few tokens more.

One pass over the activations gives the largest value of every chunk of neighbours, and with them the maxima that say
which neurons a sample can enter. The n largest values of these neurons are in the n chunks with the largest maxima, or
among the few tokens behind the last chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlm_neurons.scanning.summarise import (
    NONE,
    Extremes,
    Positions,
    RowTokens,
    Summary,
    extremes,
    largest,
    length_of,
    take,
)
from vlm_neurons.units import Pole

CHUNK = 8  # tokens
MANY = 8 * CHUNK  # tokens; of fewer there is little to gain
BESIDE = 2**21  # bytes of small samples that are looked at as one
ALIKE = 1.25  # of their tokens: what these may fill, as all are as long as the longest
FAR = 2 * torch.finfo(torch.float32).max  # an infinite key has no bits to spare


@dataclass(frozen=True)
class Chunks:
    """Tokens of one kind in some samples, and the largest value of each chunk of neighbours.

    Attributes:
        tokens: their activations; a column is a neuron in one sample. Behind the last token of a sample that has fewer
            is what is never large.
        pole: `"-"` where the largest of the negated values are meant.
        maxima: of the whole chunks; of few tokens there is none.
        largest: the largest value of every column; -inf where there is no token.
    """

    tokens: Float[Tensor, "token column"]
    pole: Pole
    maxima: Float[Tensor, "chunk column"]
    largest: Float[Tensor, "column"]

    @classmethod
    def of(cls, acts: Float[Tensor, "token d"], samples: Sequence[Positions], pole: Pole) -> Chunks:
        """The chunks of some tokens of samples, one beside the other: columns are those of the first sample, then of
        the second."""

        def most(x: Tensor, dim: int) -> Tensor:
            return x.amax(dim) if pole == "+" else -x.amin(dim)

        tokens = _beside([take(acts, where) for where in samples], -torch.inf if pole == "+" else torch.inf)
        whole = len(tokens) // CHUNK * CHUNK if len(tokens) >= MANY else 0
        maxima, rest = tokens[:0], tokens[whole:]
        largest = tokens.new_full(tokens.shape[1:], -torch.inf)
        if whole:
            maxima = most(tokens[:whole].unflatten(0, (-1, CHUNK)), 1)
            largest = maxima.amax(0)
        if len(rest):
            largest = torch.maximum(largest, most(rest, 0))
        return cls(tokens, pole, maxima, largest)

    def values(self, wanted: Int[Tensor, "column"], n: int) -> Float[Tensor, "column n"]:
        """`summarise.largest` of some neurons: equal to the last bit.

        Chunks are found by keys in float64, which hold a float32 and, in bits that it does not need, the number of its
        chunk: no two are equal. It is numpy that sorts, as its rows take a third of the time.
        """
        every, (n_chunks, d) = len(wanted) == self.tokens.shape[1], self.maxima.shape

        def own(x: Tensor) -> Tensor:
            return x if every else x.index_select(1, wanted)

        if not n_chunks or n > CHUNK:
            return largest(own(self.tokens), slice(None), n, self.pole)
        keys = own(self.maxima).T.to(torch.float64, memory_format=torch.contiguous_format).clamp_(-FAR, FAR)
        bits = keys.view(torch.int64).bitwise_or_(torch.arange(n_chunks))
        keys.numpy().partition(n_chunks - n, axis=1)
        chosen = bits[:, n_chunks - n :] & 0xFFFFFF
        at = chosen.mul_(CHUNK * d).add_(wanted[:, None])[..., None] + torch.arange(0, CHUNK * d, d)
        near = self.tokens.reshape(-1).take(at.flatten(1))
        near = torch.cat([near, own(self.tokens[n_chunks * CHUNK :]).T], 1).float()  # numpy has no bfloat16
        near = near if self.pole == "+" else -near
        near.numpy().sort(axis=1)
        return near[:, -n:].flip(1).to(self.tokens.dtype) + 0.0  # no -0.0


@dataclass(frozen=True)
class Group:
    """Samples that follow each other in a batch, looked at as one.

    Attributes:
        rows: which.
        visual, text: their tokens.
    """

    rows: slice
    visual: Chunks
    text: Chunks


def look(acts: Float[Tensor, "token d"], rows: Sequence[RowTokens], pole: Pole) -> tuple[list[Group], Extremes]:
    """Chunks of the visual and the text tokens of every sample, and the maxima, in one pass."""
    groups = []
    for own in _alike(rows, BESIDE // max(1, acts.shape[1] * acts.element_size())):
        visual, text = (Chunks.of(acts, places, pole)
                        for places in ([r.visual for r in rows[own]], [r.text for r in rows[own]]))  # fmt: skip
        groups.append(Group(own, visual, text))
    visual, text = (torch.cat([part.largest for part in parts]).unflatten(0, (len(rows), -1))
                    for parts in ([one.visual for one in groups], [one.text for one in groups]))  # fmt: skip
    other = extremes(acts, [RowTokens(NONE, NONE, row.other) for row in rows], pole).other
    return groups, Extremes(visual, text, other)


def entering(groups: Sequence[Group], enters: Bool[Tensor, "row d"], n_visual: int, n_text: int) -> Summary:
    """`summarise` of those samples and neurons alone that `enters` names."""
    columns = enters.any(0).nonzero().flatten()
    tokens = groups[0].visual.tokens
    visual, text = (tokens.new_full((len(enters), len(columns), n), -torch.inf) for n in (n_visual, n_text))
    for one in groups:
        inside = enters[one.rows, columns]
        wanted = enters[one.rows].flatten().nonzero().flatten()
        if len(wanted):
            for part, out in ((one.visual, visual), (one.text, text)):
                out[one.rows][inside] = part.values(wanted, out.shape[2])
    return Summary(visual.transpose(0, 1), text.transpose(0, 1), columns)


def _alike(rows: Sequence[RowTokens], room: int) -> Iterator[slice]:
    """Samples that follow each other and are about as long: of each kind no more than `room` tokens side by side."""
    first, longest, total = 0, [0, 0], [0, 0]
    for number, row in enumerate(rows):
        own, count = [length_of(row.visual), length_of(row.text)], number - first + 1
        longest, total = [*map(max, longest, own)], [a + b for a, b in zip(total, own, strict=True)]
        if count > 1 and any(most * count > min(room, ALIKE * all_) for most, all_ in zip(longest, total, strict=True)):
            yield slice(first, number)
            first, longest, total = number, own, own
    yield slice(first, len(rows))


def _beside(parts: list[Float[Tensor, "_token d"]], least: float) -> Float[Tensor, "token column"]:
    """Tokens of some samples side by side; a view of those of one."""
    if len(parts) == 1:
        return parts[0]
    if len({len(part) for part in parts}) == 1:
        return torch.cat(parts, 1)
    found = parts[0].new_full((max(map(len, parts)), len(parts), parts[0].shape[1]), least)
    for number, part in enumerate(parts):
        found[: len(part), number] = part
    return found.flatten(1)
