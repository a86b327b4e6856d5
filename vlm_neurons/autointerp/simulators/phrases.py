"""What to look for in a picture: from an explanation's own words, or named by a model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator

from vlm_neurons.autointerp.client import prompting
from vlm_neurons.autointerp.client.asking import Ask, Reply
from vlm_neurons.autointerp.client.prompting import escape, fence, text_part
from vlm_neurons.autointerp.explanation import Failure
from vlm_neurons.autointerp.protocols import Side
from vlm_neurons.autointerp.simulators.questions import PACKAGE, Purse, Scale, Strict, failure_of
from vlm_neurons.concepts.naming import strength_of

if TYPE_CHECKING:
    from vlm_neurons.autointerp.client.client import ChatClient

PICTURES: frozenset[Side] = frozenset({"picture"})  # of simulators that look for phrases in pictures
LIMIT = 6  # phrases of one explanation
_NOT = re.compile(r"^(?:anything|everything|all) (?:but|except) ", re.IGNORECASE)
_FILLERS = re.compile(
    r"^(?:the )?(?:presence|occurrences?|depictions?|images?|pictures?|photos?|regions?|areas?|patches|parts?) "
    r"(?:of|with|showing|that show|containing) |^(?:the )?words? for |^the words? (?=['\"])",
    re.IGNORECASE,
)
_ENDS = re.compile(r" (?:regions?|areas?|patches)$", re.IGNORECASE)


@dataclass(frozen=True)
class Phrase:
    """Something to look for.

    Attributes:
        words: a noun phrase.
        strength: from 0 to 10, how strongly the neuron would respond to it.
        negated: whether it responds to all that is not this.
    """

    words: str
    strength: float = 10.0
    negated: bool = False


def own_phrases(explanation: str) -> tuple[Phrase, ...]:
    """What an explanation names, in its own words: alternatives between semicolons, without fillers.

    >>> [p.words for p in own_phrases("the presence of dogs; red regions; the word 'snow'")]
    ['dogs', 'red', 'snow']
    >>> own_phrases("anything but the sky")
    (Phrase(words='the sky', strength=10.0, negated=True),)
    """
    found = []
    for part in explanation.split(";"):
        words, strength = strength_of(" ".join(part.split()).strip(" ."))
        bare = _NOT.sub("", words)
        negated, words = bare != words, bare
        shorter = _FILLERS.sub("", words)
        while shorter != words:
            words, shorter = shorter, _FILLERS.sub("", shorter)
        words = _ENDS.sub("", words).strip("'\" ")
        if words:
            found.append(Phrase(words, 10.0 * strength, negated))
    return tuple(dict.fromkeys(found))


def _noun_phrase(words: str) -> str:
    words = " ".join(words.replace(".", " ").replace(";", " ").split())
    if not 0 < len(words) <= 60:
        raise ValueError("a phrase of 1 to 60 characters")
    return words


class Name(Strict):
    """A phrase and its strength."""

    phrase: Annotated[str, AfterValidator(_noun_phrase)]
    strength: Scale


class Names(Strict):
    """What to look for."""

    phrases: list[Name]


@dataclass(frozen=True)
class Named:
    """What a model says to look for.

    Attributes:
        explanation: of what.
        phrases: none where nothing in a picture could match; a failure where it gave no answer.
        reply: of the model, with its cost.
    """

    explanation: str
    phrases: tuple[Phrase, ...] | Failure
    reply: Reply


def named_phrases(explanations: Iterable[str], namer: ChatClient, purse: Purse) -> Iterator[Named]:
    """What to look for, of each explanation once, as the answers come."""
    for reply in purse.stream(namer, naming(explanations)):
        yield Named(reply.ask.key, _read(reply), reply)


def naming(explanations: Iterable[str]) -> list[Ask]:
    """The questions, one for each explanation."""
    return [_ask(e) for e in dict.fromkeys(explanations)]


def _read(reply: Reply) -> tuple[Phrase, ...] | Failure:
    answer: Any = reply.answer
    if answer is None:
        return failure_of(reply)
    if len(answer.phrases) > LIMIT:
        return Failure("schema", f"{len(answer.phrases)} phrases, up to {LIMIT} were asked for")
    return tuple(dict.fromkeys(Phrase(p.phrase, float(p.strength)) for p in answer.phrases if p.strength > 0))


def _ask(explanation: str) -> Ask:
    mark = fence([explanation])
    told = prompting.render(PACKAGE, "explanation", fence=mark, explanation=escape(" ".join(explanation.split())))
    parts = [text_part(told), text_part(prompting.render(PACKAGE, "names", limit=LIMIT))]
    system = {"role": "system", "content": prompting.render(PACKAGE, "namer", fence=mark)}
    return Ask(explanation, [system, {"role": "user", "content": parts}], Names, 300)
