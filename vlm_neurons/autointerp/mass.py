"""Which of the causes that an explanation names makes how much of a neuron's activity?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from vlm_neurons._checks import whole
from vlm_neurons.autointerp import jobs
from vlm_neurons.autointerp.explanation import says_nothing
from vlm_neurons.autointerp.jobs import Explanations
from vlm_neurons.autointerp.protocols import Side, Simulator
from vlm_neurons.autointerp.registry import simulator_of
from vlm_neurons.autointerp.sampling import LEAST, drawn
from vlm_neurons.autointerp.scorers.aligned import Piece, pieces_of
from vlm_neurons.concepts.naming import named

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.evidence import Evidence

REST = "none of these"
FULL = 10.0  # of the scale of predictions


def causes(
    explanations: Explanations,
    evidence: Mapping[str, Evidence],
    simulator: str | Simulator = "concepts",
    n_test: int | None = None,
) -> pd.DataFrame:
    """Shares of a neuron's activation mass by what its explanation names, over the whole data.

    A neuron with several distinct causes (polysemantic) has several large shares; one whose explanation leaves most of
    what it does unexplained has most in `"none of these"`.

    Args:
        explanations: neuron -> explanation, or plain strings; alternatives stand between semicolons.
        evidence: of the same neurons.
        simulator: as in `score`. Each alternative is simulated alone, and costs a simulation.
        n_test: samples of each neuron, as in `score`.

    Returns:
        Rows of a neuron and side, one for each alternative and a last one for the rest: `neuron, side, cause, share`.
        The activation (negative ones 0) of a place goes to the alternatives by their predictions, as shares of 10, or
        of their sum where that is more; what they leave goes to the rest. An alternative that cannot be simulated on a
        side has NaN, and so has the rest then. Shares add up to 1.

    Raises:
        ValueError: an unknown simulator, or an explanation that was made from samples it would be tested on.
        KeyError: an explanation without evidence.

    >>> from vlm_neurons import planted
    >>> made = planted.neurons("polysemantic", n=1)[0]
    >>> found = causes({made.evidence.neuron: made.rule.explanations["true"]}, {made.evidence.neuron: made.evidence})
    >>> found.cause.tolist(), round(float(found.share.sum()), 6)
    (['yellow regions', 'rings', 'none of these'], 1.0)
    """
    import pandas as pd

    if n_test is not None:
        whole(LEAST, n_test=n_test)
    jobs.check_explanations(explanations, evidence)
    chosen = simulator_of(simulator)
    rows: list[dict[str, Any]] = []
    for key, own in drawn(explanations, evidence, n_test).items():
        parts = _parts(jobs.testable(key, explanations[key], evidence[key]))
        for side in jobs.sides_for(own, chosen) if parts else ():
            rows += _rows(own, side, _on(side, parts), chosen)
    return pd.DataFrame(rows, columns=["neuron", "side", "cause", "share"])


def _parts(text: str) -> list[str]:
    return [] if says_nothing(text) else [part.strip() for part in text.split(";") if part.strip()]


def _on(side: Side, parts: list[str]) -> list[str]:
    """Those that are about a side, where some are: of red regions and the word 'red' each counts on its own side."""
    about = {part: named(part) for part in parts}
    own = [p for p, what in about.items() if what.unknown or (what.visual if side == "picture" else what.text)]
    return own or parts


def _rows(evidence: Evidence, side: Side, parts: list[str], simulator: Simulator) -> list[dict[str, Any]]:
    """Shares of one side."""
    exemplars = evidence.split("test")
    said = {part: pieces_of(evidence, exemplars, simulator.simulate(part, exemplars, side), side) for part in parts}
    whole_ones = {part: own for part, own in said.items() if _all_there(own, said.values())}
    if not whole_ones:
        return [{"neuron": evidence.neuron, "side": side, "cause": c, "share": float("nan")} for c in (*parts, REST)]
    first = next(iter(whole_ones.values()))
    real, weights = _flat([p.pair[0] for p in first]), np.repeat([p.weight for p in first], [p.sums[0] for p in first])
    mass = np.clip(real, 0, None) * weights
    shares = np.stack([_flat([p.pair[1] for p in own]) for own in whole_ones.values()]).clip(0, FULL) / FULL
    shares /= np.maximum(shares.sum(0), 1)
    total = mass.sum()
    found = dict(zip(whole_ones, (shares @ mass / total if total > 0 else np.full(len(shares), np.nan)), strict=True))
    known = len(found) == len(parts)
    rest = 1 - sum(found.values()) if known else float("nan")
    return [{"neuron": evidence.neuron, "side": side, "cause": cause, "share": float(share)}
            for cause, share in (*((p, found.get(p, np.nan)) for p in parts), (REST, rest))]  # fmt: skip


def _all_there(own: list[Piece], every: Any) -> bool:
    """Whether an alternative was simulated on as much as the others."""
    return bool(own) and len(own) == max(map(len, every))


def _flat(values: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0), *values])
