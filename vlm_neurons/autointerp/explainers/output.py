"""The unit that acts behind a neuron: what it does is told by what is written, not by the gate alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from vlm_neurons.evidence.activations import Look, look
from vlm_neurons.sites import at
from vlm_neurons.units import Neuron

if TYPE_CHECKING:
    from vlm_neurons.evidence import Evidence
    from vlm_neurons.models import HookedVLM

LOOKED = 8  # strongest samples that a gate is looked at in
STRONG = 0.5  # share of the largest activation there from which on a place counts
PROMPT = "Describe the image."


@dataclass(frozen=True)
class Output:
    """What a neuron writes with.

    Attributes:
        neuron: the unit whose value is multiplied by the output weights, and the pole that it has where the neuron is
            strong. Of a gate neuron the same one at `post` (gate times `up`); else the neuron itself.
        peak: its value at the neuron's peak.
        one_sided: |mean| / mean of |value| at the strong places: 1 where `up` has the same sign at all of them, near 0
            where it has both as often; NaN where it was not looked at.
    """

    neuron: Neuron
    peak: float
    one_sided: float = float("nan")


def output_of(model: HookedVLM, evidence: Evidence) -> Output:
    """The unit that acts behind a neuron. A gate neuron is looked at in the strongest samples that the explainer may
    see: its `up` takes both signs, and where it is negative the neuron writes the opposite of its output weights.
    Without samples it stays the gate, with the sign of its weights.

    Raises:
        ValueError: the evidence is of no unit.
    """
    neuron = Neuron.parse(evidence.neuron)
    site, layer = at(neuron.hook)
    written = site.written(layer)
    shown = [e for e in evidence.split("explain") if e.group == "top"][:LOOKED]
    if written == neuron.hook or not shown:
        return Output(neuron, evidence.peak)
    behind = Neuron(written, neuron.index)
    gate: list[np.ndarray] = []
    post: list[np.ndarray] = []
    for e in shown:
        seen = Look(e.seen.sample, e.seen.name, e.seen.images, PROMPT, "".join(e.seen.response) or None,
                    [neuron, behind])  # fmt: skip
        ((_, found),) = look(model, [seen])
        for into, unit in ((gate, neuron), (post, behind)):
            maps, tokens = found[unit.id]
            into += [*(m.ravel() for m in maps), tokens]
    gates, posts = np.concatenate(gate).astype(float), np.concatenate(post).astype(float)
    strong = np.nan_to_num(gates) >= STRONG * np.nanmax(gates, initial=0)
    if not np.nanmax(gates, initial=0) > 0:
        return Output(neuron, evidence.peak)
    mean, size = float(posts[strong].mean()), float(np.abs(posts[strong]).mean())
    peak = abs(mean) / float(gates[strong].mean()) * evidence.peak
    return Output(replace(behind, pole="-" if mean < 0 else "+"), peak, abs(mean) / size if size else float("nan"))
