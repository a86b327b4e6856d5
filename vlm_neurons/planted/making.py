"""Planted neurons as evidence, over drawn scenes and sentences."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float

from vlm_neurons._checks import amount, whole
from vlm_neurons.concepts.concept import Concept
from vlm_neurons.concepts.lexical import pieces_of
from vlm_neurons.concepts.visual import POSITIONS, positions
from vlm_neurons.evidence.arrays import tiles
from vlm_neurons.evidence.evidence import Evidence
from vlm_neurons.evidence.exemplars import Exemplar, Seen, assign, rest_of
from vlm_neurons.planted.rules import KINDS, OUTSIDE, Rule, draw_rule, sentences, tokens_of
from vlm_neurons.synthetic.dataset import Scenes, scenes, truth_of
from vlm_neurons.tokens import TokenKind

N_SAMPLES = 1000
N_TOP = 50
TEXT_KINDS = ("word", "word_class", "context", "outside")
_LABELS = {"picture_or_word": "multimodal", "picture_and_word": "multimodal", "noise": "unknown"}
NO_IMAGES: tuple[Any, ...] = ()
Sides = tuple[Float[np.ndarray, "8 8"] | None, Float[np.ndarray, "token"]]


@dataclass(frozen=True, eq=False)
class Planted:
    """A neuron whose rule is known.

    Attributes:
        rule: when it is active, with explanations.
        evidence: what it did.
    """

    rule: Rule
    evidence: Evidence


def neurons(kinds: str | Iterable[str] = KINDS, n: int = 30, seed: int = 0, noise: float = 0.08) -> list[Planted]:
    """Planted neurons as evidence.

    Activation = rule (coverage of the patch by what it names; 1 at a token) x strength of the sample x strength of the
    place (both log-normal) + Gaussian noise, less a little, so that most of what is off is negative, as after SiLU.
    Noise neurons have a log-normal activation at random places.

    Args:
        kinds: of `KINDS`.
        n: so many of each kind.
        seed: of rules, samples and noise.
        noise: standard deviation, in shares of the full activation.

    Raises:
        ValueError: no such kind, or a number that is none.

    >>> [p.rule.concepts for p in neurons("color", n=1)]
    [frozenset({'color:cyan'})]
    """
    whole(0, n=n, seed=seed)
    amount(noise=noise)
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    made = []
    for kind in kinds:
        for i in range(n):
            if kind not in KINDS:
                draw_rule(kind, np.random.default_rng())  # raises
            rng = np.random.default_rng([seed, 11, KINDS.index(kind), i])
            made.append(_planted(draw_rule(kind, rng), f"{kind}-{i}", rng, seed, noise))
    return made


def oracle(planted: Planted, exemplar: Exemplar) -> tuple[tuple[np.ndarray, ...], Float[np.ndarray, "token"]]:
    """What the rule itself predicts for an exemplar, on the 0-10 scale, without strengths and noise."""
    patches, tokens = _ideal(planted.rule, exemplar.seen)
    return () if patches is None else (patches * 10,), tokens * 10


def _planted(rule: Rule, name: str, rng: np.random.Generator, seed: int, noise: float) -> Planted:
    world = "text" if rule.kind in TEXT_KINDS else "mixed" if rule.mode == "and" or rule.kind in _LABELS else "scenes"
    exemplars = []
    for seen in _pool(world, seed):
        sides = _ideal(rule, seen)
        gain = rng.lognormal(0, 0.25)
        patches, tokens = (_activation(rule, side, gain, rng, noise) for side in sides)
        exemplars.append(Exemplar(seen, "top", "explain", 0, (patches,) if patches.ndim == 2 else (), tokens))
    order = sorted(range(len(exemplars)), key=lambda i: (-exemplars[i].peak, i))
    top = [exemplars[i] for i in order[:N_TOP]]
    drawn = [exemplars[order[N_TOP + k]] for k in rng.permutation(len(order) - N_TOP)]
    chosen = assign(top, drawn[: 2 * N_TOP])
    label = _LABELS.get(rule.kind, "text" if rule.text else "visual")
    source = {"planted": rule.kind, "data": "sentences" if world == "text" else _spec(seed)}
    evidence = Evidence(name, top[0].peak, chosen, label, seed, source, rest_of(chosen, drawn), len(exemplars))
    return Planted(rule, evidence)


def _activation(rule: Rule, ideal: Any, gain: float, rng: np.random.Generator, noise: float) -> np.ndarray:
    """Ideal values with strengths and noise; an empty array for none."""
    if ideal is None:
        return np.zeros(0, np.float32)
    strength = rng.lognormal(0, 0.2, ideal.shape) * gain
    if rule.kind == "noise":
        return (strength * rng.lognormal(-1.5, 0.7, ideal.shape) - 0.1).astype(np.float32)
    on = ideal if rule.sign > 0 else 1 - 2 * ideal
    return (on * strength + rng.normal(0, noise, ideal.shape) - 0.05).astype(np.float32)


def _spec(seed: int) -> str:
    return f"scenes:n={N_SAMPLES},seed={seed}"


@lru_cache(maxsize=4)
def _scenes(seed: int) -> Scenes:
    return scenes(N_SAMPLES, seed)


@lru_cache(maxsize=6)
def _pool(world: str, seed: int) -> tuple[Seen, ...]:
    """Samples: scenes with their descriptions (`"mixed"`: half of them with another scene's, so that picture and word
    come apart), or sentences without pictures."""
    data, found = _scenes(seed), []
    for i in range(N_SAMPLES):
        rng = np.random.default_rng([seed, 5, i])
        if world == "text":
            text, images, truth = sentences(rng), NO_IMAGES, None
        else:
            told = int(rng.integers(N_SAMPLES)) if world == "mixed" and rng.random() < 0.5 else i
            text, images, truth = str(data[told].response), data[i].images, truth_of(data.worlds[i])
        boxes = tuple(tiles(image.size, (8, 8)) for image in images)
        tokens = tokens_of(text)
        found.append(
            Seen(i, f"{world} {i}", images, boxes, tokens, np.full(len(tokens), int(TokenKind.TEXT)),
                 (0,) * len(images), np.zeros(len(tokens), bool), tuple(np.zeros((8, 8), bool) for _ in images),
                 _spec(seed) if images else "", truth)
        )  # fmt: skip
    return tuple(found)


def _ideal(rule: Rule, seen: Seen) -> Sides:
    """What the rule says of every patch and token, in [0, 1]."""
    patches = None
    if seen.images:
        at = positions(seen.boxes[0].reshape(-1, 4)).reshape(-1, 8, 8)
        maps = {Concept("position", name): place for name, place in zip(POSITIONS, at, strict=True)}
        maps |= {Concept(*key): shares for key, shares in (seen.truth or {}).items()}
        sides = [np.min([maps[c] for c in concepts], axis=0) for concepts in rule.visual]
        patches = np.clip(np.max(sides, axis=0), 0, 1) if sides else np.zeros((8, 8))
    tokens = np.max([_has(c, seen.tokens) for c in rule.text], axis=0) if rule.text else np.zeros(len(seen.tokens))
    if rule.mode == "and":
        both = patches is not None and patches.max() > 0.3 and tokens.max() > 0
        return (None if patches is None else patches * both), tokens * both
    return patches, tokens


@lru_cache(maxsize=65536)
def _has(concept: Concept, tokens: tuple[str, ...]) -> Float[np.ndarray, "token"]:
    """Tokens that have a lexical concept; written apart from the bank, as a check on it."""
    from vlm_neurons.concepts.lexical import CLASSES

    pieces, home = pieces_of(tokens)
    low = [p.lower() for p in pieces]
    value = concept.value
    match concept.kind:
        case "word":
            true = [w == value for w in low]
        case "class":
            true = [w in CLASSES[value] for w in low]
        case "outside":
            true = [w in OUTSIDE[value] for w in low]
        case "punctuation":
            true = [p == value for p in pieces]
        case "after":
            true = [i > 0 and low[i - 1] == value for i in range(len(low))]
        case "before":
            true = [i + 1 < len(low) and low[i + 1] == value for i in range(len(low))]
        case _:  # first word of a sentence
            true = [p[0].isalnum() and (i == 0 or pieces[i - 1] == ".") for i, p in enumerate(pieces)]
    return np.array([h >= 0 and true[h] for h in home], float)
