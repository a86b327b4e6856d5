"""Sums of one fold hold what was at all places: in runs without a copy or gathered, known or not, defined or not."""

from __future__ import annotations

import numpy as np
import pytest
import seeds
import torch

from vlm_neurons.scanning.concept_places import SHORT, places_at
from vlm_neurons.scanning.concept_recorder import ConceptRecorder
from vlm_neurons.scanning.concept_sums import ConceptSums, UnitSums

LONG = [(3, 3 + SHORT), (300, 330), (400, 1000)]  # runs of neighbours, on average longer than SHORT
PLACES = {"long runs": LONG, "short runs": [(i, i + 3) for i in range(0, 900, 7)], "one run": [(5, 25)]}


@pytest.mark.parametrize("runs", PLACES)
@pytest.mark.parametrize("unknown", [False, True])
@pytest.mark.parametrize("undefined", [False, True])
def test_sums_are_those_of_every_place_wherever_they_lie(runs, unknown, undefined):
    rng = seeds.rng()
    at = np.concatenate([np.arange(*run) for run in PLACES[runs]])
    values, shift = rng.random((len(at), 5)).astype(np.float32), rng.random(5).astype(np.float32)
    if unknown:
        values[rng.random(len(at)) < 0.3, 1:3] = np.nan
    acts, defined = rng.normal(size=(1000, 4)).astype(np.float32), np.ones((1000, 4), bool)
    if undefined:
        defined = rng.random((1000, 4)) < 0.7
    found = places_at(torch.tensor(at), torch.tensor(values), torch.tensor(shift))
    copied = {isinstance(where, torch.Tensor) for where in found[0].at}
    assert len(found) == 1 + unknown and copied == {unknown or runs == "short runs"}
    recorder = ConceptRecorder({"gate": 4}, {}, {})
    sums = ConceptSums.empty(5)
    for places in found:
        sums.add(places.concepts, places.known)
    recorder._add("gate", "picture", torch.tensor(acts), torch.tensor(defined) if undefined else None, found)
    got = {name: tensor.double().numpy() for name, tensor in recorder.units["gate", "picture"].tensors().items()}
    m, c = ~np.isnan(values), np.nan_to_num(values.astype(float) - shift)
    d, a = defined[at].astype(float), np.where(defined, acts, 0)[at].astype(float)
    pairs = {"n": d.T @ m, "a": a.T @ m, "aa": (a * a).T @ m, "c": d.T @ c, "cc": d.T @ (c * c), "ac": a.T @ c}
    shapes = {"n": (), "a": (4, 1), "aa": (4, 1), "c": (1, 5), "cc": (1, 5), "ac": (4, 5)}
    for name, expected in pairs.items():
        total = got[name].reshape(shapes[name]) + got.get(f"pairs/{name}", 0)
        np.testing.assert_allclose(np.broadcast_to(total, (4, 5)), expected, atol=1e-3)
    k = m.astype(float)
    among = {"m_jk": k.T @ k, "c_jk": c.T @ k, "cc_jk": (c * c).T @ k, "gram": c.T @ c}
    for name, expected in among.items():
        np.testing.assert_allclose(getattr(sums, name).numpy(), expected, atol=1e-3)


def test_sums_of_a_side_without_places_or_concepts_are_none():
    for shape in ((0, 3), (4, 0)):
        assert places_at(torch.arange(shape[0]), torch.zeros(shape), torch.zeros(shape[1])) == []


def test_stored_sums_are_by_unit_whatever_order_they_are_kept_in():
    sums = UnitSums.empty(3, 2)
    sums.add(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[10.0], [20.0]]))
    sums.add_concepts(1, torch.tensor([10.0, 20.0]), torch.tensor([100.0, 400.0]))
    stored = sums.tensors()
    assert stored["ac"].is_contiguous() and stored["ac"].tolist() == [[10.0, 20.0], [20.0, 40.0], [30.0, 60.0]]
    assert stored["a"].tolist() == [1, 2, 3] and stored["cc"].tolist() == [100, 400] and stored["n"] == 1
