"""The sites that ids and names are looked up in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from jaxtyping import Float
from torch import Tensor

from vlm_neurons._checks import short
from vlm_neurons.sites.heads import AttentionHeads
from vlm_neurons.sites.mlp import MLPS, AnyHook, expert_at
from vlm_neurons.sites.protocol import Address, IndexedBy, Site, Tensors

OWN = (*MLPS, AttentionHeads())
_SITES: dict[str, Site] = {site.name: site for site in OWN}
FORMS = (
    "write L3N17 (gate), L3E5N17 (of expert 5), post:L3N17, P0N5 (projector), V1N2 (vision tower), L5H7 (an attention "
    "head), NAME:L12F345 (a dictionary called NAME), NAME:red (a direction; vn.sites.register makes it known) "
    "or hook:index such as blocks.3.hook_mlp_out:17; a trailing - is the negative pole"
)


@dataclass(frozen=True)
class Missing(Site):
    """A dictionary that a run or an id names and that is not registered here: ids are read and written, values not."""

    name: str
    signed: bool = True
    indexed_by: IndexedBy = "row"

    def layers(self, points: Iterable[str]) -> list[int]:
        """Not known."""
        raise self._error()

    def hooks(self, layers: Sequence[int]) -> list[str]:
        """Not known."""
        raise self._error()

    def read(self, tensors: Tensors) -> tuple[Float[Tensor, "*batch_pos unit"], None]:
        """Not known."""
        raise self._error()

    def edit(self, tensors: Tensors, units: Tensor | None, values: Tensor) -> dict[str, Tensor]:
        """Not known."""
        raise self._error()

    def fingerprint(self) -> str:
        """Not known."""
        raise self._error()

    def _error(self) -> ValueError:
        return ValueError(
            f"no site is called {self.name!r} here: make it and pass it to vn.sites.register; there are {_listed()}"
        )


def register(site: Site) -> Site:
    """Make ids of a site known. `vn.scan(site=...)` does so for the sites that it is given.

    Returns:
        The site.

    Raises:
        ValueError: a name that ids cannot start with, or that another site has already.
    """
    name = site.name
    if isinstance(site, AnyHook):  # known without
        return site
    if not re.fullmatch(r"[^\s:,]*[^\s:,\-]", name):
        raise ValueError(f"site {name!r}: a name has no blank, ':' or ',' and does not end in '-'")
    if "." in name or name.startswith("hook_"):
        raise ValueError(f"site {name!r}: a name with '.' or starting with 'hook_' would be read as that of a hook")
    old = _SITES.get(name)
    if old is not None and old is not site and old.fingerprint() != site.fingerprint():
        raise ValueError(f"another site is called {name!r}: give this one another name, or vn.sites.forget({name!r})")
    _SITES[name] = site
    site_of_hook.cache_clear()
    return site


def forget(name: str) -> None:
    """Undo `register`.

    Raises:
        ValueError: there is no such site, or it is one of the package's own.
    """
    if name not in _SITES or _SITES[name] in OWN:
        raise ValueError(f"{name!r} is no site that was registered")
    del _SITES[name]
    site_of_hook.cache_clear()


def names() -> list[str]:
    """Names of all sites but hooks.

    >>> vn.sites.names()[:5]
    ['gate', 'post', 'projector', 'vision', 'heads']
    """
    return list(_SITES)


def named(site: str | Site) -> Site:
    """A site by its name or, for the coordinates of any hook, by the hook's; an object is registered.

    Raises:
        ValueError: no site has this name.

    >>> vn.sites.named("post").signed, vn.sites.named("blocks.3.hook_mlp_out").name
    (True, 'blocks.3.hook_mlp_out')
    """
    if not isinstance(site, str):
        return register(site)
    if site in _SITES:
        return _SITES[site]
    if re.fullmatch(r"[A-Za-z_][\w.]*", site) and ("." in site or site.startswith("hook_")):
        return AnyHook(site)
    raise ValueError(f"site {site!r}: choose from {_listed()}, or name a hook such as blocks.0.hook_mlp_out")


@lru_cache(2**16)
def site_of_hook(place: str) -> tuple[Site, int] | None:
    """Site and layer of a place, or None for a hook that is no site.

    >>> vn.sites.site_of_hook("blocks.3.mlp.hook_act")[0].name
    'gate'
    """
    found = ((s, layer) for s in _SITES.values() if (layer := s.layer_of(place)) is not None)
    return next(found, None) or expert_at(place)


def at(place: str) -> tuple[Site, int]:
    """Site and layer of a place; a hook that is no site is one of its own.

    >>> [(site.name, layer) for site, layer in map(vn.sites.at, ["blocks.3.mlp.hook_act", "blocks.2.hook_mlp_out"])]
    [('gate', 3), ('blocks.2.hook_mlp_out', 2)]
    """
    if found := site_of_hook(place):
        return found
    if dictionary := re.fullmatch(r"([^\s:,]+):L(\d+)", place):
        return Missing(dictionary[1]), int(dictionary[2])
    site = AnyHook(place)
    return site, site.layer


def parse(id: str) -> Address:
    """Read an id of any site.

    Raises:
        ValueError: no site knows it.

    >>> vn.sites.parse("post:L3N17-")
    Address(place='blocks.3.mlp.hook_post', unit=17, pole='-')
    """
    for site in _SITES.values():
        if (found := site.parse(id)) is not None:
            return found
    name = id.rpartition(":")[0] or id.partition(":")[0]
    if (found := AnyHook(name).parse(id)) is not None:
        return found
    if name not in _SITES and not re.search(r"[\s:,]", name) and (found := Missing(name).parse(id)) is not None:
        return found
    raise ValueError(f"{short(id)} is not a neuron id: {FORMS}")


def _listed() -> str:
    return ", ".join(names())
