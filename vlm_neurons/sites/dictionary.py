"""Latents of sparse dictionaries as units: sparse autoencoders and transcoders."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from jaxtyping import Float
from torch import Tensor

from vlm_neurons._checks import of_kind
from vlm_neurons.sites.at_hook import AtHook, digest_of
from vlm_neurons.sites.coder import Codes, Wrapped
from vlm_neurons.sites.mlp import AnyHook
from vlm_neurons.sites.protocol import Tensors, Weights
from vlm_neurons.sites.reading import read_dictionary
from vlm_neurons.sites.sparse import Sparse


class Dictionary(AtHook):
    """Latents that are encoded from what a hook holds, and write to a hook.

    An edit adds (z' - z) W_dec to what the hook holds, z' the edited latents: what the dictionary does not explain (the
    error term) stays, and an edit that changes no latent changes nothing.

    Args:
        codes: see `Codes`.
        hook: what is encoded.
        name: what ids `NAME:L12F345` start with.
        to: the hook that edits change, in the same layer.
    """

    def __init__(self, codes: Codes, hook: str, name: str, to: str) -> None:
        super().__init__(hook, name)
        of_kind("hook", to, str, "give the name of a hook, such as 'blocks.3.hook_mlp_out'")
        self.codes, self.to, self.width = codes, to, codes.d_in
        self._digest: str | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {len(self.codes.rows):,} latents at {self.hook})"

    def edited(self, layer: int) -> str:
        """The hook that is written to."""
        return self.to

    def layers(self, points: Iterable[str]) -> list[int]:
        """Its own, if both hooks are there."""
        return [self.layer] if {self.hook, self.to} <= {*points} else []

    def fitted(self, layer: int) -> list[str]:
        """Of a transcoder its output."""
        return [] if self.to == self.hook else [self.to]

    def read(self, tensors: Tensors) -> tuple[Float[Tensor, "*batch_pos unit"], None]:
        """All latents."""
        x = self.held(tensors)
        self.codes = self.codes.to(x.device)  # once, and no copy where it is there
        return self.codes.encode(x), None

    def read_sparse(self, tensors: Tensors) -> Sparse | None:
        """The latents that fire, if they are few."""
        x = self.held(tensors)
        self.codes = self.codes.to(x.device)
        return self.codes.encode_sparse(x)

    def edit(
        self, tensors: Tensors, units: Tensor | None, values: Float[Tensor, "*batch_pos unit"]
    ) -> dict[str, Tensor]:
        """The hook's tensor and (z' - z) W_dec."""
        x, (latents, _) = self.held(tensors), self.read(tensors)
        rows = self.codes.rows.to(x)
        if units is not None:
            latents, rows = latents[..., units], rows[units.to(rows.device)]
        added = (values.to(latents) - latents) @ rows * self.codes.scale(x)
        return self.moved(tensors, added, self.to)

    def explained(
        self, tensors: Tensors, values: Float[Tensor, "*batch_pos unit"] | Sparse
    ) -> tuple[Float[Tensor, "*batch_pos d"], Float[Tensor, "*batch_pos d"], Float[Tensor, "..."]] | None:
        """What was encoded, or of a transcoder what its MLP put out, and what latents make of it."""
        x = self.held(tensors)
        base = self.codes.base(x)
        rows = self.codes.rows.to(x)
        summed = values.times(rows) if isinstance(values, Sparse) else values @ rows
        whole = x if self.to == self.hook else tensors[self.to].to(x)
        if whole.shape != summed.shape:
            raise ValueError(
                f"{self.name} writes vectors of {rows.shape[1]} numbers, {self.to} holds {tuple(whole.shape)}: it "
                "belongs to another model or to another hook (model.hook_map() lists shapes)"
            )
        return whole, summed * self.codes.scale(x) + base, base

    def directions(self, weights: Weights, layer: int) -> Float[Tensor, "unit d_model"]:
        """Rows of W_dec."""
        return self.codes.rows

    def fingerprint(self) -> str:
        """Of hooks and weights."""
        if self._digest is None:
            self._digest = digest_of([self.hook, self.to, self.codes.fingerprint()], [])
        return self._digest


class SAE(Dictionary):
    """The latents of a sparse autoencoder of what a hook holds. Make one with `load` or `wrap`.

    >>> class Mine(torch.nn.Module):
    ...     W_dec = torch.eye(128)
    ...     def encode(self, x): return (x @ self.W_dec.T).relu()
    ...     def decode(self, z): return z @ self.W_dec
    >>> sae = vn.sites.SAE.wrap(Mine(), hook="blocks.2.hook_resid_post", name="mine")
    >>> sae
    SAE('mine', 128 latents at blocks.2.hook_resid_post)
    >>> found = vn.scan(model, data, site=sae, top_n=4, out="with_sae", progress=False)
    >>> vn.classify(found).neuron.tolist()[-1]
    'mine:L2F127'
    >>> from vlm_neurons.hooks import ablate
    >>> logits = model.run_with_hooks(batch, fwd_hooks=ablate("mine:L2F3"))
    >>> vn.sites.forget("mine")
    """

    @classmethod
    def load(cls, path: str | Path, hook: str | None = None, *, name: str) -> Self:
        """Read a dictionary from files on this machine, in float32; nothing is downloaded, and nothing unpickled.

        Args:
            path: a directory as SAELens writes it (`cfg.json` and `sae_weights.safetensors`: standard, gated, JumpReLU,
                TopK; BatchTopK and Matryoshka as they are saved for use), as sparsify or dictionary_learning do, or of
                Gemma Scope (`params.npz`), Gemma Scope 2 (`params.safetensors` and `config.json`); or one of these
                files. Of Qwen-Scope a layer's file, `SAE-Res-Qwen3-8B-Base-W64K-L0_50/layer12.sae.pt`.
            hook: where its activations come from, such as `"blocks.12.hook_resid_post"`; what the files say if they do.
            name: what ids `NAME:L12F345` start with.

        Raises:
            ValueError: an unknown format or architecture, weights that are missing, not finite, or do not fit together,
                or a hook of another layer or kind than the files say.
            OSError: it is not there.
        """
        found = read_dictionary(Path(path), name)
        if found.hook_out is not None:
            raise ValueError(f"{name}: {path} is a transcoder: load it with vn.sites.Transcoder.load")
        hook = agreed(hook, found.hook, name, "hook")
        return cls(found.coder, hook, name, hook)

    @classmethod
    def wrap(cls, sae: Any, hook: str, *, name: str) -> Self:
        """Any object with `encode(x)`, `decode(latents)` and `W_dec` [latent, d]: of SAELens, or one's own module.

        Args:
            sae: the object; it stays on its device, and computes in the dtype of `W_dec`.
            hook: where its activations come from.
            name: what ids `NAME:L12F345` start with.

        Raises:
            TypeError: it lacks one of the three.
            ValueError: it does not decode by `W_dec`, or encodes vectors by what else is in the batch.
        """
        return cls(Wrapped(sae, name), hook, name, hook)


class Transcoder(Dictionary):
    """The latents of a transcoder (Dunefsky et al. 2024, arXiv 2406.11944): encoded from what an MLP reads, written to
    what it puts out. An edit is added at the output. Make one with `load`."""

    @classmethod
    def load(cls, path: str | Path, hook_in: str | None = None, hook_out: str | None = None, *, name: str) -> Self:
        """Read a transcoder from files on this machine, in float32.

        Args:
            path: a directory as SAELens writes it (transcoder, skip transcoder, with JumpReLU or not), or of Gemma
                Scope 2. The skip's share is no latent's, and stays as it is under edits; scans that sum up how well the
                MLP's output is described count it with the bias.
            hook_in: what is encoded, such as `"blocks.3.mlp.hook_in"`; what the files say if they do.
            hook_out: what is edited, such as `"blocks.3.hook_mlp_out"`.
            name: what ids `NAME:L12F345` start with.

        Raises:
            ValueError: as `SAE.load`.
            OSError: it is not there.
        """
        found = read_dictionary(Path(path), name)
        if found.hook_out is None and hook_out is None:
            raise ValueError(f"{name}: {path} does not say that it is a transcoder: give hook_in= and hook_out=")
        hook_in = agreed(hook_in, found.hook, name, "hook_in")
        return cls(found.coder, hook_in, name, agreed(hook_out, found.hook_out or None, name, "hook_out"))


# What hooks are called in files, and what they are.
_KINDS = (
    (r"blocks\.(\d+)\.(hook_resid_post|hook_out)|model\.layers\.(\d+)\.output", "the residual stream behind layer"),
    (r"blocks\.(\d+)\.hook_resid_mid", "the residual stream within layer"),
    (r"blocks\.(\d+)\.(hook_attn_out|attn\.hook_out)", "what attention adds in layer"),
    (r"blocks\.(\d+)\.attn\.hook_z|model\.layers\.(\d+)\.self_attn\.o_proj\.input", "the heads' outputs in layer"),
    (
        r"blocks\.(\d+)\.(hook_mlp_out|mlp\.hook_out)|model\.layers\.(\d+)\.post_feedforward_layernorm\.output",
        "what the MLP adds in layer",
    ),
    (
        r"blocks\.(\d+)\.(hook_mlp_in|mlp\.hook_in|ln2\.hook_normalized|ln2\.hook_out)"
        r"|model\.layers\.(\d+)\.pre_feedforward_layernorm\.output",
        "what the MLP reads in layer",
    ),
)


def what_is(hook: str) -> str | None:
    """A hook in words that are equal for equal places; None for one that is not known.

    >>> what_is("blocks.4.hook_resid_pre") == what_is("model.layers.3.output") == what_is("blocks.3.hook_resid_post")
    True
    """
    if before := re.fullmatch(r"blocks\.([1-9]\d*)\.(hook_resid_pre|hook_in)", hook):
        hook = f"blocks.{int(before[1]) - 1}.hook_resid_post"
    for pattern, words in _KINDS:
        if found := re.fullmatch(pattern, hook):
            return f"{words} {next(part for part in found.groups() if part and part.isdigit())}"
    return None


def agreed(given: str | None, said: str | None, name: str, argument: str) -> str:
    """The hook that is asked for, if it is what the files say.

    Raises:
        ValueError: it is another, or neither says one.

    >>> agreed("blocks.3.hook_resid_post", "blocks.4.hook_resid_post", "gs2", "hook")
    Traceback (most recent call last):
    ValueError: gs2 was trained on 'blocks.4.hook_resid_post' (the residual stream behind layer 4), ...
    """
    if given is None:
        if said is None or not said.startswith("blocks."):
            told = "do not say" if said is None else f"say {said!r}, which is no hook here"
            raise ValueError(f"{name}: the files {told} what was encoded: give {argument}=")
        return said
    if said is None:
        return given
    layer = re.search(r"(?:blocks|layers)\.(\d+)", said) or re.fullmatch(r"layer (\d+)", said)
    other_layer = layer is not None and int(layer[1]) != AnyHook(given).layer and what_is(said) is None
    if other_layer or (None not in (what_is(given), what_is(said)) and what_is(given) != what_is(said)):
        raise ValueError(
            f"{name} was trained on {said!r} ({what_is(said) or said}), {argument}={given!r} is "
            f"{what_is(given) or 'another layer'}: give the hook it was trained on, or the dictionary of this one"
        )
    return given
