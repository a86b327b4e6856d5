"""HookedVLM: a vision-language model whose neurons can be read and edited, over a TransformerBridge.

Light to import: torch, but neither transformers nor transformer_lens, until a model is built.
"""

from __future__ import annotations

from vlm_neurons.models.adapters import families
from vlm_neurons.models.batch import Batch, HookNeverFires, RowError, SettingsError
from vlm_neurons.models.hooked import HookedVLM
from vlm_neurons.models.measuring import measure_geometry
from vlm_neurons.models.template import is_dated, on_day

__all__ = [
    "Batch",
    "HookNeverFires",
    "HookedVLM",
    "RowError",
    "SettingsError",
    "families",
    "is_dated",
    "measure_geometry",
    "on_day",
]
