"""`vn.score`: one row a neuron and side, every number beside its null."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from vlm_neurons._checks import whole
from vlm_neurons.autointerp import jobs
from vlm_neurons.autointerp.explanation import says_nothing
from vlm_neurons.autointerp.jobs import Explanations
from vlm_neurons.autointerp.protocols import Explainer, Simulator
from vlm_neurons.autointerp.registry import explainer_of, simulator_of
from vlm_neurons.autointerp.sampling import LEAST, drawn
from vlm_neurons.autointerp.scorers.other_explanations import (
    Chance,
    Key,
    against_others,
    all_by,
    said_of_sides,
    swap_at_most,
    swapped,
    tried_on,
)
from vlm_neurons.autointerp.scorers.rows import FIRST, NAN, REST, row_of, with_nulls
from vlm_neurons.autointerp.simulating import simulate
from vlm_neurons.autointerp.simulation import Simulation, mark_of
from vlm_neurons.autointerp.stable import again, stability
from vlm_neurons.autointerp.store import REPLIES, check_table, folder, save_scores
from vlm_neurons.evidence import Evidence
from vlm_neurons.scanning.results import SCORES, SIMULATIONS
from vlm_neurons.stats import false_discovery

if TYPE_CHECKING:
    from vlm_neurons.scanning import Run


def score(
    explanations: Explanations,
    evidence: Mapping[str, Evidence],
    simulator: str | Simulator = "concepts",
    simulations: Mapping[Key, Simulation] | None = None,
    out: Run | str | Path | None = None,
    n_null: int = 20,
    n_permutations: int = 9999,
    explainer: str | Explainer | None = None,
    pool: Explanations | None = None,
    seed: int = 0,
    progress: bool = True,
    full: bool = False,
    n_test: int | None = None,
    n_stability: int = 0,
) -> pd.DataFrame:
    """How well explanations predict activations, over the whole data, on samples that no explainer saw.

    A third are top samples of the split `"test"`, a third random ones; the others are drawn from where the explanation
    foresees activity, and from where there is activity that it does not foresee. Each counts for its share of the
    data. So r falls for what is too broad, which top and random samples do not see where concepts are rare (Oikarinen,
    Yan, Weng 2025, arXiv 2506.05774). It falls with the frequency of the concept too: it ranks explanations of one
    neuron, not neurons.

    Args:
        explanations: neuron -> explanation, or plain string.
        evidence: of the same neurons.
        simulator: see `simulate`. Its `max_cost` holds for all that is asked here: the explanations, those of other
            neurons and the swap, in this order.
        simulations: of the same explanations by the same simulator, where they were made before.
        out: a run or a directory: the full table goes into its `scores/`, simulations and replies as in `simulate`.
            Rows of other neurons by the same simulator that are there stay in it, and in what is returned (q is over
            all). Nothing is written where every simulation failed.
        n_null: explanations of other neurons tried on each neuron, at most. Each costs as much as a simulation.
        n_permutations: behind p and p_within; from 999 on.
        explainer: who is asked again, for `n_stability` and for the swap of the sides of multi-modal neurons (it sees
            one side, and what it says is simulated on the other); by default `"dissection"` where all explanations are
            its own, else nobody.
        pool: explanations that those of other neurons are drawn from, with evidence of the same neurons; those that are
            scored if not given. So one neuron that is scored anew has the same nulls as in a table of all.
        seed: of permutations and bootstrap.
        progress: show bars.
        full: all columns.
        n_test: samples that each explanation is simulated on, from 2 on; as many as the split `"test"` has if None.
        n_stability: times that each neuron is explained again, from resampled samples (see `stability`); each costs as
            much as the explanation.

    Returns:
        One row a neuron and side (`"picture"`, `"text"`):

        - `neuron, side, explanation, simulator`;
        - `r` over all places of the whole data (patches, or tokens of the response; sinks left out), estimated;
          `r_low`, `r_high` (95 %, bootstrap over exemplars within strata);
        - `r_null`: median r of up to `n_null` explanations of other neurons of the same layer and class, made from
          other top samples than those it is tried on (one that predicts the same everywhere counts as 0): how specific
          r is. A null that failed, or has predictions for less than 80 % of the exemplars that r rests on, is none:
          the note counts them;
        - `p` (maps moved to other images, one-sided), `n_images` (samples with a prediction), `note` (why a number is
          missing);
        - with `n_stability`, `stability`: share of the new explanations that say the same.

        With `full=True` also `explainer`, `made_by` (a mark of the simulator's settings), `label`, `layer`; of the
        whole data like r: `r_empty` (of the empty explanation), `ceiling` (r of the truth itself at the simulator's
        resolution), `r_of_other_side` (of what the other side alone says: the swap); on the top and random samples
        alone, where what is too broad for a rare concept is not seen: `r_top_random`, `r_between` (of the means of
        images or texts), `r_within` (after subtracting them), `r_sample` (mean of every sample's own r, the paper's),
        `spearman`, `auroc` (of places above the paper's thresholds), `iou` (at the neuron's own 95th percentile),
        `detection` (top against random exemplars), `p` and `p_within` (maps shifted inside), `q` (p after
        Benjamini-Hochberg over the rows); `n_null` (explanations behind r_null), `n_exemplars`, `n_failed`,
        `approximate` (fewer than 40 images).

        NaN where a number does not exist: no r where the evidence does not say how many samples there are, has nothing
        beside the top ones to test on, or every simulation of a part of the data (a stratum) failed; a constant
        simulation has no correlation, a failed one is no zero.

    Raises:
        ValueError: unknown simulator, parameters of wrong types or out of range, a key that is not its neuron, a
            damaged file in `out`, or `n_stability` without `explainer` where it is not known.
        KeyError: an explanation without evidence.

    >>> from vlm_neurons import planted
    >>> made = planted.neurons("color", n=1)[0].evidence
    >>> table = score({made.neuron: "cyan regions"}, {made.neuron: made}, n_permutations=999, progress=False)
    >>> table.side[0], bool(table.r[0] > 0.7), bool(table.p[0] < 0.01)
    ('picture', True, True)
    """
    whole(999, n_permutations=n_permutations)
    whole(0, n_null=n_null, seed=seed, n_stability=n_stability)
    if n_test is not None:
        whole(LEAST, n_test=n_test)
    evidence = jobs.held(evidence, explanations, pool)
    jobs.check_explanations(explanations, evidence)
    jobs.check_explanations({} if pool is None else pool, evidence, "pool")
    chosen = simulator_of(simulator)
    asked = _asked_again(explainer, explanations, n_stability)
    if out is not None:
        for kind in (SCORES, SIMULATIONS):
            check_table(folder(out), kind, chosen.name, mark_of(chosen))
        chosen = chosen.with_cache(folder(out) / REPLIES)
    chosen, chance = chosen.on_one_purse(), Chance(n_null, n_permutations, seed)
    said = said_of_sides(explanations, evidence, asked)  # of the evidence as it was explained
    stable = _stability(explanations, evidence, asked, n_stability, seed, progress)
    evidence = {**evidence, **drawn(explanations, evidence, n_test)}
    made = _made_before(simulations or {}, jobs.wanted(explanations, evidence, chosen), chosen)
    missing = {k: e for k, e in explanations.items() if k not in {neuron for neuron, _ in made}}
    made |= simulate(missing, evidence, chosen, out, progress=progress)
    against = against_others(made, explanations if pool is None else pool, evidence, chosen, chance, progress)
    across = swapped(explanations, evidence, chosen, asked, said)
    rows = []
    for neuron, explanation in explanations.items():
        for side in jobs.sides_for(evidence[neuron], chosen):
            key = neuron, side
            row = row_of(key, explanation, evidence[neuron], made.get(key), chosen, chance)
            rows.append(with_nulls(row, against.get(key, {}), across.get(key, NAN), n_null))
            rows[-1]["stability"] = stable.get(neuron, NAN)
    table = pd.DataFrame(rows, columns=[*FIRST, *REST])
    table["layer"], table["made_by"] = table["layer"].astype("Int64"), mark_of(chosen)
    table["q"] = false_discovery(table["p"].to_numpy(float))
    if out is not None and rows and not nothing_came(table):
        table = save_scores(table, folder(out), chosen.name, mark_of(chosen), keep_stability=not n_stability)
    return table if full else table[[*FIRST, *["stability"] * bool(n_stability)]]


def cost_of(
    explanations: Explanations, evidence: Mapping[str, Evidence], simulator: str | Simulator, n_null: int = 20,
    pool: Explanations | None = None, n_test: int | None = None, explainer: str | Explainer | None = None,
    n_stability: int = 0,
) -> str:  # fmt: skip
    """What `score` will cost, in words; simulates nothing. (The modality swap's calls to an explainer not included.)"""
    jobs.check_explanations(explanations, evidence)
    chosen, asked = simulator_of(simulator), _asked_again(explainer, explanations, n_stability)
    again_lines = []
    if n_stability and asked is not None:
        price = asked.plan(todo := again(explanations, evidence, n_stability, 0))
        what = f"{asked.name}: {len(todo)} explanations, no cost" if price is None else f"{asked.name}: {price}"
        again_lines = [f"stability: {what}"]
    evidence = {**evidence, **drawn(explanations, evidence, n_test)}
    own = jobs.wanted(explanations, evidence, chosen)
    first = f"explanations: {jobs.plan(chosen, own, evidence)}"
    if chosen.per_neuron:
        return "\n".join([first, *again_lines])
    tried = tried_on(own, explanations if pool is None else pool, evidence, Chance(n_null))
    lines = [first, f"nulls (other neurons' explanations and the empty one): {jobs.plan(chosen, tried, evidence)}"]
    if all_by(explanations, "dissection") and (swap := swap_at_most(explanations, evidence, chosen)):
        lines.append(f"modality swap, at most: {jobs.plan(chosen, swap, evidence)}")
    return "\n".join([*lines, *again_lines])


def nothing_came(table: pd.DataFrame) -> bool:
    """Whether, of a full table, simulations failed, and none of an explanation that names something gave a
    prediction."""
    came = (table["n_images"] > 0) & ~table["explanation"].map(says_nothing).astype(bool)
    return bool((table["n_failed"] > 0).any() and not came.any())


def _asked_again(
    explainer: str | Explainer | None, explanations: Explanations, n_stability: int
) -> Explainer | None:  # fmt: skip
    """The explainer of the swap and of stability; None where nobody is asked.

    Raises:
        ValueError: stability is wanted, and it is not known of whom.
    """
    if explainer is not None or all_by(explanations, "dissection"):
        return explainer_of("dissection" if explainer is None else explainer)
    if n_stability and explanations:
        raise ValueError(
            f"n_stability={n_stability} explains again, and not all explanations are by 'dissection': give explainer=, "
            "who made them"
        )
    return None


def _stability(
    explanations: Explanations, evidence: Mapping[str, Evidence], explainer: Explainer | None, n: int, seed: int,
    progress: bool,
) -> dict[str, float]:  # fmt: skip
    if not n or explainer is None:
        return {}
    found = stability(explanations, evidence, explainer, n, seed, progress)
    return dict(zip(found["neuron"], found["stability"], strict=True)) if len(found) else {}


def _made_before(
    simulations: Mapping[Key, Simulation], asked: Mapping[Key, Simulation], simulator: Simulator
) -> dict[Key, Simulation]:
    """Those that were made before, of the explanations that are scored; of neurons with a side missing none.

    Raises:
        ValueError: one is of another simulator, explanation or evidence.
    """
    found = {key: simulations[key] for key in asked if key in simulations}
    for key, one in found.items():
        if not isinstance(one, Simulation):
            raise ValueError(f"simulations[{key!r}]: {type(one).__name__}; give what vn.simulate returned")
        if one.settings != asked[key].settings:
            raise ValueError(
                f"{key[0]}: its simulation was made by another simulator ({one.simulator}; scored with "
                f"{simulator.name}), of other words or from other evidence; pass simulator=, or simulate it again"
            )
    lacking = {neuron for neuron, side in asked if (neuron, side) not in found}
    return {key: one for key, one in found.items() if key[0] not in lacking}
