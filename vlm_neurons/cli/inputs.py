"""The model and the data of a command."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from vlm_neurons.cli.output import say

if TYPE_CHECKING:
    from vlm_neurons.data import ImageTextData
    from vlm_neurons.models import HookedVLM


def model_of(args: argparse.Namespace, name: str | None = None) -> HookedVLM:
    """The model that was named, or another."""
    import torch

    from vlm_neurons.models import HookedVLM

    dtype = getattr(torch, args.dtype) if args.dtype else None
    return HookedVLM.from_pretrained(name or args.model, device=args.device, dtype=dtype)


def model_and_data(args: argparse.Namespace) -> tuple[HookedVLM, ImageTextData]:
    """Names first, what takes long last: a slip in either name is told in seconds."""
    from vlm_neurons.models.load import find

    find(args.model)
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
