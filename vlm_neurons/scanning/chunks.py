"""What a CPU looks at of a batch: the largest value of a few neighbouring tokens first, and then of few tokens more.

One pass over the activations gives the largest value of every chunk of neighbours, and with them the maxima that say
which neurons a sample can enter. The n largest values of these neurons are in the n chunks with the largest maxima, or
among the few tokens behind the last chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlm_neurons.scanning.summarise import NONE, Extremes, Positions, RowTokens, Summary, extremes, largest, take
from vlm_neurons.units import Pole

CHUNK = 8  # tokens
MANY = 8 * CHUNK  # tokens; of fewer there is little to gain
FAR = 2 * torch.finfo(torch.float32).max  # an infinite key has no bits to spare


@dataclass(frozen=True)
class Chunks:
    """Tokens of one kind in one sample, and the largest value of each chunk of neighbours.

    Attributes:
        tokens: their activations.
        pole: `"-"` where the largest of the negated values are meant.
        maxima: of the whole chunks; of few tokens there is none.
        largest: the largest value of every neuron; -inf where there is no token.
    """

    tokens: Float[Tensor, "token d"]
    pole: Pole
    maxima: Float[Tensor, "chunk d"]
    largest: Float[Tensor, "d"]

    @classmethod
    def of(cls, acts: Float[Tensor, "token d"], where: Positions, pole: Pole) -> Chunks:
        """The chunks of some tokens."""

        def most(x: Tensor, dim: int) -> Tensor:
            return x.amax(dim) if pole == "+" else -x.amin(dim)

        tokens = take(acts, where)
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


def look(
    acts: Float[Tensor, "token d"], rows: Sequence[RowTokens], pole: Pole
) -> tuple[list[tuple[Chunks, Chunks]], Extremes]:
    """Chunks of the visual and the text tokens of every sample, and the maxima, in one pass."""
    chunks = [(Chunks.of(acts, row.visual, pole), Chunks.of(acts, row.text, pole)) for row in rows]
    visual, text = (torch.stack([own[kind].largest for own in chunks]) for kind in (0, 1))
    other = extremes(acts, [RowTokens(NONE, NONE, row.other) for row in rows], pole).other
    return chunks, Extremes(visual, text, other)


def entering(chunks: Sequence[tuple[Chunks, Chunks]], enters: torch.Tensor, n_visual: int, n_text: int) -> Summary:
    """`summarise` of those samples and neurons alone that `enters` (Bool[row, d]) names."""
    columns = enters.any(0).nonzero().flatten()
    tokens = chunks[0][0].tokens
    visual, text = (tokens.new_full((len(columns), len(chunks), n), -torch.inf) for n in (n_visual, n_text))
    for number, own in enumerate(chunks):
        inside = enters[number, columns]
        wanted = columns[inside]
        if len(wanted):
            for part, out in zip(own, (visual, text), strict=True):
                out[inside, number] = part.values(wanted, out.shape[2])
    return Summary(visual, text, columns)
