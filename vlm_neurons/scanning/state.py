"""The samples on which a neuron is strongest, as a state that grows batch by batch and merges in any order.

The samples of a neuron are in one total order: higher score first, then lower sample id. Ties are the rule in
bfloat16, and with a total order the N best of a union are the N best of the parts' N best: batches, order, shards and
resumed runs cannot change the result, so long as every sample is counted once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlm_neurons.scanning.summarise import Summary

WAIT = 16  # samples
TENSORS = ("sample_ids", "visual", "text", "peak_all")


def order_keys(score: Float[Tensor, "*n"], sample_ids: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """int64 keys that order by score, then by lower sample id.

    The upper half holds the bits of the float32 score, flipped where negative so that integers order as the floats do;
    the lower half the complement of the id. 16-bit scores convert exactly.

    >>> keys = order_keys(torch.tensor([1.0, 1.0, -2.0]), torch.tensor([7, 3, 0]))
    >>> keys.argsort(descending=True).tolist()
    [1, 0, 2]
    """
    bits = (score.float() + 0.0).view(torch.int32)  # + 0.0 turns -0.0 into 0.0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.long() << 32) | (~sample_ids.long() & 0xFFFFFFFF)


@dataclass
class TopSamples:
    """The N samples with the highest score of every neuron of one tensor, best first.

    Attributes:
        sample_ids: int32; -1 where fewer than N samples have been seen.
        visual: the largest values at the sample's visual tokens, descending, in the activations' own dtype; -inf where
            it has fewer tokens.
        text: the same at text tokens.
        peak_all: the largest value at any token (template too, padding not) of any sample seen, top or not.
    """

    sample_ids: Int[Tensor, "d top_n"]
    visual: Float[Tensor, "d top_n n_visual"]
    text: Float[Tensor, "d top_n n_text"]
    peak_all: Float[Tensor, "d"]

    @classmethod
    def empty(
        cls,
        d: int,
        top_n: int,
        n_visual: int,
        n_text: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> TopSamples:
        """No sample seen yet.

        Raises:
            ValueError: a dtype that float32 cannot hold exactly.
        """
        if dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise ValueError(f"cannot scan {dtype} activations; load the model in float32, bfloat16 or float16")
        return cls(
            torch.full((d, top_n), -1, dtype=torch.int32, device=device),
            torch.full((d, top_n, n_visual), -torch.inf, dtype=dtype, device=device),
            torch.full((d, top_n, n_text), -torch.inf, dtype=dtype, device=device),
            torch.full((d,), -torch.inf, dtype=dtype, device=device),
        )

    @property
    def scores(self) -> Float[Tensor, "d top_n"]:
        """Maximum over the visual and text tokens of every top sample; -inf where there is none."""
        return torch.maximum(self.visual[..., 0], self.text[..., 0])

    @property
    def peak(self) -> Float[Tensor, "d"]:
        """The largest value at any visual or text token of any sample."""
        return torch.maximum(self.visual[:, 0, 0], self.text[:, 0, 0])

    @property
    def nbytes(self) -> int:
        """Size of the state."""
        return sum(getattr(self, name).nbytes for name in TENSORS)

    @property
    def floor(self) -> Int[Tensor, "d"]:
        """Key of the last of a neuron's N samples."""
        return order_keys(torch.maximum(self.visual[:, -1, 0], self.text[:, -1, 0]), self.sample_ids[:, -1])

    def enters(
        self, score: Float[Tensor, "row d"], ids: Int[Tensor, "row"], before: Int[Tensor, "d"] | None = None
    ) -> torch.Tensor:
        """Bool[row, d]: which samples of a batch are better than the last of a neuron's N, and than other keys."""
        floor = self.floor if before is None else torch.maximum(self.floor, before)
        better = order_keys(score, ids[:, None].expand_as(score)) > floor
        return better & (score > -torch.inf)  # a sample without tokens here is no sample of this tensor

    def update(self, summary: Summary, ids: Int[Tensor, "row"], peak_all: Float[Tensor, "d"]) -> None:
        """Take in a batch of samples that were not seen before."""
        columns = summary.columns
        self.peak_all = torch.maximum(self.peak_all, peak_all)
        if columns is not None and len(columns) == len(self.sample_ids):
            columns = None  # all of them, in order
        here = self._select(columns)
        new_ids = ids.to(torch.int32).expand(summary.visual.shape[0], -1)
        absent = torch.maximum(summary.visual[..., 0], summary.text[..., 0]) == -torch.inf
        new = TopSamples(new_ids.masked_fill(absent, -1), summary.visual, summary.text, here.peak_all)
        self._store(columns, _best(here, new, self.sample_ids.shape[1]))

    def merge(self, other: TopSamples) -> None:
        """Take in another state of the same neurons, made of other samples.

        Raises:
            ValueError: the states keep different tensors, numbers of samples or values.
        """
        for name in TENSORS:
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
                raise ValueError(
                    f"cannot merge: {name} is {tuple(mine.shape)} {mine.dtype} here, "
                    f"{tuple(theirs.shape)} {theirs.dtype} there; the runs were made with different parameters"
                )
        self._store(None, _best(self, other, self.sample_ids.shape[1]))
        self.peak_all = torch.maximum(self.peak_all, other.peak_all)

    def empty_like(self) -> TopSamples:
        """A state of the same shape that has seen nothing."""
        d, top_n, n_visual = self.visual.shape
        return TopSamples.empty(d, top_n, n_visual, self.text.shape[2], self.visual.dtype, self.visual.device)

    def to(self, device: torch.device | str) -> TopSamples:
        """The state on a device."""
        return TopSamples(*(getattr(self, name).to(device) for name in TENSORS))

    def tensors(self) -> dict[str, Tensor]:
        """The state by name, on the CPU, as a block stores it."""
        return {name: getattr(self, name).cpu().contiguous() for name in TENSORS}

    def _select(self, columns: Tensor | None) -> TopSamples:
        if columns is None:
            return self
        return TopSamples(*(getattr(self, name).index_select(0, columns) for name in TENSORS))

    def _store(self, columns: Tensor | None, best: TopSamples) -> None:
        for name in ("sample_ids", "visual", "text"):
            if columns is None:
                setattr(self, name, getattr(best, name))
            else:
                getattr(self, name).index_copy_(0, columns, getattr(best, name))


@dataclass
class Waiting:
    """Batches that a state has still to take in: many at once cost little more than one.

    Until then the state lets in more than it needs to, which changes no result.
    """

    batches: list[tuple[Summary, Tensor, Tensor]] = field(default_factory=list)

    def add(self, state: TopSamples, summary: Summary, ids: Int[Tensor, "row"], peak: Float[Tensor, "d"]) -> None:
        """As `update` of the state, now or later."""
        self.batches.append((summary, ids, peak))
        if sum(len(one) for _, one, _ in self.batches) >= WAIT:
            self.into(state)

    def into(self, state: TopSamples) -> None:
        """Have the state take in what waits."""
        if self.batches:
            summaries, ids, peaks = zip(*self.batches, strict=True)
            state.update(_side_by_side(summaries, len(state.peak_all)), torch.cat(ids), torch.stack(peaks).amax(0))
            self.batches.clear()


def _side_by_side(summaries: Sequence[Summary], d: int) -> Summary:
    """Several batches as one."""
    if len(summaries) == 1:
        return summaries[0]
    everyone = torch.arange(d, device=summaries[0].visual.device)
    columns = [everyone if one.columns is None else one.columns for one in summaries]
    there = torch.zeros_like(everyone, dtype=torch.bool)
    for own in columns:
        there[own] = True
    wanted, place = there.nonzero().flatten(), there.cumsum(0) - 1

    def joined(parts: list[Tensor]) -> Tensor:
        out = parts[0].new_full((len(wanted), sum(p.shape[1] for p in parts), parts[0].shape[2]), -torch.inf)
        for part, own, into in zip(parts, columns, out.split([p.shape[1] for p in parts], 1), strict=True):
            into[place[own]] = part
        return out

    return Summary(joined([one.visual for one in summaries]), joined([one.text for one in summaries]), wanted)


def _best(a: TopSamples, b: TopSamples, top_n: int) -> TopSamples:
    """The top_n samples of two states; `peak_all` is a's."""
    ids = torch.cat([a.sample_ids, b.sample_ids], 1)
    visual = torch.cat([a.visual, b.visual], 1)
    text = torch.cat([a.text, b.text], 1)
    scores = torch.maximum(visual[..., 0], text[..., 0])
    # keys of different samples differ, so there is one possible order
    chosen = order_keys(scores, ids).topk(top_n, dim=1).indices

    def pick(values: Tensor) -> Tensor:
        return values.gather(1, chosen[..., None].expand(-1, -1, values.shape[-1]))

    return TopSamples(ids.gather(1, chosen), pick(visual), pick(text), a.peak_all)
