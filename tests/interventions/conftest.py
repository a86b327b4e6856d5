"""A random LLaVA with a batch of unequal rows, and a classification table of it."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
import tiny
import torch

from vlm_neurons import HookedVLM, ImageTextData


@pytest.fixture(scope="module")
def model() -> HookedVLM:
    tok = tiny.tokenizer()
    return HookedVLM(tiny.llava(tok, image_size=14), tiny.processor(tok, image_size=14))


def rows(model: HookedVLM, side: Any = "right") -> Any:
    images = [[tiny.image(), tiny.image()], tiny.image(), None]
    return model.prepare(images, ["Hi", "What is it?", "Hi"], ["A dog.", "It is red.", "A"], padding_side=side)


@pytest.fixture
def batch(model: HookedVLM) -> Any:
    return rows(model)


@pytest.fixture
def other(model: HookedVLM) -> Any:
    """The same tokens, other images."""
    return rows(model)


@pytest.fixture(scope="module")
def data() -> ImageTextData:
    words = ["A dog.", "It is blue and white.", "The train is red."]
    return ImageTextData.from_samples(
        [{"image": tiny.image(), "prompt": "Hi", "response": words[i % 3], "name": str(i)} for i in range(7)]
    )


@pytest.fixture(scope="module")
def text() -> ImageTextData:
    return ImageTextData.from_samples([{"image": None, "prompt": "Hi", "response": "Two dogs."} for _ in range(3)])


@pytest.fixture(scope="module")
def table(model: HookedVLM) -> pd.DataFrame:
    """Labels by lot, in unequal numbers."""
    labels = ["visual", "text", "text", "multimodal", "unknown", "unknown", "unknown"]
    found = []
    for layer in range(model.n_layers):
        for i in range(44):
            label = labels[int(torch.randint(len(labels), ()))]
            share = float(torch.rand(()))
            found.append(
                {"neuron": f"L{layer}N{i}", "hook": f"blocks.{layer}.mlp.hook_act", "layer": layer, "index": i}
                | {"site": "gate", "pole": "+", "label": label, "confident": share > 0.8, "peak": float(torch.rand(()))}
                | {f"p_{k}": share for k in ("visual", "text", "multimodal", "unknown")}
            )
    found[0] |= {"label": "unknown", "confident": True}  # of some class there is one in every draw
    return pd.DataFrame(found)
