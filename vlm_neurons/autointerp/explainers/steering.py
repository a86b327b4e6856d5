"""Explanations from what a model says while a unit is held at high values and the picture is blank."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from vlm_neurons._checks import on_scale, whole
from vlm_neurons.autointerp.asked import SHADES, STRENGTHS, Asking, check_strengths, words_of
from vlm_neurons.autointerp.explainers.output import Output, fingerprint_of, output_of
from vlm_neurons.autointerp.explanation import NO_PATTERN, Explanation, Failure
from vlm_neurons.autointerp.protocols import Explainer
from vlm_neurons.autointerp.spoken import GRAMMAR
from vlm_neurons.models.state import state_of

if TYPE_CHECKING:
    from vlm_neurons.evidence import Evidence
    from vlm_neurons.models import HookedVLM

ONCE = " The answers repeat, at this temperature or length: each different one was counted once."
NEAR = 0.8  # words are named that rise at least this share of what the first one does


@dataclass(frozen=True)
class Moved:
    """A word that answers have more, or less, often while a unit is clamped.

    Attributes:
        word: in lower case.
        change: share of the answers that have it, less that of the unclamped ones; mean over strengths.
        strength: at which the difference is largest.
        share: of the answers there.
        before: of the unclamped answers.
        p: of so large a difference by chance (Fisher's exact test, one-sided), times all words and strengths tried.
    """

    word: str
    change: float
    strength: float
    share: float
    before: float
    p: float


def moved(
    answers: Mapping[float, Sequence[str]], before: Sequence[str], level: float = 0.01
) -> tuple[list[Moved], list[Moved]]:
    """Words that rise and words that fall against unclamped answers, those first that change most over all strengths:
    just before text breaks down many words rise that have little to do with the unit.

    Args:
        answers: by strength.
        before: unclamped.
        level: a word counts whose p, times the number of words and strengths, is below.

    >>> rise, fall = moved({2.0: ["a red ring"] * 8}, ["a ring", "a blue ring"] * 4)
    >>> [(one.word, one.share, one.before) for one in rise], [one.word for one in fall]
    ([('red', 1.0, 0.0)], [])
    """
    from scipy.stats import hypergeom  # takes long to import, and others explain without

    if not answers:
        return [], []
    sets = {strength: [words_of(a) for a in own] for strength, own in answers.items()}
    without = [words_of(a) for a in before]
    words = sorted(frozenset().union(*without, *(w for own in sets.values() for w in own)))
    tried = max(1, len(words) * len(sets))
    found: tuple[list[Moved], list[Moved]] = ([], [])
    for word in words:
        n_before = sum(word in own for own in without)
        shares = [np.mean([word in one for one in own]) for own in sets.values()]
        change = float(np.mean(shares)) - n_before / len(without)
        for sign, into in ((1, found[0]), (-1, found[1])):
            best: Moved | None = None
            for strength, own in sets.items():
                n, both = sum(word in one for one in own), len(own) + len(without)
                rises = hypergeom.sf(n - 1, both, n + n_before, len(own))
                falls = hypergeom.cdf(n, both, n + n_before, len(own))
                p = min(1.0, float(rises if sign > 0 else falls) * tried)
                one = Moved(word, change, strength, n / len(own), n_before / len(without), p)
                if p < level and sign * change > 0 and (best is None or sign * (one.share - best.share) > 0):
                    best = one
            if best is not None:
                into.append(best)
    for into in found:
        into.sort(key=lambda one: -abs(one.change))
    return found


@dataclass(frozen=True, eq=False)
class SteeringExplainer(Explainer):
    """Holds a unit at several strengths, lets the model look at blank pictures, asks what it sees, and says which words
    rise against its answers without a clamp (Ferrando et al., arXiv 2603.22593, who do so to features of a vision
    encoder). No key, no data; a gate neuron's evidence is run again for the sign and size of its `up`.

    Attributes:
        model: the model.
        strengths: values of the unit, in units of its own peak (`Evidence.peak`; of a gate neuron, of what its `post`
            is there).
        n: answers at each strength; without a clamp twice as many.
        blank: whether there are blank pictures (of four shades by turns), or none.
        prompt: what is asked; a plain "describe" if None.
        words: at most so many are named in the text; `support` has all that rise, and apart from them all that fall.
        level: a word counts whose p, corrected for all words and strengths, is below.
        max_new_tokens, temperature, seed, batch_size: of the answers. `temperature` is above 0; where the answers
            without a clamp are hardly more different ones than there are pictures, each different one counts once.

    From the first strength on at which text breaks down all are left out, and `support` and `description` say which:
    there the answers surprise the model as it is (by their perplexity) more than half as much as its own answers do
    with their words in another order. Words of grammar are in `support`, and not named. What the model has no word for
    is not found.

    >>> explainer = vn.SteeringExplainer(model, n=16, strengths=(0.5,))
    >>> print(explainer.effort({"L2N304": evidence["L2N304"]}))
    steering: 1 neurons, 16 answers at each of 1 strengths and 32 without: 48 answers of up to 24 tokens
    >>> found = vn.explain({"L2N304": evidence["L2N304"]}, explainer, progress=False)["L2N304"]
    >>> found.text
    "the word 'pink'"
    """

    model: HookedVLM = field(repr=False)
    _: KW_ONLY
    strengths: Sequence[float] = STRENGTHS
    n: int = 32
    blank: bool = True
    prompt: str | None = None
    words: int = 3
    level: float = 0.01
    max_new_tokens: int = 24
    temperature: float = 1.0
    seed: int = 0
    batch_size: int = 32
    name: str = "steering"

    def __post_init__(self) -> None:
        whole(1, words=self.words)
        on_scale(0, 1, "give a probability from 0 to 1", level=self.level)
        check_strengths(self.strengths)
        self._asking  # noqa: B018  # says now what is wrong

    @cached_property
    def _asking(self) -> Asking:
        return Asking(
            self.model, self.blank, self.prompt, self.n, self.max_new_tokens, self.temperature, self.seed,
            self.batch_size,
        )  # fmt: skip

    @cached_property
    def _unclamped(self) -> dict[str, tuple[list[str], float]]:
        return {}

    def _before(self, state: str) -> tuple[list[str], float]:
        """Answers of the model in the state that it is in: asked once."""
        if state not in self._unclamped:
            self._unclamped.clear()
            self._unclamped[state] = self._asking.unclamped(draw=1)
        return self._unclamped[state]

    def settings(self) -> str:
        """All that decides its answers, as one string."""
        own = [float(s) for s in self.strengths], self.words, self.level
        return json.dumps([self.name, 3, self._asking.settings(state_of(self.model)), *own])

    def settings_of(self, evidence: Evidence) -> str:
        """The weights of the neuron's dictionary, if it is of one."""
        return fingerprint_of(evidence)

    def effort(self, evidence: Mapping[str, Evidence]) -> str:
        """What it takes."""
        n, without = len(evidence) * len(self.strengths) * self.n, 2 * self.n
        told = f"{self.name}: {len(evidence)} neurons, {self.n} answers at each of {len(self.strengths)} strengths"
        return f"{told} and {without} without: {n + without} answers of up to {self.max_new_tokens} tokens"

    def explain(self, evidence: Mapping[str, Evidence]) -> Iterator[tuple[str, Explanation]]:
        """(key, explanation) of every neuron, failures included, as they come."""
        state = state_of(self.model)
        for key, one in evidence.items():
            try:
                yield key, self._one(one, output_of(self.model, one, state), state)
            except (ValueError, LookupError) as error:
                yield key, Explanation(one.neuron, "", explainer=self.name, seed=one.seed,
                                       failure=Failure("capability", str(error.args[0])))  # fmt: skip

    def _one(self, evidence: Evidence, output: Output, state: str) -> Explanation:
        common: dict[str, Any] = {"neuron": evidence.neuron, "explainer": self.name, "model": self.model.name,
                                  "seed": evidence.seed}  # fmt: skip
        if not output.peak > 0:
            return Explanation(text=NO_PATTERN, description="It is never active, so that there is nothing to clamp it "
                               "at; nothing was asked.", **common)  # fmt: skip
        before, limit = self._before(state)
        answers, left_out = self._asking.while_held(output.neuron, output.peak, self.strengths, limit)
        if once := _repeated(before):
            before, answers = [*dict.fromkeys(before)], {s: [*dict.fromkeys(own)] for s, own in answers.items()}
        rise, fall = moved(answers, before, self.level)
        first = [w for w in rise if w.word not in GRAMMAR]
        named = [w.word for w in first if w.change >= NEAR * first[0].change][: self.words]
        told = {"unit": output.neuron.id, "left_out": left_out}
        return Explanation(
            text="; ".join(f"the word '{word}'" for word in named) or NO_PATTERN,
            description=_description(rise, fall, [*answers], left_out) + (ONCE if once else ""),
            support=tuple(
                {"direction": direction, "concepts": [f"word:{w}" for w in named] if direction == "raised" else [],
                 "words": [w.word for w in words], "change": [round(w.change, 3) for w in words],
                 "strengths": [w.strength for w in words],
                 "share": [round(w.share, 3) for w in words], "before": [round(w.before, 3) for w in words],
                 "p": [w.p for w in words], **told}
                for direction, words in (("raised", rise), ("lowered", fall)) if words
            ),
            **common,
        )  # fmt: skip


def _repeated(before: Sequence[str]) -> bool:
    """Whether answers to one picture are nearly always the same one: then they are no draws that could be counted."""
    return len(set(before)) < 2 * len(SHADES) and 2 * len(set(before)) <= len(before)


def _description(rise: list[Moved], fall: list[Moved], kept: list[float], left_out: list[float]) -> str:
    if not kept:
        return f"Text breaks down at every strength ({', '.join(f'{s:g}' for s in left_out)} times its peak)."

    def listed(words: list[Moved]) -> str:
        return ", ".join(f"{w.word} ({w.before:.2f} to {w.share:.2f} at {w.strength:g})" for w in words[:8])

    said = [f"{name} {listed(words)}" for name, words in (("rise:", rise), ("fall:", fall)) if words]
    told = f"Words of its answers, clamped at {', '.join(f'{s:g}' for s in kept)} times its peak: "
    told += ("; ".join(said) if said else "none rises or falls") + "."
    if left_out:
        told += f" Left out, since text breaks down: {', '.join(f'{s:g}' for s in left_out)}."
    return told
