"""All tokens of a text at once, from one answer that is left open: what would the model have written at each token?

The way of Bills et al. 2023 (Language models can explain neurons in language models, "Simulate ... all at once"): the
answer has "unknown" where the values belong, and the probabilities of the digits in these places are read off.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from vlm_neurons.autointerp.client.prompting import escape
from vlm_neurons.autointerp.client.replies import bare, logprobs_of
from vlm_neurons.autointerp.explanation import Failure

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
