"""One run of a tiny random model over hostile data, shared by the tests of this folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import tiny
from PIL import Image

from vlm_neurons.classification import classify
from vlm_neurons.data import ImageTextData
from vlm_neurons.model import HookedVLM
from vlm_neurons.scanning import Run, scan
from vlm_neurons.show import report

# each sets window.pwned, or asks the network, if it is ever read as HTML
HOSTILE = [
    "</script><img src=x onerror=window.pwned=1>",
    "<script>window.pwned=1</script>",
    "</style></title><svg onload=window.pwned=1>",
    "\" onmouseover=window.pwned=1 x='\" style='background:url(http://evil.example/a)",
    "<img src=http://evil.example/b.png>{{ 7 * 7 }}{% raw %}",
    "<meta http-equiv=refresh content='0;url=http://evil.example/c'><link rel=stylesheet href=http://evil.example/d>",
    "&lt;b&gt; &amp; \u202eright to left\u2066 \x00\x1b[31m \U0001f980 \n\n\t three  blanks",
]


@dataclass(frozen=True)
class Made:
    """A model, its data and a run of it."""

    model: HookedVLM
    data: ImageTextData
    run: Run
    table: Any
    page: str


def hostile_data(rng: np.random.Generator) -> ImageTextData:
    samples: list[dict[str, Any]] = []
    for i in range(20):
        text = HOSTILE[i % len(HOSTILE)]
        image: Any = tiny.image(int(rng.integers(20, 60)), int(rng.integers(20, 60)), rng)
        image = None if i == 7 else [image, tiny.image(30, 50, rng)] if i == 11 else image
        prompt = text if i % 3 == 0 else None
        samples.append({"image": image, "response": f"{text} {i} dogs", "prompt": prompt, "name": f"{i}{text}"})
    samples.append({"image": tiny.image(rng=rng), "response": "", "name": f"empty {HOSTILE[0]}"})
    samples.append({"image": f"/nowhere/{HOSTILE[4]}.png", "response": "x", "name": HOSTILE[1]})
    made = ImageTextData.from_samples(samples)
    return ImageTextData(made.samples, source=f"memory of {HOSTILE[0]}")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    model = HookedVLM(tiny.llava(), tiny.processor(), name=f"tiny{HOSTILE[2]}")
    data = hostile_data(np.random.default_rng())
    run = scan(
        model, data, site=["gate", "post", "projector"], top_n=8, batch_size=4, progress=False,
        out=tmp_path_factory.mktemp("show") / "run",
    )  # fmt: skip
    table = classify(run)
    page = report(run, model=model, data=data).read_text(encoding="utf-8")
    return Made(model, data, run, table, page)


def rgb(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).astype(float)
