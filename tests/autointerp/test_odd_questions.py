"""What cannot be used is named, with the remedy."""

from __future__ import annotations

import re
from typing import Any

import cases
import pytest

import vlm_neurons as vn
from vlm_neurons import planted
from vlm_neurons.autointerp.explainers import Prompting
from vlm_neurons.concepts import Concept


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (cases.text_neurons(1)["t0"], "evidence: Evidence; give a dict from ids of neurons"),
        (None, "evidence: NoneType; give a dict from ids of neurons"),
        ([1], "evidence: list; give a dict from ids of neurons"),
        ({"x": "y"}, "evidence['x']: str, not a vn.Evidence"),
    ],
    ids=["one", "None", "list", "str"],
)
def test_evidence_that_is_none_is_refused(wrong: Any, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        vn.explain(wrong, progress=False)


@pytest.mark.parametrize("wrong", [vn.explainers.DissectionExplainer, 3, "gpt"], ids=str)
def test_an_explainer_that_is_none_is_refused(wrong: Any) -> None:
    with pytest.raises(
        ValueError, match=r"explainer .*: a name \('dissection'\), or an object such as vn\.explainers\.OpenAIExplainer"
    ):
        vn.explain(cases.text_neurons(1), wrong, progress=False)


def test_settings_that_nothing_can_be_done_with_are_refused() -> None:
    with pytest.raises(ValueError, match="style='papr': choose from paper, boxes"):
        Prompting(style="papr")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n_null=0"):
        vn.explainers.DissectionExplainer(n_null=0)
    with pytest.raises(ValueError, match="n=-1"):
        planted.neurons("color", n=-1)
    with pytest.raises(FileNotFoundError, match="runs/x is no run directory"):
        vn.gather_evidence(None, None, "runs/x", "L0N3")  # type: ignore[arg-type]


@pytest.mark.parametrize("index", [9999, -1])
def test_a_neuron_that_is_not_there_cannot_be_planted(index: int) -> None:
    model = vn.HookedVLM.from_pretrained("tiny-llava-scenes")
    with (
        pytest.raises(ValueError, match=f"index={index}: .* neurons, numbered from 0"),
        planted.plant(model, vn.scenes(20), Concept("color", "red"), index=index),
    ):
        pass
