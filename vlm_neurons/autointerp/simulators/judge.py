"""A model as a judge: does a sample match an explanation?"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator

from vlm_neurons._checks import whole
from vlm_neurons.autointerp.client import prompting
from vlm_neurons.autointerp.client.asking import Ask, Reply
from vlm_neurons.autointerp.client.client import ChatClient, Server
from vlm_neurons.autointerp.client.prices import Plan
from vlm_neurons.autointerp.client.prompting import escape, fence, image_part, text_part
from vlm_neurons.autointerp.explanation import Failure
from vlm_neurons.autointerp.protocols import SIDES, Judge, Side
from vlm_neurons.autointerp.simulators.questions import PACKAGE, VERSION, Strict, Wording, chances, failure_of

if TYPE_CHECKING:
    from vlm_neurons.evidence import Exemplar

_MATCH = re.compile(r'"match"\s*:\s*(true|false)')


def _chance(value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError("a probability from 0 to 1")
    return value


class Verdict(Strict):
    """Whether a sample matches."""

    match: bool
    probability: Annotated[float, AfterValidator(_chance)]


@dataclass(frozen=True)
class _Shown:
    explanation: str
    place: int


@dataclass(frozen=True, kw_only=True)
class ApiJudge(Judge, Server):
    """Asks a model behind a server, of one sample after the other, whether the neuron would be active in it. No
    activation is shown. See `Server` for where the model is and what it may cost.

    Attributes:
        sides: what is shown of a sample: its pictures, its response, or both.
        logprobs: take the probability of the answer "true" under the answer's own probabilities, where the server
            gives them (None) or always (True); False takes the probability that the model states.
        detail: of pictures: `"low"`, `"high"` or `"auto"`.
        attempt: another number asks again where the cache has an answer.
        max_tokens: of every answer; a model that thinks first needs more than 60, which is what None allows.

    >>> judge = vn.simulators.ApiJudge(model="gpt-4o", sides=("picture",), max_cost=1.0)
    >>> plan = judge.plan("pink regions", evidence["L2N304"].split("test"))
    >>> plan.calls, plan.images  # nothing is sent
    (12, 12)
    """

    sides: tuple[Side, ...] = SIDES
    logprobs: bool | None = None
    detail: str = "auto"
    attempt: int = 0
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.max_tokens is not None:
            whole(1, max_tokens=self.max_tokens)
        super().__post_init__()

    @property
    def name(self) -> str:  # type: ignore[override]
        """`"api:MODEL"`."""
        return f"api:{self.model}"

    def settings(self) -> str:
        """All that decides its answers, as one string."""
        own = [self.sides, self.logprobs, self.detail, self.attempt, self.max_tokens, self.extra_body]
        return json.dumps([self.name, self.client().base_url, prompting.prompt_id(PACKAGE, VERSION), *own])

    def client(self) -> ChatClient:
        """The client that it asks through."""
        return replace(super().client(), logprobs=self.logprobs)

    def plan(self, explanation: str, exemplars: Sequence[Exemplar]) -> Plan:
        """What `judge` would send and cost; sends nothing."""
        return self.client().plan(list(self._asks(explanation, exemplars)))

    def judge(self, explanation: str, exemplars: Sequence[Exemplar]) -> list[float | Failure]:
        """The chance, from 0 to 1, that each exemplar matches; or why there is none."""
        found: dict[int, float | Failure] = {}
        for reply in self.client().stream(list(self._asks(explanation, exemplars))):
            found[reply.ask.key.place] = _read(reply)
        return [found[i] for i in range(len(exemplars))]

    def _asks(self, explanation: str, exemplars: Sequence[Exemplar]) -> Iterator[Ask]:
        wording = Wording(self.attempt, self.logprobs is not False, self.detail, max_tokens=self.max_tokens)
        for place, e in enumerate(exemplars):
            images = e.seen.images if "picture" in self.sides else ()
            told = [t for t, is_text in zip(e.seen.tokens, e.seen.is_text, strict=True) if is_text]
            text = escape("".join(told)) if "text" in self.sides else ""
            mark = fence([explanation, text])
            words = prompting.render(PACKAGE, "judge", fence=mark, pictures=len(images), text=text)
            parts = [*(image_part(i, self.detail) for i in images), text_part(words)]
            yield wording.ask(_Shown(explanation, place), mark, parts, Verdict, 60)


def _read(reply: Reply) -> float | Failure:
    answer: Any = reply.answer
    if answer is None:
        return failure_of(reply)
    found = list(chances(_MATCH, [str(answer.match).lower()], reply.completion))
    if not found:
        return float(answer.probability)
    true, false = (sum(p for said, p in found[0] if said == word) for word in ("true", "false"))
    return true / (true + false) if true + false > 0 else float(answer.probability)
