"""What single neurons of a vision-language model do. A plugin for TransformerLens.

Names are loaded when they are used, so that `import vlm_neurons` stays quick.

In the examples of docstrings `vn` is this package, `np` numpy and `torch` torch. `model`, `data`, `batch`, `run`,
`table`, `evidence`, `explanations`, `simulations` and `scores` are those of the README's first pages, on the embedded
model and 120 scenes; `clean` and `corrupt` are batches of a red and a cyan object, described as far as "a large", and
`answer` gives the logit of "red" less that of "cyan" for the next word. `tests/test_docstrings.py` makes them, and runs
the examples.

>>> evidence["L2N304"].label, explanations["L2N304"].text
('visual', 'pink regions')
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
    "gather_evidence": "evidence",
    "Evidence": "evidence",
    "Exemplar": "evidence",
    "explain": "explaining",
    "Explanation": "explaining",
    "DissectionExplainer": "explaining",
    "OpenAIExplainer": "explaining",
    "LocalExplainer": "explaining",
    "simulate": "simulating",
    "Simulation": "simulating",
    "ConceptSimulator": "simulating",
    "score": "scoring",
    "compare": "scoring",
    "detect": "scoring",
    "score_statistics": "scoring",
    "ApiSimulator": "simulating",
    "LocalSimulator": "simulating",
    "GroundedSimulator": "simulating",
    "ClipSimulator": "simulating",
    "BothSides": "simulating",
    "ApiJudge": "simulating",
    "report": "show",
    "show_neuron": "show",
    "compare_neurons": "show",
    "show_layers": "show",
    "show_distribution": "show",
    "show_scores": "show",
    "to_circuitsvis": "show",
    "NeuronCard": "show",
    "causal_effects": "interventions",
    "class_groups": "interventions",
    "compare_effects": "interventions",
    "controls": "interventions",
    "random_gates": "interventions",
    "pruning_curve": "interventions",
    "patch_neurons": "interventions",
    "attribute_neurons": "interventions",
    "direct_logits": "interventions",
    "vocabulary": "interventions",
    "images_of_row": "interventions",
    "row_cache": "interventions",
    "take_rows": "interventions",
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
    from vlm_neurons.evidence import Evidence as Evidence
    from vlm_neurons.evidence import Exemplar as Exemplar
    from vlm_neurons.evidence import gather_evidence as gather_evidence
    from vlm_neurons.explaining import DissectionExplainer as DissectionExplainer
    from vlm_neurons.explaining import Explanation as Explanation
    from vlm_neurons.explaining import LocalExplainer as LocalExplainer
    from vlm_neurons.explaining import OpenAIExplainer as OpenAIExplainer
    from vlm_neurons.explaining import explain as explain
    from vlm_neurons.interventions import attribute_neurons as attribute_neurons
    from vlm_neurons.interventions import causal_effects as causal_effects
    from vlm_neurons.interventions import class_groups as class_groups
    from vlm_neurons.interventions import compare_effects as compare_effects
    from vlm_neurons.interventions import controls as controls
    from vlm_neurons.interventions import direct_logits as direct_logits
    from vlm_neurons.interventions import images_of_row as images_of_row
    from vlm_neurons.interventions import patch_neurons as patch_neurons
    from vlm_neurons.interventions import pruning_curve as pruning_curve
    from vlm_neurons.interventions import random_gates as random_gates
    from vlm_neurons.interventions import row_cache as row_cache
    from vlm_neurons.interventions import take_rows as take_rows
    from vlm_neurons.interventions import vocabulary as vocabulary
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
    from vlm_neurons.scoring import compare as compare
    from vlm_neurons.scoring import detect as detect
    from vlm_neurons.scoring import score as score
    from vlm_neurons.scoring import score_statistics as score_statistics
    from vlm_neurons.show import NeuronCard as NeuronCard
    from vlm_neurons.show import compare_neurons as compare_neurons
    from vlm_neurons.show import report as report
    from vlm_neurons.show import show_distribution as show_distribution
    from vlm_neurons.show import show_layers as show_layers
    from vlm_neurons.show import show_neuron as show_neuron
    from vlm_neurons.show import show_scores as show_scores
    from vlm_neurons.show import to_circuitsvis as to_circuitsvis
    from vlm_neurons.simulating import ApiJudge as ApiJudge
    from vlm_neurons.simulating import ApiSimulator as ApiSimulator
    from vlm_neurons.simulating import BothSides as BothSides
    from vlm_neurons.simulating import ClipSimulator as ClipSimulator
    from vlm_neurons.simulating import ConceptSimulator as ConceptSimulator
    from vlm_neurons.simulating import GroundedSimulator as GroundedSimulator
    from vlm_neurons.simulating import LocalSimulator as LocalSimulator
    from vlm_neurons.simulating import Simulation as Simulation
    from vlm_neurons.simulating import simulate as simulate
    from vlm_neurons.world import scenes as scenes
