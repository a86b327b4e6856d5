"""Neurons for the tests of cards, drawn afresh: with template tokens, sinks, several images and hostile names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import tiny
from hostile import HOSTILE

from vlm_neurons.autointerp.explanation import Explanation, Failure
from vlm_neurons.autointerp.protocols import SIDES, Prediction, Side
from vlm_neurons.autointerp.simulation import Simulation
from vlm_neurons.evidence import Evidence, Exemplar, Seen
from vlm_neurons.evidence.arrays import tiles
from vlm_neurons.tokens import TokenKind

WORDS = (
    "<s>",
    "USER",
    ":",
    "\n",
    " look",
    "&lt;",
    "<b>",
    " a",
    " red",
    " ele",
    "phant",
    ".",
    "",
    " ",
    "</s>",
    "\u202e",
)
N_TEMPLATE = 4


def exemplar(rng: np.random.Generator, sample: int, words: tuple[str, ...], n_images: int) -> Exemplar:
    grid = (int(rng.integers(2, 7)), int(rng.integers(2, 7)))
    images = tuple(tiny.image(int(rng.integers(20, 60)), int(rng.integers(20, 60)), rng) for _ in range(n_images))
    kinds = np.full(len(words), int(TokenKind.TEXT))
    kinds[:N_TEMPLATE] = int(TokenKind.TEMPLATE)
    sinks = np.zeros(len(words), bool)
    sinks[0] = True
    patches = tuple(rng.normal(0.3, 1, grid).astype(np.float32) for _ in images)
    values = rng.normal(0, 1, len(words)).astype(np.float32)
    values[0] = 50.0  # a sink
    seen = Seen(
        sample, f"sample {sample}", images, tuple(tiles(i.size, grid) for i in images), words, kinds,
        (2,) * n_images, sinks, tuple(np.zeros(grid, bool) for _ in images), "drawn",
    )  # fmt: skip
    return Exemplar(seen, "top", "explain", 0, patches, values)


def evidence(
    rng: np.random.Generator, neuron: str = "L3N17", words: tuple[str, ...] = WORDS, n_images: int = 1
) -> Evidence:
    """Six exemplars of a neuron, the strongest first."""
    groups = ("top", "top", "top", "top", "random", "quantile")
    splits = ("explain", "select", "test", "test", "test", "test")
    drawn = [exemplar(rng, i, words, n_images) for i in range(len(groups))]
    drawn.sort(key=lambda e: -e.peak)
    placed = enumerate(zip(drawn, groups, splits, strict=True))
    ordered = [replace(e, group=g, split=s, rank=i % 4) for i, (e, g, s) in placed]
    return Evidence(neuron, drawn[0].peak, tuple(ordered), "multimodal", 0, {})


def simulation(rng: np.random.Generator, of: Evidence, explanation: str = "red") -> dict[tuple[str, Side], Simulation]:
    """Random predictions of its test exemplars, on both sides."""
    test = of.split("test")
    samples = tuple(e.seen.sample for e in test)
    made: dict[Side, list[Prediction]] = {
        "picture": [Prediction(tuple(rng.uniform(0, 10, p.shape) for p in e.patch_acts)) for e in test],
        "text": [Prediction(token_acts=rng.uniform(0, 10, len(e.token_acts))) for e in test],
    }
    return {
        (of.neuron, side): Simulation(of.neuron, side, explanation, "drawn", samples, tuple(made[side]))
        for side in SIDES
    }


def row(neuron: str, **other: Any) -> dict[str, Any]:
    shares = {"p_visual": 0.7, "p_text": 0.1, "p_multimodal": 0.16, "p_unknown": 0.04}
    return {"neuron": neuron, "label": "visual", **shares, "tie": False, "confident": False, "n_samples": 50, **other}


def score(neuron: str, **other: Any) -> dict[str, Any]:
    return {
        "neuron": neuron, "r": 0.41, "r_low": 0.30, "r_high": 0.52, "r_null": 0.03, "ceiling": 0.97, "q": 0.0002,
        "simulator": "drawn", "n_images": 60, "n_exemplars": 80, "n_failed": 0, "approximate": False, "note": "",
        **other,
    }  # fmt: skip


def hostile(rng: np.random.Generator) -> dict[str, Any]:
    """Everything that `show_neuron` takes, with a hostile text in every field."""
    name = HOSTILE[0]
    plain = evidence(rng, name, (*HOSTILE, *WORDS), n_images=2)
    exemplars = [
        replace(e, seen=replace(e.seen, name=HOSTILE[i % len(HOSTILE)], source=HOSTILE[1]))
        for i, e in enumerate(plain.exemplars)
    ]
    simulated = simulation(rng, plain, HOSTILE[1])
    broken = Prediction(failure=Failure(HOSTILE[2], HOSTILE[4]))
    told = Explanation(name, HOSTILE[1], HOSTILE[2], 0.5, HOSTILE[3], HOSTILE[4])
    return {
        "evidence": replace(plain, exemplars=tuple(exemplars), label=HOSTILE[5]),
        "row": row(name, label=HOSTILE[5], n_samples=HOSTILE[6]),
        "explanation": told,
        "simulation": {
            key: replace(one, simulator=HOSTILE[4], predictions=(*one.predictions[:-1], broken))
            for key, one in simulated.items()
        },
        "score": score(name, simulator=HOSTILE[5], note=HOSTILE[0]),
    }
