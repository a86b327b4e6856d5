"""Ids are read and written by the sites that they belong to; each form comes back as it was."""

from __future__ import annotations

import pytest

from vlm_neurons import Neuron, sites

IDS = ["L3N17", "post:L3N17-", "P0N5", "V1N2", "blocks.3.hook_mlp_out:17", "gs2:L12F345", "gs2:L12F345-"]


@pytest.mark.parametrize("text", IDS)
def test_every_form_comes_back(text: str) -> None:
    neuron = Neuron.parse(text)
    assert neuron.id == text and sites.parse(text) == (neuron.hook, neuron.index, neuron.pole)


def test_a_dictionary_that_is_not_registered_has_ids_and_no_values() -> None:
    site, layer = sites.at(Neuron.parse("gs2:L12F345").hook)
    assert (site.name, layer) == ("gs2", 12)
    with pytest.raises(ValueError, match=r"no site is called 'gs2' here: .*register"):
        site.hooks([12])


@pytest.mark.parametrize("text", ["X3N1", "L3", "post:L3F5", "L3N-1", "post:", ":3", "a b:L0F1", ""])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a neuron id"):
        Neuron.parse(text)


@pytest.mark.parametrize("name", ["a:b", "a,b", "a b", "tail-", "", "blocks.0.hook_mlp_out2", "hook_x"])
def test_names_that_ids_cannot_start_with_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"site '{name}'"):
        sites.register(sites.MLP(name, "X", "blocks.{layer}.x", "row"))


def test_a_name_stands_for_one_site() -> None:
    mine = sites.MLP("mine", "M", "blocks.{layer}.attn.hook_z", "row")
    try:
        assert sites.named(mine) is mine and Neuron.parse("M2N3").hook == "blocks.2.attn.hook_z"
        with pytest.raises(ValueError, match="another site is called 'mine'"):
            sites.register(sites.MLP("mine", "M", "blocks.{layer}.other", "row"))
    finally:
        sites.forget("mine")
    with pytest.raises(ValueError, match="is not a neuron id"):
        Neuron.parse("M2N3")
