"""Units that are computed from what one hook holds."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vlm_neurons._checks import of_kind
from vlm_neurons.sites.mlp import AnyHook
from vlm_neurons.sites.protocol import Address, IndexedBy, Site


class AtHook(Site):
    """A site that reads one hook, in one layer. Numbers are computed in float32 at least, whatever the model's dtype.

    Args:
        hook: name of a hook that holds one vector per position, such as `"blocks.3.hook_resid_post"`.
        name: what ids start with.

    Attributes:
        width: length of the vectors that the units are made for.
    """

    signed = False
    width: int

    def __init__(self, hook: str, name: str) -> None:
        of_kind("hook", hook, str, "give the name of a hook, such as 'blocks.3.hook_resid_post'")
        of_kind("name", name, str, "give a name for ids to start with")
        self.hook, self.name = hook, name
        self.layer = AnyHook(hook).layer

    @property
    def indexed_by(self) -> IndexedBy:  # type: ignore[override]
        """See `Site`."""
        return AnyHook(self.hook).indexed_by

    @property
    def layered(self) -> bool:
        """A hook is one layer."""
        return False

    def layers(self, points: Iterable[str]) -> list[int]:
        """Its own, if the hook is there."""
        return [self.layer] if self.hook in points else []

    def hooks(self, layers: Sequence[int]) -> list[str]:
        """The hook."""
        return [self.hook]

    def place(self, layer: int) -> str:
        """`NAME:L3`, of its own layer."""
        return f"{self.name}:L{self.layer}"

    def layer_of(self, place: str) -> int | None:
        """Its layer, for its own place."""
        return self.layer if place == self.place(self.layer) else None

    def parse(self, id: str) -> Address | None:
        """Read `NAME:L3F345`.

        Raises:
            ValueError: another layer is named.
        """
        found = super().parse(id)
        if found is not None and not id.startswith(f"{found.place}F"):
            raise ValueError(f"{id!r}: {self.name} is at {self.hook}; write {found.place}F{found.unit}")
        return found

    def held(self, tensors: Mapping[str, Tensor]) -> Float[Tensor, "*batch_pos width"]:
        """What the hook holds, in float32 at least.

        Raises:
            ValueError: it has another width.
        """
        tensor = tensors[self.hook]
        if tensor.dim() == 4 and tensor.shape[-1] < self.width:  # by head
            tensor = tensor.flatten(-2)
        if tensor.shape[-1] != self.width:
            raise ValueError(
                f"{self.name} is made for vectors of {self.width} numbers, {self.hook} holds {tuple(tensor.shape)}: "
                "it belongs to another model or to another hook (model.hook_map() lists shapes)"
            )
        return tensor.to(torch.promote_types(tensor.dtype, torch.float32))

    def moved(
        self, tensors: Mapping[str, Tensor], by: Float[Tensor, "*batch_pos d"], hook: str | None = None
    ) -> dict[str, Tensor]:
        """The tensor of its hook, or of another one, with something added, in its own dtype: as it was where that is 0.

        Raises:
            ValueError: the other hook has another width.
        """
        hook = hook or self.hook
        tensor = tensors[hook]
        if by.shape[-1] != tensor.shape[-1] and by.numel() != tensor.numel():
            raise ValueError(
                f"{self.name} writes vectors of {by.shape[-1]} numbers, {hook} holds {tuple(tensor.shape)}"
            )
        return {hook: tensor + by.to(tensor).reshape(tensor.shape)}


def digest_of(facts: Iterable[object], tensors: Iterable[Tensor]) -> str:
    """SHA-256 (hex) of facts as they print and of all numbers of some tensors.

    >>> digest_of(["a"], [torch.zeros(2)]) == digest_of(["a"], [torch.zeros(2)]) != digest_of(["a"], [torch.ones(2)])
    True
    """
    digest = hashlib.sha256(repr(list(facts)).encode())
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def check_finite(name: str, what: str, tensor: Tensor) -> None:
    """Refuse weights that are not numbers.

    Raises:
        ValueError: NaN or infinity; the message says how many and where the first one is.

    >>> check_finite("probe", "red", torch.tensor([1.0, float("nan")]))
    Traceback (most recent call last):
    ValueError: probe: red has 1 of 2 numbers that are not finite, the first at [1]: training went wrong, or the ...
    """
    broken = ~tensor.isfinite()
    if bool(broken.any()):
        first = broken.nonzero()[0].tolist()
        raise ValueError(
            f"{name}: {what} has {int(broken.sum())} of {tensor.numel()} numbers that are not finite, the first at "
            f"{first}: training went wrong, or the file is damaged; load another checkpoint"
        )


def plain_name(name: str) -> bool:
    """Whether a unit's name can end an id.

    >>> plain_name("red"), plain_name("red-"), plain_name("a:b"), plain_name("L3F5")
    (True, False, False, False)
    """
    return re.fullmatch(r"[^\s:,]*[^\s:,\-]", name) is not None and re.fullmatch(r"L\d+F\d+", name) is None
