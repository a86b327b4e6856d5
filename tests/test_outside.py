"""The tables of `examples/outside.py` with a model behind an API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import loopback
import pytest

import vlm_neurons as vn

EXAMPLES = Path(__file__).parent.parent / "examples"
NEURON = "post:L2N304"


@pytest.fixture(scope="module")
def example() -> Iterator[Any]:
    """Its functions, with a few answers and trials only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        import outside

        for name, value in (("ANSWERS", 2), ("TOKENS", 2), ("TRIALS", 10), ("EDITS", ("repaint",))):
            patch.setattr(outside, name, value)
        yield outside


def test_a_model_behind_an_api_is_a_row_of_the_tables_and_its_failures_are_no_zeros(
    example: Any, tmp_path: Path
) -> None:
    model, data = vn.HookedVLM.from_pretrained("tiny-llava-scenes"), vn.scenes(40, seed=4)
    images = [sample.load_images()[0] for sample in data]
    evidence = {NEURON: vn.Evidence.from_arrays(NEURON, images=images, patch_acts=[*data.concept("color", "pink")])}
    answer = {"phrase": "pink regions", "description": "", "confidence": 0.9, "clear_pattern": True}
    with loopback.running(fault=lambda number, body: "refusal", answer=answer) as server:
        api = vn.explainers.OpenAIExplainer("my-model", base_url=server.url, api_key="x", retry_failures=True)
        with pytest.raises(RuntimeError, match=r"my-model: 1 of 1 explanations failed .* asks again"):
            example.tested(model, vn.scenes(30, seed=5), evidence, tmp_path, api)
        server.fault = lambda number, body: ""
        found = example.tested(model, vn.scenes(30, seed=5), evidence, tmp_path, api).set_index("explainer")
        assert "image_url" in json.dumps(server.requests[-1])
    row = found.loc["my-model"]
    assert list(found.index[:3]) == ["dissection", "steering", "vocabulary"] and found.index[-1] == "my-model"
    assert row.text == "pink regions" and row.named and row.r > 0.3 and row.necessity > 0.3
    table = example.summary(found.reset_index().assign(reads=True, writes=False), "neurons")
    assert table["neurons, 1"].tolist()[-1] == "my-model"
