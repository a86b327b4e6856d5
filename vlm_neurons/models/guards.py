"""Guards against what TransformerLens does in silence on a vision-language model.

Each has a test that shows the wrong number without it (tests/models/test_model_guards.py).
"""

from __future__ import annotations

import difflib
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from vlm_neurons._checks import of_kind
from vlm_neurons._text import span
from vlm_neurons.models.batch import HookNeverFires
from vlm_neurons.models.passes import begin_pass, end_pass
from vlm_neurons.sites import Address, Site, named, site_of_hook
from vlm_neurons.sites import names as site_names
from vlm_neurons.sites.mlp import IMAGE_HOOKS, MLPS, expert_at

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Hook = tuple[str | Callable[[str], bool], Callable[..., Any]]

# Taken before the image features are merged in: what they hold at image positions, the model never uses.
BEFORE_MERGE = ("hook_embed", "embed.hook_out")
MERGED = "blocks.0.hook_in"
TRAINING = "in training mode, where dropout changes what it does at random: call model.eval()"


def indexed_by_image(hook: str) -> bool:
    """Whether dimension 0 of a hook's tensor is the image, not the batch row."""
    return hook.startswith(IMAGE_HOOKS)


def cannot_matter(hook: str, first_dead_layer: int) -> bool:
    """Whether a vision hook is past the last hidden state that the projector reads.

    Args:
        hook: of the vision tower, or any other.
        first_dead_layer: of the tower; `sys.maxsize` where what the tower puts out is read.
    """
    parts = hook.removeprefix("vision_encoder.encoder_layers.").removeprefix("vision.").split(".")
    if parts[0].isdigit():
        last = int(parts[0]) == first_dead_layer - 1  # transformers takes what it puts out before hooks see it
        return int(parts[0]) >= first_dead_layer or (last and parts[1] in ("hook_out", "hook_resid_post"))
    if parts[0] != "vision_encoder" or first_dead_layer == sys.maxsize:
        return False
    return parts[1] in ("post_layernorm", "hook_out", "hook_vision_out")


class ForwardGuard:
    """Looks at what every forward pass of the model is given, through `model.bridge` too.

    Counts forward passes, so that a context of hooks can tell "never fired" from "nothing was run".
    """

    def __init__(self, inner: nn.Module, image_id: int, pad_id: int, bos_id: int | None) -> None:
        self.passes = self.passes_with_images = 0
        self.image_id, self.pad_id, self.bos_id = image_id, pad_id, bos_id
        self.handle = inner.register_forward_pre_hook(self._look, with_kwargs=True)
        inner.register_forward_hook(self._leave, always_call=True)

    def _look(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.passes += 1
        ids = kwargs.get("input_ids", args[0] if args else None)
        cached = kwargs.get("past_key_values", kwargs.get("cache"))  # the latter since transformers 5.24
        begin_pass(int(cached.get_seq_length()) if cached is not None else 0, kwargs.get("attention_mask"))
        if not isinstance(ids, Tensor) or (cached is not None and cached.get_seq_length() > 0):
            return
        has_pixels = kwargs.get("pixel_values") is not None or bool(kwargs.get("mm_encoder_outputs"))
        self.passes_with_images += has_pixels
        if not has_pixels and bool((ids == self.image_id).any()):
            raise ValueError(
                "the tokens hold image tokens, but no pixels were given: the model would read the bare embedding of "
                "<image>. Run a batch from prepare(), or model.bind(batch) where a tool takes tokens only, or pass "
                "pixel_values="
            )
        if kwargs.get("attention_mask") is None and self._left_padded(ids):
            raise ValueError(
                "the tokens are padded on the left, but no attention_mask was given: real tokens would attend to "
                "padding. Run a batch from prepare(), or pass attention_mask="
            )

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        end_pass()

    def _left_padded(self, ids: Tensor) -> bool:
        if ids.dim() != 2 or ids.shape[1] < 2:
            return False
        padded = ids[:, 0] == self.pad_id
        if self.pad_id == self.bos_id:
            padded = padded & (ids[:, 1] == self.pad_id)
        return bool(padded.any())


def guard_of(inner: nn.Module, image_id: int, pad_id: int, bos_id: int | None) -> ForwardGuard:
    """The guard of a model's body; one that is wrapped again keeps its own."""
    for hook in inner._forward_pre_hooks.values():
        owner = getattr(hook, "__self__", None)
        if isinstance(owner, ForwardGuard):
            return owner
    return ForwardGuard(inner, image_id, pad_id, bos_id)


def check_mode(bridge: TransformerBridge) -> None:
    """Refuse a bridge in compatibility mode.

    Raises:
        RuntimeError: it folds the norms into the weights (other activations than the model's), by-passes the act_fn
            module (the gate hook never fires) and misreads the unembedding where d_vocab == d_model.
    """
    if getattr(bridge, "compatibility_mode", False):
        raise RuntimeError(
            "the bridge is in compatibility mode: neurons would no longer be the model's own, and the hook of "
            "SiLU(gate) would not fire. Build it anew and leave out enable_compatibility_mode()"
        )


def check_evaluating(bridge: TransformerBridge) -> None:
    """Refuse a model in training mode, set on the bridge or on what it wraps.

    Raises:
        ValueError: dropout would change activations at random.
    """
    if bridge.training or bridge.original_model.training:
        raise ValueError(f"the model is {TRAINING}")


def unknown_hook(name: str, known: Iterable[str]) -> KeyError:
    """The error for a hook name that does not exist: what there is of its site, or what reads alike."""
    names = sorted(known)
    if why := _why_not_there(name, names):
        return KeyError(f"{name!r}: {why}")
    close = difflib.get_close_matches(name, names, n=5, cutoff=0.5)
    sites = ", ".join(f"{s.name} ({s.pattern})" for s in MLPS)
    return KeyError(
        f"no hook point is called {name!r}. "
        + (f"Close: {', '.join(close)}. " if close else "")
        + f"Sites: {sites}. All: model.hook_map()"
    )


def _why_not_there(name: str, names: Sequence[str]) -> str:
    """What there is of the site that a hook would be of; nothing where it would be of none."""
    found = site_of_hook(name)
    site: Site
    if of_experts := re.match(r"blocks\.(\d+)\.mlp\.experts\.", name):
        site, layer = MLPS[name.endswith("hook_post")], int(of_experts[1])
    elif found is not None:
        site, layer = found
    else:
        return ""
    plain: set[int] = set()
    routed: set[int] = set()
    for there in names:
        if (at := site_of_hook(there)) is not None and at[0].name == site.name:
            (plain if expert_at(there) is None else routed).add(at[1])
    has = _layers_in_words(site, plain, routed)
    if of_experts and layer in routed:
        if found is None:
            return ""
        return (
            f"this model has no expert {getattr(found[0], 'expert', '')} in layer {layer} with neurons of site "
            f"{site.name!r}; model.site_hooks({site.name!r}) lists all"
        )
    if of_experts:
        return f"layer {layer} of this model has no experts; {has}"
    if layer in routed:
        return f"layer {layer} of this model has experts; {has}"
    return f"this model has no layer {layer} at site {site.name!r}; {has}" if plain or routed else ""


def _layers_in_words(site: Site, plain: set[int], routed: set[int]) -> str:
    """The layers with neurons of a site; where some have experts, with an id of each kind."""
    if not routed:
        return f"layers 0 to {max(plain, default=0)}"
    kinds = [("", site, plain), (" of experts", MLPS[site.name == "post"].of_expert(0), routed)]
    return "it has " + " and ".join(
        f"{span('layer', layers)}{what}, with ids such as {one.id(Address(one.place(min(layers)), 3, '+'))}"
        for what, one, layers in kinds if layers
    )  # fmt: skip


def hooks_of_site(site: str, points: Iterable[str]) -> list[str]:
    """See `HookedVLM.site_hooks`."""
    of_kind("site", site, str, "give the name of a site or of a hook")
    if site in site_names():
        found = named(site)
        places = found.places(points)
        return places if found in MLPS else found.hooks(found.layers(points))
    if site in points:
        return [site]
    raise unknown_site(site, points)


def unknown_site(site: str, points: Iterable[str]) -> ValueError:
    """The error for what is neither a site nor a hook."""
    if site_of_hook(site) is not None:  # a layer that is not there
        return ValueError(f"site {site!r}: {unknown_hook(site, points).args[0]}")
    close = difflib.get_close_matches(site, [*site_names(), *points], n=3)
    return ValueError(
        f"site {site!r}: choose from {', '.join(site_names())}, or name a hook such as blocks.0.hook_mlp_out"
        + (f"; close: {', '.join(close)}" if close else "")
    )


class Watch:
    """Wraps hook functions to see which fire, and to warn of edits that cannot matter."""

    def __init__(self, hooks: Sequence[Hook], points: dict[str, Any], first_dead_layer: int) -> None:
        self.points = points
        self.first_dead_layer = first_dead_layer
        self.fired: set[str] = set()
        self.names = {name for name, _ in hooks if isinstance(name, str)}
        for name in self.names:
            if name not in points:
                raise unknown_hook(name, points)
        self.hooks: list[Hook] = [(name, self._wrap(name, fn)) for name, fn in hooks]

    def _wrap(self, name: Any, fn: Callable[..., Any]) -> Callable[..., Any]:
        def watched(tensor: Any, hook: Any) -> Any:
            if isinstance(name, str):
                self.fired.add(name)
            version = _version(tensor)
            result = fn(tensor, hook=hook)
            if result is not None or _version(tensor) != version:
                self._edited(name if isinstance(name, str) else hook.name)
            return result

        return watched

    def _edited(self, name: str) -> None:
        if name in BEFORE_MERGE:
            warnings.warn(
                f"an edit at {name!r} is overwritten at image positions, where the image features are put in "
                f"afterwards: edit {MERGED!r} to reach them",
                stacklevel=2,
            )
        elif cannot_matter(name, self.first_dead_layer):
            warnings.warn(
                f"an edit at {name!r} cannot change the logits: the projector reads hidden state "
                f"{self.first_dead_layer} of the vision tower, below this hook",
                stacklevel=2,
            )

    def check(self, has_images: bool = True) -> None:
        """Raise for hooks asked for by name that did not fire; image hooks need an image to fire."""
        silent = {n for n in self.names - self.fired if has_images or not indexed_by_image(n)}
        if silent:
            raise never_fired(sorted(silent), self.points)


def never_fired(names: Sequence[str], points: dict[str, Any]) -> HookNeverFires:
    """The error for hooks that exist and did not fire, with the hooks beside them that may have been meant."""
    base = names[0].rpartition(".")[0]
    beside = sorted(n for n in points if n.rpartition(".")[0] == base and n not in names)
    return HookNeverFires(
        f"{', '.join(map(repr, names))} did not fire in this forward pass, so the result lacks it. "
        f"Beside it: {', '.join(beside) or 'nothing'}. model.hook_map() lists the hooks that fire "
        "(with stop_at_layer, only those below it)"
    )


def _version(tensor: Any) -> int | None:
    """How often a tensor was written in place; None where torch does not count (inference mode)."""
    if not isinstance(tensor, Tensor) or tensor.is_inference():
        return None
    return tensor._version


def check_image_indexed(names: Iterable[str], n_images: int, option: str) -> None:
    """Refuse an option that means batch rows or positions where a tensor is indexed by image and patch.

    Raises:
        ValueError: such a hook is among `names`.
    """
    hit = next((n for n in names if indexed_by_image(n)), None)
    if hit is None or (option == "remove_batch_dim" and n_images <= 1):
        return
    raise ValueError(
        f"{option} with {hit!r}: this tensor is indexed by image and patch, not by batch row and position. "
        "Leave such hooks out (names_filter), or leave out the option and select with batch.image_rows and "
        "batch.patch_index"
    )


def repair_embedding(cache: dict[str, Tensor], merged: Tensor) -> None:
    """Put what the backbone was really given into the cache entries that are taken before the merge."""
    for name in BEFORE_MERGE:
        if name in cache:
            cache[name] = merged.to(cache[name].device)
