"""How specific an explanation is: what other neurons' explanations, and the empty one, get on the same neuron."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from vlm_neurons.autointerp.explanation import Explanation
from vlm_neurons.autointerp.scorers import measures
from vlm_neurons.autointerp.scorers.others import others, swap_at_most
from vlm_neurons.autointerp.scorers.pieces import Piece, pieces_of
from vlm_neurons.autointerp.simulating import about_one, announce, plan, run, simulator_of, wanted

if TYPE_CHECKING:
    from vlm_neurons.autointerp.simulations import Simulation
    from vlm_neurons.autointerp.simulators import Simulator
    from vlm_neurons.evidence import Evidence

NAN = float("nan")
ENOUGH = 0.8  # of the exemplars behind a neuron's own r that a null has to have predictions for


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
    made: Mapping[str, Simulation], explanations: Mapping[str, Explanation | str], evidence: Mapping[str, Evidence],
    simulator: Simulator, chance: Chance, progress: bool,
) -> dict[str, dict[str, float]]:  # fmt: skip
    """r_null, n_null and r_empty of every neuron, and n_lost: nulls that failed."""
    if about_one(simulator):
        return {}  # it does not read explanations
    todo, about = tried_on(made, explanations, evidence, chance)
    announce(simulator, todo, about, progress)
    found: dict[str, list[float]] = {key: [] for key in made}
    empty, lost = dict.fromkeys(made, NAN), dict.fromkeys(made, 0)
    for name, r in _each_r(simulator, todo, about, made, progress):
        key, _, which = name.partition("\0")
        if r is None:
            lost[key] += 1
        elif which == "empty":
            empty[key] = r
        else:
            found[key].append(r if np.isfinite(r) else 0.0)  # it predicts nothing here
    return {
        key: {"r_null": float(np.median(found[key])) if found[key] else NAN, "n_null": len(found[key]),
              "r_empty": empty[key], "n_lost": lost[key]}
        for key in made
    }  # fmt: skip


def tried_on(
    made: Mapping[str, Simulation], explanations: Mapping[str, Explanation | str], evidence: Mapping[str, Evidence],
    chance: Chance,
) -> tuple[dict[str, Simulation], dict[str, Evidence]]:  # fmt: skip
    """Simulations without predictions of other neurons' explanations and the empty one, and whose evidence they are
    tried on; by `"key\\0number"` and `"key\\0empty"`."""
    todo: dict[str, Simulation] = {}
    about: dict[str, Evidence] = {}
    for key, one in made.items():
        own = evidence[key]
        tried = others(key, explanations, evidence, chance.n_null, chance.rng(own.neuron))
        for number, text in enumerate([*tried, ""]):
            name = f"{key}\0{number if text else 'empty'}"
            todo[name], about[name] = replace(one, explanation=text, predictions=()), own
    return todo, about


def cost_of(
    explanations: Mapping[str, Explanation | str], evidence: Mapping[str, Evidence], simulator: str | Simulator,
    n_null: int = 20, pool: Mapping[str, Explanation | str] | None = None,
) -> str:  # fmt: skip
    """What `score` will cost, in words; simulates nothing. (The modality swap's calls to an explainer not included.)"""
    chosen = simulator_of(simulator)
    own = wanted(explanations, evidence, chosen)
    first = f"explanations: {plan(own, evidence, chosen)}"
    if about_one(chosen):
        return first
    todo, about = tried_on(own, explanations if pool is None else pool, evidence, Chance(n_null))
    lines = [first, f"nulls (other neurons' explanations and the empty one): {plan(todo, about, chosen)}"]
    swap, on = swap_at_most(explanations, evidence, chosen)
    lines += [f"modality swap, at most: {plan(swap, on, chosen)}"] if swap else []
    return "\n".join(lines)


def _each_r(
    simulator: Simulator, todo: Mapping[str, Simulation], evidence: Mapping[str, Evidence],
    made: Mapping[str, Simulation], progress: bool,
) -> Iterator[tuple[str, float | None]]:  # fmt: skip
    """(name, r) of many simulations, which are not kept; r is None where one failed, or too much of it: it is on the
    exemplars of the neuron's own r, or says nothing about it."""
    from tqdm import tqdm

    own = {key: _scored(pieces_of(evidence[name], evidence[name].split("test"), one.predictions, one.sides))
           for key, one in made.items() for name in [f"{key}\0empty"]}  # fmt: skip
    for name, one in tqdm(run(simulator, todo, evidence), total=len(todo), desc="nulls", disable=not progress):
        pieces = pieces_of(evidence[name], evidence[name].split("test"), one.predictions, one.sides)
        needed = own[name.partition("\0")[0]]
        there = pieces and len(needed & _scored(pieces)) >= ENOUGH * len(needed)
        yield name, measures.pooled(pieces) if there else None


def _scored(pieces: Sequence[Piece]) -> set[int]:
    return {p.exemplar for p in pieces}
