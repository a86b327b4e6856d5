"""What `scan` is given: checked before anything is run or written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlm_neurons._text import not_utf8
from vlm_neurons.models import HookedVLM
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


def hooks_of(model: HookedVLM, site: Any) -> tuple[list[str], list[str]]:
    """The sites as a list, each once, and their hooks.

    Raises:
        ValueError: a site that is no name, or none at all.
    """
    sites = [site] if isinstance(site, str) else list(site) if isinstance(site, Sequence) else []
    names = all(isinstance(one, str) for one in sites)
    sites = list(dict.fromkeys(sites)) if names else []
    hooks = list(dict.fromkeys(hook for one in sites for hook in model.site_hooks(one)))
    if not hooks:
        raise ValueError(
            f"site={site!r}: choose from {', '.join(site_names())}, or name a hook such as blocks.0.hook_mlp_out"
        )
    return sites, hooks
