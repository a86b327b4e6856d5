"""Layers of sites, read from the hooks of a forward pass. Whoever looks at units of a model looks here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlm_neurons.models.passes import Pass, current_pass
from vlm_neurons.sites import Site, at
from vlm_neurons.sites.sparse import Sparse

if TYPE_CHECKING:
    from vlm_neurons.models.batch import Batch
    from vlm_neurons.models.hooked import HookedVLM

R = TypeVar("R")
# and where they are defined; of what is indexed by image also which patch of the batch each position is
Values = tuple[Float[Tensor, "item pos unit"], Bool[Tensor, "item pos unit"] | None, Int[Tensor, "pos"] | None]
Also = Callable[[str, dict[str, Tensor], Tensor | Sparse], None]
Listed = Callable[[str, Sparse], None]
Take = Callable[[str, Float[Tensor, "item pos unit"], Bool[Tensor, "item pos unit"] | None], None]


def together(hooks: Sequence[str], fn: Callable[[dict[str, Tensor]], R]) -> list[tuple[str, Callable[..., R | None]]]:
    """Hook functions that give `fn` what several hooks hold, all of it, when the last of them fires.

    What the others hold is kept (a copy) under the forward pass that is running, so that it is dropped with the pass,
    however that ends, and a pass inside another one has its own. One hook alone is handed on as it is.

    Args:
        hooks: names, in the order in which they fire.
        fn: is given {hook: tensor}; what it returns is what the last hook function returns.

    Returns:
        A pair of name and hook function for each. When run they raise RuntimeError if another hook fires last, or
        outside a pass of a HookedVLM's bridge, where there is nothing to keep tensors under.
    """
    kept: WeakKeyDictionary[Pass, dict[str, Tensor]] = WeakKeyDictionary()
    *early, last = dict.fromkeys(hooks)

    def keeper(name: str) -> Callable[..., None]:
        def keep(tensor: Tensor, hook: Any = None) -> None:
            running = current_pass()
            if running is None:
                raise RuntimeError(
                    f"{name!r} and {last!r} are read together: this needs a bridge that is a HookedVLM's"
                )
            kept.setdefault(running, {})[name] = tensor.clone()

        return keep

    def finish(tensor: Tensor, hook: Any = None) -> R:
        running = current_pass()
        found = kept.pop(running, {}) if early and running is not None else {}
        if len(found) < len(early):
            raise RuntimeError(f"{[name for name in early if name not in found]} did not fire before {last!r}")
        return fn({**found, last: tensor})

    return [*((name, keeper(name)) for name in early), (last, finish)]


def readers(
    places: Iterable[str], take: Take, also: Also | None = None, listed: Listed | None = None
) -> dict[str, Callable[[Tensor], None]]:
    """Functions for `HookedVLM.observe` that read layers of sites.

    Args:
        places: see `vlm_neurons.sites.Address`.
        take: is given place, values of all units, and where they are defined (None: everywhere), once a pass; nothing
            of a site that is indexed by image where the batch has no image.
        also: is given place, what it was read from and what `Site.fitted` names, and values, before the other two.
        listed: is given place and values, instead of `take`, where a site says that few of them are not 0.

    Returns:
        One function per hook that the places need.
    """
    found: dict[str, list[Callable[..., None]]] = {}
    for place in dict.fromkeys(places):
        site, layer = at(place)

        def read(tensors: dict[str, Tensor], place: str = place, site: Site = site) -> None:
            few = None if listed is None or site.indexed_by == "image" else site.read_sparse(tensors)
            if few is not None and listed is not None:
                if also is not None:
                    also(place, tensors, few)
                return listed(place, few)
            values, defined = site.read(tensors)
            if also is not None:
                also(place, tensors, values)
            take(place, values, defined)

        more = () if also is None else site.fitted(layer)
        for hook, fn in together([*site.hooks([layer]), *more], read):
            found.setdefault(hook, []).append(fn)
    return {hook: fns[0] if len(fns) == 1 else partial(each, fns) for hook, fns in found.items()}


def hooks_of(places: Iterable[str], fitted: bool = False) -> set[str]:
    """The hooks that some places are read from; with `fitted` also those that `Site.explained` needs.

    >>> hooks_of(["blocks.2.mlp.hook_act"])
    {'blocks.2.mlp.hook_act'}
    """
    found = [(site.hooks([layer]), site.fitted(layer) if fitted else ()) for site, layer in map(at, places)]
    return {hook for read, more in found for hook in (*read, *more)}


def each(fns: Sequence[Callable[..., None]], tensor: Tensor) -> None:
    """Hand a tensor to several functions."""
    for fn in fns:
        fn(tensor)


def of_tokens(model: HookedVLM, batch: Batch, place: str, values: Tensor, defined: Tensor | None) -> Values:
    """What was read at a place, as [row, pos, unit] or [1, n, unit]: of all images the rows that are patches, in the
    order of `batch.patches` (see `Batch.by_patch`).

    Raises:
        ValueError: the place holds something else, such as an attention pattern or one vector per head.
    """
    site, layer = at(place)
    by_image, shape, patch = site.indexed_by == "image", tuple(values.shape), None
    if by_image:
        hook = site.hooks([layer])[0]
        defined = None if defined is None else batch.by_patch(hook, defined)[0][None]
        values, patch = batch.by_patch(hook, values)
        values = values[None]
    outer = (1,) if by_image else tuple(batch.input_ids.shape)
    if values.dim() != 3 or tuple(values.shape[: len(outer)]) != outer:
        wanted = "one vector per patch" if by_image else "[row, pos, d]"
        raise ValueError(
            f"{place!r} holds {shape}; a scan needs {wanted}, "
            "such as an MLP's or the residual stream's hooks have (model.hook_map() lists shapes)"
        )
    return values, defined, patch
