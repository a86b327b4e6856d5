"""The model families that are supported, one record and one geometry each: declared here, refused by name elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vlm_neurons.models.adapters.adapter import Adapter, MLPs, Placed, along, module_at
from vlm_neurons.models.adapters.aya import AYA_VISION
from vlm_neurons.models.adapters.deepseek import DEEPSEEK_VL
from vlm_neurons.models.adapters.gemma import GEMMA3, PALIGEMMA, PALIGEMMA2
from vlm_neurons.models.adapters.gemma4 import GEMMA4
from vlm_neurons.models.adapters.glm import GLM4V, GLM4V_MOE
from vlm_neurons.models.adapters.idefics3 import IDEFICS3, SMOLVLM
from vlm_neurons.models.adapters.internvl import INTERNVL
from vlm_neurons.models.adapters.llava import LLAVA, VIPLLAVA
from vlm_neurons.models.adapters.llava_next import LLAVA_NEXT
from vlm_neurons.models.adapters.llava_onevision import LLAVA_ONEVISION
from vlm_neurons.models.adapters.pixtral import MISTRAL3, PIXTRAL
from vlm_neurons.models.adapters.qwen import QWEN2_5_VL, QWEN2_VL, QWEN3_5, QWEN3_VL, QWEN3_VL_MOE

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FAMILIES", "Adapter", "MLPs", "Placed", "adapter_of", "along", "families", "module_at", "supported"]

FAMILIES: dict[str, Adapter] = {
    adapter.name: adapter
    for adapter in (
        LLAVA,
        VIPLLAVA,
        LLAVA_NEXT,
        LLAVA_ONEVISION,
        IDEFICS3,
        SMOLVLM,
        INTERNVL,
        QWEN2_VL,
        QWEN2_5_VL,
        QWEN3_VL,
        QWEN3_VL_MOE,
        QWEN3_5,
        PIXTRAL,
        MISTRAL3,
        GEMMA3,
        PALIGEMMA,
        PALIGEMMA2,
        DEEPSEEK_VL,
        GLM4V,
        GLM4V_MOE,
        GEMMA4,
        AYA_VISION,
    )
}

_QUERIES = (
    "its image tokens are learned queries, each of which sees the whole picture (a Q-Former or resampler): they have "
    "no place in it"
)
_CROSS = "its language model reads pictures by cross-attention: no token of its own is a patch"
_EXPERTS = (
    "its mixture of experts is of another kind than those that are read (it weighs the expert that all tokens share, "
    "or computes every expert for every token): not yet written"
)
_HOW = 'vlm_neurons/models/README.md, "Add a family"'
_NO_RECORD = f"nobody has written its record yet: {_HOW}"
REFUSED = {
    **dict.fromkeys(("blip-2", "instructblip", "instructblipvideo", "idefics2", "aria"), _QUERIES),
    **dict.fromkeys(("mllama", "idefics"), _CROSS),
    **dict.fromkeys(("qwen3_5_moe", "llama4"), _EXPERTS),
    **dict.fromkeys(("cohere2_vision", "deepseek_vl_hybrid", "molmo2"), _NO_RECORD),
}


def supported() -> str:
    """One line for error messages."""
    return "; ".join(
        f"{a.name} ({a.architecture}) with a vision tower of {', '.join(a.towers)} and a backbone of "
        f"{', '.join(a.backbones)}"
        for a in FAMILIES.values()
    )


def families() -> pd.DataFrame:
    """The families of models that are supported.

    Returns:
        One row each: `family` (Hugging Face `model_type`, but that Pixtral's is `llava` and PaliGemma 2's `paligemma`),
        `architecture`, `towers`,
        `backbones`, `sites` that it has and `limits`.

    >>> vn.families().set_index("family").sites["llava"]
    'gate, post, projector, vision'
    """
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "family": a.name,
                "architecture": a.architecture,
                "towers": ", ".join(a.towers),
                "backbones": ", ".join(a.backbones),
                "sites": ", ".join(a.sites),
                "limits": a.limits,
            }
            for a in FAMILIES.values()
        ]
    )


def adapter_of(config: Any) -> Adapter:
    """The record of the family that a Hugging Face config belongs to.

    Raises:
        ValueError: the family, the tower, the backbone or the choice of features is not supported; the message
            names it and lists what is.
    """
    kind = getattr(config, "model_type", type(config).__name__)
    known = [one for one in FAMILIES.values() if (one.model_type or one.name) == kind]
    if not known:
        why = f": {REFUSED[kind]}" if kind in REFUSED else f" (to write its record: {_HOW})"
        raise ValueError(f"model family {kind!r} is not supported{why}. Supported: {supported()}")
    tower, backbone = config.vision_config.model_type, config.text_config.model_type
    towers = [one for one in known if tower in one.towers]
    if not towers:
        raise ValueError(
            f"{kind} with the vision tower {tower!r} is not supported: {_where(known[0].vision)} "
            f"(to write its record: {_HOW}). Supported: {supported()}"
        )
    adapter = next((one for one in towers if backbone in one.backbones), None)
    if adapter is None:
        raise ValueError(
            f"{kind} with the backbone {backbone!r} is not supported: {_where(towers[0].backbone)} "
            f"(to write its record: {_HOW}). Supported: {supported()}"
        )
    adapter.check(config)
    return adapter


def _where(mlps: MLPs | None) -> str:
    """What a record would have to say."""
    paths = "" if mlps is None else mlps.into if isinstance(mlps.into, str) else next(iter(mlps.into))
    known = f", as {paths} is for those that are" if paths else ""
    return f"where its MLPs are is not known{known}"
