"""The part `operands` of one_pass_validity.py: what products of bfloat16 would change in r, and in time on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from causes import markdown
from torch import Tensor
from trained_or_random import banks

import vlm_neurons as vn
from vlm_neurons.models.reading import of_tokens, readers
from vlm_neurons.protocols import SIDES
from vlm_neurons.scanning.concept_sums import UnitSums
from vlm_neurons.scanning.viewing import views_of

SCENES_KEPT, AT_ONCE = 200, 8


def rounded(x: Tensor) -> Tensor:
    """To bfloat16 and back: a product of two such numbers is exact in float32, so sums of it are fp32's."""
    return x.bfloat16().float()


OPERANDS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "float32": (torch.Tensor.float, torch.Tensor.float),
    "bfloat16 units, float32 concepts": (rounded, torch.Tensor.float),
    "bfloat16": (rounded, rounded),
}


def operands(model: vn.HookedVLM, out: Path, args: Any) -> str:
    """r of gates with truth, pixels and words from such sums, against all activations kept in float64."""
    rows = []
    for side, (acts, maps) in zip(SIDES, kept(model), strict=True):
        exact = r_of([(a.double(), c.double()) for a, c in zip(acts, maps, strict=True)])
        for name, (of_units, of_concepts) in OPERANDS.items():
            got = r_of([(of_units(a), of_concepts(c)) for a, c in zip(acts, maps, strict=True)])
            off = (got - exact).abs().numpy()
            other = (got.argmax(1) != exact.argmax(1)).double().mean()
            rows.append([side, name, f"{off.max():.1e}", f"{np.median(off):.1e}", f"{100 * other:.2f}"])
    names = ["side", "operands", "largest error of r", "median", "neurons with another best concept, %"]
    return markdown(pd.DataFrame(rows, columns=names)) + "\n" + times()


def kept(model: vn.HookedVLM) -> list[tuple[list[Tensor], list[Tensor]]]:
    """By side, in batches: gates of all layers at every place [place, unit] and maps [place, concept]."""
    data = vn.scenes(SCENES_KEPT, seed=5)
    bank = banks()["truth"].fitted([s.response for s in data])
    hooks, found = model.site_hooks("gate"), [([], []) for _ in SIDES]
    for first in range(0, len(data), AT_ONCE):
        own = [data[i] for i in range(first, min(first + AT_ONCE, len(data)))]
        batch = model.prepare([s.load_images() for s in own], [s.prompt for s in own], [s.response for s in own])
        read: dict[str, Tensor] = {}

        def keep(place: str, values: Tensor, defined: Tensor | None, batch=batch, read=read) -> None:
            read[place] = of_tokens(model, batch, place, values, defined)[0].float().clone()

        model.observe(batch, readers(hooks, keep))
        acts = torch.cat([read[hook] for hook in hooks], -1)
        of_samples = [bank.maps(view) for view in views_of(batch, own, [[str(s.id)] for s in own])]
        for row, maps in enumerate(of_samples):
            index = batch.patch_index[row]
            at = index >= 0
            order = index[at] - index[at].min()
            found[0][0].append(acts[row][at])
            found[0][1].append(torch.from_numpy(np.asarray(maps.picture, np.float32))[order])
            found[1][0].append(acts[row][batch.mask("text")[row]])
            found[1][1].append(torch.from_numpy(np.asarray(maps.text, np.float32)))
    return found


def r_of(batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    """r of every unit with every concept; of float64 by its definition, of float32 as a scan sums it up."""
    if batches[0][0].dtype == torch.float64:
        a, c = (torch.cat(part) for part in zip(*batches, strict=True))
        a, c = a - a.mean(0), c - c.mean(0)
        return a.T @ c / (a.norm(dim=0)[:, None] * c.norm(dim=0)).clamp(min=1e-9)
    sums = UnitSums.empty(batches[0][0].shape[1], batches[0][1].shape[1])
    for a, c in batches:
        sums.add(a, c.T.contiguous())
        sums.add_concepts(len(c), c.sum(0), (c * c).sum(0))
    n, a, aa, c, cc, ac = (getattr(sums, name).double() for name in ("n", "a", "aa", "c", "cc", "ac"))
    spread = ((aa - a**2 / n)[:, None] * (cc - c**2 / n)).clamp(min=1e-18).sqrt()
    return (ac - a[:, None] * c / n) / spread


def times(places: int = 2048, units: int = 1376, concepts: int = 200) -> str:
    """The product of a batch in both formats on this machine's processor."""
    a, c = torch.randn(places, units), torch.rand(concepts, places)
    seconds = {}
    for name, (x, y) in {"float32": (c, a), "bfloat16": (c.bfloat16(), a.bfloat16())}.items():
        spent = []
        for _ in range(20):
            began = time.process_time()
            x @ y
            spent.append(time.process_time() - began)
        seconds[name] = float(np.median(spent))
    said = ", ".join(f"{name} {1e3 * s:.2f} ms" for name, s in seconds.items())
    return f"{concepts} concepts x {places:,} places x {units:,} units on this processor, sums in the format: {said}.\n"
