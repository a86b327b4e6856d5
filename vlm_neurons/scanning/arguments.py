"""What `scan` is given: checked before anything is run or written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlm_neurons._text import not_utf8
from vlm_neurons.models import HookedVLM
from vlm_neurons.sites import Site, named
from vlm_neurons.sites import names as site_names


def check_model_and_prompt(model: Any, prompt: Any) -> None:
    """Raise ValueError for what is no `HookedVLM`, and for a prompt that is no text."""
    if not isinstance(model, HookedVLM):
        remedy = "HookedVLM.from_pretrained(name) loads one, HookedVLM(model, processor) takes one of transformers"
        raise ValueError(
            f"model={model if isinstance(model, str) else type(model).__name__!r} is no HookedVLM: {remedy}"
        )
    if not isinstance(prompt, str) or not_utf8(prompt):
        raise ValueError(f"prompt={prompt!a}: the question for the samples without one of their own, as a string")


def places_of(model: HookedVLM, site: str | Site | Sequence[str | Site]) -> tuple[list[str], list[str]]:
    """The names of the sites, each once, and the places of their layers. Objects among them are registered.

    Raises:
        ValueError: what is no site, or one that the model has no layer of.
    """
    given = [site] if isinstance(site, str | Site) else list(site) if isinstance(site, Sequence) else []
    names, places = [], []
    for one in given if all(isinstance(one, str | Site) for one in given) else []:
        if isinstance(one, str) and one not in site_names():
            names.append(one)
            places += model.site_hooks(one)  # a hook, or an error that says what is like it
            continue
        found = named(one)
        layers = found.layers(model.hook_dict)
        if not layers:
            raise ValueError(
                f"site {found.name!r}: {model.name} has no layer with its hooks (model.hook_map() lists all)"
            )
        names.append(found.name)
        places += [found.place(layer) for layer in layers]
    if not places:
        raise ValueError(
            f"site={site!r}: choose from {', '.join(site_names())}, or name a hook such as blocks.0.hook_mlp_out"
        )
    return list(dict.fromkeys(names)), list(dict.fromkeys(places))
