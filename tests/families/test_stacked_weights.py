"""Where TransformerLens' one tensor of all layers is not to be had, the error says why, and its remedy works."""

from __future__ import annotations

import re
from typing import Any

import builders
import built_gemma
import pytest
import torch

import vlm_neurons as vn


def remedy(model: Any, error: BaseException) -> str:
    """The place that the message names."""
    found = re.search(r"take model\.(\S+?)(;|$)", str(error))
    assert found is not None
    return found[1]


def at(model: Any, place: str, layer: int) -> Any:
    for part in place.replace("[i]", f".{layer}").split("."):
        model = model[int(part)] if part.isdigit() else getattr(model, part)
    return model


@pytest.fixture(scope="module")
def wide() -> vn.HookedVLM:
    return vn.HookedVLM(*built_gemma.gemma4(double_wide=True))


@pytest.mark.parametrize("name", ["W_in", "W_gate", "W_out"])
def test_layers_of_other_shapes_are_named_with_where_to_read_them(wide: vn.HookedVLM, name: str):
    with pytest.raises(ValueError, match=rf"model.{name} is one tensor .* other shapes .*44.*88") as told:
        getattr(wide, name)
    place = remedy(wide, told.value)
    assert sorted({tuple(at(wide, place, i).shape) for i in range(wide.n_layers)}) == sorted(
        {(44, 32), (88, 32)} if name != "W_out" else {(32, 44), (32, 88)}
    )
    assert not hasattr(wide, "b_in") and not hasattr(wide, "W_pos")


@pytest.mark.parametrize(("family", "why"), [("glm4v", "knows no such"), ("qwen3_vl_moe", "not every layer has")])
@pytest.mark.parametrize("name", ["W_in", "W_out", "b_out"])
def test_what_transformer_lens_does_not_know_is_named_too(family: str, why: str, name: str):
    model = builders.made(family).model
    with pytest.raises(AttributeError, match=rf"model.{name} is one tensor of all layers, and .*{why}") as told:
        getattr(model, name)
    found = at(model, remedy(model, told.value), 0)
    assert found is None if name == "b_out" else torch.is_tensor(found)
    assert not hasattr(model, name)
