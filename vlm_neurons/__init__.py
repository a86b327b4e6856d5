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
    "statistics": "classification",
    "gather_evidence": "evidence",
    "Evidence": "evidence",
    "Exemplar": "evidence",
    "explain": "explaining",
    "Explanation": "explaining",
    "DissectionExplainer": "explaining",
    "OpenAIExplainer": "explaining",
    "LocalExplainer": "explaining",
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
    from vlm_neurons.classification import statistics as statistics
    from vlm_neurons.data import ImageTextData as ImageTextData
    from vlm_neurons.data import Sample as Sample
    from vlm_neurons.data import describe as describe
    from vlm_neurons.evidence import Evidence as Evidence
    from vlm_neurons.evidence import Exemplar as Exemplar
    from vlm_neurons.evidence import gather_evidence as gather_evidence
    from vlm_neurons.explaining import DissectionExplainer as DissectionExplainer
    from vlm_neurons.explaining import Explanation as Explanation
    from vlm_neurons.explaining import LocalExplainer as LocalExplainer
    from vlm_neurons.explaining import OpenAIExplainer as OpenAIExplainer
    from vlm_neurons.explaining import explain as explain
    from vlm_neurons.model import Batch as Batch
    from vlm_neurons.model import HookedVLM as HookedVLM
    from vlm_neurons.neurons import Neuron as Neuron
    from vlm_neurons.neurons import Patch as Patch
    from vlm_neurons.neurons import TokenKind as TokenKind
    from vlm_neurons.scanning import Run as Run
    from vlm_neurons.scanning import scan as scan
    from vlm_neurons.show import report as report
    from vlm_neurons.world import scenes as scenes
