"""The numbers of a report as JSON, from which the page is written too."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vlm_neurons.classification import statistics
from vlm_neurons.classification.thresholds import Thresholds
from vlm_neurons.reporting.story import Dependence

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.scanning.run import Run

FORMAT = 1


def document(
    run: Run,
    table: pd.DataFrame,
    rule: Thresholds | None,
    thresholds: Dependence | None,
    scores: Sequence[dict[str, Any]],
    neurons: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Everything that the page shows as a number.

    Args:
        run: the run.
        table: its classification.
        rule: the thresholds behind it, where they are known.
        thresholds: what other thresholds would give.
        scores: summary by modality.
        neurons: `record` of every neuron that is shown.
    """
    return {
        "format": FORMAT,
        "run": run.identity,
        "model": run.info["model"],
        "data": run.info["data"],
        "parameters": run.info["parameters"],
        "versions": run.info["versions"],
        "n_samples": len(run.samples),
        "skipped": run.skipped,
        "rule": None if rule is None else vars(rule),
        "layers": statistics(table).to_dict("records"),
        "sweep": [] if thresholds is None else thresholds.sweep.to_dict("records"),
        "sensitivity": [] if thresholds is None else thresholds.choices.to_dict("records"),
        "scores": list(scores),
        "neurons": list(neurons),
    }


def dumps(numbers: dict[str, Any]) -> str:
    """JSON without loss; what is no number becomes null. The same numbers give the same text."""
    return json.dumps(_plain(numbers), indent=1, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
