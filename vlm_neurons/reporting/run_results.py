"""What a run directory holds beside the scan: evidence, explanations, simulations and scores."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_neurons._files import readable
from vlm_neurons.autointerp import Explanation, Simulation, load_simulations, read_explanations
from vlm_neurons.autointerp.from_concepts import NAME as FROM_CONCEPTS
from vlm_neurons.classification import classify
from vlm_neurons.scanning.results import SCORES, newest, scores_of
from vlm_neurons.viz.concept_map import Map, concept_maps
from vlm_neurons.viz.rows_in_words import differ
from vlm_neurons.viz.wording import shortened

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.autointerp.protocols import Side
    from vlm_neurons.evidence import Evidence
    from vlm_neurons.scanning import Run

Score = dict[str, Any]
AGAIN = {  # what writes a file of the run directory
    "neurons.parquet": "run.save(vn.classify(run))",
}
LONGEST = 200  # characters of an explanation where it is not the thing itself; the card has all of it


@dataclass(frozen=True)
class Results:
    """All of it, by neuron; what there is not is empty.

    Attributes:
        evidence: from `evidence/`, without that of other runs.
        explanations: the last of every neuron, from `explanations.jsonl`.
        simulations: by side, of the explanations above.
        scores: rows of the table that was written last, one a side, the same.
        concepts: rows of the table of concepts, one a side; none where the run was scanned without, or has too few.
        maps: which concept lives in which layer.
        no_concepts: why there are none though the run was scanned with concepts; `""` otherwise.
        earlier: what was left out because it is of an earlier explanation, in words.
    """

    evidence: dict[str, Evidence]
    explanations: dict[str, Explanation]
    simulations: dict[str, dict[Side, Simulation]]
    scores: dict[str, list[Score]]
    concepts: dict[str, list[dict[str, Any]]]
    maps: list[Map]
    no_concepts: str
    earlier: dict[str, str]

    @classmethod
    def of(cls, run: Run) -> Results:
        """Read the run directory.

        Raises:
            ValueError: a file there cannot be read, or is in a format that this version does not know.
        """
        explanations, scores = read_explanations(run.path), _scores(run)
        by = [(str(s["simulator"]), str(s["made_by"])) for rows in scores.values() for s in rows[:1]]
        simulations: dict[str, dict[Side, Simulation]] = {}
        for (neuron, side), one in load_simulations(run.path, *(by[0] if by else ())).items():
            simulations.setdefault(neuron, {})[side] = one
        of_scores = {n: [s.get("explanation") for s in rows] for n, rows in scores.items()}
        of_simulations = {n: [s.explanation for s in sides.values()] for n, sides in simulations.items()}
        old = _take_old(explanations, of_scores, "score", scores)
        old += _take_old(explanations, of_simulations, "simulation", simulations)
        earlier = {neuron: _in_words([words for n, words in old if n == neuron]) for neuron, _ in old}
        return cls(_evidence(run), explanations, simulations, scores, *_concepts(run), earlier)

    @property
    def neurons(self) -> list[str]:
        """Those with an explanation or a score, in the order in which they were explained. What was explained from
        concepts, which are all neurons, is none of these."""
        asked = [neuron for neuron, one in self.explanations.items() if one.explainer != FROM_CONCEPTS]
        return list(dict.fromkeys([*asked, *self.scores]))


def classes(run: Run) -> pd.DataFrame:
    """Its classification; by the defaults where there is none yet.

    Raises:
        ValueError: the one that is there cannot be read.
    """
    file = run.path / "neurons.parquet"
    if file.exists():
        return _table(file, ("neuron", "site", "pole", "label", "peak"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the page says where no neuron has a class
        return classify(run)


def _evidence(run: Run) -> dict[str, Evidence]:
    from vlm_neurons.evidence import load
    from vlm_neurons.evidence.stored import is_there

    if not is_there(run.path / "evidence"):
        return {}
    stored = load(run.path)
    own = (n for n in stored if stored.about(n)["source"].get("run", run.identity) == run.identity)
    return {e.neuron: e for e in (stored[n] for n in own)}


def _scores(run: Run) -> dict[str, list[Score]]:
    file = newest(run.path, SCORES)
    found: dict[str, list[Score]] = {}
    for row in scores_of(file).to_dict("records") if file else ():
        found.setdefault(str(row["neuron"]), []).append(row)
    return found


def _concepts(run: Run) -> tuple[dict[str, list[dict[str, Any]]], list[Map], str]:
    if "concepts" not in run.info:
        return {}, [], ""
    try:
        table = run.concepts()
    except ValueError as error:  # too few samples to tell, or sums that are lost
        return {}, [], str(error)
    found: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_dict("records"):
        found.setdefault(str(row["neuron"]), []).append({str(key): value for key, value in row.items()})
    return found, concept_maps(table), ""


def _table(file: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A table; it has to have these columns."""
    import pandas as pd

    with readable(file, AGAIN[file.name]):
        table = pd.read_parquet(file)
        if missing := [name for name in columns if name not in table]:
            raise ValueError(f"it has no column {missing[0]!r}")
    return table


def _take_old(
    explanations: Mapping[str, Explanation], made_from: Mapping[str, list[Any]], thing: str, things: dict[str, Any]
) -> list[tuple[str, str]]:
    """Take what was made from another text than the explanation's out of `things`: (neuron, what it was, in words)."""
    old = [(n, text) for n, texts in made_from.items() for text in texts if differ(explanations.get(n), text)]
    old = list(dict.fromkeys(old))
    for neuron in {n for n, _ in old}:
        del things[neuron]
    return [(neuron, f"the {thing} is of an earlier explanation: “{shortened(text, LONGEST)}”") for neuron, text in old]


def _in_words(old: Sequence[str]) -> str:
    return f"{'; '.join(old)}; vn.score(..., out=run) scores the present one"
