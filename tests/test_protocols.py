"""Banks of concepts join, and a bank needs to say no more than its concepts, its identity and its maps."""

from __future__ import annotations

import numpy as np
from banks import Given, Means

from vlm_neurons.protocols import Concept, ConceptBank, View

VIEW = View("a", (), (np.zeros((3, 4)),), (np.zeros((3, 3), int),), ((1, 3),), (), (), (), (), ("x", "y"))


def test_banks_join_and_of_a_concept_that_both_have_the_latter_counts():
    shared = Concept("color", "red")
    one, two, three = Given("a", 1.0, shared), Given("b", 2.0), Given("c", 3.0, Concept("color", "red", "truly red"))
    bank = one + two + three
    assert isinstance(bank, ConceptBank) and bank.name == "a+b+c"
    assert [c.phrase for c in bank.concepts("picture")] == ["", "truly red"]
    maps = bank.maps(VIEW)
    assert maps.picture.tolist() == [[2.0, 3.0]] * 3 and maps.text.tolist() == [[2.0, 3.0]] * 2
    assert [m.picture.tolist() for m in bank.maps_of_batch([VIEW, VIEW], "cpu")] == [maps.picture.tolist()] * 2
    assert [b["name"] for b in bank.identity()["banks"]] == ["a", "b", "c"]


def test_a_joined_bank_is_fitted_part_by_part_and_is_a_model_if_a_part_is():
    class Learns(Given):
        on_device = True

        def fitted(self, responses):
            return Learns("learnt", float(len(list(responses))))

    bank = (Given("a") + Learns("b")).fitted(iter(["one", "two"]))
    assert bank.on_device and not Given("a").on_device
    assert bank.maps(VIEW).text.tolist() == [[0.0, 2.0]] * 2


def test_concepts_are_equal_by_kind_and_value_whatever_they_are_called():
    assert Concept("color", "red", "red regions") == Concept("color", "red", generic=True)
    assert Means().concepts("text")[1].generic and Means().concepts("picture")[0].phrase == "red regions"
