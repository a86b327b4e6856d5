"""Small evidence for tests that are about requests."""

from __future__ import annotations

import numpy as np
import seeds
import tiny

import vlm_neurons as vn


def text_neurons(n: int, seed: int = 0) -> dict[str, vn.Evidence]:
    rng = np.random.default_rng(seed)
    found = {}
    for i in range(n):
        tokens = [[f" w{rng.integers(99)}" for _ in range(4)] for _ in range(12)]
        name = f"t{i}"
        found[name] = vn.Evidence.from_arrays(name, tokens=tokens, token_acts=[rng.random(4) for _ in tokens])
    return found


def picture_neuron(name: str = "both", text: str = " a red\tdog", n: int = 12) -> vn.Evidence:
    rng = seeds.rng()
    tokens = [[f"{text} {i}", " and", " more"] for i in range(n)]
    return vn.Evidence.from_arrays(
        name, images=[tiny.image(48, 32, rng) for _ in range(n)], patch_acts=[rng.random((2, 3)) for _ in range(n)],
        tokens=tokens, token_acts=[rng.random(3) for _ in tokens], label="multimodal",
    )  # fmt: skip
