"""Random neurons like given ones: of the same layer, as many, and about as active."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from vlm_neurons.hooks.positions import Where, real_positions
from vlm_neurons.units import Neuron

if TYPE_CHECKING:
    from vlm_neurons.models import Batch, HookedVLM

Sizes = dict[str, Float[np.ndarray, " neuron"]]
NEAREST = 5  # a control is drawn among so many of the nearest that are left


def activation_sizes(model: HookedVLM, batches: Sequence[Batch], hooks: Sequence[str], where: Where = None) -> Sizes:
    """Root mean square of every neuron over the positions `where`, padding left out."""
    totals: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def adder(name: str) -> Any:
        def fn(tensor: Tensor) -> None:
            values = tensor[real_positions(where, tensor, name, "activation_sizes")].double()
            totals[name] = totals.get(name, 0) + values.pow(2).sum(0).cpu()
            counts[name] = counts.get(name, 0) + len(values)

        return fn

    for batch in batches:
        model.observe(batch, {name: adder(name) for name in hooks})
    return {name: (totals[name] / max(counts[name], 1)).sqrt().numpy() for name in hooks}


def matched(neurons: Sequence[Neuron], sizes: Sizes, rng: np.random.Generator) -> list[Neuron]:
    """Draw for every neuron another one of its hook that is about as active, none of them twice, none of `neurons`.

    Where a group is more than half of a layer there are not enough others: all others are returned, and they are
    fewer. The order of drawing is random; each neuron gets one of the `NEAREST` nearest (in log size) that are left.
    """
    found: list[Neuron] = []
    for hook in sorted({n.hook for n in neurons}):
        mine = sorted({n.index for n in neurons if n.hook == hook})
        log = np.log(np.maximum(sizes[hook], 1e-9))
        pool = np.setdiff1d(np.arange(len(log)), mine)
        left = pool[np.argsort(log[pool], kind="stable")].tolist()
        values = log[left].tolist()
        for i in rng.permutation(mine):
            if not left:
                break
            place = _pick(values, float(log[i]), rng)
            found.append(Neuron(hook, int(left.pop(place))))
            values.pop(place)
    return found


def _pick(values: list[float], target: float, rng: np.random.Generator) -> int:
    """Place of one of the nearest values in a sorted list."""
    at = int(np.searchsorted(values, target))
    low, high = max(0, at - NEAREST), min(len(values), at + NEAREST)
    near = sorted(range(low, high), key=lambda j: abs(values[j] - target))[:NEAREST]
    return int(rng.choice(near))


def size_ratio(controls: Sequence[Neuron], neurons: Sequence[Neuron], sizes: Sizes) -> float:
    """Mean activation size of the controls over that of the neurons: 1 is a perfect match."""
    a, b = (np.mean([sizes[n.hook][n.index] for n in group]) if group else np.nan for group in (controls, neurons))
    return float(a / b) if b else float("nan")
