"""What a scan keeps of units that are 0 nearly everywhere: as `summarise` and `moments` have it, from the values alone
that are not 0. What is kept is equal to the last bit; means are summed in float64 and differ in last digits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlm_neurons.scanning.chunks import entering, look
from vlm_neurons.scanning.moments import of_both
from vlm_neurons.scanning.summarise import Extremes, RowTokens, Summary
from vlm_neurons.sites.sparse import CACHED, Sparse
from vlm_neurons.tokens import TokenKind

KINDS = (TokenKind.VISUAL, TokenKind.TEXT, TokenKind.TEMPLATE)


@dataclass(frozen=True, eq=False)
class Listed:
    """The values of a batch by sample and kind of token, without those at padding.

    Attributes:
        values: of all positions.
        cell: of each value that counts: (sample * 3 + kind) * units + unit.
        value: these values.
        n: tokens of every sample and kind.
    """

    values: Sparse
    cell: Int[Tensor, "n"]
    value: Float[Tensor, "n"]
    n: Int[Tensor, "row kind"]

    @classmethod
    def of(cls, values: Sparse, kinds: Int[Tensor, "row pos"]) -> Listed:
        """Sort values of a batch."""
        kinds, width = kinds.to(values.value.device), kinds.shape[1]
        number = kinds.new_full((max(int(kind) for kind in TokenKind) + 1,), -1)
        for k, kind in enumerate(KINDS):
            number[int(kind)] = k
        kind_of = number[kinds].flatten()[values.position]
        real = kind_of >= 0
        group = values.position.div(width, rounding_mode="floor") * len(KINDS) + kind_of
        cell = (group * values.shape[-1] + values.unit)[real]
        return cls(values, cell, values.value[real], torch.stack([(kinds == int(kind)).sum(1) for kind in KINDS], 1))

    @property
    def extremes(self) -> Extremes:
        """As `summarise.extremes`."""
        shape = (*self.n.shape, self.values.shape[-1])
        best = self.value.new_full((self._cells,), -torch.inf).scatter_reduce_(0, self.cell, self.value, "amax")
        listed = torch.bincount(self.cell, minlength=self._cells).view(shape)
        best = best.view(shape)
        best = torch.where(listed < self.n[..., None], best.clamp(min=0), best)
        return Extremes(*best.unbind(1))

    def means(self, rows: Sequence[RowTokens]) -> tuple[Float[Tensor, "both d"], Float[Tensor, "both d"]]:
        """As `moments.image_means`."""
        positive = self.value.double().clamp(min=0)
        total = positive.new_zeros(self._cells).index_add_(0, self.cell, positive)
        means = (total.view(*self.n.shape, -1) / self.n[..., None]).float()
        return of_both((means[:, 0], means[:, 1]), rows)

    def entering(self, rows: Sequence[RowTokens], enters: Bool[Tensor, "row d"], n_visual: int, n_text: int) -> Summary:
        """As `chunks.entering`."""
        columns = enters.any(0).nonzero().flatten()
        visual, text = (self._of_zeros(enters[:, columns], k, n) for k, n in enumerate((n_visual, n_text)))
        fired = torch.zeros_like(enters[0]).index_fill_(0, self.values.unit, True)
        place = fired[columns].nonzero().flatten()
        tokens = max(1, len(rows) and self.values.shape[0] * self.values.shape[1])
        for part in place.split(max(1, CACHED // tokens)):
            some = columns[part]
            chunks, _ = look(self.values.some(some).flatten(0, -2), rows, "+")
            one = entering(chunks, enters[:, some], n_visual, n_text)
            visual[part], text[part] = one.visual, one.text
        return Summary(visual, text, columns)

    @property
    def _cells(self) -> int:
        return self.n.numel() * self.values.shape[-1]

    def _of_zeros(self, enters: Bool[Tensor, "row column"], kind: int, n: int) -> Float[Tensor, "column row n"]:
        """The largest values of units that are 0 everywhere."""
        few = torch.arange(n, device=enters.device) < self.n[:, kind, None]
        there = enters.T[..., None] & few
        return torch.where(there, 0.0, -torch.inf).to(self.value)
