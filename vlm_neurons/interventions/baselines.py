"""The two checks that any claim of learned neurons needs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vlm_neurons._checks import check_seed
from vlm_neurons.hooks import ablate
from vlm_neurons.interventions.measures import Scores, change_of, means_of, measure, prepare_tasks
from vlm_neurons.models.adapters import along, module_at
from vlm_neurons.models.experts import experts_of, gates_of
from vlm_neurons.models.held import is_plain
from vlm_neurons.sites import at

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.data import ImageTextData
    from vlm_neurons.models import HookedVLM

PLACES = ("visual", "template", "text", None)


@contextmanager
def random_gates(model: HookedVLM, seed: int = 0) -> Iterator[HookedVLM]:
    """Within this context every row of every gate projection is a random direction of the same norm; the weights are
    put back on leaving. What "selective" neurons it has, no training made.

    >>> with vn.interventions.random_gates(model):
    ...     model.generate(data[0].load_images(), [data[0].prompt], max_new_tokens=5)
    ['large cyan circle at large']
    >>> model.generate(data[0].load_images(), [data[0].prompt], max_new_tokens=4)
    ['a large purple cross']
    """
    check_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []
    rows: list[torch.Tensor] = []
    try:
        mlps = model.adapter.mlps("gate")
        for _, path in along(model.bridge.original_model, mlps.into):
            layer = module_at(model.bridge.original_model, path)
            if not is_plain(layer):
                raise ValueError(
                    f"random gates: {path} is quantised or has an adapter, so its weights cannot be replaced"
                )
            rows.append(mlps.of_gates(layer.weight.data))
        for _, _, experts in experts_of(model.bridge.original_model, model.adapter):
            rows += [gates_of(experts, e).data for e in range(experts.num_experts)]
        for weight in rows:
            kept.append((weight, weight.clone()))
            new = torch.randn(weight.shape, generator=generator).to(weight.device)
            norm = weight.float().norm(dim=1, keepdim=True) / new.norm(dim=1, keepdim=True)
            weight.copy_(new * norm)
        yield model
    finally:
        for weight, old in kept:
            weight.copy_(old)


def controls(
    model: HookedVLM,
    data: ImageTextData,
    draws: int = 3,
    classes: bool = True,
    seed: int = 0,
    batch_size: int = 50,
) -> pd.DataFrame:
    """Do the MLPs do work where neurons are said to see, and does training make the neurons?

    1. MLPs silenced (their outputs set to zero) by position kind, all layers together and, at image patches, one by
       one. If silencing them at image patches costs nothing, no neuron does visual work there, however selective.
    2. Gates replaced by random directions of equal norm. Selectivity or classes that random gates have as well, say
       nothing about training.

    Args:
        model: the model; its weights are the same afterwards.
        data: samples with responses.
        draws: of random gates.
        classes: also scan and classify with the trained and with random gates, by the top twentieth of the samples
            (5 to 50 of them).
        seed: of the random gates and the bootstrap.
        batch_size: samples per forward pass.

    Returns:
        One row per condition: `check` (`"intact"`, `"silenced"`, `"random gates"`), `condition`, the mean over samples
        of every measure (description loss; for scenes the attributes that are said right), and `change`, `low`, `high`
        of the description loss, with its 95 % bootstrap interval over samples. With `classes` the counts `visual`,
        `text`, `multimodal`, `unknown` on the rows of intact and random gates.

    Raises:
        ValueError: samples without responses, or a model without gates.

    >>> checks = vn.interventions.controls(model, vn.scenes(8, seed=1), draws=1, classes=False).set_index("condition")
    >>> loss = checks["description loss"].round(1)
    >>> loss[["visual", "visual, layer 3", "draw 0"]].tolist()  # nothing reads the patches of the last layer
    [0.5, 0.0, 12.4]
    """
    import pandas as pd

    check_seed(seed)
    tasks = prepare_tasks(model, data, batch_size=batch_size)
    rng = np.random.default_rng(seed)
    intact = measure(model, tasks)
    rows = [_row("intact", "", intact, intact, rng) | (_classes(model, data, batch_size) if classes else {})]
    every = list(range(model.n_layers))
    conditions: list[tuple[str, Sequence[int], Any]] = [(p or "all positions", every, p) for p in PLACES]
    conditions += [(f"visual, layer {i}", [i], "visual") for i in every]
    for name, layers, where in conditions:
        hooks = ablate([hook for hook in model.site_hooks("post") if at(hook)[1] in layers], where=where)
        rows.append(_row("silenced", name, measure(model, tasks, hooks), intact, rng))
    for draw in range(draws):
        with random_gates(model, seed + draw):
            row = _row("random gates", f"draw {draw}", measure(model, tasks), intact, rng)
            rows.append(row | (_classes(model, data, batch_size) if classes else {}))
    return pd.DataFrame(rows)


def _row(check: str, condition: str, scores: Scores, intact: Scores, rng: np.random.Generator) -> dict[str, Any]:
    return {"check": check, "condition": condition} | means_of(scores) | change_of(scores, intact, rng)


def _classes(model: HookedVLM, data: ImageTextData, batch_size: int) -> dict[str, int]:
    """How many gate neurons each class has."""
    from vlm_neurons.classification import classify
    from vlm_neurons.scanning import scan
    from vlm_neurons.tokens import MODALITIES

    with tempfile.TemporaryDirectory() as folder:
        top_n = max(5, min(50, len(data) // 20))  # of few samples the top 50 would be all, and nearly all unknown
        run = scan(model, data, site="gate", top_n=top_n, batch_size=batch_size, out=folder, progress=False)
        labels = classify(run)["label"]
    return {label: int((labels == label).sum()) for label in MODALITIES}
