"""Geometry by measurement: what every visual position, and every row of the vision sites, really sees.

The gradient of what the backbone's first layer receives at a position, with respect to the pixels, is zero but where
the position sees; with the tower's attention silenced no position sees another. Read through images painted with their
own coordinates (`painted`), that is a box in the original image. Nothing here knows a family.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from math import ceil
from typing import Literal, Protocol

import torch
from tqdm.auto import tqdm

from vlm_neurons._checks import whole
from vlm_neurons.models.batch import Batch
from vlm_neurons.models.bound import Runnable
from vlm_neurons.models.geometry_check import EMBEDDING, Expected, MeasuredGeometry, Place, Seen, table_of
from vlm_neurons.models.looking import Look, receive
from vlm_neurons.models.painted import flat, painted

DEFAULT_SIZES = ((640, 480), (300, 420))


class Measurable(Runnable, Protocol):
    """A HookedVLM, which is above this file."""

    def site_hooks(self, site: str) -> list[str]: ...


def measure_geometry(
    model: Measurable,
    batch: Batch | None = None,
    positions: int | Literal["all"] = 24,
    progress: bool = True,
) -> MeasuredGeometry:
    """Measure where visual positions look, beside what `batch.patches` and `batch.site_rows` say.

    Of a position of the backbone: the box in the original image that what its first layer receives there depends on. Of
    a row of a vision or projector site: the same, of its neurons (first and last layer of the tower, every projector).
    Positions without a patch have to depend on no pixel. Takes gradients, so about the memory of a training step of the
    tower without its attention.

    Args:
        model: a HookedVLM of any family.
        batch: what to check; its images matter by their sizes only. Default: a row of two images, 640 x 480 and
            300 x 420.
        positions: how many patches of each image are measured at most, in the backbone and at each hook: the first, the
            last, and others drawn at random. All that are measured at one place take two or three backward passes
            together, or one each where several see the same pixel.
        progress: show a bar where it takes longer than two seconds.

    Returns:
        A table of everything measured; `.ok`, `.differences`, `.check()`, `.cost`.

    Raises:
        ValueError: `positions` is no such number, the batch has no images, or the model no attention in its layers.

    Measured edges are the outermost pixels' centres. They may differ from what is said by half a pixel of the original,
    1/215 of its side (a ramp has 215 steps), and half a pixel of the image as resized.

    >>> found = vn.models.measure_geometry(model, batch, positions=4)
    >>> found.ok, found.table["where"].unique().tolist()
    (True, ['embedding', 'vision.0.mlp.hook_post', 'projector.0.hook_post'])
    """
    if positions != "all":
        whole(1, positions=positions)
    if batch is None:
        batch = model.prepare([[flat(size, 128) for size in DEFAULT_SIZES]], ["What is it?"])
    if not batch.images:
        raise ValueError("a batch without images has no geometry: prepare one with an image")
    began = time.monotonic()
    with torch.inference_mode(False), torch.enable_grad():  # whatever it is called in
        return compare(look_at(model, batch), batch, positions, progress, began)


def look_at(model: Measurable, batch: Batch) -> Look:
    """Paint, and run the model as far as the backbone: what `measure_geometry` does before anything is compared."""
    sites = {hook: site for site in ("vision", "projector") for hook in _ends(site, model.site_hooks(site))}
    return receive(model, batch, painted(model, batch), sites)


def compare(
    look: Look, batch: Batch, positions: int | Literal["all"], progress: bool, began: float
) -> MeasuredGeometry:
    """What was looked at beside what a batch of the same images says."""
    seen, impossible = list[tuple[Place, Seen]](), list[tuple[Place, Seen, str]]()
    with tqdm(desc="geometry", unit="pass", disable=not progress, delay=2) as bar:
        look.tick = bar.update
        for where, tensor in look.received.items():
            of_row = batch.patch_index.flatten() if where == EMBEDDING else batch.rows_by_site[look.sites[where]].patch
            said = of_row.tolist()
            impossible += _impossible(where, said, len(tensor), len(batch.patches))
            said = [k if k < len(batch.patches) else -1 for k in said]
            places = _chosen(where, said[: len(tensor)], batch, positions, look)
            seen += zip(places, look.apart(where, [place.index for place in places]), strict=True)
    expected = Expected(batch, seen)
    found = impossible + [(place, one, expected.problem(place, one)) for place, one in seen]
    n_places = sum(len(tensor) for tensor in look.received.values())
    cost = {"seconds": time.monotonic() - began, "backward": look.passes, "places": n_places}
    return MeasuredGeometry(table_of(found, batch), cost)


def _ends(site: str, hooks: list[str]) -> list[str]:
    """All layers of a tower have the same rows."""
    return list(dict.fromkeys((hooks[0], hooks[-1]))) if site == "vision" and hooks else hooks


def _impossible(where: str, said: list[int], there: int, n_patches: int) -> list[tuple[Place, Seen, str]]:
    """What is wrong with what is said, whatever the model sees."""
    found = []
    if len(said) != there:
        found.append((min(len(said), there), f"the tensor has {there} rows, {len(said)} are said"))
    beyond = next((i for i, k in enumerate(said) if k >= n_patches), None)
    if beyond is not None:
        found.append((beyond, f"it is said to be patch {said[beyond]}, and the batch has {n_patches}"))
    return [(Place(where, index, -1), {}, wrong) for index, wrong in found]


def _chosen(where: str, said: Sequence[int], batch: Batch, positions: int | Literal["all"], look: Look) -> list[Place]:
    """The places to measure, in order. Those without a patch are measured one by one only where together they see
    something, since most see nothing."""
    per_side = ceil(max(Counter(k for k in said if k >= 0).values(), default=1) ** 0.5)
    groups: dict[int, list[int]] = {}
    for index, patch in enumerate(said):
        groups.setdefault(batch.patches[patch].image if patch >= 0 else -1, []).append(index)
    if -1 in groups and not look.together(where, groups[-1]):
        del groups[-1]
    rng, chosen = random.Random(0), []
    for indices in groups.values():
        some = indices
        if positions != "all" and len(indices) > positions:
            ends = [indices[0], indices[-1]][:positions]
            some = ends + rng.sample(indices[1:-1], positions - len(ends))
        chosen += some
    return [Place(where, index, said[index], per_side) for index in sorted(chosen)]
