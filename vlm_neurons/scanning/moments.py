"""How strongly a neuron answers to the visual and to the text tokens of an image, summed over images.

The image is the unit: tokens of one image are not independent of each other, images are. Per image, V and T are the
means of max(a, 0) over its visual and over its text tokens (the negative pole: of max(-a, 0)). What a test of V against
T that knows of their skewness needs of all images are nine sums, so nothing else is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlm_neurons.scanning.summarise import Positions, RowTokens, length_of, take
from vlm_neurons.units import Pole

PIECE = 2**20 * 3 // 4  # bytes: of what one core has beside it, at most half
MOMENTS = ("sums", "active", "n_images")


@dataclass
class Moments:
    """Sums over the images seen so far, of the neurons of one tensor.

    A sample with several images counts as one image. Samples without visual or without text tokens are left out: they
    have no V or no T. So are, neuron by neuron, those where it is defined at no visual or at no text token.

    Attributes:
        sums: of V, T, V^2, T^2, V T, V^3, V^2 T, V T^2 and T^3.
        active: in how many images V, and T, is above 0.
        n_images: images with a V and a T.
    """

    sums: Float[Tensor, "d 9"]
    active: Int[Tensor, "d 2"]
    n_images: Int[Tensor, "d"]

    @classmethod
    def empty(cls, d: int, device: torch.device | str = "cpu") -> Moments:
        """No image seen yet."""
        return cls(
            torch.zeros(d, 9, dtype=torch.float64, device=device),
            torch.zeros(d, 2, dtype=torch.int32, device=device),
            torch.zeros(d, dtype=torch.int64, device=device),
        )

    @property
    def nbytes(self) -> int:
        """Size of the state."""
        return sum(getattr(self, name).nbytes for name in MOMENTS)

    def update(self, visual: Float[Tensor, "row d"], text: Float[Tensor, "row d"]) -> None:
        """Take in V and T of images that were not seen before; see `image_means`. NaN is none."""
        there = ~(visual.isnan() | text.isnan())
        v, t = (one.double().masked_fill(~there, 0) for one in (visual, text))
        self.sums += torch.stack(sums_of(v, t), 1)
        self.active += torch.stack([(v > 0).sum(0), (t > 0).sum(0)], 1).to(torch.int32)
        self.n_images += there.sum(0)

    def merge(self, other: Moments) -> None:
        """Take in the sums over other images.

        Sums of float64 depend on their order in the last digits: a scan merges its blocks in their order, whatever
        processes made them.
        """
        for name in MOMENTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def to(self, device: torch.device | str) -> Moments:
        """The sums on a device."""
        return Moments(*(getattr(self, name).to(device) for name in MOMENTS))

    def tensors(self) -> dict[str, Tensor]:
        """The state by name, on the CPU, as a block stores it."""
        return {name: getattr(self, name).cpu().contiguous() for name in MOMENTS}


def sums_of(v: Float[Tensor, "row d"], t: Float[Tensor, "row d"]) -> list[Float[Tensor, "d"]]:
    """Sums over images of the products that `Moments` keeps.

    >>> [x.item() for x in sums_of(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [0.0]]))]
    [3.0, 3.0, 5.0, 9.0, 3.0, 9.0, 3.0, 9.0, 27.0]
    """
    vv, tt, vt = v * v, t * t, v * t
    return [x.sum(0) for x in (v, t, vv, tt, vt, vv * v, vv * t, vt * t, tt * t)]


def image_means(
    acts: Float[Tensor, "token d"],
    rows: Sequence[RowTokens],
    pole: Pole = "+",
    defined: Bool[Tensor, "token d"] | None = None,
) -> tuple[Float[Tensor, "row d"], Float[Tensor, "row d"]]:
    """V and T of the samples that have both visual and text tokens, in float32.

    Args:
        acts: activations; -inf (of the negative pole: inf) where a neuron is not defined.
        rows: which tokens belong to which sample.
        pole: `"-"` for the negated activations.
        defined: where neurons are, if not everywhere; NaN is the mean where one is at no such token.

    >>> row = RowTokens(visual=slice(0, 2), text=slice(2, 3), other=slice(0, 0))
    >>> [m.tolist() for m in image_means(torch.tensor([[1.0], [-3.0], [2.0]]), [row])]
    [[[0.5]], [[2.0]]]
    """
    both = [rows[i] for i in _both(rows)]

    def mean(where: Positions) -> Tensor:
        tokens = take(acts, where)
        count = len(tokens) if defined is None else take(defined, where).sum(0)
        total = _sum_on_one_side(tokens, pole) / count
        return total if pole == "+" else -total

    if not both:
        nothing = torch.zeros(0, acts.shape[1], device=acts.device)
        return nothing, nothing
    return torch.stack([mean(r.visual) for r in both]), torch.stack([mean(r.text) for r in both])


def _sum_on_one_side(tokens: Float[Tensor, "token d"], pole: Pole) -> Float[Tensor, "d"]:
    """Sum of max(a, 0), or of min(a, 0); on a CPU of pieces that stay in its cache."""
    least, most = (0, None) if pole == "+" else (None, 0)
    piece = max(1, PIECE // max(1, tokens[:1].nbytes)) if tokens.device.type == "cpu" else len(tokens)
    if len(tokens) <= piece:
        return tokens.clamp(least, most).sum(0, dtype=torch.float32)
    room = torch.empty_like(tokens[:piece], memory_format=torch.contiguous_format)
    total = tokens.new_zeros(tokens.shape[1], dtype=torch.float32)
    for part in tokens.split(piece):
        total += torch.clamp(part, least, most, out=room[: len(part)]).sum(0, dtype=torch.float32)
    return total


def of_both(
    means: tuple[Float[Tensor, "row d"], Float[Tensor, "row d"]], rows: Sequence[RowTokens]
) -> tuple[Float[Tensor, "both d"], Float[Tensor, "both d"]]:
    """Of means of every sample, those of the samples that have both visual and text tokens."""
    both = _both(rows)
    if len(both) == len(rows):
        return means
    index = torch.tensor(both, dtype=torch.long).to(means[0].device)
    return means[0].index_select(0, index), means[1].index_select(0, index)


def _both(rows: Sequence[RowTokens]) -> list[int]:
    return [i for i, row in enumerate(rows) if length_of(row.visual) and length_of(row.text)]
