"""The hook factories change and keep exactly what they say, on a HookedVLM and on its bare bridge."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from vlm_neurons import HookedVLM, Neuron
from vlm_neurons.hooks import ablate, record

GATE, PROJECTOR = "blocks.0.mlp.hook_act", "projector.0.hook_post"


@pytest.fixture(scope="module")
def model() -> HookedVLM:
    tok = tiny.tokenizer()
    return HookedVLM(tiny.llava(tok), tiny.processor(tok))


@pytest.fixture(scope="module")
def batch(model: HookedVLM) -> Any:
    return model.prepare([[tiny.image(), tiny.image()], tiny.image()], tiny.PROMPTS[:2], tiny.RESPONSES[:2])


def run(hook: str, fn: Any, tensor: Tensor) -> Tensor:
    result = fn(tensor, hook=None)
    return tensor if result is None else result


def test_ablating_changes_the_named_coordinates_and_nothing_else() -> None:
    for _ in range(20):
        tensor = torch.randn(3, 7, 11)
        before = tensor.clone()
        indices = torch.randperm(11)[: int(torch.randint(1, 5, ()))].tolist()
        where = torch.rand(3, 7) < 0.5
        value = float(torch.randn(()))
        [(name, fn)] = ablate([Neuron(GATE, i) for i in indices], to=value, where=where)
        assert name == GATE
        result = run(name, fn, tensor)
        expected = before.clone()
        for row in range(3):
            for at in range(7):
                for i in indices:
                    if where[row, at]:
                        expected[row, at, i] = value
        assert torch.equal(result, expected)
        assert torch.equal(tensor, before), "the given tensor is left alone"


def test_one_value_per_neuron_goes_to_its_neuron_across_hooks() -> None:
    values = torch.randn(3)
    hooks = dict(ablate(["L0N2", "P0N1", "L0N0"], to=values))
    gate = run(GATE, hooks[GATE], torch.zeros(2, 4, 5))
    projector = run(PROJECTOR, hooks[PROJECTOR], torch.zeros(2, 4, 5))
    assert torch.equal(gate[0, 0], torch.tensor([values[2], 0, values[0], 0, 0]))
    assert torch.equal(projector[1, 3], torch.tensor([0, values[1], 0, 0, 0]))


def test_values_by_position_are_broadcast() -> None:
    values = torch.randn(2, 4, 2)
    [(_, fn)] = ablate("L0N3, L0N1", to=values)
    result = run(GATE, fn, torch.zeros(2, 4, 5))
    assert torch.equal(result[..., [3, 1]], values)
    [(_, fn)] = ablate("L0N3, L0N1", to=values[..., :1])
    assert torch.equal(run(GATE, fn, torch.zeros(2, 4, 5))[..., 1], values[..., 0])


def test_the_negative_pole_is_the_same_coordinate() -> None:
    tensor = torch.randn(2, 3, 4)
    (_, plus), (_, minus) = *ablate("post:L0N1"), *ablate("post:L0N1-")
    assert torch.equal(run("", plus, tensor), run("", minus, tensor))
    [(_, minus)] = ablate("post:L0N1-", to=2.0)
    assert bool((run("", minus, tensor)[..., 1] == -2).all())
    into: dict[str, Tensor] = {}
    for _, fn in record(["post:L0N1", "post:L0N1-"], into):
        fn(tensor)
    assert torch.equal(into["post:L0N1-"], -tensor[..., 1])
    # what is recorded can be put back as it is
    [(_, back)] = ablate("post:L0N1-", to=into["post:L0N1-"][..., None])
    assert torch.equal(run("", back, tensor), tensor)


def test_recording_copies_and_returns_nothing() -> None:
    tensor = torch.randn(2, 3, 4, requires_grad=True)
    into: dict[str, Tensor] = {}
    for _, fn in record([GATE, "L0N1", Neuron(GATE, 2)], into):
        assert fn(tensor, hook=None) is None
    with torch.no_grad():
        before = tensor.clone()
        tensor.mul_(0)
    assert torch.equal(into[GATE], before) and torch.equal(into["L0N1"], before[..., 1])
    assert torch.equal(into["L0N2"], before[..., 2])
    assert not any(v.requires_grad for v in into.values())


def test_appending_keeps_every_forward_pass() -> None:
    into: dict[str, Any] = {}
    [(_, fn)] = record("L0N1", into, append=True)
    tensors = [torch.randn(1, n, 4) for n in (5, 1, 1)]
    for tensor in tensors:
        fn(tensor)
    assert [v.shape[1] for v in into["L0N1"]] == [5, 1, 1]


@torch.no_grad()
def test_both_work_on_the_bare_bridge(model: HookedVLM, batch: Any) -> None:
    inputs = {"attention_mask": batch.attention_mask, "pixel_values": batch.pixel_values}
    into: dict[str, Tensor] = {}
    hooks = [*record(["L0N3", "P0N1"], into), *ablate("L1N2, P0N1")]
    own = model.bridge.run_with_hooks(batch.input_ids, fwd_hooks=hooks, **inputs)
    assert torch.equal(own, model.run_with_hooks(batch, fwd_hooks=ablate("L1N2, P0N1")))
    assert into["L0N3"].shape == batch.input_ids.shape and into["P0N1"].shape == (3, 16)


@torch.no_grad()
def test_where_selects_positions_of_a_batch(model: HookedVLM, batch: Any) -> None:
    into: dict[str, Tensor] = {}
    visual = batch.mask("visual")
    hooks = [*ablate("L0N3", to=7.0, where=visual), *record("L0N3", into)]
    model.run_with_hooks(batch, fwd_hooks=hooks)
    clean: dict[str, Tensor] = {}
    model.run_with_hooks(batch, fwd_hooks=record("L0N3", clean))
    assert bool((into["L0N3"][visual] == 7).all())
    assert torch.equal(into["L0N3"][~visual], clean["L0N3"][~visual])


@torch.no_grad()
def test_while_generating_where_is_about_the_prompt(model: HookedVLM) -> None:
    batch = model.prepare([tiny.image(), None], ["Hi", "What colour is the train?"])
    into: dict[str, Any] = {}
    where = torch.ones_like(batch.input_ids, dtype=torch.bool)
    with model.hooks([*ablate("L0N3", to=7.0, where=where), *record("L0N3", into, append=True)]):
        model.generate(batch, max_new_tokens=4)
    prompt, *steps = into["L0N3"]
    assert bool((prompt == 7).all()) and len(steps) >= 1
    assert all(s.shape == (2, 1) and not bool((s == 7).any()) for s in steps)
    into.clear()
    with model.hooks([*ablate("L0N3", to=7.0), *record("L0N3", into, append=True)]):
        model.generate(batch, max_new_tokens=4)
    assert all(bool((s == 7).all()) for s in into["L0N3"])


def test_mistakes_name_the_remedy() -> None:
    [(_, fn)] = ablate("L0N1", where=torch.ones(2, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"where \(2, 5\) does not fit activations \(3, 7, 4\)"):
        fn(torch.zeros(3, 7, 4))
    with pytest.raises(ValueError, match="2 values in its last dimension for 3 neurons"):
        ablate("L0N1, L0N2, L0N3", to=torch.zeros(2))
    with pytest.raises(ValueError, match="no neurons are named"):
        ablate([])
    with pytest.raises(ValueError, match="no neurons are named"):
        record("", {})
    with pytest.raises(ValueError, match="is not a neuron id"):
        ablate("X3N1")
    with pytest.raises(ValueError, match="is not a neuron id"):
        record("X3N1", {})
    [(_, fn)] = record("L0N4", {})
    with pytest.raises(IndexError, match=r"L0N4: blocks\.0\.mlp\.hook_act has 4 neurons, 0 to 3"):
        fn(torch.zeros(3, 7, 4))
