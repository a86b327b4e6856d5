"""How much of a model can go: loss against the share of neurons removed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from vlm_neurons._checks import check_seed
from vlm_neurons.hooks import ablate
from vlm_neurons.interventions.effects import SIZE_BATCHES, activation_sizes, check_one_site
from vlm_neurons.interventions.measures import change_of, means_of, measure, prepare_tasks
from vlm_neurons.units import Neuron

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.data import ImageTextData
    from vlm_neurons.models import HookedVLM

ORDERS = ("unknown", "random", "smallest")


def pruning_curve(
    model: HookedVLM,
    data: ImageTextData,
    table: pd.DataFrame,
    shares: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    orders: Sequence[str] = ORDERS,
    draws: int = 3,
    text: ImageTextData | None = None,
    seed: int = 0,
    batch_size: int = 50,
    progress: bool = True,
) -> pd.DataFrame:
    """Set a growing share of the table's neurons to zero everywhere, and measure.

    Args:
        model: the model.
        data: samples with responses.
        table: what `classify` returns, of one site; its positive poles are the neurons.
        shares: of all neurons, 0 to 1.
        orders: what goes first: `"unknown"` (in random order; the curve ends where there are no more), `"random"`,
            `"smallest"` (by root mean square activation on `data`).
        draws: of the random orders.
        text: samples without images, to measure too.
        seed: of the random orders and the bootstrap.
        batch_size: samples per forward pass.
        progress: show a bar on stderr.

    Returns:
        One row per order, draw and share: `order`, `draw`, `share`, `n_neurons`, a column for every measure, and
        `change`, `low`, `high`: change of the description loss with its 95 % bootstrap interval over samples.

    Raises:
        ValueError: an unknown order, a share outside 0 ... 1, or a table of several sites.

    >>> curve = vn.interventions.pruning_curve(
    ...     model, vn.scenes(10, seed=1), table, shares=[0.5], orders=["smallest", "random"], draws=1, progress=False
    ... )
    >>> curve[["order", "n_neurons", "change"]].round(1)
          order  n_neurons  change
    0  smallest        768     0.0
    1    random        768     1.0
    """
    import pandas as pd

    bad = next((o for o in orders if o not in ORDERS), None)
    if bad is not None or not all(0 <= s <= 1 for s in shares):
        raise ValueError(f"orders={orders!r}, shares={shares!r}: orders are {list(ORDERS)}, shares 0 to 1")
    check_seed(seed)
    table = table[table["pole"] == "+"]
    check_one_site(table)
    tasks = prepare_tasks(model, data, text=text, batch_size=batch_size)
    intact = measure(model, tasks)
    hooks = sorted(table["hook"].unique())
    sizes = activation_sizes(model, tasks[0].batches[:SIZE_BATCHES], hooks)
    every = [Neuron(h, int(i)) for h, i in zip(table["hook"], table["index"], strict=True)]
    rows: list[dict[str, Any]] = []
    todo = [(o, d) for o in orders for d in range(1 if o == "smallest" else draws)]
    for order, draw in tqdm(todo, desc="pruning", disable=not progress):
        rng = np.random.default_rng([seed, draw])
        ranked = _ranked(order, every, table, sizes, rng)
        for share in shares:
            n = round(share * len(every))
            if n > len(ranked):
                break
            scores = measure(model, tasks, ablate(ranked[:n]) if n else [])
            row = {"order": order, "draw": draw, "share": share, "n_neurons": n}
            rows.append(row | change_of(scores, intact, rng) | means_of(scores))
    return pd.DataFrame(rows)


def _ranked(order: str, every: list[Neuron], table: Any, sizes: Any, rng: np.random.Generator) -> list[Neuron]:
    if order == "smallest":
        return sorted(every, key=lambda n: sizes[n.hook][n.index])
    if order == "unknown":
        every = [n for n, label in zip(every, table["label"], strict=True) if label == "unknown"]
    return [every[i] for i in rng.permutation(len(every))]
