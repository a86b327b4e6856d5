"""What single neurons of a vision-language model do. A plugin for TransformerLens.

Names are loaded when they are used, so that `import vlm_neurons` stays quick.

In the examples of docstrings `vn` is this package, `np` numpy and `torch` torch. `model`, `data`, `batch`, `run`,
`table`, `evidence`, `explanations`, `simulations` and `scores` are those of the README's first pages, on the embedded
model and 120 scenes; `clean` and `corrupted` are batches of a red and a cyan object, described as far as "a large", and
`answer` gives the logit of "red" less that of "cyan" for the next word. `tests/test_docstrings.py` makes them, and runs
the examples.

>>> evidence["L2N304"].label, explanations["L2N304"].text
('visual', 'pink regions')
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0.dev0"

# public name -> module that defines it
_EXPORTS = {
    "HookedVLM": "models",
    "Batch": "models",
    "families": "models",
    "ImageTextData": "data",
    "Sample": "data",
    "scenes": "synthetic",
    "describe": "data",
    "scan": "scanning",
    "Run": "scanning",
    "classify": "classification",
    "modality_test": "classification",
    "statistics": "classification",
    "sweep": "classification",
    "sensitivity": "classification",
    "confusion": "classification",
    "gather_evidence": "evidence",
    "Evidence": "evidence",
    "Exemplar": "evidence",
    "explain": "autointerp",
    "Explanation": "autointerp",
    "DissectionExplainer": "autointerp.explainers",
    "OpenAIExplainer": "autointerp.explainers",
    "LocalExplainer": "autointerp.explainers",
    "simulate": "autointerp",
    "Simulation": "autointerp",
    "ConceptSimulator": "autointerp.simulators",
    "score": "autointerp",
    "compare": "autointerp",
    "detect": "autointerp",
    "score_statistics": "autointerp",
    "ApiSimulator": "autointerp.simulators",
    "LocalSimulator": "autointerp.simulators",
    "GroundedSimulator": "autointerp.simulators",
    "ClipSimulator": "autointerp.simulators",
    "BothSides": "autointerp.simulators",
    "ApiJudge": "autointerp.simulators",
    "report": "reporting",
    "show_neuron": "viz",
    "compare_neurons": "viz",
    "show_layers": "viz",
    "show_distribution": "viz",
    "show_scores": "viz",
    "to_circuitsvis": "viz",
    "NeuronCard": "viz",
    "causal_effects": "interventions",
    "class_groups": "interventions",
    "compare_effects": "interventions",
    "controls": "interventions",
    "random_gates": "interventions",
    "pruning_curve": "interventions",
    "patch_neurons": "interventions",
    "attribute_neurons": "interventions",
    "direct_logit_attribution": "interventions",
    "logit_lens": "interventions",
    "images_of_row": "interventions",
    "row_cache": "interventions",
    "take_rows": "interventions",
    "Neuron": "units",
    "Patch": "tokens",
    "TokenKind": "tokens",
}

# rooms that are reached as attributes -> module
_ROOMS = {
    **{
        name: name
        for name in ("classification", "concepts", "interventions", "models", "planted", "scanning", "sites", "viz")
    },
    **{name: f"autointerp.{name}" for name in ("explainers", "scorers", "simulators")},
}

__all__ = [*_EXPORTS, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        value: Any = import_module(f"{__name__}.{_ROOMS[name]}")
    elif name in _EXPORTS:
        value = getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS, *_ROOMS})


if TYPE_CHECKING:
    from vlm_neurons.autointerp import Explanation as Explanation
    from vlm_neurons.autointerp import Simulation as Simulation
    from vlm_neurons.autointerp import compare as compare
    from vlm_neurons.autointerp import detect as detect
    from vlm_neurons.autointerp import explain as explain
    from vlm_neurons.autointerp import score as score
    from vlm_neurons.autointerp import score_statistics as score_statistics
    from vlm_neurons.autointerp import simulate as simulate
    from vlm_neurons.autointerp.explainers import DissectionExplainer as DissectionExplainer
    from vlm_neurons.autointerp.explainers import LocalExplainer as LocalExplainer
    from vlm_neurons.autointerp.explainers import OpenAIExplainer as OpenAIExplainer
    from vlm_neurons.autointerp.simulators import ApiJudge as ApiJudge
    from vlm_neurons.autointerp.simulators import ApiSimulator as ApiSimulator
    from vlm_neurons.autointerp.simulators import BothSides as BothSides
    from vlm_neurons.autointerp.simulators import ClipSimulator as ClipSimulator
    from vlm_neurons.autointerp.simulators import ConceptSimulator as ConceptSimulator
    from vlm_neurons.autointerp.simulators import GroundedSimulator as GroundedSimulator
    from vlm_neurons.autointerp.simulators import LocalSimulator as LocalSimulator
    from vlm_neurons.classification import classify as classify
    from vlm_neurons.classification import confusion as confusion
    from vlm_neurons.classification import modality_test as modality_test
    from vlm_neurons.classification import sensitivity as sensitivity
    from vlm_neurons.classification import statistics as statistics
    from vlm_neurons.classification import sweep as sweep
    from vlm_neurons.data import ImageTextData as ImageTextData
    from vlm_neurons.data import Sample as Sample
    from vlm_neurons.data import describe as describe
    from vlm_neurons.evidence import Evidence as Evidence
    from vlm_neurons.evidence import Exemplar as Exemplar
    from vlm_neurons.evidence import gather_evidence as gather_evidence
    from vlm_neurons.interventions import attribute_neurons as attribute_neurons
    from vlm_neurons.interventions import causal_effects as causal_effects
    from vlm_neurons.interventions import class_groups as class_groups
    from vlm_neurons.interventions import compare_effects as compare_effects
    from vlm_neurons.interventions import controls as controls
    from vlm_neurons.interventions import direct_logit_attribution as direct_logit_attribution
    from vlm_neurons.interventions import images_of_row as images_of_row
    from vlm_neurons.interventions import logit_lens as logit_lens
    from vlm_neurons.interventions import patch_neurons as patch_neurons
    from vlm_neurons.interventions import pruning_curve as pruning_curve
    from vlm_neurons.interventions import random_gates as random_gates
    from vlm_neurons.interventions import row_cache as row_cache
    from vlm_neurons.interventions import take_rows as take_rows
    from vlm_neurons.models import Batch as Batch
    from vlm_neurons.models import HookedVLM as HookedVLM
    from vlm_neurons.models import families as families
    from vlm_neurons.reporting import report as report
    from vlm_neurons.scanning import Run as Run
    from vlm_neurons.scanning import scan as scan
    from vlm_neurons.synthetic import scenes as scenes
    from vlm_neurons.tokens import Patch as Patch
    from vlm_neurons.tokens import TokenKind as TokenKind
    from vlm_neurons.units import Neuron as Neuron
    from vlm_neurons.viz import NeuronCard as NeuronCard
    from vlm_neurons.viz import compare_neurons as compare_neurons
    from vlm_neurons.viz import show_distribution as show_distribution
    from vlm_neurons.viz import show_layers as show_layers
    from vlm_neurons.viz import show_neuron as show_neuron
    from vlm_neurons.viz import show_scores as show_scores
    from vlm_neurons.viz import to_circuitsvis as to_circuitsvis
