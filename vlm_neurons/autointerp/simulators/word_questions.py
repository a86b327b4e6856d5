"""Questions about the tokens of a text: an answer that the model writes, or one that is left open.

The latter is the way of Bills et al. 2023 (Language models can explain neurons in language models, "Simulate ... all at
once"): the answer has "unknown" where the values belong, and the probabilities of the digits in these places are read
off: what would the model have written at each token?
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlm_neurons.autointerp.client import prompting
from vlm_neurons.autointerp.client.asking import Ask, Reply
from vlm_neurons.autointerp.client.prompting import escape, fence, text_part
from vlm_neurons.autointerp.client.replies import Prefilled, bare, logprobs_of
from vlm_neurons.autointerp.explanation import Failure
from vlm_neurons.autointerp.simulators.questions import PACKAGE, Scale, Strict, Values, Wording, failure_of, values_of

UNKNOWN = "unknown"
_PLACE = re.compile(rf"\t({UNKNOWN})(?=\n|$)")
_DIGIT = re.compile(r"\s*([0-9])\s*")
HIGHEST = 9  # one digit, since many tokenizers cut 10 in two; it stands for 10


def fill(tokens: Sequence[str]) -> str:
    r"""The answer, left open.

    >>> fill([" a", "b\n"])
    ' a\tunknown\nb\\n\tunknown'
    """
    return "\n".join(f"{escape(token)}\t{UNKNOWN}" for token in tokens)


def expected(tokens: Sequence[str], completion: dict[str, Any]) -> np.ndarray | Failure:
    """Mean of the digits that could have stood at each token, from 0 to 10.

    Args:
        tokens: those of the question.
        completion: with the log probabilities of the filled answer, and perhaps of what stands before it.

    Returns:
        [tokens]; a failure where a place has no digit among its likeliest tokens, or the places are not the tokens'.
    """
    content = logprobs_of(completion)
    starts, text = [], ""
    for one in content:
        starts.append(len(text))
        text += one["token"]
    spans = [m.start(1) for m in _PLACE.finditer(text)][-len(tokens) :]
    if len(spans) < len(tokens):
        return Failure("server", f"{len(spans)} open places in the log probabilities, {len(tokens)} tokens")
    means = np.empty(len(tokens))
    for n, start in enumerate(spans):
        place = int(np.searchsorted(starts, start, side="right")) - 1
        mean = _mean(content[place]["top_logprobs"], content[place]["token"][: start - starts[place]])
        if mean is None:
            shown = [t["token"] for t in content[place]["top_logprobs"][:5]]
            return Failure("schema", f"no digit among the likeliest tokens at {bare(tokens[n])[:40]!r}: {shown}")
        means[n] = mean * 10 / HIGHEST
    return means


def _mean(top: Sequence[dict[str, Any]], before: str) -> float | None:
    """Of the digits behind what stands before the place within its token; None if there are none."""
    found = [(_DIGIT.fullmatch(t["token"][len(before) :]), t["logprob"]) for t in top if t["token"].startswith(before)]
    chances = [(int(m[1]), math.exp(logprob)) for m, logprob in found if m]
    total = sum(p for _, p in chances)
    return sum(n * p for n, p in chances) / total if total > 0 else None


class TokenValue(Strict):
    """Prediction for one token."""

    token: str
    value: Scale


class TokenValues(Strict):
    """Predictions for all tokens, in order."""

    tokens: list[TokenValue]


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
            told = prompting.render(PACKAGE, "fill", fence=mark, tokens=tokens, unknown=UNKNOWN)
            return wording.ask(self, mark, [text_part(told)], Prefilled, 1, fill(self.tokens))
        parts = [text_part(prompting.render(PACKAGE, "tokens", fence=mark, tokens=tokens))]
        n = 100 + 24 * len(tokens) + sum(len(t) for t in tokens)
        return wording.ask(self, mark, parts, TokenValues, n)

    def read(self, reply: Reply) -> Values | Failure:
        """Values in the order of `tokens`; a failure unless the answer has the same tokens in the same order."""
        answer: Any = reply.answer
        if answer is None:
            return failure_of(reply)
        if isinstance(answer, Prefilled):
            means = expected(self.tokens, reply.completion or {})
            return means if isinstance(means, Failure) else Values(means.round(), means)
        told = [t.token for t in answer.tokens]
        if len(told) != len(self.tokens):
            return Failure("schema", f"{len(told)} tokens in the answer, {len(self.tokens)} in the question")
        for place, (said, token) in enumerate(zip(told, self.tokens, strict=True)):
            # as it was written, or with its escapes undone; models lose blanks at the ends
            if escape(token).strip() not in (said.strip(), escape(said).strip()):
                return Failure("schema", f"token {place} is {said[:40]!r} in the answer, not {token[:40]!r}")
        return values_of(reply, [t.value for t in answer.tokens])
