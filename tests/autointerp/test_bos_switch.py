"""A server that adds no BOS where the template has none reads another prompt than the local path; vLLM's switch."""

from __future__ import annotations

import copy
from typing import Any

import loopback
import pytest

import vlm_neurons as vn
from vlm_neurons import zoo
from vlm_neurons.autointerp.client.local import LocalChat, open_model
from vlm_neurons.models.template import chat_text

TURNS = (
    "{% for m in messages %}{{ m['role'] }}: {% for p in m['content'] %}{{ p['text'] }}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.mark.parametrize(("template", "switch"), [(TURNS, True), ("{{ bos_token }}" + TURNS, False)])
def test_with_the_switch_a_server_reads_the_tokens_that_the_local_model_reads(template: str, switch: bool) -> None:
    """The server renders and tokenises as vLLM does: special tokens are added only where `add_special_tokens` says."""
    model, opened = open_model("AutoModelForImageTextToText", zoo.path("tiny-llava-scenes"))
    processor = copy.deepcopy(opened)
    processor.chat_template = template
    served: list[list[int]] = []

    def answer(body: dict[str, Any]) -> Any:
        turns = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in body["messages"]]
        text = chat_text(processor, turns, add_generation_prompt=True)
        added = body.get("add_special_tokens", False)  # vLLM's default
        served.append(processor.tokenizer(text, add_special_tokens=added)["input_ids"])
        return {"match": True, "probability": 0.5}

    local: list[list[int]] = []
    model.register_forward_pre_hook(lambda m, args, kw: local.append(kw["input_ids"][0].tolist()), with_kwargs=True)
    made = vn.Evidence.from_arrays("t", tokens=[["a", " b"]], token_acts=[[0.0, 1.0]])
    with loopback.running(answer=answer) as server:
        told: dict[str, Any] = {"base_url": server.url, "api_key": "none", "price": (0, 0), "schema": False}
        for extra in ({}, {"add_special_tokens": True}):
            judge = vn.simulators.ApiJudge("m", sides=("text",), logprobs=False, extra_body=extra, **told)
            judge.judge("red", made.exemplars)
            (ask,) = judge._asks("red", made.exemplars)
    model.config.text_config.max_position_embeddings = 8192
    LocalChat(model, processor).answer(ask)
    bos = processor.tokenizer.bos_token_id
    assert served[switch] == local[0] and local[0].count(bos) == 1
    assert served[not switch].count(bos) == (0 if switch else 2)
