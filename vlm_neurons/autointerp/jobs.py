"""Simulations that are wanted, as jobs of a simulator, and its answers as simulations."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from tqdm import tqdm

from vlm_neurons.autointerp.explanation import Explanation, Failure
from vlm_neurons.autointerp.protocols import Job, Prediction, Side, Simulator, fault, sides_of
from vlm_neurons.autointerp.simulation import Simulation, mark_of
from vlm_neurons.evidence import Evidence

K = TypeVar("K", bound=Hashable)
Explanations = Mapping[str, Explanation | str]


def check_evidence(evidence: Any, neurons: Iterable[str] | None = None) -> None:
    """Refuse what is no mapping from ids of neurons to their evidence. Raises as `checked`."""
    for _ in checked(evidence, neurons):
        pass


def checked(evidence: Any, neurons: Iterable[str] | None = None) -> Iterator[tuple[str, Evidence]]:
    """Ids of neurons and their evidence, which are looked at one by one: of many, not all may fit into memory.

    Raises:
        KeyError: one of `neurons` is not there.
        ValueError: everything else that is no mapping from ids of neurons to their evidence.
    """
    if not isinstance(evidence, Mapping):
        raise ValueError(
            f"evidence: {type(evidence).__name__}; give a dict from ids of neurons, such as {{'L0N3': one}}"
        )
    for key in evidence if neurons is None else neurons:
        if key not in evidence:
            raise KeyError(f"{key}: an explanation without evidence; gather_evidence(model, data, run, [{key!r}])")
        one = evidence[key]
        if not isinstance(one, Evidence):
            raise ValueError(f"evidence[{key!r}]: {type(one).__name__}, not a vn.Evidence")
        if one.neuron != key:
            raise ValueError(
                f"evidence[{key!r}] is of neuron {one.neuron!r}: key and neuron are one; use {{one.neuron: one}}, or "
                "dataclasses.replace(one, neuron=...) for another name"
            )
        yield key, one


def check_explanations(explanations: Any, evidence: Any, name: str = "explanations") -> None:
    """Refuse what is no mapping from ids of neurons, of which there is evidence, to explanations or words.

    Raises:
        KeyError: an explanation without evidence.
        ValueError: everything else.
    """
    if not isinstance(explanations, Mapping):
        raise ValueError(f"{name}: {type(explanations).__name__}; give a dict from ids of neurons")
    check_evidence(evidence, explanations)
    for key, one in explanations.items():
        text_of(key, one)
        if isinstance(one, Explanation) and one.neuron != key:
            raise ValueError(f"{name}[{key!r}] is of neuron {one.neuron!r}: key and neuron are one; use its own key")


def held(evidence: Any, *explanations: Any) -> Any:
    """Evidence of what is explained, read from disk once where all of it will be in memory anyway. What is no mapping
    stays, for `check_explanations` to refuse."""
    if not all(isinstance(one, Mapping) for one in (evidence, *filter(None, explanations))):
        return evidence
    return {key: evidence[key] for one in filter(None, explanations) for key in one if key in evidence}


def text_of(key: str, explanation: Explanation | str) -> str:
    """The words.

    Raises:
        ValueError: it is neither an explanation nor words.
    """
    text = explanation.text if isinstance(explanation, Explanation) else explanation
    if not isinstance(text, str):
        raise ValueError(f"{key}: {type(text).__name__} as explanation; give a str, or what vn.explain returned")
    return text


def testable(key: str, explanation: Explanation | str, evidence: Evidence) -> str:
    """The words of an explanation that can be tested on the evidence.

    Raises:
        ValueError: it is neither an explanation nor words, or was made from what it would be tested on.
    """
    text = text_of(key, explanation)
    if isinstance(explanation, str) or explanation.failed:
        return text
    if shown := sorted(set(explanation.exemplars) & {e.seen.sample for e in evidence.split("test")}):
        raise ValueError(
            f"{key}: its explanation was made from {len(shown)} of the samples that it would be tested on (such as "
            f"{shown[0]}): the evidence has been gathered anew since; explain it again"
        )
    return text


def asked_of(settings: str, evidence: Evidence) -> str:
    """SHA-256 of an explainer's settings and evidence: equal for equal questions."""
    return hashlib.sha256(f"{settings}\n{evidence.digest}".encode()).hexdigest()


def sides_for(evidence: Evidence, simulator: Simulator) -> tuple[Side, ...]:
    """The neuron's sides that the simulator can do; where it can do none, all of them (they are going to fail)."""
    every = sides_of(evidence)
    return tuple(side for side in every if side in simulator.sides) or every


def wanted(
    explanations: Explanations, evidence: Mapping[str, Evidence], simulator: Simulator
) -> dict[tuple[str, Side], Simulation]:
    """What has to be simulated, by neuron and side, as simulations without predictions."""
    found, settings, mark = {}, simulator.settings(), mark_of(simulator)
    for key, explanation in explanations.items():
        text, one = testable(key, explanation, evidence[key]), evidence[key]
        if isinstance(explanation, Explanation) and explanation.failed:
            continue
        samples = tuple(e.seen.sample for e in one.split("test"))
        for side in sides_for(one, simulator):
            asked = f"{settings}\n{text}\n{side}\n{one.digest}".encode(errors="surrogatepass")
            digest = hashlib.sha256(asked).hexdigest()
            found[key, side] = Simulation(key, side, text, simulator.name, samples, (), digest, mark)
    return found


def run(
    simulator: Simulator, todo: Mapping[K, Simulation], evidence: Mapping[str, Evidence]
) -> Iterator[tuple[K, Simulation]]:
    """Each simulation as soon as all of its exemplars have come.

    Raises:
        ValueError: the simulator gives values of other shapes than the exemplars have, or leaves a job out.
    """
    for key, one in todo.items():
        if one.side not in simulator.sides or not one.samples:
            none = Failure("capability", f"{simulator.name} predicts {' and '.join(sorted(simulator.sides))} only")
            yield key, replace(one, predictions=(Prediction(failure=none),) * len(one.samples))
    able = {key: one for key, one in todo.items() if one.side in simulator.sides and one.samples}
    if not simulator.per_neuron:
        yield from _answers(simulator, able, evidence)
        return
    for neuron in dict.fromkeys(one.neuron for one in able.values()):
        own = {key: one for key, one in able.items() if one.neuron == neuron}
        yield from _answers(simulator.for_neuron(evidence[neuron]), own, evidence)


def _answers(
    simulator: Simulator, todo: Mapping[K, Simulation], evidence: Mapping[str, Evidence]
) -> Iterator[tuple[K, Simulation]]:
    jobs, home = _jobs(todo, evidence)
    waiting: dict[K, dict[int, Prediction]] = {key: {} for key in todo}
    for place, prediction in simulator.run(jobs) if jobs else ():
        key, number = home[place]
        one = todo[key]
        if wrong := fault(prediction, jobs[place]):
            raise ValueError(f"simulator {simulator.name}, {one.neuron}, sample {one.samples[number]}: {wrong}")
        waiting[key][number] = prediction
        if len(waiting[key]) == len(one.samples):
            ready = waiting.pop(key)
            yield key, replace(one, predictions=tuple(ready[i] for i in range(len(one.samples))))
    if waiting:
        lost = list(dict.fromkeys(todo[key].neuron for key in waiting))
        raise ValueError(f"simulator {simulator.name} left jobs without an answer: {', '.join(lost[:5])}")


def _jobs(todo: Mapping[K, Simulation], evidence: Mapping[str, Evidence]) -> tuple[list[Job], list[tuple[K, int]]]:
    jobs, home = [], []
    for key, one in todo.items():
        for number, e in enumerate(evidence[one.neuron].split("test")):
            jobs.append(Job(one.explanation, e, one.side))
            home.append((key, number))
    return jobs, home


def plan(simulator: Simulator, todo: Mapping[K, Simulation], evidence: Mapping[str, Evidence]) -> str:
    """What it will cost, in words."""
    jobs, _ = _jobs({k: one for k, one in todo.items() if one.side in simulator.sides}, evidence)
    asked, n = simulator.plan(jobs), len({one.neuron for one in todo.values()})
    return f"{simulator.name}: {len(jobs)} predictions for {n} neurons, no cost" if asked is None else str(asked)


def announce(
    simulator: Simulator, todo: Mapping[K, Simulation], evidence: Mapping[str, Evidence], progress: bool
) -> None:
    """Say what it will cost where it costs something."""
    if progress and todo and simulator.paid:
        tqdm.write(f"{simulator.name}: {plan(simulator, todo, evidence)}")
