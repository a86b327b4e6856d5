"""What a run directory holds beside the scan: evidence, explanations, simulations and scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlm_neurons.explaining.explanation import Explanation, Log
from vlm_neurons.simulating.record import Simulation
from vlm_neurons.simulating.record import load as load_simulations

if TYPE_CHECKING:
    from vlm_neurons.evidence import Evidence
    from vlm_neurons.scanning import Run

Score = dict[str, Any]


@dataclass(frozen=True)
class Results:
    """All of it, by neuron; what there is not is empty.

    Attributes:
        evidence: from `evidence/`, without that of other runs.
        explanations: the last of every neuron, from `explanations.jsonl`.
        simulations: from `simulations.parquet`.
        scores: rows of `scores.parquet`.
    """

    evidence: dict[str, Evidence]
    explanations: dict[str, Explanation]
    simulations: dict[str, Simulation]
    scores: dict[str, Score]

    @classmethod
    def of(cls, run: Run) -> Results:
        """Read the run directory.

        Raises:
            ValueError: a file there is in a format that this version does not know.
        """
        return cls(
            _evidence(run), Log(run.path / "explanations.jsonl").read(), load_simulations(run.path), _scores(run)
        )

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
