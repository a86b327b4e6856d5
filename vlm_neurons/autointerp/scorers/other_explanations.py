"""How specific an explanation is: what explanations that were not made for a neuron get on it.

Those of other neurons, the empty one, and those that come from the other side of a multi-modal neuron (the swap).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from vlm_neurons.autointerp import jobs
from vlm_neurons.autointerp.explanation import Explanation, says_nothing
from vlm_neurons.autointerp.jobs import Explanations, text_of
from vlm_neurons.autointerp.protocols import OTHER, SIDES, Explainer, Side, Simulator
from vlm_neurons.autointerp.scorers.aligned import Piece, flat, pieces_of
from vlm_neurons.autointerp.scorers.measures import r_of_many, weighted
from vlm_neurons.autointerp.simulation import Simulation
from vlm_neurons.units import Neuron

if TYPE_CHECKING:
    from vlm_neurons.evidence import Evidence
    from vlm_neurons.evidence.exemplars import Split

NAN = float("nan")
ENOUGH = 0.8  # of the exemplars behind a neuron's own r that a null has to have predictions for
EMPTY = -1  # number of the empty explanation
Key = tuple[str, Side]  # of a row of scores


@dataclass(frozen=True)
class Chance:
    """How much chance is drawn.

    Attributes:
        n_null: explanations of other neurons tried, at most.
        n_permutations: behind p and p_within.
        seed: of all draws; every neuron has a stream of its own.
    """

    n_null: int = 20
    n_permutations: int = 9999
    seed: int = 0

    def rng(self, neuron: str) -> np.random.Generator:
        """The stream of one neuron."""
        return np.random.default_rng([self.seed, zlib.crc32(neuron.encode())])


def against_others(
    made: Mapping[Key, Simulation], explanations: Explanations, evidence: Mapping[str, Evidence],
    simulator: Simulator, chance: Chance, progress: bool,
) -> dict[Key, dict[str, float]]:  # fmt: skip
    """r_null, n_null and r_empty of every neuron and side, and n_lost: nulls that failed, or too much of them.

    A null is on the exemplars of the neuron's own r, or says nothing about it.
    """
    if simulator.per_neuron:
        return {}  # it does not read explanations
    todo = tried_on(made, explanations, evidence, chance)
    found: dict[Key, list[float]] = {key: [] for key in made}
    empty, lost = dict.fromkeys(made, NAN), dict.fromkeys(made, 0)
    quick = at_once(todo, evidence, simulator, progress)
    for (neuron, side, number), r in quick.items():
        if number != EMPTY:  # the empty explanation predicts the same everywhere: it has no r
            found[neuron, side].append(r if np.isfinite(r) else 0.0)  # it predicts nothing here
    todo = {key: one for key, one in todo.items() if key not in quick}
    jobs.announce(simulator, todo, evidence, progress)
    own = {key: _scored(_pieces(made[key], evidence)) for key in dict.fromkeys((n, side) for n, side, _ in todo)}
    came = jobs.run(simulator, todo, evidence)
    for (neuron, side, number), one in tqdm(came, total=len(todo), desc="nulls", disable=not progress or not todo):
        key, pieces = (neuron, side), _pieces(one, evidence)
        partial = any(np.isnan(p.weight) for p in pieces)  # it is of less than the data that r is of
        if not pieces or partial or len(own[key] & _scored(pieces)) < ENOUGH * len(own[key]):
            lost[key] += 1
        elif number == EMPTY:
            empty[key] = weighted(pieces)
        else:
            r = weighted(pieces)
            found[key].append(r if np.isfinite(r) else 0.0)  # it predicts nothing here
    return {
        key: {"r_null": float(np.median(found[key])) if found[key] else NAN, "n_null": len(found[key]),
              "r_empty": empty[key], "n_lost": lost[key]}
        for key in made
    }  # fmt: skip


def at_once(
    todo: Mapping[tuple[str, Side, int], Simulation], evidence: Mapping[str, Evidence], simulator: Simulator,
    progress: bool,
) -> dict[tuple[str, Side, int], float]:  # fmt: skip
    """r of the simulations that a simulator makes at once, those with a prediction at every place; NaN where there is
    none. Others are left out."""
    groups: dict[Key, list[int]] = {}
    for neuron, side, number in todo:
        groups.setdefault((neuron, side), []).append(number)
    found: dict[tuple[str, Side, int], float] = {}
    for (neuron, side), numbers in tqdm(groups.items(), desc="nulls at once", unit="side", disable=not progress):
        exemplars = evidence[neuron].split("test")
        say = simulator.at_once(exemplars, side) if side in simulator.sides and exemplars else None
        if say is None:
            continue
        real, counts, weights = flat(evidence[neuron], exemplars, side)
        said = [(number, say(todo[neuron, side, number].explanation)) for number in numbers]
        there = {n: values[counts] for n, values in said if values is not None and np.isfinite(values).all()}
        if there and len(real) and np.isfinite(weights).all():
            every = r_of_many(real, weights, np.stack([*there.values()]))
            found |= {(neuron, side, number): float(r) for number, r in zip(there, every, strict=True)}
    return found


def tried_on(
    made: Mapping[Key, Simulation], explanations: Explanations, evidence: Mapping[str, Evidence], chance: Chance
) -> dict[tuple[str, Side, int], Simulation]:
    """Simulations without predictions of other neurons' explanations, by number, and of the empty one (`EMPTY`)."""
    todo: dict[tuple[str, Side, int], Simulation] = {}
    drawn: dict[str, list[str]] = {}
    kin = cache(lambda key: _kin(evidence[key]))
    for (neuron, side), one in made.items():
        if neuron not in drawn:
            drawn[neuron] = others(neuron, explanations, evidence, chance.n_null, chance.rng(neuron), kin)
        for number, text in [*enumerate(drawn[neuron]), (EMPTY, "")]:
            todo[neuron, side, number] = replace(one, explanation=text, predictions=())
    return todo


def others(
    key: str,
    explanations: Explanations,
    evidence: Mapping[str, Evidence],
    n: int,
    rng: np.random.Generator,
    kin: Callable[[str], tuple[str, str]],
) -> list[str]:
    """Explanations of other neurons of the same layer and class, at most n, drawn at random.

    Those made from a top sample, or its image, that the neuron is tested on are left out, and those that say nothing.
    (Random samples are shared by all neurons of a run: they say nothing of one.)
    """
    tested = _tops(evidence[key], "test")
    names, found = list(explanations), []
    for place in rng.permutation(len(names)) if n else ():
        text = text_of(names[place], explanations[names[place]])
        if names[place] == key or says_nothing(text) or kin(names[place]) != kin(key):
            continue
        if not tested & _tops(evidence[names[place]], "explain"):
            found.append(text)
        if len(found) == n:
            break
    return found


def _tops(evidence: Evidence, split: Split) -> set[Any]:
    """Top samples of a split, by their pictures, or else by number."""
    top = [e.seen for e in evidence.split(split) if e.group == "top"]
    return {key for s in top for key in s.image_digests or ((s.source, s.sample),)}


def _kin(evidence: Evidence) -> tuple[str, str]:
    """Site with layer, whatever the expert, and class; neurons that are not of a model have the class alone."""
    try:
        neuron = Neuron.parse(evidence.neuron)
    except ValueError:
        return "", evidence.kind
    return f"{neuron.site} {neuron.layer}", evidence.kind


def swapped(
    explanations: Explanations, evidence: Mapping[str, Evidence], simulator: Simulator, explainer: Explainer | None,
    said: Mapping[Key, str],
) -> dict[Key, float]:  # fmt: skip
    """r of what one side alone says of the other, by neuron and the side that is predicted.

    The explainer sees one side of a multi-modal neuron's evidence; its words are simulated on the other. Nothing where
    it finds no pattern; NaN where the words cannot be simulated.

    Args:
        said: what is known of its words already (`said_of_sides`).
    """
    if explainer is None or not (chosen := _swappable(explanations, evidence, simulator)):
        return {}
    across: dict[Key, str] = {}
    for side in SIDES:
        words = {k: said[k, side] for k in chosen if (k, side) in said}
        asked = explainer.explain({k: e.only(side) for k, e in chosen.items() if k not in words})
        words |= {k: one.text for k, one in asked if not one.failed}
        across |= {(k, OTHER[side]): text for k, text in words.items() if not says_nothing(text)}
    todo = _plain(across, evidence, simulator)
    quick = at_once({(n, s, EMPTY): one for (n, s), one in todo.items()}, evidence, simulator, progress=False)
    found = {(n, s): r for (n, s, _), r in quick.items()}
    made = jobs.run(simulator, {key: one for key, one in todo.items() if key not in found}, evidence)
    return found | {key: weighted(_pieces(one, evidence)) for key, one in made}


def said_of_sides(
    explanations: Explanations, evidence: Mapping[str, Evidence], explainer: Explainer | None
) -> dict[Key, str]:
    """What an explainer would say of each side alone, where it has said it: of the same evidence, in the same way."""
    if explainer is None or not explainer.sides_apart:
        return {}
    own = explainer.settings()
    return {
        (key, side): one.by_side.get(side, "")
        for key, one in explanations.items()
        if isinstance(one, Explanation)
        and evidence[key].kind == "multimodal"
        and one.settings == jobs.asked_of(own + explainer.settings_of(evidence[key]), evidence[key])
        for side in SIDES
    }


def swap_at_most(
    explanations: Explanations, evidence: Mapping[str, Evidence], simulator: Simulator
) -> dict[Key, Simulation]:
    """What `swapped` has to simulate if both sides give words. The words are not known before: the neuron's own, with
    the side behind them, stand for them."""
    said: dict[Key, str] = {
        (k, OTHER[side]): f"{text_of(k, explanations[k])} ({side})"
        for side in SIDES for k in _swappable(explanations, evidence, simulator)
    }  # fmt: skip
    return _plain(said, evidence, simulator)


def _swappable(
    explanations: Explanations, evidence: Mapping[str, Evidence], simulator: Simulator
) -> dict[str, Evidence]:
    """Evidence of the neurons that the swap can be made for."""
    if not simulator.sides >= set(SIDES) or simulator.per_neuron:
        return {}
    return {k: evidence[k] for k in explanations if evidence[k].kind == "multimodal"}


def all_by(explanations: Explanations, explainer: str) -> bool:
    """Whether all explanations are an explainer's own: only then it is the one that the swap is made with unasked."""
    return {e.explainer if isinstance(e, Explanation) else "" for e in explanations.values()} == {explainer}


def _plain(said: Mapping[Key, str], evidence: Mapping[str, Evidence], simulator: Simulator) -> dict[Key, Simulation]:
    """Words as simulations without predictions."""
    return {
        (neuron, side): Simulation(neuron, side, text, simulator.name,
                                   tuple(x.seen.sample for x in evidence[neuron].split("test")), ())
        for (neuron, side), text in said.items()
    }  # fmt: skip


def _pieces(one: Simulation, evidence: Mapping[str, Evidence]) -> list[Piece]:
    own = evidence[one.neuron]
    return pieces_of(own, own.split("test"), one.predictions, one.side)


def _scored(pieces: Sequence[Piece]) -> set[int]:
    return {p.exemplar for p in pieces}
