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
    "compare_runs": "classification",
    "top_neurons": "classification",
    "statistics": "classification",
    "gather_evidence": "evidence",
    "Evidence": "evidence",
    "explain": "autointerp",
    "Explanation": "autointerp",
    "SteeringExplainer": "autointerp",
    "VocabularyExplainer": "autointerp",
    "simulate": "autointerp",
    "Simulation": "autointerp",
    "score": "autointerp",
    "report": "reporting",
    "export": "reporting",
    "show_neuron": "viz",
    "show_layers": "viz",
    "to_circuitsvis": "viz",
    "causal_effects": "interventions",
    "input_effects": "interventions",
    "faithfulness": "interventions",
    "patch_neurons": "interventions",
    "attribute_neurons": "interventions",
    "trust": "interventions",
    "Neuron": "units",
    "Patch": "tokens",
    "TokenKind": "tokens",
}

# rooms that are reached as attributes -> module
_ROOMS = {name: name for name in ("autointerp", "classification", "concepts", "data", "evidence", "interventions")}
_ROOMS |= {name: name for name in ("hooks", "models", "planted", "reporting", "scanning", "sites", "synthetic", "viz")}
_ROOMS |= {name: f"autointerp.{name}" for name in ("explainers", "scorers", "simulators")}

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
    from vlm_neurons import autointerp as autointerp
    from vlm_neurons import classification as classification
    from vlm_neurons import concepts as concepts
    from vlm_neurons import data as data
    from vlm_neurons import evidence as evidence
    from vlm_neurons import interventions as interventions
    from vlm_neurons import models as models
    from vlm_neurons import planted as planted
    from vlm_neurons import reporting as reporting
    from vlm_neurons import scanning as scanning
    from vlm_neurons import sites as sites
    from vlm_neurons import synthetic as synthetic
    from vlm_neurons import viz as viz
    from vlm_neurons.autointerp import Explanation as Explanation
    from vlm_neurons.autointerp import Simulation as Simulation
    from vlm_neurons.autointerp import SteeringExplainer as SteeringExplainer
    from vlm_neurons.autointerp import VocabularyExplainer as VocabularyExplainer
    from vlm_neurons.autointerp import explain as explain
    from vlm_neurons.autointerp import explainers as explainers
    from vlm_neurons.autointerp import score as score
    from vlm_neurons.autointerp import scorers as scorers
    from vlm_neurons.autointerp import simulate as simulate
    from vlm_neurons.autointerp import simulators as simulators
    from vlm_neurons.classification import classify as classify
    from vlm_neurons.classification import compare_runs as compare_runs
    from vlm_neurons.classification import modality_test as modality_test
    from vlm_neurons.classification import statistics as statistics
    from vlm_neurons.classification import top_neurons as top_neurons
    from vlm_neurons.data import ImageTextData as ImageTextData
    from vlm_neurons.data import Sample as Sample
    from vlm_neurons.data import describe as describe
    from vlm_neurons.evidence import Evidence as Evidence
    from vlm_neurons.evidence import gather_evidence as gather_evidence
    from vlm_neurons.interventions import attribute_neurons as attribute_neurons
    from vlm_neurons.interventions import causal_effects as causal_effects
    from vlm_neurons.interventions import faithfulness as faithfulness
    from vlm_neurons.interventions import input_effects as input_effects
    from vlm_neurons.interventions import patch_neurons as patch_neurons
    from vlm_neurons.interventions import trust as trust
    from vlm_neurons.models import Batch as Batch
    from vlm_neurons.models import HookedVLM as HookedVLM
    from vlm_neurons.models import families as families
    from vlm_neurons.reporting import export as export
    from vlm_neurons.reporting import report as report
    from vlm_neurons.scanning import Run as Run
    from vlm_neurons.scanning import scan as scan
    from vlm_neurons.synthetic import scenes as scenes
    from vlm_neurons.tokens import Patch as Patch
    from vlm_neurons.tokens import TokenKind as TokenKind
    from vlm_neurons.units import Neuron as Neuron
    from vlm_neurons.viz import show_layers as show_layers
    from vlm_neurons.viz import show_neuron as show_neuron
    from vlm_neurons.viz import to_circuitsvis as to_circuitsvis
