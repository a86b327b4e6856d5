"""Units that are directions of what a hook holds: probes, steering vectors, differences of means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from vlm_neurons._checks import of_kind
from vlm_neurons.sites.at_hook import AtHook, check_finite, digest_of, plain_name
from vlm_neurons.sites.protocol import Address, Pole, Tensors, Weights

Vector = Shaped[Tensor, "d"] | Shaped[np.ndarray, "d"] | Sequence[float]


class Directions(AtHook):
    """Directions of a hook's vectors. A unit's value is the dot product of the vector there with its direction, so that
    longer directions have larger values; both poles are of interest.

    An edit moves the vector as little as it can so that every edited unit has its value: of one unit, by a multiple of
    its direction. Where edited directions depend on one another and cannot have the values that are asked for, they
    come as near as they can (least squares). Units that are not edited may change too.

    Args:
        vectors: name -> direction [d], of any length but 0. Ids are `NAME:red`; a trailing `-` is the negative pole.
        hook: what is multiplied, such as `"blocks.3.hook_resid_post"`.
        name: what ids start with.

    Attributes:
        names: of the units, in order.
        vectors: the directions [unit, d], in float32.

    Raises:
        ValueError: there is no direction, they differ in length, one is 0 or not finite, or a name cannot end an id.

    >>> probe = vn.sites.Directions({"red": torch.ones(128), "left": torch.eye(128)[3]}, "blocks.3.hook_resid_post",
    ...                             "probe")
    >>> found = vn.scan(model, data, site=["gate", probe], top_n=4, out="probed", progress=False)
    >>> vn.classify(found).neuron.tolist()[-4:]
    ['probe:red', 'probe:left', 'probe:red-', 'probe:left-']
    >>> from vlm_neurons.hooks import ablate, record
    >>> seen = {}
    >>> logits = model.run_with_hooks(batch, fwd_hooks=ablate("probe:left") + record("probe:left", seen))
    >>> bool(seen["probe:left"].abs().max() < 1e-5)
    True
    >>> vn.sites.forget("probe")
    """

    signed = True

    def __init__(self, vectors: Mapping[str, Vector], hook: str, name: str) -> None:
        super().__init__(hook, name)
        of_kind("vectors", vectors, Mapping, "give {name: direction}")
        if not vectors:
            raise ValueError(f"{name}: vectors={{}} holds no direction")
        for one in vectors:
            if not isinstance(one, str) or not plain_name(one):
                raise ValueError(f"{name}: a direction cannot be called {one!r}: names have no blank, ':' or ','")
        rows = {one: torch.as_tensor(vector).detach().float().cpu() for one, vector in vectors.items()}
        self.width = next(iter(rows.values())).numel()
        for one, row in rows.items():
            if row.dim() != 1 or row.numel() != self.width:
                raise ValueError(f"{name}: {one} is {tuple(row.shape)}: all directions are vectors of one length")
            check_finite(name, one, row)
            if not bool(row.any()):
                raise ValueError(f"{name}: {one} is 0 everywhere, and has no direction")
        self.names = tuple(rows)
        self.vectors: Float[Tensor, "unit d"] = torch.stack([*rows.values()])

    def __repr__(self) -> str:
        return f"Directions({self.name!r}, {len(self.names)} at {self.hook})"

    def read(self, tensors: Tensors) -> tuple[Float[Tensor, "*batch_pos unit"], None]:
        """Dot products."""
        held = self.held(tensors)
        return held @ self.vectors.to(held).T, None

    def edit(
        self, tensors: Tensors, units: Tensor | None, values: Float[Tensor, "*batch_pos unit"]
    ) -> dict[str, Tensor]:
        """Move along the edited directions."""
        held = self.held(tensors)
        chosen = self.vectors if units is None else self.vectors[units.cpu()]
        old = held @ chosen.to(held).T
        return self.moved(tensors, (values.to(old) - old) @ torch.linalg.pinv(chosen).T.to(held))

    def directions(self, weights: Weights, layer: int) -> Float[Tensor, "unit d_model"]:
        """What an edit adds that makes one unit of each larger by 1, if it is the only one."""
        return self.vectors / self.vectors.square().sum(1, keepdim=True)

    def fingerprint(self) -> str:
        """Of hook, names and directions."""
        return digest_of([self.hook, self.names], [self.vectors])

    def parse(self, id: str) -> Address | None:
        """Read `NAME:red`, and `NAME:L3F0` as in files of a run that is read without the site.

        Raises:
            ValueError: there is no such direction.
        """
        before, _, one = id.partition(":")
        if before != self.name:
            return None
        if (found := super().parse(id)) is not None:
            unit, pole = found.unit, found.pole
        else:
            pole = "-" if one.endswith("-") else "+"
            one = one.removesuffix("-")
            unit = self.names.index(one) if one in self.names else -1
        if not 0 <= unit < len(self.names):
            shown = ", ".join(self.names[:12]) + (" ..." if len(self.names) > 12 else "")
            raise ValueError(f"{id!r}: {self.name} has no such direction; it has {shown}")
        return Address(self.place(self.layer), unit, pole)

    def id(self, address: Address) -> str:
        """Write `NAME:red`."""
        return f"{self.name}:{self.names[address.unit]}{'-' if address.pole == '-' else ''}"

    def ids(self, place: str, pole: Pole, n: int) -> list[str]:
        """Of the first directions."""
        return [self.id(Address(place, unit, pole)) for unit in range(n)]
