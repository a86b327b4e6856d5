"""TransformerLens adapters made from our records, for families that TransformerLens has none for, or one that asks for
torchvision.

The bridge keeps transformers' own attention, so logits are transformers' own; blocks, norms, MLPs, projections of
attention, embedding and unembedding are hook points under TransformerLens' names.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from vlm_neurons.models.adapters import FAMILIES, Adapter


def declared(adapter: Adapter) -> str:
    """The name under which TransformerLens finds an adapter for the family; made and registered if it has to be."""
    return _register(adapter.name) if adapter.declared else adapter.architecture


@cache
def _register(family: str) -> str:
    from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory

    name = f"Declared_{family}"
    ArchitectureAdapterFactory.register_adapter(name, _adapter_class(FAMILIES[family]))
    return name


def _adapter_class(adapter: Adapter) -> Any:
    from transformer_lens.model_bridge.architecture_adapter import ArchitectureAdapter

    class Declared(ArchitectureAdapter):
        """The record in TransformerLens' terms."""

        def __init__(self, cfg: Any) -> None:
            super().__init__(cfg)
            self.cfg.is_multimodal = True
            self.cfg.attn_implementation = "eager"
            self._set_rms_rotary_defaults()
            if adapter.norm_centres:
                self.cfg.normalization_type, self.cfg.uses_rms_norm, self.cfg.final_rms = "LN", False, False
            self.cfg.parallel_attn_mlp = adapter.parallel
            self._extract_vision_dims(cfg)
            self.weight_processing_conversions = {}
            self.component_mapping = _components(adapter, self)

    return Declared


def _components(adapter: Adapter, made: Any) -> dict[str, Any]:
    from transformer_lens.model_bridge import generalized_components as parts
    from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent

    cfg = made.cfg
    attention = parts.AttentionBridge(
        name="self_attn",
        config=cfg,
        # layers of some families take keys and values from another one
        submodules={letter: parts.LinearBridge(name=f"{letter}_proj", optional=letter in "kv") for letter in "qkvo"},
        maintain_native_attention=True,
        requires_attention_mask=True,
        optional=True,  # layers of some families mix positions in another way
    )
    block = {
        **{ours: GeneralizedComponent(name=name) for ours, name in adapter.norms},
        "attn": attention,
        # the parts of one that has a single matrix for gates and what they are multiplied by, and of one with experts
        # in some layers, are found by their paths
        "mlp": GeneralizedComponent(name="mlp")
        if adapter.experts or adapter.backbone.up == adapter.backbone.into
        else made._gated_mlp(),
    }
    found = {
        "vision_encoder": GeneralizedComponent(name=adapter.tower),
        "embed": parts.EmbeddingBridge(name=adapter.embed),
        "blocks": (parts.ParallelBlockBridge if adapter.parallel else parts.BlockBridge)(
            name=adapter.layers.removesuffix(".{i}"), submodules=block
        ),
        "ln_final": GeneralizedComponent(name=adapter.norm),
        "unembed": parts.UnembeddingBridge(name=adapter.unembed, config=cfg),
    }
    if adapter.connector:
        found["vision_projector"] = GeneralizedComponent(name=adapter.connector)
    return found
