"""What a run directory holds beside the scan: evidence, explanations, simulations and scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlm_neurons.explaining.explanation import Explanation, Log
from vlm_neurons.show.cards.words import differ
from vlm_neurons.show.page import shortened
from vlm_neurons.simulating.record import Simulation
from vlm_neurons.simulating.record import load as load_simulations

if TYPE_CHECKING:
    from vlm_neurons.evidence import Evidence
    from vlm_neurons.scanning import Run

Score = dict[str, Any]
LONGEST = 200  # characters of an explanation where it is not the thing itself; the card has all of it


@dataclass(frozen=True)
class Results:
    """All of it, by neuron; what there is not is empty.

    Attributes:
        evidence: from `evidence/`, without that of other runs.
        explanations: the last of every neuron, from `explanations.jsonl`.
        simulations: from `simulations.parquet`, of the explanations above.
        scores: rows of `scores.parquet`, the same.
        earlier: what was left out because it is of an earlier explanation, in words.
    """

    evidence: dict[str, Evidence]
    explanations: dict[str, Explanation]
    simulations: dict[str, Simulation]
    scores: dict[str, Score]
    earlier: dict[str, str]

    @classmethod
    def of(cls, run: Run) -> Results:
        """Read the run directory.

        Raises:
            ValueError: a file there is in a format that this version does not know.
        """
        explanations = Log(run.path / "explanations.jsonl").read()
        simulations, scores = load_simulations(run.path), _scores(run)
        old = _take_old(explanations, {n: s.get("explanation") for n, s in scores.items()}, "score", scores)
        old += _take_old(explanations, {n: s.explanation for n, s in simulations.items()}, "simulation", simulations)
        earlier = {neuron: _in_words([words for n, words in old if n == neuron]) for neuron, _ in old}
        return cls(_evidence(run), explanations, simulations, scores, earlier)

    @property
    def neurons(self) -> list[str]:
        """Those with an explanation or a score, in the order in which they were explained."""
        return list(dict.fromkeys([*self.explanations, *self.scores]))


def _evidence(run: Run) -> dict[str, Evidence]:
    from vlm_neurons.evidence import load

    if not (run.path / "evidence" / "exemplars.parquet").is_file():
        return {}
    found = load(run.path).values()
    return {e.neuron: e for e in found if e.source.get("run", run.identity) == run.identity}


def _scores(run: Run) -> dict[str, Score]:
    import pandas as pd

    file = run.path / "scores.parquet"
    if not file.is_file():
        return {}
    table = pd.read_parquet(file)
    if "neuron" not in table:
        raise ValueError(f"{file} has no column 'neuron'; write it with vn.score(..., out=run)")
    return {str(row["neuron"]): row for row in table.to_dict("records")}


def _take_old(
    explanations: Mapping[str, Explanation], made_from: Mapping[str, Any], thing: str, things: dict[str, Any]
) -> list[tuple[str, str]]:
    """Take things made from another text than the explanation's out of `things`: (neuron, what it was, in words)."""
    old = [(neuron, text) for neuron, text in made_from.items() if differ(explanations.get(neuron), text)]
    for neuron, _ in old:
        del things[neuron]
    return [(neuron, f"the {thing} is of an earlier explanation: “{shortened(text, LONGEST)}”") for neuron, text in old]


def _in_words(old: Sequence[str]) -> str:
    return f"{'; '.join(old)}; vn.score(..., out=run) scores the present one"
