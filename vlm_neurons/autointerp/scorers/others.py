"""Explanations that were not made for the neuron they are tried on: other neurons', and the other modality's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from vlm_neurons.autointerp.explainers.prompting import kind_of
from vlm_neurons.autointerp.explanation import Explanation, says_nothing
from vlm_neurons.autointerp.scorers import measures
from vlm_neurons.autointerp.scorers.pieces import pieces_of
from vlm_neurons.autointerp.simulating import about_one, run, text_of
from vlm_neurons.autointerp.simulations import Simulation
from vlm_neurons.autointerp.simulators.protocol import SIDES, Side
from vlm_neurons.units import Neuron

if TYPE_CHECKING:
    from vlm_neurons.autointerp.explanation import Explainer
    from vlm_neurons.autointerp.simulators import Simulator
    from vlm_neurons.evidence import Evidence
    from vlm_neurons.evidence.exemplars import Split

_OTHER: dict[Side, Side] = {"visual": "text", "text": "visual"}
_CALLED: dict[Side, str] = {"visual": "image", "text": "text"}


def others(
    key: str,
    explanations: Mapping[str, Explanation | str],
    evidence: Mapping[str, Evidence],
    n: int,
    rng: np.random.Generator,
) -> list[str]:
    """Explanations of other neurons of the same layer and class, at most n, drawn at random.

    Those made from a top sample, or its image, that the neuron is tested on are left out, and those that say nothing.
    (Random samples are shared by all neurons of a run: they say nothing of one.)
    """
    own = evidence[key]
    tested = _tops(own, "test")
    names, found = list(explanations), []
    for place in rng.permutation(len(names)) if n else ():
        one, text = evidence[names[place]], text_of(names[place], explanations[names[place]])
        if names[place] == key or one.neuron == own.neuron or says_nothing(text) or _kin(one) != _kin(own):
            continue
        if not tested & _tops(one, "explain"):
            found.append(text)
        if len(found) == n:
            break
    return found


def _tops(evidence: Evidence, split: Split) -> set[Any]:
    """Top samples of a split, by their pictures, or else by number."""
    top = [e.seen for e in evidence.split(split) if e.group == "top"]
    return {key for s in top for key in s.image_digests or ((s.source, s.sample),)}


def _kin(evidence: Evidence) -> tuple[str, str]:
    """Layer (the hook) and class; neurons that are not of a model have the class alone."""
    try:
        return Neuron.parse(evidence.neuron).hook, kind_of(evidence)
    except ValueError:
        return "", kind_of(evidence)


def swapped(
    explanations: Mapping[str, Explanation | str],
    evidence: Mapping[str, Evidence],
    simulator: Simulator,
    explainer: str | Explainer | None,
    progress: bool,
) -> dict[str, dict[str, float]]:
    """r of what one modality alone says of the other: `r_image_to_text` and `r_text_to_image`.

    The explainer sees one side of a multi-modal neuron's evidence; its words are simulated on the other. NaN where it
    finds no pattern, or the words cannot be simulated there.
    """
    from vlm_neurons.autointerp.explaining import explain

    chosen = _swappable(explanations, evidence, simulator, explainer)
    found: dict[str, dict[str, float]] = {key: {} for key in chosen}
    for side in SIDES if chosen else ():
        name = f"r_{_CALLED[side]}_to_{_CALLED[_OTHER[side]]}"
        shown = {k: e.only("picture" if side == "visual" else "text") for k, e in chosen.items()}
        one_sided = explain(shown, explainer or "dissection", progress=progress)
        said = {k: e.text for k, e in one_sided.items() if e.failure is None and not says_nothing(e.text)}
        for key, made_one in run(simulator, _on(_OTHER[side], said, chosen, simulator), chosen):
            pieces = pieces_of(chosen[key], chosen[key].split("test"), made_one.predictions, made_one.sides)
            found[key][name] = measures.pooled(pieces)
    return found


def swap_at_most(
    explanations: Mapping[str, Explanation | str],
    evidence: Mapping[str, Evidence],
    simulator: Simulator,
) -> tuple[dict[str, Simulation], dict[str, Evidence]]:
    """What `swapped` has to simulate by default if both sides give words, and of whose evidence. The words are not
    known before: the neuron's own, with the side behind them, stand for them."""
    chosen = _swappable(explanations, evidence, simulator, None)
    todo: dict[str, Simulation] = {}
    for side in SIDES:
        said = {k: f"{text_of(k, explanations[k])} ({_CALLED[side]})" for k in chosen}
        todo |= {f"{k}\0{side}": one for k, one in _on(_OTHER[side], said, chosen, simulator).items()}
    return todo, {name: chosen[name.partition("\0")[0]] for name in todo}


def _swappable(
    explanations: Mapping[str, Explanation | str], evidence: Mapping[str, Evidence], simulator: Simulator,
    explainer: str | Explainer | None,
) -> dict[str, Evidence]:  # fmt: skip
    """Evidence of the neurons that the swap is made for."""
    made = {e.explainer if isinstance(e, Explanation) else "" for e in explanations.values()}
    if (explainer is None and made != {"dissection"}) or not simulator.sides >= set(SIDES) or about_one(simulator):
        return {}
    return {k: evidence[k] for k in explanations if kind_of(evidence[k]) == "multimodal"}


def _on(
    side: Side, said: Mapping[str, str], evidence: Mapping[str, Evidence], simulator: Simulator
) -> dict[str, Simulation]:
    """Simulations without predictions, of words on one side."""
    return {
        k: Simulation(evidence[k].neuron, text, simulator.name, (side,),
                      tuple(x.seen.sample for x in evidence[k].split("test")), ())
        for k, text in said.items()
    }  # fmt: skip
