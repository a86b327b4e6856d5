"""What a run directory holds beside the scan: evidence, explanations, simulations and scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_neurons.autointerp.explanation import Explanation, Log
from vlm_neurons.autointerp.simulations import Simulation
from vlm_neurons.autointerp.simulations import load as load_simulations
from vlm_neurons.classification import classify
from vlm_neurons.viz.rows_in_words import differ
from vlm_neurons.viz.wording import shortened

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.evidence import Evidence
    from vlm_neurons.scanning import Run

Score = dict[str, Any]
AGAIN = {  # what writes a file of the run directory
    "neurons.parquet": "run.save(vn.classify(run))",
    "exemplars.parquet": "vn.gather_evidence(model, data, run, ...)",
    "simulations.parquet": "vn.score(..., out=run)",
    "scores.parquet": "vn.score(..., out=run)",
}
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
            ValueError: a file there cannot be read, or is in a format that this version does not know.
        """
        explanations = Log(run.path / "explanations.jsonl").read()
        with _readable(run.path / "simulations.parquet"):
            simulations = load_simulations(run.path)
        scores = _scores(run)
        old = _take_old(explanations, {n: s.get("explanation") for n, s in scores.items()}, "score", scores)
        old += _take_old(explanations, {n: s.explanation for n, s in simulations.items()}, "simulation", simulations)
        earlier = {neuron: _in_words([words for n, words in old if n == neuron]) for neuron, _ in old}
        return cls(_evidence(run), explanations, simulations, scores, earlier)

    @property
    def neurons(self) -> list[str]:
        """Those with an explanation or a score, in the order in which they were explained."""
        return list(dict.fromkeys([*self.explanations, *self.scores]))


def classes(run: Run) -> pd.DataFrame:
    """Its classification; by the defaults where there is none yet.

    Raises:
        ValueError: the one that is there cannot be read.
    """
    file = run.path / "neurons.parquet"
    return _table(file, ("neuron", "site", "pole", "label", "peak")) if file.exists() else classify(run)


def _evidence(run: Run) -> dict[str, Evidence]:
    from vlm_neurons.evidence import load

    file = run.path / "evidence" / "exemplars.parquet"
    if not file.is_file():
        return {}
    with _readable(file):
        found = load(run.path).values()
    return {e.neuron: e for e in found if e.source.get("run", run.identity) == run.identity}


def _scores(run: Run) -> dict[str, Score]:
    file = run.path / "scores.parquet"
    if not file.is_file():
        return {}
    return {str(row["neuron"]): row for row in _table(file, ("neuron", "r")).to_dict("records")}


def _table(file: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A table; it has to have these columns."""
    import pandas as pd

    with _readable(file):
        table = pd.read_parquet(file)
        if missing := [name for name in columns if name not in table]:
            raise ValueError(f"it has no column {missing[0]!r}")
    return table


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """What goes wrong inside is told with the file and the remedy; what tells them itself goes through."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        if str(error).startswith(str(file)):
            raise
        raise ValueError(f"{file} cannot be read: {error}. Move it away; {AGAIN[file.name]} writes it again") from error


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
