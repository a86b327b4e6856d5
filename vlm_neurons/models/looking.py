"""What positions of a forward pass see of the pixels, by backward passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil, log
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vlm_neurons.models import guards
from vlm_neurons.models.batch import Batch
from vlm_neurons.models.bound import BoundVLM, Runnable
from vlm_neurons.models.geometry_check import EMBEDDING, Seen, Sight
from vlm_neurons.models.painted import LEVELS, Painted, without_attention
from vlm_neurons.models.passes import running

BASE = 32  # two to its power is far from under- and overflow in all but float16
SPAN = 1 << 12  # more than levels of a picture, and what resizing adds to them at edges


@dataclass(eq=False)
class Look:
    """A forward pass whose graph is kept.

    Attributes:
        received: by place, what is there, with leading dimensions flattened.
        leaves: the pixels.
        sources: of every element of the pixels where it was taken from.
        sites: hook -> its site.
        seen: by place and index, what was looked at so far.
        passes: backward passes so far.
        tick: called after every pass.
    """

    received: dict[str, Float[Tensor, "_ _"]]
    leaves: dict[str, Tensor]
    sources: dict[str, Painted]
    sites: dict[str, str]
    seen: dict[tuple[str, int], Seen] = field(default_factory=dict)
    passes: int = 0
    tick: Callable[[], Any] = lambda: None

    def together(self, where: str, indices: Sequence[int]) -> Seen:
        """What rows of a tensor see, put together: one pass."""
        grads = self._grads(self._weighted(where, indices))
        return _merged(
            [
                _sights(source.live & (grad != 0), source, torch.zeros_like(source.image), 1)[0]
                for source, grad in zip(self.sources.values(), grads, strict=True)
            ]
        )

    def apart(self, where: str, indices: Sequence[int]) -> list[Seen]:
        """What each of the rows sees."""
        todo = [i for i in indices if (where, i) not in self.seen]
        if len(todo) > 3:
            self._by_code(where, todo)
        for i in todo:
            if (where, i) not in self.seen:
                self.seen[where, i] = self.together(where, [i])
        return [self.seen[where, i] for i in indices]

    def _by_code(self, where: str, indices: Sequence[int]) -> None:
        """All of them in two passes, or few more: once as they are, and once for every digit of their numbers (to the
        base 32) with rows multiplied by two to the power of that digit, which changes no rounding. Where one row alone
        sees an element, its gradient tells the digit; where several do, rows have to be looked at one by one."""
        rows, n = self._weighted(where, indices), len(indices)
        sources, plain = list(self.sources.values()), self._grads(rows)
        number = [torch.zeros_like(source.image) for source in sources]
        alone = [source.live & (grad != 0) for source, grad in zip(sources, plain, strict=True)]
        hits = [one.clone() for one in alone]
        for place in range(max(1, ceil(log(n, BASE)))):
            digits = torch.tensor([k // BASE**place % BASE for k in range(n)], device=rows.device)
            for j, grad in enumerate(self._grads(rows * 2.0 ** (digits - BASE // 2))):
                hits[j] |= sources[j].live & (grad != 0)
                power = (grad / plain[j]).log2()
                digit = power.nan_to_num(-BASE).round().clamp(-BASE, BASE).long() + BASE // 2
                alone[j] &= ((power - power.round()).abs() < 1e-3) & (digit >= 0) & (digit < BASE)
                number[j] += digit.clamp(min=0) * BASE**place
        if any(bool((hit & ~(one & (k < n))).any()) for hit, one, k in zip(hits, alone, number, strict=True)):
            return
        found = [_sights(*args, n) for args in zip(alone, sources, number, strict=True)]
        for k, i in enumerate(indices):
            self.seen[where, i] = _merged([sights[k] for sights in found])

    def _weighted(self, where: str, indices: Sequence[int]) -> Float[Tensor, "row"]:
        rows = self.received[where][list(indices)]
        return (rows * torch.randn(rows.shape, generator=torch.Generator().manual_seed(0)).to(rows)).sum(-1)

    def _grads(self, rows: Float[Tensor, "row"]) -> list[Float[Tensor, "*_"]]:
        """Of the sum of rows, with respect to every tensor of pixels."""
        grads: Sequence[Tensor | None] = [None] * len(self.leaves)
        if rows.requires_grad:
            grads = torch.autograd.grad(rows.sum(), list(self.leaves.values()), retain_graph=True, allow_unused=True)
            self.passes += 1
            self.tick()
        return [
            torch.zeros_like(source.share[..., 0]) if grad is None else grad.cpu().double()
            for source, grad in zip(self.sources.values(), grads, strict=True)
        ]


def _sights(hit: Bool[Tensor, "*pixels"], source: Painted, number: Int[Tensor, "*pixels"], n: int) -> list[Seen]:
    """Of the elements that are hit what each number below n sees."""
    images = len(source.sizes)
    key, share = number[hit] * images + source.image[hit], source.share[hit]
    ends, gaps = [], []
    for reduce in ("amin", "amax"):
        empty = torch.zeros(n * images, 2, dtype=share.dtype)
        ends.append(empty.scatter_reduce(0, key[:, None].expand_as(share), share, reduce, include_self=False))
    for axis in (0, 1):
        # key and level as one number, since unique(dim=0) takes fifty times as long
        pairs = (key * SPAN + (share[:, axis] * LEVELS).round().long() + SPAN // 2).unique()
        of = pairs.div(SPAN, rounding_mode="floor")
        steps = torch.where(of[1:] == of[:-1], pairs.diff(), 0)
        gaps.append(torch.zeros(n * images, dtype=torch.long).scatter_reduce(0, of[1:], steps, "amax"))
    found: list[dict[int, Sight]] = [{} for _ in range(n)]
    for k in key.unique().tolist():
        width, height = source.sizes[k % images].tolist()
        (a, b), (c, d) = (end[k].tolist() for end in ends)
        steps_of = (float(gaps[0][k]) * width / LEVELS, float(gaps[1][k]) * height / LEVELS)
        found[k // images][k % images] = Sight((a * width, b * height, c * width, d * height), steps_of)
    return list(found)


def _merged(seen: Sequence[Seen]) -> Seen:
    """What is seen through several tensors of pixels."""
    found: dict[int, Sight] = {}
    for one in seen:
        for image, sight in one.items():
            old = found.get(image, sight)
            (a, b, c, d), (e, f, g, h) = old.box, sight.box
            steps = max(old.steps[0], sight.steps[0]), max(old.steps[1], sight.steps[1])
            found[image] = Sight((min(a, e), min(b, f), max(c, g), max(d, h)), steps)
    return found


def receive(model: Runnable, batch: Batch, sources: dict[str, Painted], sites: dict[str, str]) -> Look:
    """Run the tower and the projector as far as the backbone, without the tower's attention, and keep the graph.

    Raises:
        HookNeverFires: a hook of a site did not fire.
    """
    from transformer_lens.model_bridge.exceptions import StopAtLayerException

    tokens, inputs = BoundVLM(model, batch).inputs()
    leaves = {name: inputs[name].detach().clone().requires_grad_() for name in sources}
    points, kept = model._points(), dict[str, Tensor]()

    def keep(name: str) -> Callable[..., None]:
        def fn(tensor: Tensor, hook: Any) -> None:
            kept[name] = tensor.flatten(0, -2)

        return fn

    def stop(tensor: Tensor, hook: Any) -> None:
        kept[EMBEDDING] = tensor.flatten(0, -2)
        raise StopAtLayerException(tensor)  # the bridge catches it, as for stop_at_layer

    wanted = [(points[hook], keep(hook)) for hook in sites] + [(points[guards.MERGED], stop)]
    handles = [(point, point.add_hook(fn)) for point, fn in wanted]
    hf: Any = model.bridge.original_model
    try:
        with _frozen(hf), without_attention(hf), running(batch.to(model.device)):
            model.bridge(tokens, **{**inputs, **leaves})
    finally:
        for point, handle in handles:
            model.bridge._remove_temporary_hook(point, "fwd", handle)
    silent = [hook for hook in sites if hook not in kept]
    if silent:
        raise guards.never_fired(silent, points)
    return Look({EMBEDDING: kept.pop(EMBEDDING), **kept}, leaves, sources, sites)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No gradients of parameters: only pixels matter."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
