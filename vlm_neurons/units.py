"""Units: sites, and the ids of neurons."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Pole = Literal["+", "-"]


@dataclass(frozen=True)
class Site:
    """A tensor whose coordinates count as neurons.

    Attributes:
        name: `"gate"`, `"post"`, `"projector"` or `"vision"`.
        prefix: what starts a neuron id of this site, before the layer.
        pattern: hook name with `{layer}`; a pattern without it has the one layer 0.
        indexed_by: `"row"` if dimension 0 of the tensor is the batch row, `"image"` if it is the image.
        signed: whether the negative pole is of interest too (the tensor takes both signs by a large amount).
    """

    name: str
    prefix: str
    pattern: str
    indexed_by: Literal["row", "image"]
    signed: bool = False

    def hook(self, layer: int) -> str:
        """The hook point of one layer.

        >>> SITES["gate"].hook(3)
        'blocks.3.mlp.hook_act'
        """
        return self.pattern.format(layer=layer)


SITES: dict[str, Site] = {
    s.name: s
    for s in (
        # SiLU(gate_proj(x)): the neuron of Xu, Lan, Lu 2025 (section 3.2).
        Site("gate", "L", "blocks.{layer}.mlp.hook_act", "row"),
        # SiLU(gate_proj(x)) * up_proj(x), the input of down_proj: TransformerLens' `mlp.hook_post`.
        Site("post", "post:L", "blocks.{layer}.mlp.hook_post", "row", signed=True),
        Site("projector", "P", "vision_projector.hook_post", "image"),
        Site("vision", "V", "vision_encoder.encoder_layers.{layer}.mlp.hook_post", "image"),
    )
}

_ID = re.compile(r"^(?P<prefix>post:L|L|P|V)(?P<layer>\d+)N(?P<index>\d+)(?P<pole>-?)$")
_HOOK_ID = re.compile(r"^(?P<hook>[A-Za-z_][\w.]*):(?P<index>\d+)(?P<pole>-?)$")


@dataclass(frozen=True, order=True)
class Neuron:
    """One coordinate of one hook point; accepted wherever a neuron id is.

    Attributes:
        hook: TransformerLens hook name, such as `"blocks.3.mlp.hook_act"`.
        index: coordinate in the last dimension of that tensor.
        pole: `"+"` for the value itself, `"-"` for its negation.

    >>> neuron = vn.Neuron("blocks.3.mlp.hook_post", 17, "-")
    >>> neuron.id, neuron.site, neuron.layer
    ('post:L3N17-', 'post', 3)
    """

    hook: str
    index: int
    pole: Pole = "+"

    @property
    def site(self) -> str:
        """Name of the site, or the hook name itself for a hook that is no site."""
        found = site_of_hook(self.hook)
        return found[0].name if found else self.hook

    @property
    def layer(self) -> int:
        """Layer that the hook belongs to; 0 where the hook name has no number."""
        found = site_of_hook(self.hook)
        if found:
            return found[1]
        number = re.search(r"\.(\d+)\.", self.hook)
        return int(number[1]) if number else 0

    @property
    def id(self) -> str:
        """The id that a table shows.

        >>> Neuron("blocks.3.mlp.hook_post", 17, "-").id
        'post:L3N17-'
        """
        found = site_of_hook(self.hook)
        pole = "-" if self.pole == "-" else ""
        if found is None:
            return f"{self.hook}:{self.index}{pole}"
        site, layer = found
        return f"{site.prefix}{layer}N{self.index}{pole}"

    @classmethod
    def parse(cls, neuron: str | Neuron) -> Neuron:
        """Read a neuron id.

        Args:
            neuron: `L3N17` (gate), `post:L3N17`, `P0N5` (projector), `V1N2` (vision tower), any hook as
                `blocks.3.hook_mlp_out:17`; a trailing `-` means the negative pole. A `Neuron` is returned as it is.

        Raises:
            ValueError: the id has none of these forms.

        >>> Neuron.parse("L3N17")
        Neuron(hook='blocks.3.mlp.hook_act', index=17, pole='+')
        """
        if isinstance(neuron, Neuron):
            return neuron
        text = str(neuron).strip()
        if match := _ID.match(text):
            site = next(s for s in SITES.values() if s.prefix == match["prefix"])
            if "{layer}" not in site.pattern and int(match["layer"]) != 0:
                raise ValueError(
                    f"{text!r}: site {site.name!r} has the one layer 0; write {site.prefix}0N{match['index']}"
                )
            return cls(site.hook(int(match["layer"])), int(match["index"]), "-" if match["pole"] else "+")
        if match := _HOOK_ID.match(text):
            return cls(match["hook"], int(match["index"]), "-" if match["pole"] else "+")
        raise ValueError(
            f"{text!r} is not a neuron id: write L3N17 (gate), post:L3N17, P0N5 (projector), V1N2 (vision tower) "
            "or hook:index such as blocks.3.hook_mlp_out:17; a trailing - is the negative pole"
        )


def parse_neurons(neurons: str | Neuron | Iterable[str | Neuron]) -> list[Neuron]:
    """Read one id, a comma-separated string of ids, or an iterable of ids and `Neuron`s.

    >>> [n.id for n in parse_neurons("L3N17, P0N5")]
    ['L3N17', 'P0N5']
    """
    if isinstance(neurons, Neuron):
        return [neurons]
    if isinstance(neurons, str):
        return [Neuron.parse(part) for part in neurons.split(",") if part.strip()]
    return [Neuron.parse(n) for n in neurons]


def site_of_hook(hook: str) -> tuple[Site, int] | None:
    """Site and layer of a hook name, or None for a hook that is no site.

    >>> site_of_hook("vision_projector.hook_post")[0].name
    'projector'
    """
    for site in SITES.values():
        if "{layer}" not in site.pattern:
            if hook == site.pattern:
                return site, 0
            continue
        before, after = site.pattern.split("{layer}")
        middle = hook[len(before) : len(hook) - len(after)]
        if hook.startswith(before) and hook.endswith(after) and middle.isdigit():
            return site, int(middle)
    return None
