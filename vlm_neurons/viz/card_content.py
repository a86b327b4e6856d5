"""What a card shows, before it is drawn: exemplars chosen, scales fixed, tables in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jaxtyping import Float

from vlm_neurons._checks import of_kind
from vlm_neurons.autointerp.simulation import Simulation
from vlm_neurons.viz.rows_in_words import (
    Classes,
    Explained,
    Scored,
    answers,
    classes,
    differ,
    explained,
    record,
    score_records,
    scored,
)
from vlm_neurons.viz.wording import FLOOR, number, shortened, visible

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.autointerp.explanation import Explanation
    from vlm_neurons.autointerp.protocols import Side
    from vlm_neurons.evidence import Evidence, Exemplar

    Row: TypeAlias = pd.Series | pd.DataFrame | Mapping[str, Any] | None
    Simulations: TypeAlias = Simulation | Mapping[tuple[str, Side], Simulation] | None

LONGEST = 200  # characters of a name or a token under a picture
GROUPS = ("top", "quantile", "random")  # in the order in which they are shown
NUMBERED = {"top": "top sample", "quantile": "lower quantile", "random": "random sample"}


@dataclass(frozen=True)
class Compared:
    """An exemplar on the 0-10 scale, and the same as simulated.

    Attributes:
        real: real activations.
        simulated: simulated ones, NaN where there are none.
        failure: why there are none, on one side or on all; `""` if there are.
    """

    real: Exemplar
    simulated: Exemplar
    failure: str

    @property
    def sees(self) -> bool:
        """Whether patches were simulated."""
        return any(not np.isnan(p).all() for p in self.simulated.patch_acts)

    @property
    def reads(self) -> bool:
        """Whether tokens were simulated."""
        return has_text(self.simulated)


@dataclass(frozen=True)
class Content:
    """What a card shows.

    Attributes:
        evidence: of the neuron.
        classes: its class, in words.
        explained: its explanation, in words.
        scored: its score on every side, in words.
        answers: what it answers to over all data, in words.
        strongest: the strongest exemplar.
        groups: group -> exemplars of it.
        compared: exemplars with their simulations.
        n_failed: simulations that failed.
        tops: ends of the colour scales of patches and of tokens.
    """

    evidence: Evidence
    classes: Classes
    explained: Explained | None
    scored: list[Scored]
    answers: list[str]
    strongest: Exemplar
    groups: dict[str, list[Exemplar]]
    compared: list[Compared]
    n_failed: int
    tops: tuple[float, float]

    @property
    def token_sinks(self) -> bool:
        """Whether a token is shown that is a sink."""
        return any(has_text(e) and e.seen.token_sinks.any() for e in self._shown)

    @property
    def patch_sinks(self) -> bool:
        """Whether a patch is shown that is a sink."""
        return any(sinks.any() for e in self._shown for sinks in e.seen.patch_sinks)

    @property
    def _shown(self) -> list[Exemplar]:
        return [self.strongest, *(e for es in self.groups.values() for e in es), *(one.real for one in self.compared)]


def content(
    evidence: Evidence,
    row: Row = None,
    explanation: Explanation | str | None = None,
    simulation: Simulations = None,
    score: Row = None,
    per_group: int = 3,
    tops: tuple[float, float] | None = None,
    concepts: pd.DataFrame | None = None,
) -> Content:
    """What a card of a neuron shows; the arguments are those of `card_html`.

    Raises:
        ValueError: no exemplars; a row, score or simulation of another neuron; a score or simulation of other words
            than the explanation's.
    """
    if not an_evidence(evidence).exemplars:
        raise ValueError(f"{evidence.neuron} has no exemplars to show; gather its evidence with more samples")
    simulations = _by_side(simulation, evidence.neuron)
    strongest, groups = choose(evidence, per_group)
    told, of_score = explained(explanation), score_records(score, evidence.neuron)
    for one in of_score:
        _same_words(explanation, one.get("explanation"), "score", "score")
    for simulated in simulations.values():
        _same_words(explanation, simulated.explanation, "simulation", "simulate")
    return Content(
        evidence,
        classes(record(row, evidence.neuron, "row"), evidence.label, evidence.peak),
        told,
        [words for one in of_score if (words := scored(one))],
        answers(concepts, evidence.neuron),
        strongest,
        groups,
        [_compared(evidence, e, simulations) for e in _simulated(evidence, simulations)],
        sum(one.n_failed for one in simulations.values()),
        tops or tops_of(evidence, per_group),
    )


def _by_side(given: Simulations, neuron: str) -> dict[Side, Simulation]:
    """Simulations of the neuron: the one that was given, or those of it among what `simulate` returned."""
    every = list(given.values()) if isinstance(given, Mapping) else [] if given is None else [given]
    for one in every:
        how = "give one, such as vn.simulate(...)['L0N1', 'picture'], or all that it returned"
        of_kind("simulation", one, Simulation, how)
    if isinstance(given, Simulation) and given.neuron != neuron:
        raise ValueError(f"simulation= is of {given.neuron}, the evidence is of {neuron}")
    return {one.side: one for one in every if one.neuron == neuron}


def _same_words(explanation: Explanation | str | None, text: Any, name: str, again: str) -> None:
    if differ(explanation, text):
        said = explanation if isinstance(explanation, str) else explanation.text  # type: ignore[union-attr]
        raise ValueError(
            f"{name}= is of the explanation {shortened(text, 200)!r}, explanation= says {shortened(said, 200)!r}; "
            f"{again} the latter with vn.{again}, or pass the former as explanation="
        )


def an_evidence(given: Any, name: str = "evidence") -> Evidence:
    """What was given, if it is evidence of one neuron.

    Raises:
        TypeError: it is not; the message says where evidence comes from.
    """
    from vlm_neurons.evidence import Evidence

    if isinstance(given, Mapping):
        raise TypeError(f"{name}= is of {len(given)} neurons; give that of one, such as {name}['L0N1']")
    source = "vn.gather_evidence(model, data, run, ['L0N1'])['L0N1']; vn.Evidence.from_arrays makes it from arrays"
    of_kind(name, given, Evidence, f"give the evidence of a neuron, such as {source}")
    return given


def choose(evidence: Evidence, per_group: int) -> tuple[Exemplar, dict[str, list[Exemplar]]]:
    """The strongest exemplar, and some others of each group."""
    strongest = max(evidence.exemplars, key=lambda e: e.peak)
    groups = {g: [e for e in evidence.exemplars if e.group == g and e is not strongest] for g in GROUPS}
    return strongest, {g: sorted(es, key=lambda e: e.rank)[:per_group] for g, es in groups.items() if es}


def group_names(evidence: Evidence) -> dict[str, str]:
    """Groups of exemplars in words. Random samples are drawn from those that are not among the neuron's top ones.

    >>> import vlm_neurons as vn
    >>> tokens, values = [["a"], ["b"], ["c"], ["d"]], [[4.0], [3.0], [2.0], [1.0]]
    >>> group_names(vn.Evidence.from_arrays("probe", tokens=tokens, token_acts=values, n_top=2))["random"]
    'random samples below the top 2'
    """
    n_top = sum(e.group == "top" for e in evidence.exemplars)
    random = f"random samples below the top {n_top}" if n_top else "random samples that are not its top samples"
    return {"top": "strongest samples", "quantile": "lower quantiles of random samples", "random": random}


def tops_of(evidence: Evidence, per_group: int = 3) -> tuple[float, float]:
    """Ends of the colour scales of patches and of tokens, which are one: the largest value that is shown and counts,
    on either side, and not less than a tenth of the neuron's peak, so that noise does not look like a signal."""
    strongest, groups = choose(evidence, per_group)
    shown = [strongest, *(e for es in groups.values() for e in es)]
    least = FLOOR * evidence.peak if evidence.peak > 0 else 1e-6
    patches = [p[m] for e in shown for p, m in zip(e.patch_acts, e.scored_patches(), strict=True)]
    top = top_of([*patches, *(e.token_acts[e.scored_tokens()] for e in shown)], least)
    return top, top


def has_text(e: Exemplar) -> bool:
    """Whether any token has a value."""
    return bool((~np.isnan(e.token_acts)).any())


def caption(e: Exemplar) -> str:
    """Which sample an exemplar is."""
    name = visible(shortened(e.seen.name, LONGEST)) if e.seen.name else f"sample {e.seen.sample}"
    return f"{NUMBERED[e.group]} {e.rank + 1}, split {e.split}: {name}"


def strongest_places(e: Exemplar) -> list[str]:
    """The strongest patch of each image and the strongest token, of those that count, in words. Rows and columns are
    those of `Patch`, from 0."""
    found = []
    for place, values in enumerate(counted_patches(e)):
        if not np.isnan(values).all():
            row, column = strongest_patch(values)
            best = float(values[row, column])
            where = f"strongest patch {number(best)}, row {row}, column {column}"
            if (tiles := e.seen.in_tiles(place)).any():
                where += " (in the tiles below the whole picture)" if tiles[row, column] else " (of the whole picture)"
            of = f" of image {place + 1}" if len(e.patch_acts) > 1 else ""
            found.append((where if best > 0 else "no patch is positive") + of)
    counted = np.where(e.scored_tokens(), e.token_acts, np.nan)
    if not np.isnan(counted).all():
        at = int(np.nanargmax(counted))
        token = (
            f"strongest token “{visible(shortened(e.seen.tokens[at], LONGEST)).strip()}” {number(float(counted[at]))}"
        )
        found.append(token if counted[at] > 0 else "no token is positive")
    return found


def counted_patches(e: Exemplar) -> list[Float[np.ndarray, "rows columns"]]:
    """Values of the patches of each image; NaN where they do not count: the heat and the words are of the same."""
    return [np.where(sinks, np.nan, p) for p, sinks in zip(e.patch_acts, e.seen.patch_sinks, strict=True)]


def strongest_patch(values: Float[np.ndarray, "rows columns"]) -> tuple[int, int]:
    """Row and column of the largest value, from 0.

    >>> strongest_patch(np.array([[0.0, np.nan], [3.0, 1.0]]))
    (1, 0)
    """
    row, column = divmod(int(np.nanargmax(values)), values.shape[1])
    return row, column


def top_of(values: Sequence[Float[np.ndarray, "..."]], least: float) -> float:
    """End of a colour scale: the largest value, at least `least`.

    >>> top_of([np.array([1.0, np.nan]), np.array([])], 0.2)
    1.0
    """
    return max([least, *(float(np.nanmax(v)) for v in values if v.size and not np.isnan(v).all())])


def _simulated(evidence: Evidence, simulations: Mapping[Side, Simulation], n: int = 2) -> list[Exemplar]:
    """The strongest exemplar with a simulation, and a random one."""
    every = list(simulations.values())
    there = [e for e in evidence.split("test") if any(e.seen.sample in one.samples for one in every)]
    there.sort(key=lambda e: (any(one.of(e.seen.sample).failure for one in every), -e.peak))
    random = [e for e in there[1:] if e.group != "top"]
    return [*there[:1], *(random or there[1:])[: n - 1]]


def _compared(evidence: Evidence, e: Exemplar, simulations: Mapping[Side, Simulation]) -> Compared:
    real = replace(
        e, patch_acts=tuple(evidence.scale(p) for p in e.patch_acts), token_acts=evidence.scale(e.token_acts)
    )
    patches = tuple(np.full(p.shape, np.nan) for p in e.patch_acts)
    tokens = np.full(len(e.token_acts), np.nan)
    failures = []
    for side, simulation in simulations.items():
        guess = simulation.of(e.seen.sample)
        patches = guess.patch_acts or patches
        tokens = tokens if guess.token_acts is None else np.asarray(guess.token_acts, float)
        if guess.failure:
            what = "this sample" if len(simulations) == 1 else {"picture": "its pictures", "text": "its text"}[side]
            failures.append(f"No simulation of {what}: {guess.failure.kind}. {visible(guess.failure.detail)}")
    return Compared(real, replace(e, patch_acts=patches, token_acts=tokens), " ".join(failures))
