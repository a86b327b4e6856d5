"""The model and the data of a command."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vlm_neurons.cli.output import say
from vlm_neurons.cli.threads import for_model
from vlm_neurons.zoo import find

if TYPE_CHECKING:
    from vlm_neurons.data import ImageTextData
    from vlm_neurons.models import HookedVLM


WITH_WEIGHTS = {"--explainer": ("local",), "--simulator": ("local", "grounded", "clip")}  # models of transformers


def find_model(given: Sequence[str]) -> None:
    """Look for the models of a command line before it is read: what reads it takes seconds to import.

    Raises:
        OSError: there is none of that name.
    """
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in ("--model", *WITH_WEIGHTS, *(f"{one}-model" for one in WITH_WEIGHTS)):
        peek.add_argument(option, nargs="?")
    peek.add_argument("-h", "--help", action="store_true")
    named = vars(peek.parse_known_args(given)[0])
    asked = [f"{one[2:]}_model" for one, kinds in WITH_WEIGHTS.items() if named[one[2:]] in kinds]
    for option in ("model", *asked):
        if named[option] and not named["help"]:
            find(named[option])


def model_of(args: argparse.Namespace, name: str | None = None) -> HookedVLM:
    """The model that was named, or another."""
    import torch

    from vlm_neurons.models import HookedVLM

    dtype = getattr(torch, args.dtype) if args.dtype else None
    model = HookedVLM.from_pretrained(name or args.model, device=args.device, dtype=dtype)
    for_model(model)
    return model


def model_and_data(args: argparse.Namespace) -> tuple[HookedVLM, ImageTextData]:
    """What takes long last: a slip in the data's name is told in seconds."""
    data = _data(args)
    return model_of(args), data


def _data(args: argparse.Namespace) -> ImageTextData:
    import warnings

    from vlm_neurons.synthetic import open_data

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the summary says the same
        data = open_data(args.data, args.images)
    say(f"data: {data.summary()}")
    return data
