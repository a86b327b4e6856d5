"""What decides the numbers of evidence, as digests: is what is stored what is asked for?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from vlm_neurons.data.survey import Facts, survey
from vlm_neurons.evidence.assembling import Wanted
from vlm_neurons.scanning.batching import size_now

if TYPE_CHECKING:
    from vlm_neurons.data import ImageTextData
    from vlm_neurons.models import HookedVLM
    from vlm_neurons.scanning import Run
    from vlm_neurons.units import Neuron


def neuron_keys(
    model: HookedVLM, state: str, data: ImageTextData, run: Run, chosen: Sequence[Neuron], wanted: Wanted, seed: int
) -> list[str]:
    """Of every neuron SHA-256 of all that decides its numbers, but for last digits: which other neurons are asked for
    with it decides which samples share a batch."""
    known = [model.fingerprint(), state, str(model.device), str(model.dtype), torch.__version__]
    pictures = _pictures(data, {*wanted.drawn, *(i for top in wanted.tops for i in top)})
    drawn = [wanted.drawn, [pictures[i] for i in wanted.drawn], wanted.n_first, wanted.n_rest]
    shared = sha256([run.identity, known, seed, size_now(run.info), drawn])
    told = {i: json.dumps(own) for i, own in pictures.items()}  # once, not for each neuron that has the sample
    return [
        _sha256(f"{json.dumps([shared, neuron.id, top])[:-1]}, [{', '.join(told[i] for i in top)}]]")
        for neuron, top in zip(chosen, wanted.tops, strict=True)
    ]


def _pictures(data: ImageTextData, samples: Iterable[int]) -> dict[int, tuple[str, ...]]:
    """Digests of the pictures of some samples, without a look at the others."""
    ids = sorted(samples)
    known: list[Facts] | None = data.__dict__.get("facts")
    facts = survey([data[i] for i in ids]) if known is None else [known[i] for i in ids]
    return {i: one.digests for i, one in zip(ids, facts, strict=True)}


def sha256(told: Any) -> str:
    """Of what JSON can say."""
    return _sha256(json.dumps(told))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
