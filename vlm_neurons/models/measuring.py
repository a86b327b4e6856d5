"""Geometry by measurement: what every visual position, and every row of the vision sites, really sees.

The gradient of what the backbone's first layer receives at a position, with respect to the pixels, is zero but where
the position sees; with the tower's attention silenced no position sees another. Read through images painted with their
own coordinates (`painted`), that is a box in the original image. Nothing here knows a family.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from math import ceil
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from vlm_neurons._checks import whole
from vlm_neurons.models import guards
from vlm_neurons.models.batch import Batch
from vlm_neurons.models.bound import BoundVLM, Runnable
from vlm_neurons.models.geometry_check import EMBEDDING, Expected, MeasuredGeometry, Place, Seen, table_of
from vlm_neurons.models.painted import Painted, flat, painted, without_attention
from vlm_neurons.models.passes import running

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
            last, and others drawn at random. One backward pass each.
        progress: show a bar where it takes longer than two seconds.

    Returns:
        A table of everything measured; `.ok`, `.differences`, `.check()`, `.cost`.

    Raises:
        ValueError: `positions` is no such number, the batch has no images, or the model no attention in its layers.

    Measured edges are the outermost pixels' centres. They may differ from what is said by half a pixel of the original,
    1/255 of its side (a ramp has 256 levels), and half a pixel of the image as resized.

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
    return _receive(model, batch, painted(model, batch), sites)


def compare(
    look: Look, batch: Batch, positions: int | Literal["all"], progress: bool, began: float
) -> MeasuredGeometry:
    """What was looked at beside what a batch of the same images says."""
    expected, found, todo = Expected(batch), list[tuple[Place, Seen, str]](), list[Place]()
    for where, tensor in look.received.items():
        said = batch.patch_index.flatten().tolist() if where == EMBEDDING else _site_rows(batch, look.sites[where])
        found += _impossible(where, said, len(tensor), len(batch.patches))
        said = [k if k < len(batch.patches) else -1 for k in said]
        todo += _chosen(where, said[: len(tensor)], expected, positions, look)
    for place in tqdm(todo, desc="geometry", unit="place", disable=not progress, delay=2):
        seen = look.at(place.where, (place.index,))
        found.append((place, seen, expected.problem(place, seen)))
    n_places = sum(len(tensor) for tensor in look.received.values())
    cost = {"seconds": time.monotonic() - began, "backward": len(look.seen), "places": n_places}
    return MeasuredGeometry(table_of(found, batch), cost)


def _ends(site: str, hooks: list[str]) -> list[str]:
    """All layers of a tower have the same rows."""
    return list(dict.fromkeys((hooks[0], hooks[-1]))) if site == "vision" and hooks else hooks


def _site_rows(batch: Batch, site: str) -> list[int]:
    """Of every row of a site's tensor its patch, by number in the batch."""
    starts = accumulate(batch.patch_counts, initial=0)
    of_images = batch.site_rows.get(site, ())
    return [at + k if k >= 0 else -1 for at, rows in zip(starts, of_images, strict=False) for k in rows.tolist()]


def _impossible(where: str, said: list[int], there: int, n_patches: int) -> list[tuple[Place, Seen, str]]:
    """What is wrong with what is said, whatever the model sees."""
    found = []
    if len(said) != there:
        found.append((min(len(said), there), f"the tensor has {there} rows, {len(said)} are said"))
    beyond = next((i for i, k in enumerate(said) if k >= n_patches), None)
    if beyond is not None:
        found.append((beyond, f"it is said to be patch {said[beyond]}, and the batch has {n_patches}"))
    return [(Place(where, index, -1), {}, wrong) for index, wrong in found]


def _chosen(
    where: str, said: Sequence[int], expected: Expected, positions: int | Literal["all"], look: Look
) -> list[Place]:
    """The places to measure, in order. Those without a patch are measured one by one only where together they see
    something, since most see nothing."""
    per_side = ceil(max(Counter(k for k in said if k >= 0).values(), default=1) ** 0.5)
    groups: dict[int, list[int]] = {}
    for index, patch in enumerate(said):
        groups.setdefault(expected.patches[patch].image if patch >= 0 else -1, []).append(index)
    if -1 in groups and not look.at(where, tuple(groups[-1])):
        del groups[-1]
    rng, chosen = random.Random(0), []
    for indices in groups.values():
        some = indices
        if positions != "all" and len(indices) > positions:
            ends = [indices[0], indices[-1]][:positions]
            some = ends + rng.sample(indices[1:-1], positions - len(ends))
        chosen += some
    return [Place(where, index, said[index], per_side) for index in sorted(chosen)]


@dataclass(eq=False)
class Look:
    """A forward pass whose graph is kept.

    Attributes:
        received: by place, what is there, with leading dimensions flattened.
        leaves: the pixels.
        sources: of every element of the pixels where it was taken from.
        sites: hook -> its site.
        seen: what was looked at so far, at the cost of a backward pass each.
    """

    received: dict[str, Float[Tensor, "row unit"]]
    leaves: dict[str, Tensor]
    sources: dict[str, Painted]
    sites: dict[str, str]
    seen: dict[tuple[str, tuple[int, ...]], Seen] = field(default_factory=dict)

    def at(self, where: str, indices: tuple[int, ...]) -> Seen:
        """What rows of a tensor see, together."""
        if (where, indices) not in self.seen:
            self.seen[where, indices] = self._look(self.received[where][list(indices)])
        return self.seen[where, indices]

    def _look(self, rows: Float[Tensor, "row unit"]) -> Seen:
        if not rows.requires_grad:
            return {}
        weights = torch.randn(rows.shape, generator=torch.Generator().manual_seed(0)).to(rows)
        grads = torch.autograd.grad(
            (rows * weights).sum(), list(self.leaves.values()), retain_graph=True, allow_unused=True
        )
        seen: dict[int, list[float]] = {}
        for source, grad in zip(self.sources.values(), grads, strict=True):
            hit = source.live & (grad != 0).cpu() if grad is not None else torch.zeros_like(source.live)
            images, xs, ys = source.image[hit], source.x[hit], source.y[hit]
            for image in images.unique().tolist():
                x, y = xs[images == image], ys[images == image]
                box = [float(x.min()), float(y.min()), float(x.max()), float(y.max())]
                old = seen.get(image, box)
                seen[image] = [f(a, b) for f, a, b in zip((min, min, max, max), box, old, strict=True)]
        return {image: (a, b, c, d) for image, (a, b, c, d) in seen.items()}


def _receive(model: Measurable, batch: Batch, sources: dict[str, Painted], sites: dict[str, str]) -> Look:
    """Run the tower and the projector as far as the backbone, without the tower's attention, and keep the graph.

    Raises:
        HookNeverFires: a hook of a site did not fire.
    """
    from transformer_lens.model_bridge.exceptions import StopAtLayerException

    tokens, inputs = BoundVLM(model, batch).inputs()
    leaves = {name: inputs[name].detach().clone().requires_grad_() for name in sources}
    points, kept = model._points(), dict[str, Tensor]()

    def keep(name: str) -> Callable[..., None]:
        def fn(tensor: Tensor, hook: Any) -> None:
            kept[name] = tensor.flatten(0, -2)

        return fn

    def stop(tensor: Tensor, hook: Any) -> None:
        kept[EMBEDDING] = tensor.flatten(0, -2)
        raise StopAtLayerException(tensor)  # the bridge catches it, as for stop_at_layer

    wanted = [(points[hook], keep(hook)) for hook in sites] + [(points[guards.MERGED], stop)]
    handles = [(point, point.add_hook(fn)) for point, fn in wanted]
    hf: Any = model.bridge.original_model
    try:
        with _frozen(hf), without_attention(hf), running(batch.to(model.device)):
            model.bridge(tokens, **{**inputs, **leaves})
    finally:
        for point, handle in handles:
            model.bridge._remove_temporary_hook(point, "fwd", handle)
    silent = [hook for hook in sites if hook not in kept]
    if silent:
        raise guards.never_fired(silent, points)
    return Look({EMBEDDING: kept.pop(EMBEDDING), **kept}, leaves, sources, sites)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No gradients of parameters: only pixels matter."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
