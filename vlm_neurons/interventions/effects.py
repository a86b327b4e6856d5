"""Do the classes matter? Ablate them, and random neurons like them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from vlm_neurons import sites
from vlm_neurons._checks import check_seed, of_kind
from vlm_neurons.hooks import Neurons, Where, ablate
from vlm_neurons.hooks.positions import real_positions
from vlm_neurons.hooks.selecting import select
from vlm_neurons.interventions.measures import Scores, Task, measure, prepare_tasks
from vlm_neurons.models.reading import readers
from vlm_neurons.sites.sparse import Sparse
from vlm_neurons.stats import bootstrap_means
from vlm_neurons.units import Neuron

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.data import ImageTextData
    from vlm_neurons.models import Batch, HookedVLM

Sizes = dict[str, Float[np.ndarray, " neuron"]]
NEAREST = 5  # a control is drawn among so many of the nearest that are left
SIZE_BATCHES = 4  # batches of descriptions that activation sizes are measured on


def class_groups(
    table: pd.DataFrame, top: int | None = None, confident: bool = False, by_layer: bool = False
) -> dict[str, pd.DataFrame]:
    """Rows of the classification table by class, as groups for `causal_effects` and `patch_neurons`.

    Args:
        table: what `classify` returns, of one site and with positive poles only taken.
        top: of every class only so many: those with the largest share of its own samples, then the largest peak
            (labels of the modality test: with the smallest q).
        confident: only neurons whose class has more than 80 % of the top samples.
        by_layer: a group for every class and layer, `"visual, layer 0"`.

    Raises:
        ValueError: the table has several sites.

    >>> {name: len(rows) for name, rows in vn.interventions.class_groups(table, top=20).items()}
    {'visual': 20, 'text': 20, 'multimodal': 20, 'unknown': 20}
    >>> list(vn.interventions.class_groups(table, by_layer=True))[:2]
    ['visual, layer 0', 'visual, layer 1']
    """
    table = table[(table["pole"] == "+") & table["label"].isin(["visual", "text", "multimodal", "unknown"])]
    check_one_site(table)
    if confident:
        table = table[table["confident"]]
    found: dict[str, Any] = {}
    for label in ("visual", "text", "multimodal", "unknown"):
        mine = table[table["label"] == label]
        if top is not None:
            if f"p_{label}" in mine:
                order = mine.sort_values([f"p_{label}", "peak"], ascending=False, kind="stable")
            else:  # labels of the modality test: the smallest q is the surest
                order = mine.sort_values("q", kind="stable")
            mine = mine.loc[order.index[:top]]
        parts = mine.groupby("layer") if by_layer else [(None, mine)]
        found |= {label if layer is None else f"{label}, layer {layer}": part for layer, part in parts if len(part)}
    return found


def check_one_site(table: pd.DataFrame) -> None:
    """Refuse a table of several sites: gate and post of one MLP are two views of the same neurons.

    Raises:
        ValueError: it has more than one.
    """
    found = list(dict.fromkeys(table["site"]))
    if len(found) > 1:
        raise ValueError(
            f"the table has the sites {', '.join(found)}, whose neurons would be counted together: take one, such as "
            f"table[table.site == {found[0]!r}]"
        )


def causal_effects(
    model: HookedVLM,
    data: ImageTextData,
    table: pd.DataFrame | None = None,
    groups: Mapping[str, Neurons] | None = None,
    controls: int = 8,
    where: Sequence[Where] = (None, "visual", ("template", "text")),
    questions: ImageTextData | None = None,
    text: ImageTextData | None = None,
    to: float | str = 0.0,
    seed: int = 0,
    batch_size: int = 50,
    progress: bool = True,
) -> pd.DataFrame:
    """Ablate groups of neurons, and random neurons matched by layer, count and activation size, and measure both.

    Args:
        model: the model.
        data: samples with responses: description loss, and for `vn.scenes` the attributes that are said right.
        table: what `classify` returns; its classes are the groups where none are given.
        groups: `{name: neurons}`, such as `class_groups(table, top=40)`.
        controls: draws of matched random neurons per group and place; at least 2.
        where: positions of the ablation, one after the other: None (everywhere), a token kind, or several in a tuple.
        questions: samples with short answers (`vn.scenes(n, task="question")`): loss and answers exactly right.
        text: samples without images (`vn.scenes(n, task="text")`): the same.
        to: as for `vlm_neurons.hooks.ablate`.
        seed: of the control draws and of the bootstrap.
        batch_size: samples per forward pass.
        progress: show a bar on stderr.

    Returns:
        One row per group, place and measure: `group`, `where`, `measure`, `n_neurons`, `n_control` (fewer than
        n_neurons where the group is most of a layer), `size_ratio` (mean activation of controls / group), `intact`,
        `effect` (ablated - intact, mean over samples), `control` (the same for the controls), `difference` (effect -
        control), `low`, `high` (95 % bootstrap interval of the difference, over samples and over control draws), `se`,
        `n` (samples). A whole layer, or a whole expert, leaves no controls (n_control 0): `control` and all that
        follows from it are NaN. Losses in nats per token: damage is positive; shares right: damage is negative.

    Raises:
        ValueError: fewer than two control draws, neither table nor groups, or samples without responses.

    >>> groups = {"visual": table[table.label == "visual"]}
    >>> found = vn.causal_effects(
    ...     model, vn.scenes(10, seed=1), groups=groups, controls=2, where=["visual"], progress=False
    ... )
    >>> loss = found.set_index("measure").loc["description loss"]
    >>> bool(loss.effect > loss.control)  # they do more than as many others
    True
    """
    import pandas as pd

    check_seed(seed)
    if controls < 2:
        raise ValueError(f"controls={controls}: an interval over draws needs at least 2")
    if groups is None:
        if table is None:
            raise ValueError("give the table of classify(), or groups={name: neurons}")
        groups = class_groups(table)
    of_kind("groups", groups, Mapping, "give {name: neurons}, such as class_groups(table, top=40)")
    members = {name: [n for _, n in select(neurons, "causal_effects") if n] for name, neurons in groups.items()}
    tasks = prepare_tasks(model, data, questions, text, batch_size=batch_size)
    hooks = sorted({n.hook for found in members.values() for n in found})
    intact = measure(model, tasks)
    rows: list[dict[str, Any]] = []
    with tqdm(total=len(where) * len(members) * (controls + 1), desc="ablations", disable=not progress) as bar:
        for place in where:
            sizes = activation_sizes(model, tasks[0].batches[:SIZE_BATCHES], hooks, place)
            here = tasks if place != "visual" else [t for t in tasks if t.shows_images]
            for number, (name, neurons) in enumerate(members.items()):
                rng = np.random.default_rng([seed, number])
                drawn = [matched(neurons, sizes, rng) for _ in range(controls)]
                found = [_ablated(model, here, n, to, place, bar) for n in (neurons, *filter(None, drawn))]
                bar.update(controls + 1 - len(found))
                shared = {
                    "group": name,
                    "where": place_name(place),
                    "n_neurons": len(neurons),
                    "n_control": len(drawn[0]),
                    "size_ratio": float(np.mean([size_ratio(d, neurons, sizes) for d in drawn])),
                }
                rows += [shared | row for row in _compare(intact, found[0], found[1:], rng)]
    return pd.DataFrame(rows)


def place_name(where: Where) -> str:
    """`where` in words.

    >>> place_name(("template", "text"))
    'template + text'
    """
    if where is None:
        return "everywhere"
    return " + ".join(map(str, where)) if isinstance(where, tuple | list) else str(where)


def _ablated(
    model: HookedVLM, tasks: Sequence[Task], neurons: Sequence[Neuron], to: float | str, where: Where, bar: Any
) -> Scores:
    bar.update()
    return measure(model, tasks, ablate(neurons, to, where) if neurons else [])


def _compare(intact: Scores, group: Scores, drawn: list[Scores], rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """One row per measure."""
    for name in group:
        effect = group[name] - intact[name]
        # without controls nothing was measured: that is no effect of 0
        control = np.stack([d[name] - intact[name] for d in drawn] or [np.full_like(effect, np.nan)], 1)
        keep = ~np.isnan(effect)
        if not keep.any():  # no sample has anything to measure there, such as a shape that is named
            continue
        effect, control = effect[keep], control[keep]
        paired = effect[:, None] - control
        means = bootstrap_means(paired, rng)
        low, high = np.percentile(means, [2.5, 97.5])
        yield {
            "measure": name,
            "intact": float(np.nanmean(intact[name])),
            "effect": float(effect.mean()),
            "control": float(control.mean()),
            "difference": float(paired.mean()),
            "low": float(low),
            "high": float(high),
            "se": float(means.std()),
            "n": len(effect),
        }


def compare_effects(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Two runs of `causal_effects`, such as under two seeds, cell by cell.

    Returns:
        One row per cell that both have: `group`, `where`, `measure`, `difference_a`, `difference_b`, `change`, `low`,
        `high` (95 % interval of the change, from both standard errors), `covers_zero`; missing without controls.

    >>> import pandas as pd
    >>> cell = {"group": "visual", "where": "visual", "measure": "shape"}
    >>> a = pd.DataFrame([{**cell, "difference": -0.25, "se": 0.03}])
    >>> b = pd.DataFrame([{**cell, "difference": -0.20, "se": 0.04}])
    >>> vn.interventions.compare_effects(a, b)[["change", "low", "high", "covers_zero"]].round(3)
       change    low   high  covers_zero
    0    0.05 -0.048  0.148         True
    """
    keys = ["group", "where", "measure"]
    both = a.merge(b, on=keys, suffixes=("_a", "_b"))
    change = both["difference_b"] - both["difference_a"]
    half = 1.96 * np.sqrt(both["se_a"] ** 2 + both["se_b"] ** 2)
    found = both[[*keys, "difference_a", "difference_b"]].copy()
    found["change"], found["low"], found["high"] = change, change - half, change + half
    found["covers_zero"] = (change.abs() <= half).astype("boolean").mask(change.isna())
    return found


def activation_sizes(model: HookedVLM, batches: Sequence[Batch], places: Sequence[str], where: Where = None) -> Sizes:
    """Root mean square of every neuron over the positions `where` where it is defined, padding left out."""
    totals: dict[str, Tensor] = {}
    counts: dict[str, Any] = {}

    def add(place: str, values: Tensor, defined: Tensor | None) -> None:
        site, layer = sites.at(place)
        image_hook = site.hooks([layer])[0] if site.indexed_by == "image" else None
        mask = real_positions(where, values, image_hook, "activation_sizes")
        chosen = values[mask].double()
        if defined is not None:
            chosen = chosen.masked_fill(~defined[mask], 0)
        totals[place] = totals.get(place, 0) + chosen.pow(2).sum(0).cpu()
        counts[place] = counts.get(place, 0) + (len(chosen) if defined is None else defined[mask].sum(0).cpu())

    def add_listed(place: str, values: Sparse) -> None:
        mask = real_positions(where, values.value.new_empty(*values.shape[:-1], 0), None, "activation_sizes")
        own = mask.flatten()[values.position]
        total = torch.zeros(values.shape[-1], dtype=torch.float64, device=own.device)
        total.index_add_(0, values.unit[own], values.value[own].double().pow(2))
        totals[place] = totals.get(place, 0) + total.cpu()
        counts[place] = counts.get(place, 0) + int(mask.sum())

    for batch in batches:
        model.observe(batch, readers(places, add, listed=add_listed))
    return {place: (totals[place] / torch.as_tensor(counts[place]).clamp(min=1)).sqrt().numpy() for place in places}


def matched(neurons: Sequence[Neuron], sizes: Sizes, rng: np.random.Generator) -> list[Neuron]:
    """Draw for every neuron another one of its hook that is about as active, none of them twice, none of `neurons`.

    Where a group is more than half of a layer there are not enough others: all others are returned, and they are
    fewer. The order of drawing is random; each neuron gets one of the `NEAREST` nearest (in log size) that are left.
    """
    found: list[Neuron] = []
    for hook in sorted({n.hook for n in neurons}):
        mine = sorted({n.index for n in neurons if n.hook == hook})
        log = np.log(np.maximum(sizes[hook], 1e-9))
        pool = np.setdiff1d(np.arange(len(log)), mine)
        left = pool[np.argsort(log[pool], kind="stable")].tolist()
        values = log[left].tolist()
        for i in rng.permutation(mine):
            if not left:
                break
            place = _pick(values, float(log[i]), rng)
            found.append(Neuron(hook, int(left.pop(place))))
            values.pop(place)
    return found


def _pick(values: list[float], target: float, rng: np.random.Generator) -> int:
    """Place of one of the nearest values in a sorted list."""
    at = int(np.searchsorted(values, target))
    low, high = max(0, at - NEAREST), min(len(values), at + NEAREST)
    near = sorted(range(low, high), key=lambda j: abs(values[j] - target))[:NEAREST]
    return int(rng.choice(near))


def size_ratio(controls: Sequence[Neuron], neurons: Sequence[Neuron], sizes: Sizes) -> float:
    """Mean activation size of the controls over that of the neurons: 1 is a perfect match."""
    a, b = (np.mean([sizes[n.hook][n.index] for n in group]) if group else np.nan for group in (controls, neurons))
    return float(a / b) if b else float("nan")
