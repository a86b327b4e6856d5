"""Which neurons a picture or a text makes stand out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlm_neurons._checks import of_kind
from vlm_neurons.models.reading import of_tokens, readers
from vlm_neurons.protocols import SIDES, Side
from vlm_neurons.scanning import Run
from vlm_neurons.scanning.summarise import RowTokens, rows_by_kind, take
from vlm_neurons.sites import Address
from vlm_neurons.sites import at as at_place
from vlm_neurons.units import Pole

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.models import Batch, HookedVLM

    Column = tuple[str, Pole]

ROUNDING = 1e-4  # of activations from one batch to another, relative
COLUMNS = ["neuron", "site", "layer", "side", "z", "peak", "patch", "token", "rank"]


@dataclass(frozen=True)
class Standing:
    """The units of one tensor and pole on one side.

    Attributes:
        z: how far the mean of positive activations is above that of the run's images, in their standard deviations.
        peak: the largest activation.
        at: where it is: position in the row.
        rank: of `peak` among the run's samples; NaN below its top samples.
    """

    z: Float[Tensor, "d"]
    peak: Float[Tensor, "d"]
    at: Int[Tensor, "d"]
    rank: Float[Tensor, "d"]


def top_neurons(model: HookedVLM, batch: Batch, run: Run, *, row: int = 0, n: int = 20) -> pd.DataFrame:
    """The neurons that stand out on one sample against their own distribution over the data of a run.

    Of every neuron that was scanned, the mean of its positive activations at the sample's patches, and at its response
    tokens (V and T of `vn.modality_test`), is compared with its mean and standard deviation over the run's samples.
    Units of sites that see images alone (projector, vision) have no such numbers, and are left out; so are those that
    never varied.

    Args:
        model: that of the run.
        batch: as `model.prepare` makes it.
        run: a finished scan, with classes (`run.save(vn.classify(run))`) and concepts where they are to be shown.
        row: which sample of the batch.
        n: how many neurons of each side.

    Returns:
        One row a neuron and side, the highest z first: `neuron`, `site`, `layer`, `side` (`picture`, `text`), `z`,
        `peak` (the largest activation there), `patch` (its number in `batch.patches`; -1 on the side of the text),
        `token` (of the text), `rank` (of `peak` among the run's samples, 1 is the highest; NaN below its top samples),
        and where the run has them `label` and `phrase`, `r` of `run.concepts()`.

    Raises:
        IndexError: the batch has no such row.
        ValueError: the run is of another model, or none of its sites sees text.

    >>> batch = model.prepare(data[0].load_images(), data[0].prompt, data[0].response)
    >>> table = vn.top_neurons(model, batch, run, n=5)
    >>> len(table), bool((table["z"] > 2).all())
    (10, True)
    """
    import pandas as pd

    of_kind("run", run, Run, "give a finished run, such as vn.Run.load(directory)")
    if not 0 <= row < len(batch):
        raise IndexError(f"row={row}: the batch has {len(batch)} rows")
    if model.fingerprint() != run.info["model"]["fingerprint"]:
        raise ValueError(f"{run.path} was scanned with another model (its fingerprint differs)")
    columns = [(c["hook"], c["pole"]) for c in run.info["columns"] if c["indexed_by"] == "row"]
    if not columns:
        raise ValueError(
            f"{run.path} has {run.scanned}: units that see images alone have no distribution to compare with"
        )
    found = _look(model, batch, run, columns, row)
    parts = []
    for side in SIDES:
        sides = [(column, found[column][side]) for column in columns if side in found[column]]
        if sides:
            parts += _highest(batch, row, n, side, sides)
    table = pd.DataFrame(parts, columns=COLUMNS).sort_values("z", ascending=False, kind="stable", ignore_index=True)
    if (run.path / "neurons.parquet").is_file():
        table = table.merge(run.table()[["neuron", "label"]], on="neuron", how="left")
    if "concepts" in run.info:
        concepts = run.concepts()[["neuron", "side", "phrase", "r"]]
        table = table.merge(concepts, on=["neuron", "side"], how="left")
    return table


def _look(
    model: HookedVLM, batch: Batch, run: Run, columns: Sequence[Column], row: int
) -> dict[Column, dict[Side, Standing]]:
    places = list(dict.fromkeys(place for place, _ in columns))
    tokens = rows_by_kind(batch.kinds)[row]
    found: dict[Column, dict[Side, Standing]] = {}

    def keep(place: str, values: Tensor, defined: Tensor | None) -> None:
        acts, there, _ = of_tokens(model, batch, place, values, defined)
        for pole in (pole for at, pole in columns if at == place):
            absent = torch.inf if pole == "-" else -torch.inf
            own = (acts if there is None else acts.masked_fill(~there, absent)).flatten(0, 1).float().cpu()
            found[place, pole] = _stand(run, (place, pole), own if pole == "+" else -own, tokens)

    model.observe(batch, readers(places, keep), fast=None)
    return found


def _stand(run: Run, column: Column, acts: Float[Tensor, "token d"], tokens: RowTokens) -> dict[Side, Standing]:
    """Of a sample's activations, positive in the direction of the pole."""
    moments, (states, rows) = run.moments(*column), run.states(*column)
    best = states.scores.float()[rows]
    sums, count = moments.sums, moments.n_images.clamp(min=1)
    found: dict[Side, Standing] = {}
    for k, (side, where) in enumerate(zip(SIDES, (tokens.visual, tokens.text), strict=True)):
        own = take(acts, where)
        if not len(own):
            continue
        mean, square = sums[:, k] / count, sums[:, 2 + k] / count
        spread = (square - mean * mean).clamp(min=0).sqrt()
        here = (own > -torch.inf).sum(0)  # of an expert's neuron the tokens that chose it
        z = (own.clamp(min=0).double().sum(0) / here - mean) / spread
        z[(spread <= 1e-9 * square.sqrt()) | (here == 0)] = -torch.inf  # never varied: rounding alone
        peak, at = own.max(0)
        positions = torch.arange(len(acts))[where]
        larger = best > (peak + ROUNDING * peak.abs())[:, None]  # the sample may be among them, run in another batch
        rank = torch.where(larger.all(1), torch.nan, 1.0 + larger.sum(1))
        found[side] = Standing(z, peak, positions[at], rank)
    return found


def _highest(
    batch: Batch, row: int, n: int, side: Side, sides: Sequence[tuple[Column, Standing]]
) -> list[tuple[Any, ...]]:
    """The n units of a side with the highest z, of all tensors."""
    z = torch.cat([one.z for _, one in sides])
    owner = torch.repeat_interleave(torch.arange(len(sides)), torch.tensor([len(one.z) for _, one in sides]))
    first = torch.tensor([0, *(len(one.z) for _, one in sides)]).cumsum(0)
    width, words = batch.input_ids.shape[1], batch.tokens(row)
    rows = []
    for k in z.argsort(descending=True, stable=True)[:n].tolist():
        if z[k] == -torch.inf:
            break
        (hook, pole), one = sides[int(owner[k])]
        index = k - int(first[owner[k]])
        site, layer = at_place(hook)
        at = int(one.at[index]) - row * width
        patch, token = (int(batch.patch_index[row, at]), "") if side == "picture" else (-1, words[at])
        values = float(z[k]), float(one.peak[index]), patch, token, float(one.rank[index])
        rows.append((site.id(Address(hook, index, pole)), site.name, layer, side, *values))
    return rows
