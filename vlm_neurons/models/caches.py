"""TransformerLens' cache of activations, right where the weights of norms are not folded into the matrices behind them.

Its tools take for granted that they are, and that what attention and MLPs compute goes to the residual stream as it is.
Here norms keep their weights, or other neurons would be read; and in Gemma 2 and 3 norms stand behind both as well.
"""

from __future__ import annotations

import difflib
from functools import cache
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from vlm_neurons.models.readout import norm_before, norm_scale, norm_weight, post_norm
from vlm_neurons.sites import named, names

if TYPE_CHECKING:
    from transformer_lens import ActivationCache

    from vlm_neurons.models.readout import Readable


def unfolded(found: ActivationCache, model: Readable) -> ActivationCache:
    """The same cache, with tools that know the model's norms."""
    made = _class()(found.cache_dict, found.model, has_batch_dim=found.has_batch_dim)
    made.read_from = model
    return made  # type: ignore[no-any-return]


def _short(key: Any, n_layers: int) -> str | None:
    """The hook of a site's name and a layer, counted from the end if negative; None for what is no site."""
    site, *rest = key if isinstance(key, tuple) else (key,)
    if site not in names() or len(rest) > 1:
        return None
    found = named(site)
    layer = rest[0] if rest else 0
    if not isinstance(layer, int) or (found.layered and not rest):
        return None
    return found.place(layer + n_layers if layer < 0 else layer)


def _close(key: Any, hook: str | None, there: list[str]) -> list[str]:
    """What may have been meant: `("gatee", 3)` is like the hook of `("gate", 3)`."""
    site = key[0] if isinstance(key, tuple) and key and hook is None else None
    alike = difflib.get_close_matches(site, names(), n=1) if isinstance(site, str) else []
    meant = [f"({one!r}, ...)" for one in alike]
    return meant + difflib.get_close_matches(hook or str(key), there, n=3)


@cache
def _class() -> Any:
    from transformer_lens import ActivationCache

    class UnfoldedCache(ActivationCache):  # type: ignore[misc]
        """As its parent."""

        read_from: Readable

        def __getitem__(self, key: Any) -> Tensor:
            """By hook, by TransformerLens' short names, and by site and layer: `cache["gate", 3]`."""
            hook = _short(key, self.model.cfg.n_layers)
            if hook in self.cache_dict:
                return self.cache_dict[hook]
            try:
                return super().__getitem__(key)
            except (KeyError, TypeError) as error:
                close = _close(key, hook, list(self.cache_dict))
                raise KeyError(
                    f"{key!r} is not in the cache of {len(self.cache_dict)} activations: the model has no such hook, "
                    "or it was left out by names_filter" + (f"; there are {', '.join(close)}" if close else "")
                ) from error

        def apply_ln_to_stack(
            self,
            residual_stack: Float[Tensor, "component *pos d_model"],
            layer: int | None = None,
            mlp_input: bool = False,
            pos_slice: Any = None,
            batch_slice: Any = None,
            has_batch_dim: bool = True,
            recompute_ln: bool = False,
        ) -> Float[Tensor, "component *pos d_model"]:
            found = super().apply_ln_to_stack(
                residual_stack, layer, mlp_input, pos_slice, batch_slice, has_batch_dim, recompute_ln
            )
            final = layer in (None, -1, self.model.cfg.n_layers)
            if recompute_ln and final:
                return found  # by the norm itself
            weight = norm_weight(self.read_from, norm_before(self.read_from, None if final else layer, mlp_input))
            return found * weight.to(found)

        def _get_cached_ln_scale(
            self, layer: int | None, mlp_input: bool, pos_slice: Any, batch_slice: Any = None
        ) -> Tensor:
            final = layer in (None, self.model.cfg.n_layers)
            second = mlp_input and not self.read_from.adapter.parallel
            place = "ln_final" if final else f"blocks.{layer}.ln{1 + second}"
            if f"{place}.hook_scale" in self.cache_dict:
                return super()._get_cached_ln_scale(layer, mlp_input, pos_slice, batch_slice)
            if f"{place}.hook_in" not in self.cache_dict:
                raise KeyError(f"the cache lacks {place}.hook_in, from which the scale of this norm is known")
            norm = norm_before(self.read_from, None if final else layer, mlp_input)
            scale = norm_scale(self.read_from, norm, self[f"{place}.hook_in"])
            scale = pos_slice.apply(scale, dim=-2)
            return batch_slice.apply(scale) if batch_slice is not None and self.has_batch_dim else scale

        def decompose_resid(self, layer: Any = None, mlp_input: bool = False, *args: Any, **kwargs: Any) -> Any:
            self._refuse_added_between()
            try:
                mlp_input = mlp_input and not self.read_from.adapter.parallel
                return super().decompose_resid(layer, mlp_input, *args, **kwargs)
            except KeyError as error:
                hook = (error.__cause__ or error).args[0]  # TransformerLens' own error names it
                raise KeyError(
                    f"the cache lacks {hook}, which is a part of the residual stream (layers of linear "
                    "attention have no such hook): cache it, or use accumulated_resid"
                ) from error

        def get_full_resid_decomposition(self, *args: Any, **kwargs: Any) -> Any:
            self._refuse_added_between()
            return super().get_full_resid_decomposition(*args, **kwargs)

        def _refuse_added_between(self) -> None:
            adapter = self.read_from.adapter
            several = adapter.projector is not None and not isinstance(adapter.projector.out, str)
            if several or adapter.layer_scale:
                what = "image features are added" if several else "layers add other vectors, and scale their output,"
                raise ValueError(
                    f"what attention and MLPs add is not the whole residual stream here: {what} between layers too; "
                    "use accumulated_resid, or differences of blocks.{i}.hook_in"
                )

        def stack_head_results(self, *args: Any, **kwargs: Any) -> Any:
            self._refuse_behind_norms("heads")
            return super().stack_head_results(*args, **kwargs)

        def get_neuron_results(self, *args: Any, **kwargs: Any) -> Any:
            self._refuse_behind_norms("neurons")
            if self.read_from.adapter.experts:
                raise ValueError(
                    "TransformerLens knows no neurons of layers with experts: use vn.interventions."
                    "direct_logit_attribution"
                )
            return super().get_neuron_results(*args, **kwargs)

        def _stack_neuron_results_apply_ln_projected(self, *args: Any, **kwargs: Any) -> Any:
            raise ValueError(
                "apply_ln=True with project_output_onto leaves out the weight of the norm, which is not folded in here:"
                " use one of the two, and apply_ln_to_stack or the projection afterwards"
            )

        def _refuse_behind_norms(self, what: str) -> None:
            if post_norm(self.read_from, 0) is not None:
                raise ValueError(
                    f"results of {what} do not add up here: a norm stands between them and the residual stream; "
                    "use vn.interventions.direct_logit_attribution for neurons, decompose_resid for whole layers"
                )

    return UnfoldedCache
