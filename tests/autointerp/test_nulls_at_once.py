"""Nulls of a simulator that takes many exemplars at once are those of one that takes one after the other."""

from __future__ import annotations

import numpy as np
import seeds

import vlm_neurons as vn
from vlm_neurons import planted
from vlm_neurons.autointerp.simulators import ConceptSimulator


class OneByOne(ConceptSimulator):
    """The same without the quick way."""

    def at_once(self, exemplars, side):
        return None


def test_nulls_are_the_same_made_at_once_and_one_by_one():
    made = planted.neurons(["color", "word", "picture_or_word"], n=4, seed=seeds.PLANTED)
    evidence = {p.evidence.neuron: p.evidence for p in made}
    explanations = {p.evidence.neuron: p.rule.explanations["true"] for p in made}
    odd = next(iter(explanations))
    explanations[odd] = "dogs in snow"  # no bank knows it: it fails as a null of others, whichever way
    quick, slow = (
        vn.score(explanations, evidence, simulator, n_permutations=999, progress=False, full=True)
        for simulator in (ConceptSimulator(), OneByOne())
    )
    assert (quick["n_null"] > 0).any() and quick["note"].str.contains("null simulations failed").any()
    assert list(quick["note"]) == list(slow["note"]) and list(quick["n_null"]) == list(slow["n_null"])
    np.testing.assert_allclose(quick["r_null"].astype(float), slow["r_null"].astype(float), atol=1e-9)
