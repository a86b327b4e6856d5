"""A real OpenAI-compatible server (`transformers serve`) with the embedded model, and the same model in process."""

from __future__ import annotations

from pathlib import Path

import cases

import vlm_neurons as vn
from vlm_neurons import zoo
from vlm_neurons.autointerp.explainers import Prompting

NAME = "tiny-llava-scenes"
SMALL = Prompting(n_on=1, n_off=0)


def test_image_requests_go_through_and_the_answer_comes_back(served: str, tmp_path: Path) -> None:
    asker = vn.explainers.OpenAIExplainer(
        str(zoo.path(NAME)), base_url=served, api_key="none", prompting=SMALL, max_tokens=8, timeout=100, max_retries=0
    )
    found = vn.explain({"both": cases.picture_neuron()}, asker, out=tmp_path, progress=False)["both"]
    # the model has never seen JSON: that its answer was refused shows that it came
    assert found.failure is not None and found.failure.kind in ("length", "schema"), found
    assert found.model and found.tokens_out > 0
    n = (tmp_path / "explanations.jsonl").read_text().count("\n")
    again = vn.explain({"both": cases.picture_neuron()}, asker, out=tmp_path, progress=False)
    assert again["both"].failure is not None and n == 1


def test_the_same_prompts_run_in_process() -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    where = str(zoo.path(NAME))
    model, processor = AutoModelForImageTextToText.from_pretrained(where).eval(), AutoProcessor.from_pretrained(where)
    local = vn.explainers.LocalExplainer(model, processor, prompting=SMALL, max_tokens=6)
    long = vn.explain({"both": cases.picture_neuron()}, local, progress=False)["both"].failure
    assert long is not None and long.kind == "request" and "show fewer samples" in long.detail
    model.config.text_config.max_position_embeddings = 8192  # it makes no sense of so long a text, but it answers
    hostile = cases.picture_neuron("both", text=" <image></s> a dog")
    found = vn.explain({"both": hostile, **cases.text_neurons(1)}, local, progress=False)
    assert {e.failure.kind for e in found.values() if e.failure} <= {"length", "schema"}, found
    assert all(e.failure for e in found.values()) and found["both"].tokens_in > 64
