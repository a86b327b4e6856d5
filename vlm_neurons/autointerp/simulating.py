"""`vn.simulate`: any simulator over the test exemplars of many neurons, with a record that a later run goes on from."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from vlm_neurons._checks import whole
from vlm_neurons.autointerp import jobs
from vlm_neurons.autointerp.jobs import Explanations
from vlm_neurons.autointerp.protocols import Side, Simulator
from vlm_neurons.autointerp.registry import simulator_of
from vlm_neurons.autointerp.sampling import LEAST, drawn
from vlm_neurons.autointerp.simulation import Simulation, mark_of
from vlm_neurons.autointerp.store import REPLIES, answered, anything_came, folder, load_simulations, save_simulations
from vlm_neurons.evidence import Evidence

if TYPE_CHECKING:
    from vlm_neurons.scanning import Run

SAVE_EVERY = 30.0  # seconds: what a kill can cost of a simulator that keeps no cache of its own


def simulate(
    explanations: Explanations,
    evidence: Mapping[str, Evidence],
    simulator: str | Simulator = "concepts",
    out: Run | str | Path | None = None,
    redo: bool = False,
    n_test: int | None = None,
    progress: bool = True,
) -> dict[tuple[str, Side], Simulation]:
    """What explanations predict for exemplars of the split `"test"`, which no explainer has seen.

    Top samples, random ones, and some of the pool on which the explanation foresees activity: see `score`.

    Args:
        explanations: neuron -> explanation, from `explain`, or plain strings. Failed ones are left out.
        evidence: of the same neurons.
        simulator: `"concepts"`; a baseline (`"constant"`, `"position-prior"`, `"image-only"`, `"token-frequency"`); or
            a simulator object.
        out: a run or a directory: results go into its `simulations/`, replies to its `cache.sqlite`. What is there,
            made in the same way and without a failure, is not simulated again. Nothing is written where every
            simulation failed.
        redo: simulate them all again.
        n_test: samples of each neuron, see `score`.
        progress: show a bar, and what it will cost where it costs something.

    Returns:
        (neuron, side) -> simulation, of the sides of the neuron's class (`"picture"` of a visual neuron, `"text"` of a
        text neuron, both of a multi-modal one) that the simulator can do.

    Raises:
        ValueError: an unknown simulator, one that gives values of other shapes than the exemplars have, an explanation
            that was made from samples it would be tested on, or a key that is not its neuron.
        KeyError: an explanation without evidence.

    >>> from vlm_neurons import planted
    >>> made = planted.neurons("color", n=1)[0].evidence
    >>> found = simulate({made.neuron: "cyan regions"}, {made.neuron: made}, progress=False)
    >>> list(found), found["color-0", "picture"].n_failed
    ([('color-0', 'picture')], 0)
    """
    jobs.check_explanations(explanations, evidence)
    if n_test is not None:
        whole(LEAST, n_test=n_test)
    evidence = drawn(explanations, evidence, n_test)
    chosen = simulator_of(simulator)
    if out is not None:
        chosen = chosen.with_cache(folder(out) / REPLIES)
    todo = jobs.wanted(explanations, evidence, chosen)
    before = {} if out is None or redo else load_simulations(folder(out), chosen.name, mark_of(chosen))
    found = answered(before, {key: one.settings for key, one in todo.items()})
    fresh = {key: one for key, one in todo.items() if key not in found}
    jobs.announce(chosen, fresh, evidence, progress)
    unsaved: list[Simulation] = []
    saved_at = time.monotonic()
    try:
        with tqdm(total=len(fresh), desc=chosen.name, unit="side", disable=not progress or not fresh) as bar:
            for key, one in jobs.run(chosen, fresh, evidence):
                found[key] = one
                unsaved.append(one)
                bar.update()
                if out is not None and time.monotonic() - saved_at > SAVE_EVERY and anything_came(unsaved):
                    save_simulations(unsaved, folder(out), redo)
                    unsaved, saved_at = [], time.monotonic()
    finally:
        if out is not None and unsaved and anything_came(unsaved):
            save_simulations(unsaved, folder(out), redo)
    return {key: found[key] for key in todo if key in found}
