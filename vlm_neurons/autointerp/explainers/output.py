"""The unit that acts behind a neuron: what it does is told by what is written, not by the gate alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from vlm_neurons.evidence.activations import Look, look
from vlm_neurons.models import on_day
from vlm_neurons.sites import at
from vlm_neurons.sites.mlp import MLPS, OfExpert
from vlm_neurons.units import Neuron

if TYPE_CHECKING:
    from vlm_neurons.evidence import Evidence, Exemplar
    from vlm_neurons.models import HookedVLM

LOOKED = 8  # strongest samples that a gate is looked at in
STRONG = 0.5  # share of the largest activation there from which on a place counts
PROMPT = "Describe the image."  # where the evidence does not say what was asked
APART = 0.1  # share of the peak by which what is read again may differ: half precision, and images that were resized


@dataclass(frozen=True)
class Output:
    """What a neuron writes with.

    Attributes:
        neuron: the unit whose value is multiplied by the output weights, and the pole that it has where the neuron is
            strong. Of a gate neuron the same one at `post` (gate times `up`; an expert's: of the same expert); else
            the neuron itself.
        peak: its value at the neuron's peak.
        one_sided: |mean| / mean of |value| at the strong places: 1 where `up` has the same sign at all of them, near 0
            where it has both as often; NaN where it was not looked at.
    """

    neuron: Neuron
    peak: float
    one_sided: float = float("nan")


def output_of(model: HookedVLM, evidence: Evidence) -> Output:
    """The unit that acts behind a neuron. A gate neuron is looked at in the strongest samples that the explainer may
    see, with their own prompts: its `up` takes both signs, and where it is negative the neuron writes the opposite of
    its output weights. Without samples it stays the gate, with the sign of its weights.

    Raises:
        ValueError: the evidence is of no unit; or the neuron does there something else than what the evidence has.
    """
    neuron = Neuron.parse(evidence.neuron)
    behind = _behind(neuron)
    shown = [e for e in evidence.split("explain") if e.group == "top"][:LOOKED]
    if behind.hook == neuron.hook or not shown:
        return Output(neuron, evidence.peak)
    gates, posts = _again(model, evidence, shown, neuron, behind)
    strong = np.nan_to_num(gates) >= STRONG * np.nanmax(gates, initial=0)
    if not np.nanmax(gates, initial=0) > 0:
        return Output(neuron, evidence.peak)
    mean, size = float(posts[strong].mean()), float(np.abs(posts[strong]).mean())
    peak = abs(mean) / float(gates[strong].mean()) * evidence.peak
    return Output(replace(behind, pole="-" if mean < 0 else "+"), peak, abs(mean) / size if size else float("nan"))


def _behind(neuron: Neuron) -> Neuron:
    """The same unit where it is multiplied by its output weights. Of an expert that is its own `post`: the router's
    weight, which comes after, is positive, and nothing can be clamped there."""
    site, layer = at(neuron.hook)
    if isinstance(site, OfExpert):
        return Neuron(MLPS[1].of_expert(site.expert).place(layer), neuron.index)
    return Neuron(site.written(layer), neuron.index)


def _again(
    model: HookedVLM, evidence: Evidence, shown: Sequence[Exemplar], neuron: Neuron, behind: Neuron
) -> tuple[Float[np.ndarray, "place"], Float[np.ndarray, "place"]]:
    """Both units at all places of some samples, which are run again.

    Raises:
        ValueError: the neuron is not what the evidence has of it.
    """
    gate: list[np.ndarray] = []
    post: list[np.ndarray] = []
    room = APART * max(float(np.nanmax(_flat(e.patch_acts, e.token_acts), initial=0)) for e in shown)
    for e in shown:
        asked, said = e.seen.prompt, e.seen.answer
        if asked is None:
            asked, said = PROMPT, "".join(e.seen.response).strip() or None
        with on_day(model, evidence.source.get("day", model.day)):
            ((seen, found),) = look(model, [Look(e.seen.sample, e.seen.name, e.seen.images, asked, said,
                                                 [neuron, behind])])  # fmt: skip
        # evidence from arrays may have patches alone, or the response alone
        there = seen.is_text if e.seen.is_text.all() else np.ones(len(seen.tokens), bool)
        there = there & bool(len(e.seen.tokens))
        own, other = (_flat(found[unit.id][0], found[unit.id][1][there]) for unit in (neuron, behind))
        recorded = _flat(e.patch_acts, e.token_acts)
        if own.shape != recorded.shape or not np.allclose(own, recorded, rtol=0, atol=room, equal_nan=True):
            raise ValueError(_differs(e, neuron, own, recorded))
        gate.append(own)
        post.append(other)
    return np.concatenate(gate), np.concatenate(post)


def _flat(maps: Sequence[np.ndarray], tokens: np.ndarray) -> Float[np.ndarray, "place"]:
    return np.concatenate([*(m.ravel() for m in maps), tokens]).astype(float)


def _differs(e: Exemplar, neuron: Neuron, own: np.ndarray, recorded: np.ndarray) -> str:
    told = (f"{neuron.id} reaches {np.nanmax(own, initial=0):.4g} on sample {e.seen.sample} at {own.size} places, in "
            f"its evidence {np.nanmax(recorded, initial=0):.4g} at {recorded.size}, and not alike")  # fmt: skip
    if e.seen.prompt is None:
        return f"{told}: the evidence does not say what was asked ({PROMPT!r} was tried); gather it again"
    why = "this is another model than was scanned"
    if e.seen.images:
        why += ", or one that sees pictures otherwise once they are resized or in tiles, as the evidence has them"
    return f"{told}: {why}; evidence of the unit at site post is not run again"
