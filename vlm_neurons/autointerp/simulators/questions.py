"""What questions about cells and about tokens share: wording, schemas, likelihoods, and one limit of money.

The words are in `prompts/*.jinja`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict

from vlm_neurons.autointerp.client import prompting
from vlm_neurons.autointerp.client.asking import Ask, Reply
from vlm_neurons.autointerp.client.client import ChatClient
from vlm_neurons.autointerp.client.prompting import escape, text_part
from vlm_neurons.autointerp.client.replies import logprobs_of
from vlm_neurons.autointerp.explanation import Failure

PACKAGE, VERSION = "vlm_neurons.autointerp.simulators", "1"
# the number behind the key "value"; or a string, which may hold anything, numbers behind keys too
_VALUES = re.compile(r'"value"\s*:\s*(\d+)|"(?:[^"\\]|\\.)*"')


def _on_scale(value: int) -> int:
    if not 0 <= value <= 10:
        raise ValueError("a value from 0 to 10")
    return value


Scale = Annotated[int, AfterValidator(_on_scale)]


class Strict(BaseModel):
    """Nothing is converted, nothing added."""

    model_config = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True)
class Values:
    """What was predicted, in the order of the question.

    Attributes:
        said: whole numbers.
        expected: the mean under the answer's own probabilities, where the server gave them; else what was said.
    """

    said: np.ndarray
    expected: np.ndarray


@dataclass(frozen=True)
class Wording:
    """How questions are put.

    Attributes:
        attempt: another number asks again where the cache has an answer.
        logprobs: ask for log probabilities.
        detail: of pictures: `"low"`, `"high"` or `"auto"`.
        prompt_logprobs: likeliest tokens to ask for at each place of a filled answer about words; 0 for an answer that
            the model writes.
        max_tokens: of every answer; None for what the answer itself takes.
    """

    attempt: int = 0
    logprobs: bool = True
    detail: str = "auto"
    prompt_logprobs: int = 0
    max_tokens: int | None = None

    def ask(
        self, question: Any, mark: str, parts: list[dict[str, Any]], schema: type[BaseModel], n: int, prefill: str = ""
    ) -> Ask:
        """A request about an explanation; n bounds the tokens of the answer, unless another bound is given."""
        told = prompting.render(PACKAGE, "explanation", fence=mark, explanation=_line(question.explanation))
        system = {"role": "system", "content": prompting.render(PACKAGE, "system", fence=mark)}
        messages: list[dict[str, Any]] = [system, {"role": "user", "content": [text_part(told), *parts]}]
        if prefill:
            return Ask(question, messages, schema, n, attempt=self.attempt, prefill=prefill, top=self.prompt_logprobs)
        room = self.max_tokens or n
        return Ask(question, messages, schema, room, attempt=self.attempt, logprobs=self.logprobs)


@dataclass
class Purse:
    """What has been spent under one limit.

    Attributes:
        spent: US dollars.
    """

    spent: float = 0.0

    def stream(self, client: ChatClient, asks: Sequence[Ask]) -> Iterator[Reply]:
        """Replies within what is left of the client's `max_cost`."""
        left = None if client.max_cost is None else max(0.0, client.max_cost - self.spent)
        for reply in replace(client, max_cost=left).stream(asks):
            self.spent += reply.charged
            yield reply


def failure_of(reply: Reply) -> Failure:
    """Why a reply has no answer."""
    return Failure(*(reply.failure or ("server", "no answer")))


def values_of(reply: Reply, said: list[int]) -> Values:
    found = chances(_VALUES, [str(v) for v in said], reply.completion)
    means = [_mean(c, v) for c, v in zip(found, said, strict=True)] if found else said
    return Values(np.array(said, float), np.array(means, float))


def chances(
    pattern: re.Pattern[str], said: Sequence[str], completion: Mapping[str, Any] | None
) -> list[list[tuple[str, float]]]:
    """What could have stood in the place of each match of a pattern's group, with probabilities, of the likeliest.

    Args:
        pattern: whose group 1 finds them in the answer.
        said: what they are in the answer, in order.
        completion: the server's reply, with log probabilities in the form of chat completions.

    Returns:
        For each an empty list if the tokenizer cuts it in two; nothing at all where there are no probabilities, or
        where their tokens are not the answer.

    >>> top = [{"token": " 2", "logprob": math.log(0.75)}, {"token": " 4", "logprob": math.log(0.25)}]
    >>> tokens = [{"token": '{"value":', "top_logprobs": []}, {"token": " 2", "top_logprobs": top}]
    >>> found = chances(_VALUES, ["2"], {"choices": [{"logprobs": {"content": tokens}}]})
    >>> [(said, round(p, 2)) for said, p in found[0]]
    [('2', 0.75), ('4', 0.25)]
    """
    content = logprobs_of(completion)
    starts, text = [], ""
    for one in content:
        starts.append(len(text))
        text += one["token"]
    spans = [m.span(1) for m in pattern.finditer(text) if m[1]][-len(said) :]  # behind what was thought before
    if [text[a:b] for a, b in spans] != list(said):
        return []
    found: list[list[tuple[str, float]]] = []
    for start, end in spans:
        place = int(np.searchsorted(starts, start, side="right")) - 1
        token = content[place]["token"]
        before, after = token[: start - starts[place]], token[end - starts[place] :]
        top = content[place]["top_logprobs"] if end <= starts[place] + len(token) else []
        # those that put something else between the same characters
        fitting = [t for t in top if t["token"].startswith(before) and t["token"].endswith(after)]
        cut = slice(len(before), -len(after) or None)
        found.append([(t["token"][cut], math.exp(t["logprob"])) for t in fitting])
    return found


def _mean(chances: Sequence[tuple[str, float]], said: int) -> float:
    """Over the whole numbers from 0 to 10 among them."""
    numbers = [(int(n), p) for n, p in chances if n.isascii() and n.isdigit() and int(n) <= 10]
    total = sum(p for _, p in numbers)
    return sum(n * p for n, p in numbers) / total if total > 0 else float(said)


def _line(explanation: str) -> str:
    return escape(" ".join(explanation.split()))
