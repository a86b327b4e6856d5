"""What neurons do on pictures that show nothing: is a "visual" neuron one that fires on any picture?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from vlm_neurons._files import write_atomic
from vlm_neurons.models.reading import of_tokens, readers
from vlm_neurons.scanning.batching import halving, size_now
from vlm_neurons.scanning.summarise import length_of, rows_by_image, rows_by_kind, take
from vlm_neurons.sites import at
from vlm_neurons.sites.sparse import Sparse

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.data import ImageTextData
    from vlm_neurons.models import Batch, HookedVLM
    from vlm_neurons.scanning.run import Run

FILE = "controls.parquet"
N = 24  # samples with pictures that are looked at
CELLS = 8  # of a shuffled picture, each way


def _blank(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return Image.new("RGB", image.size, (128, 128, 128))


def _noise(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (*image.size[::-1], 3), dtype=np.uint8))


def _shuffled(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Its cells in another order; what is left over at the right and below stays."""
    pixels = np.array(image.convert("RGB"))
    rows, columns = (min(CELLS, n) for n in pixels.shape[:2])
    height, width = pixels.shape[0] // rows, pixels.shape[1] // columns
    whole = pixels[: rows * height, : columns * width].reshape(rows, height, columns, width, 3).swapaxes(1, 2)
    moved = rng.permutation(whole.reshape(rows * columns, height, width, 3))
    moved = moved.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    pixels[: rows * height, : columns * width] = moved.reshape(rows * height, columns * width, 3)
    return Image.fromarray(pixels)


CONTROLS: dict[str, Callable[[Image.Image, np.random.Generator], Image.Image]] = {
    "natural": lambda image, rng: image, "blank": _blank, "noise": _noise, "shuffled": _shuffled,
}  # fmt: skip


@dataclass
class _Sums:
    """Of every unit, over all patches of some pictures: number, sum, sum of squares, the sum over samples of their
    squared sums by their number, and the sum of what is positive and of what is negative."""

    n: Tensor
    total: Tensor
    squares: Tensor
    between: Tensor
    positive: Tensor
    negative: Tensor

    @classmethod
    def empty(cls, d: int) -> _Sums:
        return cls(*(torch.zeros(d, dtype=torch.float64) for _ in range(6)))

    def add(self, acts: Tensor, there: Tensor, units: Tensor | slice = slice(None)) -> None:
        """One sample.

        Args:
            acts: [patch, unit].
            there: where they are defined, of the same shape.
            units: which they are, if they are not all. The others are 0 everywhere.
        """
        x, n = torch.where(there, acts, 0).double().cpu(), there.sum(0).double().cpu()
        total = x.sum(0)
        self.n += n if isinstance(units, slice) else len(acts)
        self.total[units] += total
        self.squares[units] += x.square().sum(0)
        self.between[units] += total.square() / n.clamp(min=1)
        self.positive[units] += x.clamp(min=0).sum(0)
        self.negative[units] += (-x).clamp(min=0).sum(0)

    @property
    def between_images(self) -> Tensor:
        """Share of the variance that is between samples; NaN where nothing varies."""
        mean = self.total.square() / self.n.clamp(min=1)
        every = self.squares - mean
        return torch.where(every > 1e-10 * self.squares, (self.between - mean) / every, torch.nan)

    def strength(self, pole: str) -> Tensor:
        """Mean of the activation that counts for a pole: positive, or negated negative."""
        return (self.positive if pole == "+" else self.negative) / torch.where(self.n > 0, self.n, torch.nan)


def write_controls(model: HookedVLM, data: ImageTextData, run: Run, progress: bool) -> None:
    """Look at some samples of a finished run with their own pictures and with such as show nothing, and keep what every
    unit did; nothing where that is kept already, or no sample has a picture."""
    import pandas as pd

    if read_controls(run) is not None:
        return
    ids = [i for i in run.samples["id"].tolist() if data.facts[i].digests]
    ids = sorted({ids[k] for k in np.linspace(0, len(ids) - 1, N).round().astype(int)}) if ids else []
    if not ids:
        return
    sums: dict[str, dict[str, _Sums]] = {}

    def look() -> None:
        sums.clear()  # of a try that memory was too small for
        size = size_now(run.info)
        chunks = [(name, ids[i : i + size]) for name in CONTROLS for i in range(0, len(ids), size)]
        for name, chunk in tqdm(chunks, desc="controls", unit="batch", disable=not progress):
            _look(model, _batch(model, data, run, chunk, name), run, sums.setdefault(name, {}))

    halving(run, look, len(ids))
    parts = [_rows(column, {name: own[column["hook"]] for name, own in sums.items()}) for column in run.info["columns"]]
    table = pd.concat(parts, ignore_index=True)
    table.attrs["run"] = run.identity
    write_atomic(run.path / FILE, lambda path: table.to_parquet(path, index=False))


def read_controls(run: Run) -> pd.DataFrame | None:
    """What was kept, a row a unit in the order of the run's tables; None where the scan was made without.

    Raises:
        ValueError: the file is torn, or another run's.
    """
    import pandas as pd

    if not (file := run.path / FILE).is_file():
        return None
    remedy = "delete it, and the same scan call with controls=True writes it anew"
    try:
        table = pd.read_parquet(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read ({error}): {remedy}") from error
    if table.attrs.get("run") != run.identity:
        raise ValueError(f"{file} is of another run: {remedy}")
    return table


def with_controls(run: Run, table: pd.DataFrame) -> pd.DataFrame:
    """A table of labels with the columns `always_on` and `between_images`, where the run has them."""
    kept = read_controls(run)
    if kept is None:
        return table
    return table.assign(**{name: kept[name].to_numpy() for name in ("always_on", "between_images")})


def _batch(model: HookedVLM, data: ImageTextData, run: Run, ids: list[int], name: str) -> Batch:
    samples, images = [data[i] for i in ids], []
    for i, sample in zip(ids, samples, strict=True):
        rng = np.random.default_rng([i, len(name)])  # the same however samples share batches
        images.append([CONTROLS[name](image, rng) for image in sample.load_images()])
    prompt = run.info["parameters"]["prompt"]
    return model.prepare(images, [s.question(prompt) for s in samples], [s.response for s in samples])


def _look(model: HookedVLM, batch: Batch, run: Run, sums: dict[str, _Sums]) -> None:
    """Add a batch to the sums of every hook."""

    def see(place: str, values: Tensor, defined: Tensor | None) -> None:
        acts, there, patch = of_tokens(model, batch, place, values, defined)
        rows = rows_by_kind(batch.kinds) if patch is None else rows_by_image(batch.row_of_patches[patch], len(batch))
        flat = acts.flatten(0, 1)
        known = torch.ones_like(flat, dtype=torch.bool) if there is None else there.flatten(0, 1).expand(flat.shape)
        own = sums.setdefault(place, _Sums.empty(flat.shape[1]))
        for row in rows:
            if length_of(row.visual):
                own.add(take(flat, row.visual), take(known, row.visual))

    def see_listed(place: str, values: Sparse) -> None:
        units = values.unit.unique()
        flat = values.some(units).flatten(0, -2)
        own = sums.setdefault(place, _Sums.empty(values.shape[-1]))
        for row in rows_by_kind(batch.kinds):
            if length_of(row.visual):
                acts = take(flat, row.visual)
                own.add(acts, torch.ones_like(acts, dtype=torch.bool), units.cpu())

    places = [place for place in run.info["parameters"]["hooks"] if at(place)[0].indexed_by in ("row", "image")]
    model.observe(batch, readers(places, see, listed=see_listed), fast=None)


def _rows(column: dict[str, Any], sums: dict[str, _Sums]) -> pd.DataFrame:
    import pandas as pd

    means = {name: own.strength(column["pole"]) for name, own in sums.items()}
    empty = torch.minimum(means["blank"].nan_to_num(0), means["noise"].nan_to_num(0))  # of an expert nobody chose
    share = torch.where(means["natural"] > 0, (empty / means["natural"]).clamp(max=1), torch.nan)
    numbers = {**means, "always_on": share, "between_images": sums["natural"].between_images}
    return pd.DataFrame({"hook": column["hook"], "index": range(column["d"]), "pole": column["pole"],
                         **{name: values.numpy() for name, values in numbers.items()}})  # fmt: skip
