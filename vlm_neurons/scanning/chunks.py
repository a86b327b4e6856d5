"""What a CPU looks at of a batch: the largest value of a few neighbouring tokens first, and then of few tokens more.

One pass over the activations gives the largest value of every chunk of neighbours, and with them the maxima that say
which neurons a sample can enter. The n largest values of these neurons are in the n chunks with the largest maxima.
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


@dataclass(frozen=True)
class Chunks:
    """Tokens of one kind in one sample, and the largest value of each chunk of neighbours (the last one may be short).

    Attributes:
        tokens: their activations.
        pole: `"-"` where the largest of the negated values are meant.
        maxima: of chunks; of few tokens, of each.
    """

    tokens: Float[Tensor, "token d"]
    pole: Pole
    maxima: Float[Tensor, "chunk d"]

    @classmethod
    def of(cls, acts: Float[Tensor, "token d"], where: Positions, pole: Pole) -> Chunks:
        """The chunks of some tokens."""
        tokens = take(acts, where)
        whole = len(tokens) // CHUNK * CHUNK if len(tokens) >= MANY else 0
        parts = [tokens[:whole].unflatten(0, (-1, CHUNK)), tokens[whole:][None]]
        maxima = [x.amax(1) if pole == "+" else -x.amin(1) for x in parts if x.shape[0] * x.shape[1]]
        return cls(tokens, pole, torch.cat(maxima) if maxima else tokens[:0])

    @property
    def largest(self) -> Float[Tensor, "d"]:
        """The largest value of every neuron; -inf where there is no token."""
        none = self.tokens.new_full(self.tokens.shape[1:], -torch.inf)
        return self.maxima.amax(0) if len(self.maxima) else none

    def values(self, wanted: Int[Tensor, "column"], n: int) -> Float[Tensor, "column n"]:
        """`summarise.largest` of some neurons: equal to the last bit.

        Chunks are found by keys in float64, which hold a float32 and, in bits that it does not need, the number of its
        chunk: no two are equal.
        """
        every = len(wanted) == self.tokens.shape[1]
        if len(self.tokens) < MANY or n > CHUNK:
            return largest(self.tokens if every else self.tokens.index_select(1, wanted), slice(None), n, self.pole)
        maxima = self.maxima if every else self.maxima.index_select(1, wanted)
        device, far = maxima.device, 2 * torch.finfo(torch.float32).max  # an infinite key has no bits to spare
        keys = maxima.double().clamp_(-far, far).view(torch.int64) | torch.arange(len(maxima), device=device)[:, None]
        chosen = best(keys.view(torch.float64), n).view(torch.int64) & 0xFFFFFF
        rows = (chosen[:, None] * CHUNK + torch.arange(CHUNK, device=device)[:, None]).flatten(0, 1)
        inside = rows.clamp(max=len(self.tokens) - 1)
        near = self.tokens.gather(0, inside) if every else _at(self.tokens, inside, wanted)
        near = near if self.pole == "+" else -near
        return best(near.masked_fill_(rows >= len(self.tokens), -torch.inf), n).T + 0.0  # no -0.0


def _at(x: Float[Tensor, "token d"], rows: Int[Tensor, "row column"], columns: Int[Tensor, "column"]) -> Tensor:
    """`x[rows, columns]`, in half the time where there are thousands."""
    if not x.is_contiguous():
        return x[rows, columns]
    return x.view(-1).index_select(0, (rows * x.shape[1] + columns).flatten()).view(rows.shape)


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


def best(x: Float[Tensor, "row d"], n: int) -> Float[Tensor, "n d"]:
    """The n largest of every column, descending: lists of one that are merged two by two, all columns at once. Entry i
    of `lists` holds the i-th values of all lists."""
    lists = [x]
    while (rows := len(lists[0])) > 1:
        a, b = [one[: rows // 2] for one in lists], [one[rows // 2 : rows // 2 * 2] for one in reversed(lists)]
        merged = _in_order([torch.maximum(i, j) for i, j in zip(a, b, strict=True)])
        if len(lists) < n:
            merged += _in_order([torch.minimum(i, j) for i, j in zip(a, b, strict=True)])
        if rows % 2:  # one list is left
            left = [one[-1:] for one in lists]
            left += [torch.full_like(left[0], -torch.inf)] * (len(merged) - len(left))
            merged = [torch.cat(pair) for pair in zip(merged, left, strict=True)]
        lists = merged
    return torch.cat(lists[:n])


def _in_order(values: list[Tensor]) -> list[Tensor]:
    """Put a bitonic list (Batcher 1968), which two sorted lists give when they are compared crosswise, in order."""
    if (half := len(values) // 2) == 0:
        return values
    pairs = list(zip(values[:half], values[half:], strict=True))
    return _in_order([torch.maximum(*p) for p in pairs]) + _in_order([torch.minimum(*p) for p in pairs])
