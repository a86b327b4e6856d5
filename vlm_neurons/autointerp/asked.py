"""What a model says of a blank picture, or of none, while one of its units is held at a value."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from vlm_neurons._checks import amount, check_seed, of_kind, short, whole
from vlm_neurons.concepts.lexical import pieces_of
from vlm_neurons.hooks import ablate
from vlm_neurons.sites import at
from vlm_neurons.units import Neuron

if TYPE_CHECKING:
    from vlm_neurons.models import HookedVLM

SHADES = (0, 85, 170, 255)  # of blank pictures, so that what the model says of one of them is not all there is
SIDE = 224  # pixels; processors resize
PROMPT = "Describe the image."
WITHOUT = "What do you see?"  # where there is no image
STRENGTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
BROKEN = 0.5  # share of the way from unclamped answers to their words in another order, from which text is broken


@dataclass(frozen=True, eq=False)
class Asking:
    """How a model is asked what it sees.

    Attributes:
        model: the model.
        blank: blank pictures, of four shades by turns; False for none.
        prompt: what it is asked; in a few words of its own if None.
        n: answers at every value, and as many again without any.
        max_new_tokens: of an answer.
        temperature: of the draw, above 0.
        seed: of the draw.
        batch_size: answers at once.

    >>> asking = Asking(model, n=4, max_new_tokens=6)
    >>> len(asking.answers()), len(asking.answers(vn.Neuron.parse("post:L2N7"), 12.0))
    (4, 4)
    """

    model: HookedVLM = field(repr=False)
    blank: bool = True
    prompt: str | None = None
    n: int = 32
    max_new_tokens: int = 24
    temperature: float = 1.0
    seed: int = 0
    batch_size: int = 32

    def __post_init__(self) -> None:
        whole(1, n=self.n, max_new_tokens=self.max_new_tokens, batch_size=self.batch_size)
        amount(temperature=self.temperature)
        if not self.temperature:
            raise ValueError("temperature=0: give a temperature above 0; at 0 all answers to one picture are the "
                             "same one, and counting it several times shows nothing")  # fmt: skip
        check_seed(self.seed)
        of_kind("blank", self.blank, bool, "give True for blank pictures, False for none")
        if self.prompt is not None:
            of_kind("prompt", self.prompt, str, "give a question, or None")

    def settings(self, state: str) -> str:
        """All that decides its answers but the unit, as one string.

        Args:
            state: of the model, see `vlm_neurons.models.state.state_of`.
        """
        own = [self.blank, self._prompt, self.n, self.max_new_tokens, self.temperature, self.seed, self.batch_size]
        return json.dumps(["asked 2", state, *own])

    @property
    def _prompt(self) -> str:
        return self.prompt if self.prompt is not None else PROMPT if self.blank else WITHOUT

    @cached_property
    def _pictures(self) -> list[Image.Image | None]:
        blanks = [Image.new("RGB", (SIDE, SIDE), (shade,) * 3) for shade in SHADES]
        return [blanks[i % len(blanks)] if self.blank else None for i in range(self.n)]

    def answers(self, neuron: Neuron | None = None, value: float = 0.0, draw: int = 0) -> list[str]:
        """What it says while a unit has a value at every position, or as it is.

        Args:
            neuron: the unit, on its own pole.
            value: what it is held at.
            draw: another number draws anew.

        Raises:
            ValueError: the unit is of pictures, and there is none.
            IndexError: there is no such unit.
        """
        if neuron is not None and not self.blank and at(neuron.hook)[0].indexed_by == "image":
            raise ValueError(f"{neuron.id} is a unit of pictures, and blank=False shows none")
        found: list[str] = []
        for start in range(0, self.n, self.batch_size):
            pictures = self._pictures[start : start + self.batch_size]
            seed = int(np.random.default_rng([self.seed, draw, start]).integers(2**31))
            held = nullcontext() if neuron is None else self.model.hooks(ablate(neuron, to=float(value)))
            with held:
                found += self.model.generate(
                    pictures, [self._prompt] * len(pictures), self.max_new_tokens,
                    temperature=self.temperature, seed=seed,
                )  # fmt: skip
        return found

    @torch.no_grad()
    def surprise(self, answers: Sequence[str]) -> Float[np.ndarray, "answer"]:
        """Mean negative log probability of the tokens of every answer from its second one on, by the model as it is and
        to the same pictures (the logarithm of its perplexity); NaN where there are none. The first one may have been
        another token where the model wrote it, with or without a blank.
        """
        found = np.full(len(answers), np.nan)
        said = [i for i, answer in enumerate(answers) if answer.strip()]
        for start in range(0, len(said), self.batch_size):
            some = said[start : start + self.batch_size]
            batch = self.model.prepare(
                [self._pictures[i % self.n] for i in some], [self._prompt] * len(some), [answers[i] for i in some],
                end=True, padding_side="right",
            )  # fmt: skip
            logits = self.model(batch)[:, :-1].float()
            text, ids = batch.mask("text")[:, 1:], batch.input_ids[:, 1:].to(logits.device)
            text = text & (text.cumsum(1) > 1)
            told = logits.gather(2, ids[..., None])[..., 0] - logits.logsumexp(-1)
            text = text.to(told.device)
            found[some] = (-(told * text).sum(1) / text.sum(1)).cpu().numpy()  # 0 / 0 of single tokens
        return found

    def unclamped(self, draw: int) -> tuple[list[str], float]:
        """Twice as many answers as at every value, and how surprising text is that is broken."""
        answers = [*self.answers(draw=draw), *self.answers(draw=draw + 1)]
        return answers, self.limit(answers, BROKEN)

    def while_held(
        self, neuron: Neuron, peak: float, strengths: Sequence[float], limit: float, draw: int = 3
    ) -> tuple[dict[float, list[str]], list[float]]:
        """Answers by strength, the weakest first, up to the first one at which text breaks down; and the strengths from
        there on.

        Args:
            neuron: the unit.
            peak: what the strengths are shares of.
            strengths: of the clamp.
            limit: how surprising text is that is broken.
            draw: of the weakest; the next has the next.
        """
        found: dict[float, list[str]] = {}
        rising = sorted(float(s) for s in strengths)
        for number, strength in enumerate(rising, draw):
            said = self.answers(neuron, strength * peak, number)
            surprise = self.surprise(said)
            told = surprise[~np.isnan(surprise)]
            if not "".join(said) or (len(told) and float(np.median(told)) > limit):
                break  # what is stronger breaks it too
            found[strength] = said
        return found, rising[len(found) :]

    def limit(self, answers: Sequence[str], way: float) -> float:
        """How surprising broken text is: between unclamped answers and the same ones with their words in another
        order, and more so than any of the answers, since two words have hardly an order; infinitely so where all are
        single tokens.

        Args:
            answers: without any clamp.
            way: 0 is the median of the answers, 1 that of their words in another order.
        """
        rng = np.random.default_rng([self.seed, 9])
        mixed = [" ".join(rng.permutation(answer.split())) for answer in answers]
        own, other = self.surprise(answers), self.surprise(mixed)
        if np.isnan(own).all() or np.isnan(other).all():
            return float("inf")
        low, high = float(np.nanmedian(own)), float(np.nanmedian(other))
        return max(low + way * (high - low), float(np.nanmax(own)))


def words_of(answer: str) -> frozenset[str]:
    """The words of an answer, in lower case.

    >>> sorted(words_of("A red ring. The ring's red!"))
    ['a', 'red', 'ring', "ring's", 'the']
    """
    return frozenset(piece.lower() for piece in pieces_of([answer])[0] if piece[0].isalnum())


def check_strengths(strengths: object) -> None:
    """Refuse what are no numbers above 0, or none.

    >>> check_strengths(())
    Traceback (most recent call last):
    ValueError: strengths=a tuple: give some numbers above 0, in units of the neuron's peak, each once
    """
    told = f"strengths={short(strengths)}: give some numbers above 0, in units of the neuron's peak, each once"
    if not isinstance(strengths, Sequence) or isinstance(strengths, str) or not strengths:
        raise ValueError(told)
    for strength in strengths:
        amount(strengths=strength)
    if 0 in strengths or len({float(s) for s in strengths}) < len(strengths):
        raise ValueError(told)
