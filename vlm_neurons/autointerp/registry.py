"""Explainers and simulators by name: what the command line, the documentation and the errors read.

A newcomer adds one line here. Nothing is imported until it is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from vlm_neurons.autointerp.protocols import Explainer, Simulator


@dataclass(frozen=True)
class Entry:
    """Something that is known by a name.

    Attributes:
        module: below `vlm_neurons.autointerp`, where it is.
        kind: name of its class there.
        about: what it is, in a few words.
        needs: `""` where the name is enough, `"server"` where a server is asked, `"weights"` for models of
            transformers, `"model"` for the model itself whose neurons are explained.
        must_name: whether its model has to be named.
    """

    module: str
    kind: str
    about: str
    needs: str = ""
    must_name: bool = False

    @property
    def public(self) -> str:
        """What users write for its class."""
        return f"vn.{self.module.split('.')[0]}.{self.kind}"

    def load(self) -> Any:
        """The class."""
        return getattr(import_module(f"vlm_neurons.autointerp.{self.module}"), self.kind)


EXPLAINERS = {
    "dissection": Entry("explainers.dissection", "DissectionExplainer", "needs no key"),
    "openai": Entry("explainers.chat", "OpenAIExplainer",
                    "is any OpenAI-compatible server, its key in OPENAI_API_KEY", "server", True),
    "local": Entry("explainers.chat", "LocalExplainer", "is a model of transformers", "weights", True),
    "vocabulary": Entry("explainers.vocabulary", "VocabularyExplainer", "reads output weights as words", "model"),
    "steering": Entry("explainers.steering", "SteeringExplainer", "clamps neurons and asks the model", "model"),
}  # fmt: skip
SIMULATORS = {
    "concepts": Entry("simulators.concepts", "ConceptSimulator", "needs no key"),
    "constant": Entry("simulators.baselines", "Constant", "is 5 everywhere"),
    "position-prior": Entry("simulators.baselines", "PositionPrior", "is the neuron's mean map"),
    "image-only": Entry("simulators.baselines", "ImageOnly", "knows which samples, not where"),
    "token-frequency": Entry("simulators.baselines", "TokenFrequency", "takes rare words"),
    "grounded": Entry("simulators.grounded", "GroundedSimulator", "is a model of transformers", "weights"),
    "clip": Entry("simulators.clip", "ClipSimulator", "is a model of transformers", "weights"),
    "api": Entry("simulators.chat", "ApiSimulator",
                 "is any OpenAI-compatible server, its key in OPENAI_API_KEY", "server", True),
    "local": Entry("simulators.chat", "LocalSimulator", "is a model of transformers", "weights", True),
}  # fmt: skip


def in_words(entries: dict[str, Entry]) -> str:
    """What there is, in one sentence.

    >>> in_words({"dissection": EXPLAINERS["dissection"], "local": EXPLAINERS["local"]})
    'dissection needs no key; local is a model of transformers'
    """
    return "; ".join(f"{name} {entry.about}" for name, entry in entries.items())


def explainer_of(explainer: str | Explainer) -> Explainer:
    """An explainer by name, or as it is.

    Raises:
        ValueError: no such name, or no explainer.
    """
    found: Explainer = _found(explainer, Explainer, EXPLAINERS, "explainer", "explain(evidence)")
    return found


def simulator_of(simulator: str | Simulator) -> Simulator:
    """A simulator by name, or as it is.

    Raises:
        ValueError: no such name, or no simulator.
    """
    found: Simulator = _found(simulator, Simulator, SIMULATORS, "simulator", "predict(job) or run(jobs)")
    return found


def _found(given: Any, kind: type, entries: dict[str, Entry], what: str, method: str) -> Any:
    if isinstance(given, kind):
        return given
    entry = entries.get(given) if isinstance(given, str) else None
    if entry is not None and not entry.needs:
        return entry.load()()
    ready = ", ".join(repr(name) for name, one in entries.items() if not one.needs)
    made = ", ".join(one.public for one in entries.values() if one.needs)
    if entry is not None:
        raise ValueError(f"{what} {given!r} needs a model: give an object, {entry.public}(...) or one of {ready}")
    said = (
        repr(given) if isinstance(given, str) else given.__name__ if isinstance(given, type) else type(given).__name__
    )
    raise ValueError(
        f"{what} {said}: a name ({ready}), or an object such as {made}, or of a class that inherits "
        f"vlm_neurons.autointerp.{kind.__name__} and has {method}"
    )
