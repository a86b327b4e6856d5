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
        of their sum where that is more; what they leave goes to the rest. Places where one has no prediction are left
        out. An alternative that cannot be simulated on a side has NaN, and so has the rest then. Shares add up to 1.

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
    if chosen.per_neuron:
        raise ValueError(f"{chosen.name} does not read explanations: choose a simulator that does, such as 'concepts'")
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
    said = {part: _by_place(pieces_of(evidence, exemplars, simulator.simulate(part, exemplars, side), side))
            for part in parts}  # fmt: skip
    able = {part: own for part, own in said.items() if own}
    nan = float("nan")
    shared = set.intersection(*(set(own) for own in able.values())) if able else set()
    if not shared:
        return [{"neuron": evidence.neuron, "side": side, "cause": c, "share": nan} for c in (*parts, REST)]
    found = dict(zip(able, _shares([[own[key] for key in sorted(shared)] for own in able.values()]), strict=True))
    rest = 1 - sum(found.values()) if len(found) == len(parts) else nan
    return [{"neuron": evidence.neuron, "side": side, "cause": cause, "share": float(share)}
            for cause, share in (*((p, found.get(p, nan)) for p in parts), (REST, rest))]  # fmt: skip


def _by_place(pieces: list[Piece]) -> dict[tuple[int, int], Piece]:
    """Pieces by exemplar and number of the image in it."""
    found: dict[tuple[int, int], Piece] = {}
    for piece in pieces:
        number = sum(exemplar == piece.exemplar for exemplar, _ in found)
        found[piece.exemplar, number] = piece
    return found


def _shares(alternatives: list[list[Piece]]) -> np.ndarray:
    """Share of the activation mass of each, at the places where all have a prediction. Pieces that are left stand for
    those of their stratum that are not, by the weights that they have."""
    first = alternatives[0]
    counts = [np.logical_and.reduce([own[i].counts for own in alternatives]) for i in range(len(first))]
    real = _flat([p.real[c] for p, c in zip(first, counts, strict=True)])
    weights = np.repeat([p.weight for p in first], [int(c.sum()) for c in counts])
    mass = np.clip(real, 0, None) * weights
    said = [_flat([p.simulated[c] for p, c in zip(own, counts, strict=True)]) for own in alternatives]
    shares = np.stack(said).clip(0, FULL) / FULL
    shares /= np.maximum(shares.sum(0), 1)
    total = mass.sum()
    return np.asarray(shares @ mass / total) if total > 0 else np.full(len(shares), np.nan)


def _flat(values: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0), *values])
