"""`vn.simulate`: any simulator over the test exemplars of many neurons, with a record that a later run goes on from."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_neurons.autointerp.explainers.prompting import kind_of
from vlm_neurons.autointerp.explanation import Explanation, Failure
from vlm_neurons.autointerp.simulations import Simulation, kept, save_new, settings_id
from vlm_neurons.autointerp.simulators.baselines import BASELINES
from vlm_neurons.autointerp.simulators.concepts import ConceptSimulator
from vlm_neurons.autointerp.simulators.protocol import SIDES, Job, Prediction, Side, Simulator, fault

if TYPE_CHECKING:
    from vlm_neurons.evidence import Evidence
    from vlm_neurons.scanning import Run

SAVE_EVERY = 30.0  # seconds: what a kill can cost of a simulator that keeps no cache of its own


def simulate(
    explanations: Mapping[str, Explanation | str],
    evidence: Mapping[str, Evidence],
    simulator: str | Simulator = "concepts",
    out: Run | str | Path | None = None,
    redo: bool = False,
    progress: bool = True,
) -> dict[str, Simulation]:
    """What explanations predict for the exemplars of the split `"test"`, which no explainer has seen.

    Args:
        explanations: from `explain`, or plain strings; key of the evidence -> explanation. Failed ones are left out.
        evidence: of the same keys.
        simulator: `"concepts"`; a baseline (`"constant"`, `"position-prior"`, `"image-only"`, `"token-frequency"`); or
            a simulator object.
        out: a run or a directory: results go to its `simulations.parquet`, replies to its `cache.sqlite`. Neurons
            whose simulation is there, made in the same way and without a failure, are not simulated again. Another
            simulator's are kept beside it, as `simulations-NAME-SETTINGS.parquet`, as soon as this one has predicted
            anything: where every simulation failed, theirs stay as they are.
        redo: simulate them all again.
        progress: show a bar, and what it will cost where it costs something.

    Returns:
        key -> simulation, on the sides of the neuron's class (a visual neuron's patches, a text neuron's tokens, both
        of a multi-modal one's) that the simulator can do.

    Raises:
        ValueError: an unknown simulator, one that gives values of other shapes than the exemplars have, or an
            explanation that was made from samples it would be tested on.
        KeyError: an explanation without evidence.

    >>> from vlm_neurons import planted
    >>> made = planted.neurons("color", n=1)[0].evidence
    >>> simulate({"it": "cyan regions"}, {"it": made}, progress=False)["it"].n_failed
    0
    """
    from tqdm import tqdm

    pairs(explanations, evidence, "explanations", out)
    chosen = simulator_of(simulator, out)
    todo = wanted(explanations, evidence, chosen)
    before = {} if out is None or redo else kept(folder(out), chosen)
    found: dict[str, Simulation] = {}
    for key, one in todo.items():
        last = before.get(one.neuron)
        if last is not None and last.settings == one.settings and last.n_failed == 0:
            found[key] = last
    fresh = {key: one for key, one in todo.items() if key not in found}
    announce(chosen, fresh, evidence, progress)
    unsaved: dict[str, Simulation] = {}
    saved_at = time.monotonic()
    try:
        with tqdm(total=len(fresh), desc=chosen.name, unit="neuron", disable=not progress or not fresh) as bar:
            for key, one in run(chosen, fresh, evidence):
                found[key] = unsaved[key] = one
                bar.update()
                if out is not None and time.monotonic() - saved_at > SAVE_EVERY:
                    save_new(unsaved, folder(out))
                    unsaved, saved_at = {}, time.monotonic()
    finally:
        if out is not None and unsaved:
            save_new(unsaved, folder(out))
    return {key: found[key] for key in todo if key in found}


def wanted(
    explanations: Mapping[str, Explanation | str], evidence: Mapping[str, Evidence], simulator: Simulator
) -> dict[str, Simulation]:
    """What has to be simulated, as simulations without predictions."""
    found, settings, made_by = {}, simulator.settings(), settings_id(simulator)
    for key, explanation in explanations.items():
        text = testable(key, explanation, evidence)
        if isinstance(explanation, Explanation) and explanation.failure is not None:
            continue
        one = evidence[key]
        sides = sides_of(one, simulator)
        samples = tuple(e.seen.sample for e in one.split("test"))
        digest = hashlib.sha256(f"{settings}\n{text}\n{sides}\n{one.digest}".encode(errors="surrogatepass")).hexdigest()
        found[key] = Simulation(one.neuron, text, simulator.name, sides, samples, (), digest, made_by)
    return found


def testable(key: str, explanation: Explanation | str, evidence: Mapping[str, Evidence]) -> str:
    """The words of an explanation that can be tested on the evidence of its key.

    Raises:
        KeyError: there is no such evidence.
        ValueError: it is neither an explanation nor words, or was made from what it would be tested on.
    """
    _check_there(key, evidence)
    text = text_of(key, explanation)
    failed = isinstance(explanation, Explanation) and explanation.failure is not None
    if not failed and (shown := _shown_and_tested(explanation, evidence[key])):
        raise ValueError(
            f"{key}: its explanation was made from {len(shown)} of the samples that it would be tested on (such as "
            f"{shown[0]}): the evidence has been gathered anew since; explain it again"
        )
    return text


def pairs(explanations: Any, evidence: Any, name: str, out: Any = None) -> None:
    """Refuse what is no mapping from keys of the evidence; with `out`, also two explanations of one neuron, of which
    a file would keep one.

    Raises:
        KeyError: an explanation without evidence.
        ValueError: everything else.
    """
    from vlm_neurons.evidence import Evidence

    for what, given in ((name, explanations), ("evidence", evidence)):
        if not isinstance(given, Mapping):
            raise ValueError(f"{what}: {type(given).__name__}; give a dict from names of neurons")
    neurons: dict[str, str] = {}
    for key in explanations:
        _check_there(key, evidence)
        if not isinstance(evidence[key], Evidence):
            raise ValueError(f"evidence[{key!r}]: {type(evidence[key]).__name__}, not a vn.Evidence")
        other = neurons.setdefault(evidence[key].neuron, key)
        if out is not None and other != key:
            raise ValueError(
                f"{other!r} and {key!r} are explanations of one neuron, {evidence[key].neuron}: out={out} would keep "
                "one of them; score them in two calls, with an out= each, or without"
            )


def _check_there(key: str, evidence: Mapping[str, Evidence]) -> None:
    if key not in evidence:
        raise KeyError(f"{key}: an explanation without evidence; gather_evidence(model, data, run, [{key!r}])")


def text_of(key: str, explanation: Explanation | str) -> str:
    """The words.

    Raises:
        ValueError: it is neither an explanation nor words.
    """
    text = explanation.text if isinstance(explanation, Explanation) else explanation
    if not isinstance(text, str):
        raise ValueError(f"{key}: {type(text).__name__} as explanation; give a str, or what vn.explain returned")
    return text


def _shown_and_tested(explanation: Explanation | str, evidence: Evidence) -> list[int]:
    """Samples of the split `"test"` that the explainer was shown."""
    if isinstance(explanation, str) or explanation.neuron != evidence.neuron:
        return []
    return sorted(set(explanation.exemplars) & {e.seen.sample for e in evidence.split("test")})


def sides_of(evidence: Evidence, simulator: Simulator) -> tuple[Side, ...]:
    """Sides that are simulated: those of the neuron's class that the simulator can do."""
    kind = kind_of(evidence)
    return tuple(s for s in SIDES if kind in (s, "multimodal") and s in simulator.sides)


def run(
    simulator: Simulator, todo: Mapping[str, Simulation], evidence: Mapping[str, Evidence]
) -> Iterator[tuple[str, Simulation]]:
    """Each simulation as soon as all of its exemplars have come.

    Raises:
        ValueError: the simulator gives values of other shapes than the exemplars have, or leaves a job out.
    """
    from dataclasses import replace

    for keys, own in _groups(simulator, todo, evidence):
        jobs, home = _jobs({k: todo[k] for k in keys}, evidence)
        waiting: dict[str, dict[int, Prediction]] = {}
        left = {k: len(todo[k].samples) for k in keys}
        for key in [k for k in keys if left[k] == 0 or not todo[k].sides]:
            none = Failure("capability", f"{simulator.name} predicts {' and '.join(sorted(simulator.sides))} only")
            yield key, replace(todo[key], predictions=(Prediction(failure=none),) * left[key])
        for place, prediction in own.run(jobs) if jobs else ():
            key, number = home[place]
            if wrong := fault(prediction, jobs[place]):
                sample = todo[key].samples[number]
                raise ValueError(f"simulator {simulator.name}, {todo[key].neuron}, sample {sample}: {wrong}")
            waiting.setdefault(key, {})[number] = prediction
            if len(waiting[key]) == left[key]:
                ready = waiting.pop(key)
                yield key, replace(todo[key], predictions=tuple(ready[i] for i in range(left[key])))
                left[key] = 0
        if lost := [todo[k].neuron for k in keys if left[k] and todo[k].sides]:
            raise ValueError(f"simulator {simulator.name} left jobs without an answer: {', '.join(lost[:5])}")


def _groups(
    simulator: Simulator, todo: Mapping[str, Simulation], evidence: Mapping[str, Evidence]
) -> Iterator[tuple[list[str], Simulator]]:
    """Neurons that go through one call together: all, or each alone where the simulator is about one neuron."""
    about = about_one(simulator)
    if about is None:
        yield list(todo), simulator
        return
    for key in todo:
        yield [key], about(evidence[key])


def about_one(simulator: Simulator) -> Callable[[Evidence], Simulator] | None:
    """What makes a simulator one of a single neuron; None of those that go by the explanation alone."""
    found: Callable[[Evidence], Simulator] | None = getattr(simulator, "for_neuron", None)
    return found


def _jobs(todo: Mapping[str, Simulation], evidence: Mapping[str, Evidence]) -> tuple[list[Job], list[tuple[str, int]]]:
    jobs, home = [], []
    for key, one in todo.items():
        for number, e in enumerate(evidence[key].split("test") if one.sides else ()):
            jobs.append(Job(one.explanation, e, one.sides))
            home.append((key, number))
    return jobs, home


def plan(todo: Mapping[str, Simulation], evidence: Mapping[str, Evidence], simulator: Simulator) -> str:
    """What it will cost, in words."""
    jobs, _ = _jobs(todo, evidence)
    of: Any = getattr(simulator, "plan", None)
    return str(of(jobs)) if of else f"{simulator.name}: {len(jobs)} predictions for {len(todo)} neurons, no cost"


def announce(
    simulator: Simulator, todo: Mapping[str, Simulation], evidence: Mapping[str, Evidence], progress: bool
) -> None:
    """Say what it will cost where it costs something."""
    from tqdm import tqdm

    if progress and todo and simulator.paid:
        tqdm.write(f"{simulator.name}: {plan(todo, evidence, simulator)}")


def simulator_of(simulator: str | Simulator, out: Any = None) -> Simulator:
    """The simulator of a name; one that keeps replies gets the cache of the run directory."""
    from dataclasses import replace

    if isinstance(simulator, str):
        if simulator == "concepts":
            return ConceptSimulator()
        if simulator in BASELINES:
            return BASELINES[simulator]()
        raise ValueError(
            f"simulator {simulator!r}: 'concepts', a baseline ({', '.join(BASELINES)}), or an object such as "
            "vn.ApiSimulator(model='gpt-4o')"
        )
    if isinstance(simulator, type) or not isinstance(simulator, Simulator):
        what = simulator.__name__ if isinstance(simulator, type) else type(simulator).__name__
        raise ValueError(
            f"simulator {what}: a name, such as 'concepts', or an object of a class that inherits "
            "vlm_neurons.autointerp.simulators.Simulates and has name, settings() and run(jobs)"
        )
    if out is not None and getattr(simulator, "cache", "none") is None:
        return replace(simulator, cache=folder(out) / "cache.sqlite")  # type: ignore[type-var]
    return simulator


def folder(out: Run | str | Path) -> Path:
    """The directory of a run, or of a path."""
    where = out if isinstance(out, str | Path) else getattr(out, "path", None)
    if not isinstance(where, str | Path):
        raise ValueError(f"out={out!r}: give a vn.Run, or the path of a directory")
    return Path(where)
