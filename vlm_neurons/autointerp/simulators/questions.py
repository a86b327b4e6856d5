"""Questions about cells and tokens as chat requests, and answers as values; the words are in `prompts/*.jinja`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict

from vlm_neurons.autointerp.client import prompting
from vlm_neurons.autointerp.client.asking import Ask, Reply
from vlm_neurons.autointerp.client.prompting import escape, fence, image_part, text_part
from vlm_neurons.autointerp.client.replies import Prefilled, logprobs_of
from vlm_neurons.autointerp.explanation import Failure
from vlm_neurons.autointerp.simulators import filled
from vlm_neurons.autointerp.simulators.gridding import Grid, cells_of, numbered

if TYPE_CHECKING:
    from PIL import Image

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


class CellValue(Strict):
    """Prediction for one cell."""

    cell: int
    value: Scale


class CellValues(Strict):
    """Predictions for all cells that were asked about."""

    cells: list[CellValue]


class TokenValue(Strict):
    """Prediction for one token."""

    token: str
    value: Scale


class TokenValues(Strict):
    """Predictions for all tokens, in order."""

    tokens: list[TokenValue]


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
    """

    attempt: int = 0
    logprobs: bool = True
    detail: str = "auto"
    prompt_logprobs: int = 0

    def ask(
        self, question: Any, mark: str, parts: list[dict[str, Any]], schema: type[BaseModel], n: int, prefill: str = ""
    ) -> Ask:
        """A request about an explanation; n bounds the tokens of the answer."""
        told = prompting.render(PACKAGE, "explanation", fence=mark, explanation=_line(question.explanation))
        system = {"role": "system", "content": prompting.render(PACKAGE, "system", fence=mark)}
        messages: list[dict[str, Any]] = [system, {"role": "user", "content": [text_part(told), *parts]}]
        if prefill:
            return Ask(question, messages, schema, n, attempt=self.attempt, prefill=prefill, top=self.prompt_logprobs)
        return Ask(question, messages, schema, n, attempt=self.attempt, logprobs=self.logprobs)


@dataclass(frozen=True)
class _Sheet:
    """A picture with numbered cells, told from others by all but its pixels."""

    digest: str
    grid: Grid
    numbers: tuple[int, ...]
    detail: str
    image: Image.Image = field(compare=False)


@lru_cache(maxsize=128)  # whatever explanation is tried on a neuron, it is asked about the same pictures
def _drawn(sheet: _Sheet) -> dict[str, Any]:
    return image_part(numbered(sheet.image, sheet.grid, sheet.numbers), sheet.detail)


@dataclass(frozen=True)
class Cells:
    """How active is the neuron in these cells?

    Attributes:
        explanation: in words.
        image: SHA-256 of the picture.
        grid: rows and columns.
        numbers: of the cells.
    """

    explanation: str
    image: str
    grid: Grid
    numbers: tuple[int, ...]

    def ask(self, image: Image.Image, wording: Wording) -> Ask:
        """The request."""
        words = prompting.render(
            PACKAGE, "cells", rows=self.grid[0], columns=self.grid[1], numbers=self.numbers,
            some=len(self.numbers) < len(cells_of(self.grid)),
        )  # fmt: skip
        parts = [text_part(words), _drawn(_Sheet(self.image, self.grid, self.numbers, wording.detail, image))]
        return wording.ask(self, fence([self.explanation]), parts, CellValues, 100 + 20 * len(self.numbers))

    def read(self, reply: Reply) -> Values | Failure:
        """Values in the order of `numbers`; a failure unless every cell is there once."""
        answer: Any = reply.answer
        if answer is None:
            return failure_of(reply)
        cells = [c.cell for c in answer.cells]
        if sorted(cells) != sorted(self.numbers):
            odd = sorted({*self.numbers} ^ {*cells}) or sorted({c for c in cells if cells.count(c) > 1})
            return Failure("schema", f"cells missing, unknown or repeated: {odd[:10]}")
        values = _values(reply, [c.value for c in answer.cells])
        order = [cells.index(n) for n in self.numbers]
        return Values(values.said[order], values.expected[order])


@dataclass(frozen=True)
class Words:
    """How active is the neuron at these tokens?

    Attributes:
        explanation: in words.
        tokens: of a text, all that are asked about.
    """

    explanation: str
    tokens: tuple[str, ...]

    def ask(self, wording: Wording) -> Ask:
        """The request."""
        mark, tokens = fence([self.explanation, *self.tokens]), [escape(t) for t in self.tokens]
        if wording.prompt_logprobs:
            told = prompting.render(PACKAGE, "fill", fence=mark, tokens=tokens, unknown=filled.UNKNOWN)
            return wording.ask(self, mark, [text_part(told)], Prefilled, 1, filled.fill(self.tokens))
        parts = [text_part(prompting.render(PACKAGE, "tokens", fence=mark, tokens=tokens))]
        n = 100 + 24 * len(tokens) + sum(len(t) for t in tokens)
        return wording.ask(self, mark, parts, TokenValues, n)

    def read(self, reply: Reply) -> Values | Failure:
        """Values in the order of `tokens`; a failure unless the answer has the same tokens in the same order."""
        answer: Any = reply.answer
        if answer is None:
            return failure_of(reply)
        if isinstance(answer, Prefilled):
            means = filled.expected(self.tokens, reply.completion or {})
            return means if isinstance(means, Failure) else Values(means.round(), means)
        told = [t.token for t in answer.tokens]
        if len(told) != len(self.tokens):
            return Failure("schema", f"{len(told)} tokens in the answer, {len(self.tokens)} in the question")
        for place, (said, token) in enumerate(zip(told, self.tokens, strict=True)):
            # as it was written, or with its escapes undone; models lose blanks at the ends
            if escape(token).strip() not in (said.strip(), escape(said).strip()):
                return Failure("schema", f"token {place} is {said[:40]!r} in the answer, not {token[:40]!r}")
        return _values(reply, [t.value for t in answer.tokens])


def failure_of(reply: Reply) -> Failure:
    """Why a reply has no answer."""
    return Failure(*(reply.failure or ("server", "no answer")))


def _values(reply: Reply, said: list[int]) -> Values:
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
    spans = [m.span(1) for m in pattern.finditer(text) if m[1]]
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
