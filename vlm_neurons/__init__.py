"""What single neurons of a vision-language model do. A plugin for TransformerLens.

Names are loaded when they are used, so that `import vlm_neurons` stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# public name -> module that defines it
_EXPORTS = {
    "HookedVLM": "model",
    "Batch": "model",
    "ImageTextData": "data",
    "Sample": "data",
    "scenes": "world",
    "describe": "data",
    "scan": "scanning",
    "Run": "scanning",
    "classify": "classification",
    "statistics": "layer_statistics",
    "sweep": "robustness",
    "sensitivity": "robustness",
    "confusion": "robustness",
    "report": "show",
    "Neuron": "neurons",
    "Patch": "neurons",
    "TokenKind": "neurons",
}

__all__ = [*_EXPORTS, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})


if TYPE_CHECKING:
    from vlm_neurons.classification import classify as classify
    from vlm_neurons.data import ImageTextData as ImageTextData
    from vlm_neurons.data import Sample as Sample
    from vlm_neurons.data import describe as describe
    from vlm_neurons.layer_statistics import statistics as statistics
    from vlm_neurons.model import Batch as Batch
    from vlm_neurons.model import HookedVLM as HookedVLM
    from vlm_neurons.neurons import Neuron as Neuron
    from vlm_neurons.neurons import Patch as Patch
    from vlm_neurons.neurons import TokenKind as TokenKind
    from vlm_neurons.robustness import confusion as confusion
    from vlm_neurons.robustness import sensitivity as sensitivity
    from vlm_neurons.robustness import sweep as sweep
    from vlm_neurons.scanning import Run as Run
    from vlm_neurons.scanning import scan as scan
    from vlm_neurons.show import report as report
    from vlm_neurons.world import scenes as scenes
