"""What a scan keeps of one batch: pure functions of activations.

A sample is visual-activated if at least n visual tokens exceed a threshold. As every step of the normalisation is
monotone, that is the same as: the n-th largest visual activation, normalised, exceeds it. So the few largest values of
every kind carry all that Xu, Lan, Lu 2025 (section 3.2) ask of a sample, for any threshold and any smaller n, and no
second pass over the data is needed.

Two forms with equal results: `summarise` sorts every column; `chunks.entering` sorts only those columns that can still
enter the top samples, which is quicker once these are full.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlm_neurons.tokens import TokenKind
from vlm_neurons.units import Pole

Positions = slice | Tensor  # token numbers: neighbours as a slice (a view), others as an index tensor
NONE = slice(0, 0)


@dataclass(frozen=True)
class RowTokens:
    """Which rows of a [token, neuron] tensor belong to one sample.

    Attributes:
        visual: image patches.
        text: the response.
        other: template tokens; never padding, whose activations mean nothing.
    """

    visual: Positions
    text: Positions
    other: Positions


def rows_by_kind(kinds: Int[Tensor, "batch pos"]) -> list[RowTokens]:
    """Tokens of every sample in a backbone tensor flattened from [batch, pos, d] to [batch * pos, d].

    >>> rows_by_kind(torch.tensor([[1, 2, 2, 3]]))
    [RowTokens(visual=slice(1, 3, None), text=slice(3, 4, None), other=slice(0, 1, None))]
    """
    width = kinds.shape[1]
    rows = []
    for number, row in enumerate(kinds.cpu()):
        start = number * width
        rows.append(
            RowTokens(
                *(_positions(row, kind, start) for kind in (TokenKind.VISUAL, TokenKind.TEXT, TokenKind.TEMPLATE))
            )
        )
    return rows


def rows_by_image(rows: Int[Tensor, "patch"], n_rows: int) -> list[RowTokens]:
    """Tokens of every sample in a vision tensor [patch, d] of all images; all of them are visual.

    Args:
        rows: sample of every patch.
        n_rows: how many samples there are.

    >>> rows_by_image(torch.tensor([0, 0, 2, 2]), n_rows=3)[1].visual     # a sample without images
    slice(0, 0, None)
    """
    return [RowTokens(_positions(rows, row, 0), NONE, NONE) for row in range(n_rows)]


def _positions(values: Int[Tensor, "n"], wanted: int, start: int) -> Positions:
    found = (values == wanted).nonzero().flatten()
    if len(found) == 0:
        return NONE
    first, last = int(found[0]), int(found[-1])
    if last - first + 1 == len(found):
        return slice(start + first, start + last + 1)
    return found + start


def take(acts: Float[Tensor, "token d"], where: Positions) -> Float[Tensor, "n d"]:
    """Some tokens of a tensor; a view where they are neighbours."""
    return acts[where] if isinstance(where, slice) else acts.index_select(0, where.to(acts.device))


def length_of(where: Positions) -> int:
    """How many tokens these are."""
    return where.stop - where.start if isinstance(where, slice) else len(where)


def largest(acts: Float[Tensor, "token d"], where: Positions, n: int, pole: Pole = "+") -> Float[Tensor, "d n"]:
    """The n largest values of every neuron at some tokens, descending; -inf where there are fewer tokens.

    Pole `"-"` takes the largest of the negated values. Zeros come out as +0.0: -0.0 would order below its equal.
    """
    tokens = take(acts, where)
    have = min(n, tokens.shape[0])
    if have and acts.device.type != "cpu":  # a GPU's topk reads each column by itself, across the grain of memory
        values = one_by_one(tokens if pole == "+" else -tokens, have)[0]
    else:
        values = tokens.topk(have, dim=0, largest=pole == "+").values
        values = values if pole == "+" else -values
    out = acts.new_full((acts.shape[1], n), -torch.inf)
    out[:, :have] = values.T + 0.0
    return out


def one_by_one(x: Float[Tensor, "*row pos d"], n: int) -> tuple[Float[Tensor, "*row n d"], Int[Tensor, "*row n d"]]:
    """The n largest values along the last axis but one, descending, and their places; equal values each count.

    >>> one_by_one(torch.tensor([[1.0], [3.0], [3.0]]), 2)[0].tolist()
    [[3.0], [3.0]]
    """
    left, values, places = x.clone(), [], []
    for _ in range(n):
        value, place = left.max(-2, keepdim=True)
        values.append(value)
        places.append(place)
        left.scatter_(-2, place, -torch.inf)
    return torch.cat(values, -2), torch.cat(places, -2)


@dataclass(frozen=True)
class Extremes:
    """The largest value of every neuron in every sample, for each kind of token; -inf where there is no such token."""

    visual: Float[Tensor, "row d"]
    text: Float[Tensor, "row d"]
    other: Float[Tensor, "row d"]

    @property
    def score(self) -> Float[Tensor, "row d"]:
        """What ranks the samples: the maximum over visual and text tokens."""
        return torch.maximum(self.visual, self.text)

    @property
    def peak_all(self) -> Float[Tensor, "d"]:
        """The maximum over all samples and all tokens that are not padding."""
        return torch.maximum(self.score, self.other).amax(0) + 0.0

    def broken(self) -> torch.Tensor:
        """Bool[row]: the sample holds NaN or +inf (of the negated values at pole `"-"`: -inf)."""
        worst = torch.maximum(self.score, self.other)  # torch.maximum and amax hand NaN on
        return (worst.isnan() | (worst == torch.inf)).any(1)


def extremes(acts: Float[Tensor, "token d"], rows: Sequence[RowTokens], pole: Pole = "+") -> Extremes:
    """One pass over the activations of a batch."""

    def best(where: Positions) -> Tensor:
        tokens = take(acts, where)
        if tokens.shape[0] == 0:
            return acts.new_full((acts.shape[1],), -torch.inf)
        return tokens.amax(0) if pole == "+" else -tokens.amin(0)

    return Extremes(*(torch.stack([best(getattr(r, kind)) for r in rows]) for kind in ("visual", "text", "other")))


@dataclass(frozen=True)
class Summary:
    """What a batch adds to the top samples of the neurons of one tensor.

    Attributes:
        visual: the largest visual values, descending.
        text: the same of the text.
        columns: neurons that the rows of `visual` and `text` belong to; None means all of them. A sample that cannot
            enter a neuron's top samples, or has no tokens there, holds -inf only.
    """

    visual: Float[Tensor, "column row n_visual"]
    text: Float[Tensor, "column row n_text"]
    columns: Int[Tensor, "column"] | None = None


def summarise(
    acts: Float[Tensor, "token d"], rows: Sequence[RowTokens], n_visual: int, n_text: int, pole: Pole = "+"
) -> Summary:
    """The largest values of every sample and neuron.

    Args:
        acts: activations of a batch, tokens of all samples one after the other.
        rows: which tokens belong to which sample.
        n_visual: values to keep per sample at visual tokens.
        n_text: the same at text tokens.
        pole: `"-"` for the negated activations.
    """
    visual = torch.stack([largest(acts, row.visual, n_visual, pole) for row in rows], 1)
    text = torch.stack([largest(acts, row.text, n_text, pole) for row in rows], 1)
    return Summary(visual, text)
