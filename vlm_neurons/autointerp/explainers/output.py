"""The unit that acts behind a neuron: what it does is told by what is written, not by the gate alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from vlm_neurons.evidence.activations import Look, look
from vlm_neurons.evidence.written import Written, behind, flat, shown, written
from vlm_neurons.models import on_day
from vlm_neurons.sites import at
from vlm_neurons.units import Neuron

if TYPE_CHECKING:
    from vlm_neurons.evidence import Evidence, Exemplar
    from vlm_neurons.models import HookedVLM

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


def output_of(model: HookedVLM, evidence: Evidence, state: str) -> Output:
    """The unit that acts behind a neuron. A gate neuron's `up` takes both signs, and where it is negative the neuron
    writes the opposite of its output weights. What it does where the gate is strong is in the evidence, if that was
    gathered with the model as it is now; else the strongest samples that the explainer may see are run again, with
    their own prompts. Without samples it stays the gate, with the sign of its weights.

    Args:
        model: the model.
        evidence: of the neuron.
        state: of the model, see `vlm_neurons.models.state.state_of`.

    Raises:
        ValueError: the evidence is of no unit; or the neuron does there something else than what the evidence has.
    """
    neuron = Neuron.parse(evidence.neuron)
    unit, every = behind(neuron), evidence.exemplars
    strong = [every[k] for k in shown((e.group, e.split) for e in every)]
    if unit.hook == neuron.hook or not strong:
        return Output(neuron, evidence.peak)
    found = evidence.written
    if found is None or found.state != state:
        found = _again(model, evidence, strong, neuron, unit)
    if not found.gate > 0:
        return Output(neuron, evidence.peak)
    peak = abs(found.post) / found.gate * evidence.peak
    one_sided = abs(found.post) / found.size if found.size else float("nan")
    return Output(replace(unit, pole="-" if found.post < 0 else "+"), peak, one_sided)


def fingerprint_of(evidence: Evidence) -> str:
    """Of the site that a neuron is of: a dictionary's weights decide what its latents do. Empty for what is no unit, or
    of a dictionary that is not registered."""
    try:
        return at(Neuron.parse(evidence.neuron).hook)[0].fingerprint()
    except (ValueError, LookupError):
        return ""


def _again(model: HookedVLM, evidence: Evidence, strong: Sequence[Exemplar], neuron: Neuron, unit: Neuron) -> Written:
    """What both units do in some samples, which are run again.

    Raises:
        ValueError: the neuron is not what the evidence has of it.
    """
    gate: list[np.ndarray] = []
    post: list[np.ndarray] = []
    room = APART * max(float(np.nanmax(flat(e.patch_acts, e.token_acts), initial=0)) for e in strong)
    for e in strong:
        asked, said = e.seen.prompt, e.seen.answer
        if asked is None:
            asked, said = PROMPT, "".join(e.seen.response).strip() or None
        with on_day(model, evidence.source.get("day", model.day)):
            asked_again = Look(e.seen.sample, e.seen.name, e.seen.images, asked, said)
            ((seen, found),) = look(model, [asked_again], [[neuron, unit]])
        # evidence from arrays may have patches alone, or the response alone
        there = seen.is_text if e.seen.is_text.all() else np.ones(len(seen.tokens), bool)
        there = there & bool(len(e.seen.tokens))
        own, other = (flat(found[one.id][0], found[one.id][1][there]) for one in (neuron, unit))
        recorded = flat(e.patch_acts, e.token_acts)
        if own.shape != recorded.shape or not np.allclose(own, recorded, rtol=0, atol=room, equal_nan=True):
            raise ValueError(_differs(e, neuron, own, recorded, unit))
        gate.append(own)
        post.append(other)
    return written(np.concatenate(gate), np.concatenate(post))


def _differs(e: Exemplar, neuron: Neuron, own: np.ndarray, recorded: np.ndarray, unit: Neuron) -> str:
    told = (f"{neuron.id} reaches {np.nanmax(own, initial=0):.4g} on sample {e.seen.sample} at {own.size} places, in "
            f"its evidence {np.nanmax(recorded, initial=0):.4g} at {recorded.size}, and not alike")  # fmt: skip
    if e.seen.prompt is None:
        return f"{told}: the evidence does not say what was asked ({PROMPT!r} was tried); gather it again"
    why = "this is another model than was scanned"
    if e.seen.images:
        why += ", or one that sees pictures otherwise once they are resized or in tiles, as the evidence has them"
    return f"{told}: {why}; gather it again with the model as it is now, or explain {unit.id}"
