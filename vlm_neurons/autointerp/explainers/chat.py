"""Explainers that ask a model: behind a server, or in process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlm_neurons._checks import whole
from vlm_neurons.autointerp.client.asking import Ask, Reply
from vlm_neurons.autointerp.client.client import Server
from vlm_neurons.autointerp.client.local import LocalChat, check_chat
from vlm_neurons.autointerp.client.prices import Plan
from vlm_neurons.autointerp.explainers.pictures import STYLES, Style
from vlm_neurons.autointerp.explainers.requests import Answer, messages, prompt_id, shows_something
from vlm_neurons.autointerp.explanation import NO_PATTERN, Explanation, Failure, says_nothing
from vlm_neurons.autointerp.protocols import SIDES, Explainer, Simulator
from vlm_neurons.autointerp.registry import simulator_of
from vlm_neurons.autointerp.scorers.aligned import pieces_of
from vlm_neurons.autointerp.scorers.measures import pooled

if TYPE_CHECKING:
    from vlm_neurons.evidence import Evidence

TOLD_FROM = 50  # neurons; what many cost is told from so many


@dataclass(frozen=True)
class Prompting:
    """How a neuron is shown; the same for every explainer that asks a model.

    Attributes:
        n_on: strongest samples shown, of the split `"explain"`.
        n_off: random samples shown, for contrast, of the same split.
        style: of the overlay: `"paper"` (fading to white) or `"boxes"`.
        detail: of pictures: `"low"`, `"high"` or `"auto"`.
    """

    n_on: int = 8
    n_off: int = 3
    style: Style = "paper"
    detail: str = "auto"

    def __post_init__(self) -> None:
        whole(1, n_on=self.n_on)
        whole(0, n_off=self.n_off)
        if self.style not in STYLES:
            raise ValueError(f"style={self.style!r}: choose from {', '.join(STYLES)}")

    def shows(self, evidence: Evidence) -> bool:
        """Whether there is anything to ask about: an activation above 0 in what would be shown."""
        return shows_something(evidence, self.n_on, self.n_off)

    def messages(self, evidence: Evidence, pictures: bool = True) -> tuple[list[dict[str, Any]], tuple[int, ...]]:
        """The request, and ids of the samples in it; without pictures they are written out."""
        return messages(evidence, self.n_on, self.n_off, self.style, self.detail, pictures)


@dataclass(frozen=True)
class OpenAIExplainer(Server, Explainer):
    """Asks a model behind OpenAI, or behind any server that speaks chat completions.

    Attributes, besides those of `client.Server` (model, base_url, max_cost, price, cache, ...):
        candidates: explanations asked for; with a simulator, the one that fits best on the split `"select"` is kept,
            else the first.
        simulator: such as `vn.simulators.ConceptSimulator()`, or a name that `vn.simulate` knows, such as `"concepts"`.
        attempt: another number asks again where the cache has an answer.
        prompting: how a neuron is shown.
        max_tokens: of an answer.

    `vn.explain(out=run)` gives it the run's `cache.sqlite`. A model that takes no pictures (`images`) is sent
    activations as numbers, with what can be measured of the pixels, and `Explanation.prompt` says so.

    >>> explainer = vn.explainers.OpenAIExplainer("my-llava", base_url="http://localhost:8000/v1", price=(0, 0))
    >>> explainer.name
    'openai:my-llava'
    >>> explainer.plan(evidence).calls  # what it would ask; nothing is sent
    3
    """

    _: KW_ONLY
    candidates: int = 1
    simulator: str | Simulator | None = None
    attempt: int = 0
    prompting: Prompting = field(default_factory=Prompting)
    max_tokens: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(1, candidates=self.candidates, max_tokens=self.max_tokens)
        self.chooser()  # says now what is wrong

    def chooser(self) -> Simulator | None:
        """The simulator that chooses among candidates."""
        return None if self.simulator is None else simulator_of(self.simulator)

    @property
    def name(self) -> str:  # type: ignore[override]
        """`"openai:MODEL"`."""
        return f"openai:{self.model}"

    def settings(self) -> str:
        """All that decides its answers, as one string."""
        chooser = self.chooser()
        chosen_by = None if chooser is None else chooser.settings()
        how = [prompt_id(), repr(self.prompting), self.images, self.candidates, chosen_by]
        return json.dumps([self.name, self.client().base_url, how, self.attempt, self.max_tokens, self.extra_body])

    def asks(self, evidence: Mapping[str, Evidence], silent: Callable[[str], None] | None = None) -> Iterator[Ask]:
        """All requests, made as they are sent; the key of each is (key of the evidence, ids of the samples shown). None
        about a neuron of which there is nothing to show: `silent` is told its key."""
        for key, one in evidence.items():
            if not self.prompting.shows(one):
                if silent is not None:
                    silent(key)
                continue
            plain, ids = self.prompting.messages(one, pictures=False)
            request = plain if self.images is False else self.prompting.messages(one)[0]
            other = None if one.kind == "text" else plain
            for candidate in range(self.candidates):
                temperature = 0.0 if self.candidates == 1 else 0.8
                number = self.attempt * 1000 + candidate
                yield Ask((key, ids), request, Answer, self.max_tokens, temperature, number, plain=other)

    def with_cache(self, file: Path) -> OpenAIExplainer:
        """The same with a file of replies, if it has none."""
        return self if self.cache is not None else replace(self, cache=file)

    @property
    def address(self) -> str:
        """Of the server."""
        return str(self.client().base_url)

    def plan(self, evidence: Mapping[str, Evidence]) -> Plan:
        """What `explain` would send and cost; sends nothing."""
        return self.client().plan(self.asks(evidence))

    def effort(self, evidence: Mapping[str, Evidence]) -> str:
        """What it will cost, told from some of many neurons."""
        names = [*evidence]
        some = names[:: -(-len(names) // TOLD_FROM)]
        plan = self.plan({name: evidence[name] for name in some})
        about = f"about, from {len(some)} of {len(names):,} neurons: " if len(some) < len(names) else ""
        return f"{self.name}: {about}{plan.times(len(names) / len(some))}"

    def explain(self, evidence: Mapping[str, Evidence]) -> Iterator[tuple[str, Explanation]]:
        """(key, explanation) of every neuron, failures included, as they come."""
        waiting: dict[str, list[Reply]] = {}
        silent: list[str] = []
        for reply in self.client().stream(self.asks(evidence, silent.append)):
            key = reply.ask.key[0]
            waiting.setdefault(key, []).append(reply)
            if len(waiting[key]) == self.candidates:
                replies = sorted(waiting.pop(key), key=lambda r: r.ask.attempt)
                yield key, explanation_of(evidence[key], replies, self.name, self.chooser())
        for key in silent:
            yield key, _silent(evidence[key], self.name)


@dataclass(frozen=True, eq=False)
class LocalExplainer(Explainer):
    """Asks an image-text-to-text model of transformers in process, with the same prompts.

    Attributes:
        model: any `AutoModelForImageTextToText`.
        processor: its processor, with a chat template.
        prompting: how a neuron is shown; small models take few pictures.
        max_tokens: of an answer. Greedy.

    >>> hf_model, processor = model.bridge.original_model, model.processor
    >>> explainer = vn.explainers.LocalExplainer(hf_model, processor)
    >>> explainer.name, explainer.prompting.n_on, explainer.prompting.n_off
    ('local', 4, 1)
    """

    model: Any = field(repr=False)
    processor: Any = field(repr=False)
    prompting: Prompting = field(default_factory=lambda: Prompting(n_on=4, n_off=1))
    max_tokens: int = 300
    name: str = "local"

    def __post_init__(self) -> None:
        whole(1, max_tokens=self.max_tokens)
        check_chat(self.model, self.processor)

    def settings(self) -> str:
        """All that decides its answers, as one string."""
        model = getattr(self.model.config, "_name_or_path", "")
        return json.dumps([self.name, model, prompt_id(), repr(self.prompting), self.max_tokens])

    def explain(self, evidence: Mapping[str, Evidence]) -> Iterator[tuple[str, Explanation]]:
        """(key, explanation) of every neuron, failures included."""
        chat = LocalChat(self.model, self.processor)
        for key, one in evidence.items():
            if not self.prompting.shows(one):
                yield key, _silent(one, self.name)
                continue
            request, ids = self.prompting.messages(one)
            reply = chat.answer(Ask((key, ids), request, Answer, self.max_tokens))
            if reply.failure and reply.failure[0] == "request":
                reply = replace(
                    reply, failure=("request", f"{reply.failure[1]}; show fewer samples (Prompting(n_on=...))")
                )
            yield key, explanation_of(one, [reply], self.name, None)


def explanation_of(evidence: Evidence, replies: list[Reply], name: str, simulator: Simulator | None) -> Explanation:
    """One explanation from all replies about a neuron; it failed if they all did."""
    made = [_single(evidence, r, name) for r in replies]
    good = [m for m in made if m.failure is None]
    chosen = good[0] if good else made[0]
    support = chosen.support
    if simulator is not None and len(good) > 1:
        place, fits = best_of(good, evidence, simulator)
        chosen = good[place]
        support = tuple({"concepts": [], "candidate": g.text, "r_select": f if f == f else None}
                        for g, f in zip(good, fits, strict=True))  # fmt: skip
    totals = {n: sum(getattr(r, n) for r in replies) for n in ("tokens_in", "tokens_out", "cost")}
    return Explanation(**{**vars(chosen), **totals, "support": support})


def fit(explanation: str, evidence: Evidence, simulator: Simulator) -> float:
    """r over all places of the split `"select"`, which is there for this choice only.

    Exemplars whose simulation failed are left out. NaN where nothing varies or everything failed.
    """
    exemplars = evidence.split("select")
    return pooled([
        piece
        for side in SIDES if side in simulator.sides
        for piece in pieces_of(evidence, exemplars, simulator.simulate(explanation, exemplars, side), side)
    ])  # fmt: skip


def best_of(candidates: Sequence[Any], evidence: Evidence, simulator: Simulator) -> tuple[int, list[float]]:
    """Place of the candidate (anything with `.text`) that fits best, and all fits; the first of equals, NaN last."""
    fits = [fit(c.text, evidence, simulator) for c in candidates]
    return max(range(len(fits)), key=lambda i: (-np.inf if np.isnan(fits[i]) else fits[i], -i)), fits


def _silent(evidence: Evidence, name: str) -> Explanation:
    return Explanation(
        evidence.neuron, NO_PATTERN, "No sample that would be shown has an activation above 0; nothing was asked.",
        explainer=name, seed=evidence.seed,
    )  # fmt: skip


def _single(evidence: Evidence, reply: Reply, name: str) -> Explanation:
    answer: Any = reply.answer
    common: dict[str, Any] = dict(
        neuron=evidence.neuron, explainer=name, model=reply.model, prompt=prompt_id(reply.plain),
        exemplars=reply.ask.key[1], seed=evidence.seed,
    )  # fmt: skip
    if answer is None:
        return Explanation(text="", failure=Failure(*(reply.failure or ("server", "no answer"))), **common)
    text = NO_PATTERN if not answer.clear_pattern or says_nothing(answer.phrase) else answer.phrase
    return Explanation(text=text, description=answer.description, confidence=answer.confidence, **common)
