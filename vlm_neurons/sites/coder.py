"""Sparse dictionaries as numbers: from what a hook holds to latents, and from a change of latents to what is added."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol, Self

import torch
from jaxtyping import Float
from torch import Tensor

from vlm_neurons._checks import short
from vlm_neurons.sites.at_hook import check_finite, digest_of
from vlm_neurons.sites.sparse import Best, Sparse, in_parts

Rule = Literal["relu", "jumprelu", "topk", "gated"]
Norm = Literal["none", "constant_norm_rescale", "layer_norm"]
EPS = 1e-5  # SAELens' of layer_norm


class Codes(Protocol):
    """A dictionary; what is read from files and what a user's object is wrapped into fit alike."""

    @property
    def d_in(self) -> int:
        """Width of what is encoded."""
        ...

    @property
    def rows(self) -> Float[Tensor, "latent d_out"]:
        """What one unit of each latent adds, where nothing is normalised."""
        ...

    def encode(self, x: Float[Tensor, "*batch_pos d_in"]) -> Float[Tensor, "*batch_pos latent"]:
        """Latents."""
        ...

    def encode_sparse(self, x: Float[Tensor, "*batch_pos d_in"]) -> Sparse | None:
        """The latents that fire; None if they are many."""
        ...

    def decode(
        self, x: Float[Tensor, "*batch_pos d_in"], z: Float[Tensor, "*batch_pos latent"]
    ) -> Float[Tensor, "*batch_pos d_out"]:
        """What latents stand for; `x` is what they were encoded from."""
        ...

    def base(self, x: Float[Tensor, "*batch_pos d_in"]) -> Float[Tensor, "..."]:
        """What no latents stand for."""
        ...

    def scale(self, x: Float[Tensor, "*batch_pos d_in"]) -> Float[Tensor, "*batch_pos one"] | float:
        """What `rows` are multiplied by at each position."""
        ...

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        ...

    def fingerprint(self) -> str:
        """Digest of all that decides the values."""
        ...


@dataclass(frozen=True, eq=False)
class Coder:
    """A dictionary of known form, in float32.

    z = rule((n(x) - before) W_enc + b_enc), and n^-1(z W_dec + b_dec) + x skip is about x, or an MLP's output.

    Attributes:
        W_enc, b_enc, W_dec, b_dec: weights; of a gated one `b_enc` is the gates'.
        rule: `"relu"`; `"jumprelu"` (Rajamanoharan et al. 2024, arXiv 2407.14435): 0 up to a threshold; `"topk"` (Gao
            et al. 2024, arXiv 2406.04093): 0 but for the k largest; `"gated"` (arXiv 2404.16014): 0 where a gate is
            not above 0.
        threshold: of `"jumprelu"`.
        k: of `"topk"`.
        magnitude: of `"gated"`: the factor of W_enc and the bias of what passes the gates.
        before: is subtracted from what is encoded (the decoder's bias, where a dictionary was trained so).
        skip: of a transcoder with a linear path beside its latents.
        norm: n: nothing, to a norm of sqrt(d_in), or to mean 0 and standard deviation 1.
    """

    W_enc: Float[Tensor, "d_in latent"]
    b_enc: Float[Tensor, "latent"]
    W_dec: Float[Tensor, "latent d_out"]
    b_dec: Float[Tensor, "d_out"]
    rule: Rule = "relu"
    threshold: Float[Tensor, "latent"] | None = None
    k: int | None = None
    magnitude: tuple[Float[Tensor, "latent"], Float[Tensor, "latent"]] | None = None
    before: Float[Tensor, "d_in"] | None = None
    skip: Float[Tensor, "d_in d_out"] | None = None
    norm: Norm = "none"

    @property
    def d_in(self) -> int:
        """Width of what is encoded."""
        return self.W_enc.shape[0]

    @property
    def rows(self) -> Float[Tensor, "latent d_out"]:
        """What one unit of each latent adds."""
        return self.W_dec

    def encode(self, x: Float[Tensor, "*batch_pos d_in"]) -> Float[Tensor, "*batch_pos latent"]:
        """Latents."""
        if self.rule == "topk":
            best = self._best(x)
            return best.values.new_zeros(*x.shape[:-1], len(self.b_enc)).scatter(-1, best.indices, best.values)
        own = self._own(x)
        pre = own @ self.W_enc + self.b_enc
        if self.rule == "gated":
            assert self.magnitude is not None
            factor, bias = self.magnitude
            return (own @ (self.W_enc * factor) + bias).relu() * (pre > 0)
        if self.rule == "jumprelu":
            assert self.threshold is not None
            return pre.relu() * (pre > self.threshold)
        return pre.relu()

    def encode_sparse(self, x: Float[Tensor, "*batch_pos d_in"]) -> Sparse | None:
        """The latents that fire; None if they are many."""

        def encode(part: Tensor) -> Sparse:
            if self.rule == "topk":
                return Sparse.of_best(self._best(part), len(self.b_enc))
            return Sparse.of(self.encode(part))

        return in_parts(x, len(self.b_enc), encode)

    def _own(self, x: Float[Tensor, "*batch_pos d_in"]) -> Float[Tensor, "*batch_pos d_in"]:
        """What W_enc is multiplied by."""
        own = self._normed(x)
        return own if self.before is None else own - self.before

    def _best(self, x: Float[Tensor, "*batch_pos d_in"]) -> Best:
        """The k largest latents, or 0 where they are below."""
        assert self.k is not None
        best = (self._own(x) @ self.W_enc + self.b_enc).topk(min(self.k, len(self.b_enc)), dim=-1, sorted=False)
        return Best(best.values.relu(), best.indices)

    def decode(
        self, x: Float[Tensor, "*batch_pos d_in"], z: Float[Tensor, "*batch_pos latent"]
    ) -> Float[Tensor, "*batch_pos d_out"]:
        """What latents stand for."""
        return z @ self.W_dec * self.scale(x) + self.base(x)

    def base(self, x: Float[Tensor, "*batch_pos d_in"]) -> Float[Tensor, "..."]:
        """What no latents stand for."""
        mean = x.mean(-1, keepdim=True) if self.norm == "layer_norm" else 0.0
        base = self.b_dec * self.scale(x) + mean
        return base if self.skip is None else base + x @ self.skip

    def scale(self, x: Float[Tensor, "*batch_pos d_in"]) -> Float[Tensor, "*batch_pos one"] | float:
        """What normalising divided by."""
        if self.norm == "constant_norm_rescale":
            return x.norm(dim=-1, keepdim=True) / math.sqrt(self.d_in)
        return x.std(-1, keepdim=True) if self.norm == "layer_norm" else 1.0

    def _normed(self, x: Tensor) -> Tensor:
        if self.norm == "layer_norm":
            centred = x - x.mean(-1, keepdim=True)
            return centred / (centred.std(-1, keepdim=True) + EPS)
        return x if self.norm == "none" else x / self.scale(x)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All weights by name."""
        for field in fields(self):
            value = getattr(self, field.name)
            for part in value if isinstance(value, tuple) else (value,):
                if isinstance(part, Tensor):
                    yield field.name, part

    def to(self, device: torch.device) -> Coder:
        """The same on a device."""
        moved = {name: value.to(device) for name, value in self.tensors() if name != "magnitude"}
        gates = None if self.magnitude is None else tuple(part.to(device) for part in self.magnitude)
        return replace(self, **moved, magnitude=gates)  # type: ignore[arg-type]

    def fingerprint(self) -> str:
        """Of rule, numbers and all weights."""
        return digest_of([self.rule, self.k, self.norm], [value for _, value in self.tensors()])


def checked(name: str, W_enc: Tensor, b_enc: Tensor, W_dec: Tensor, b_dec: Tensor, **more: Any) -> Coder:
    """A dictionary of weights from a file.

    Args:
        name: starts error messages.
        W_enc, b_enc, W_dec, b_dec: see `Coder`.
        more: its other attributes.

    Raises:
        ValueError: NaN or infinity, or shapes that do not fit; the message names the weight.
    """
    if W_enc.dim() != 2 or W_dec.dim() != 2:
        raise ValueError(f"{name}: W_enc is {tuple(W_enc.shape)} and W_dec {tuple(W_dec.shape)}: matrices are needed")
    (d_in, n), d_out = W_enc.shape, W_dec.shape[1]
    wanted = {"b_enc": (n,), "W_dec": (n, d_out), "b_dec": (d_out,), "threshold": (n,), "before": (d_in,),
              "skip": (d_in, d_out), "r_mag": (n,), "b_mag": (n,)}  # fmt: skip
    weights = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec, **more}
    parts = [(one, value) for one, value in weights.items() if isinstance(value, Tensor)]
    parts += [*zip(("r_mag", "b_mag"), more.get("magnitude", ()), strict=False)]
    for one, value in parts:
        if tuple(value.shape) != wanted.get(one, (d_in, n)):
            raise ValueError(
                f"{name}: {one} is {tuple(value.shape)}, where W_enc [d_in, latent] is {(d_in, n)} and W_dec "
                f"[latent, d_out] {tuple(W_dec.shape)}: the file is of another format or damaged"
            )
        if one != "threshold" or bool(value.isnan().any()):  # a latent with a threshold of infinity is switched off
            check_finite(name, one, value)
    return Coder(W_enc, b_enc, W_dec, b_dec, **more)


class Wrapped:
    """A user's object with `encode`, `decode` and `W_dec` as a dictionary.

    Args:
        given: the object.
        name: starts error messages.

    Raises:
        TypeError: it lacks one of the three.
        ValueError: its weights are not finite, it does not decode by `W_dec`, or what it gives at one position depends
            on the others.
    """

    def __init__(self, given: Any, name: str) -> None:
        lacking = [one for one in ("encode", "decode", "W_dec") if not hasattr(given, one)]
        if lacking:
            raise TypeError(
                f"{name}: {short(given)} has no {', '.join(lacking)}: a dictionary has encode(x) -> latents, "
                "decode(latents) and W_dec [latent, d]; where the decoder is a Linear, set its W_dec = weight.T"
            )
        self.given, self.name = given, name
        if not isinstance(given.W_dec, Tensor) or given.W_dec.dim() != 2:
            raise ValueError(f"{name}: W_dec is {short(given.W_dec)}; it has to be a tensor [latent, d]")
        check_finite(name, "W_dec", given.W_dec)
        self._check()

    @property
    def d_in(self) -> int:
        """Width of what is encoded."""
        return int(self.given.W_dec.shape[1])

    @property
    def rows(self) -> Float[Tensor, "latent d_out"]:
        """`W_dec`."""
        return self.given.W_dec.detach().float()  # type: ignore[no-any-return]

    def encode(self, x: Float[Tensor, "*batch_pos d_in"]) -> Float[Tensor, "*batch_pos latent"]:
        """Latents, in float32."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and x.requires_grad):  # not for the object's own weights
            found = self.given.encode(x.to(self.given.W_dec))
        n = self.given.W_dec.shape[0]
        if not isinstance(found, Tensor) or tuple(found.shape) != (*x.shape[:-1], n):
            what = tuple(found.shape) if isinstance(found, Tensor) else short(found)
            raise ValueError(
                f"{self.name}: encode of {tuple(x.shape)} gave {what}, not one number for each of {n} rows"
            )
        return (found.to_dense() if found.layout != torch.strided else found).to(x)

    def encode_sparse(self, x: Float[Tensor, "*batch_pos d_in"]) -> Sparse | None:
        """The latents that fire; None if they are many."""
        return in_parts(x, len(self.given.W_dec), lambda part: Sparse.of(self.encode(part)))

    def decode(
        self, x: Float[Tensor, "*batch_pos d_in"], z: Float[Tensor, "*batch_pos latent"]
    ) -> Float[Tensor, "*batch_pos d_out"]:
        """What latents stand for."""
        return self.given.decode(z.to(self.given.W_dec)).to(x)  # type: ignore[no-any-return]

    def base(self, x: Float[Tensor, "*batch_pos d_in"]) -> Float[Tensor, "..."]:
        """What no latents stand for: one vector."""
        none = torch.zeros(1, len(self.given.W_dec)).to(self.given.W_dec)
        return self.given.decode(none)[0].detach().to(x)  # type: ignore[no-any-return]

    def scale(self, x: Float[Tensor, "*batch_pos d_in"]) -> float:
        """1: nothing is normalised."""
        return 1.0

    def to(self, device: torch.device) -> Wrapped:
        """Itself: the object stays where it is."""
        return self

    def fingerprint(self) -> str:
        """Of its class, `W_dec`, all weights of a module, and how many latents fire on some vectors."""
        state = self.given.state_dict() if isinstance(self.given, torch.nn.Module) else {}
        weights = [value for value in state.values() if isinstance(value, Tensor)]
        fired = self.encode(self._some()).count_nonzero(-1).tolist()
        return digest_of([type(self.given).__qualname__, sorted(state), fired], [self.given.W_dec, *weights])

    def _some(self) -> Float[Tensor, "n d_in"]:
        drawn = torch.randn(4, self.d_in, generator=torch.Generator().manual_seed(0))
        return drawn.to(self.given.W_dec.device)

    @torch.no_grad()
    def _check(self) -> None:
        x = self._some()
        z = self.encode(x)
        alone = torch.cat([self.encode(one[None]) for one in x])
        if not torch.allclose(alone, z, rtol=1e-2, atol=1e-3 * float(z.abs().max()) + 1e-6):
            raise ValueError(
                f"{self.name}: what encode gives for a vector depends on the other vectors of the batch (as BatchTopK "
                "does in training): give the form that it has in use, with a threshold"
            )
        self.encode(x)  # some keep norms of what they encoded last
        zero, moved = self.decode(x, torch.zeros_like(z)), torch.zeros_like(z)
        moved[:, 0] = 1
        self.encode(x)
        added = self.decode(x, moved) - zero
        if not torch.allclose(added, self.rows[0].to(added).expand_as(added), rtol=1e-2, atol=1e-3):
            raise ValueError(
                f"{self.name}: decode is not z @ W_dec + b: one unit of latent 0 adds something else than W_dec[0], so "
                "that edits would be wrong. If it normalises what it encodes, fold that into its weights, or load its "
                "files with vn.sites.SAE.load"
            )
