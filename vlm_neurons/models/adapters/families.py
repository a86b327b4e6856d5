"""The model families that are supported: declared here, refused by name elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tower:
    """A vision tower.

    Attributes:
        class_tokens: how many tokens stand before the patches in the tower's tensors (CLIP: the CLS token).
        strategy: the `vision_feature_select_strategy` under which exactly the patches reach the projector.
    """

    class_tokens: int
    strategy: str


@dataclass(frozen=True)
class Family:
    """What is known of one family of models.

    Attributes:
        name: Hugging Face `model_type`.
        architecture: class name of the Hugging Face model, and of the TransformerLens adapter.
        towers: vision towers by `model_type`.
        backbones: `model_type` of the language models. All have a gated MLP with `act_fn`.
    """

    name: str
    architecture: str
    towers: Mapping[str, Tower]
    backbones: tuple[str, ...]


FAMILIES: dict[str, Family] = {
    "llava": Family(
        name="llava",
        architecture="LlavaForConditionalGeneration",
        towers={"clip_vision_model": Tower(1, "default"), "siglip_vision_model": Tower(0, "full")},
        backbones=("llama", "mistral", "qwen2"),
    )
}


def supported() -> str:
    """One line for error messages."""
    return "; ".join(
        f"{f.name} ({f.architecture}) with a vision tower of {', '.join(f.towers)} and a backbone of "
        f"{', '.join(f.backbones)}"
        for f in FAMILIES.values()
    )


def family_of(config: Any) -> Family:
    """The family of a Hugging Face config.

    Raises:
        ValueError: the family, the tower, the backbone or the choice of features is not supported; the message
            names it and lists what is.
    """
    kind = getattr(config, "model_type", type(config).__name__)
    family = FAMILIES.get(kind)
    if family is None:
        raise ValueError(f"model family {kind!r} is not supported. Supported: {supported()}")
    tower_kind, backbone = config.vision_config.model_type, config.text_config.model_type
    tower = family.towers.get(tower_kind)
    if tower is None:
        raise ValueError(f"{kind} with the vision tower {tower_kind!r} is not supported. Supported: {supported()}")
    if backbone not in family.backbones:
        raise ValueError(f"{kind} with the backbone {backbone!r} is not supported. Supported: {supported()}")
    if config.vision_feature_select_strategy != tower.strategy:
        raise ValueError(
            f"{tower_kind} with vision_feature_select_strategy={config.vision_feature_select_strategy!r} is not "
            f"supported: visual tokens would not be the patches one to one; it has to be {tower.strategy!r}"
        )
    return family


def tower_of(config: Any) -> Tower:
    """The vision tower of a supported config."""
    return family_of(config).towers[config.vision_config.model_type]


def feature_layers(config: Any) -> tuple[int, ...]:
    """How many vision layers are below each tensor that the projector reads, from `vision_feature_layer`.

    The tower's hidden state k is what layer k - 1 puts out, so vision layers from `max(feature_layers)` on cannot
    change the logits. LLaVA-1.5 reads hidden state -2: its last layer is of no consequence.
    """
    n_layers = config.vision_config.num_hidden_layers
    chosen = config.vision_feature_layer
    chosen = (chosen,) if isinstance(chosen, int) else tuple(chosen)
    return tuple(k if k >= 0 else n_layers + 1 + k for k in chosen)
