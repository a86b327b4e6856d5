"""How well dictionaries describe what they are encoded from, by kind of token: summed up in the pass of a scan."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlm_neurons.sites import at
from vlm_neurons.sites.sparse import Sparse
from vlm_neurons.tokens import TokenKind

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.scanning.run import Run

KINDS = (TokenKind.VISUAL, TokenKind.TEXT, TokenKind.TEMPLATE)
POOR = 0.5  # of a position's square that is not explained


@dataclass
class Fit:
    """Sums over the positions seen so far of one dictionary; the first dimension is the kind of token, as in `KINDS`.

    Attributes:
        n: positions.
        sums: of the vectors.
        squares: of their squared lengths.
        errors: of the squared lengths of what is not explained.
        fired: of the numbers of latents that fired.
        mass: of every latent's values at visual and text positions: at all, and where at least half of the square of
            what latents have to explain (the vector without what is decoded from none) is not explained.
    """

    n: Float[Tensor, "kind"]
    sums: Float[Tensor, "kind d"]
    squares: Float[Tensor, "kind"]
    errors: Float[Tensor, "kind"]
    fired: Float[Tensor, "kind"]
    mass: Float[Tensor, "latent 2"]

    @classmethod
    def empty(cls, d: int, latents: int, device: torch.device | str = "cpu") -> Fit:
        """No position seen yet."""
        one, more = (len(KINDS),), (len(KINDS), d)
        shapes = one, more, one, one, one, (latents, 2)
        return cls(*(torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes))

    def update(
        self,
        kinds: Int[Tensor, "row pos"],
        x: Float[Tensor, "row pos d"],
        explained: Float[Tensor, "row pos d"],
        base: Float[Tensor, "..."],
        z: Float[Tensor, "row pos latent"] | Sparse,
    ) -> None:
        """Take in a batch.

        Args:
            kinds: of the positions.
            x: what was encoded.
            explained: what the latents stand for.
            base: what no latents stand for.
            z: the latents.
        """
        error, whole = ((x - other).double().square().sum(-1) for other in (explained, base))
        kinds = kinds.to(x.device)
        of_kind = torch.stack([(kinds == kind).flatten() for kind in KINDS]).double()
        flat = x.double().flatten(0, 1)
        seen = (kinds == TokenKind.VISUAL) | (kinds == TokenKind.TEXT)
        places = torch.stack([seen, seen & (error > POOR * whole)], -1).flatten(0, 1)
        fired, mass = _of_sparse(z, places) if isinstance(z, Sparse) else _of_dense(z, places)
        self.n += of_kind.sum(1)
        self.sums += of_kind @ flat
        self.squares += of_kind @ flat.square().sum(1)
        self.errors += of_kind @ error.flatten()
        self.fired += of_kind @ fired.double()
        self.mass += mass.double()

    def merge(self, other: Fit) -> None:
        """Take in the sums over other positions."""
        for name in NAMES:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def tensors(self) -> dict[str, Tensor]:
        """By name, on the CPU, as a block stores them: mass of latents that have any, which, and of how many."""
        units = self.mass.any(1).nonzero().flatten()
        told = {name: getattr(self, name) for name in NAMES}
        told |= {"mass": self.mass[units], "units": units.to(torch.int32), "latents": torch.tensor(len(self.mass))}
        return {name: tensor.cpu().contiguous() for name, tensor in told.items()}

    @classmethod
    def of(cls, stored: dict[str, Tensor]) -> Fit:
        """From what `tensors` gave, or of the format before, which had the mass of every latent."""
        fit = cls(*(stored[name] for name in NAMES))
        if "units" in stored:
            fit.mass = fit.mass.new_zeros(int(stored["latents"]), 2).index_copy_(0, stored["units"].long(), fit.mass)
        return fit

    @property
    def unexplained(self) -> Float[Tensor, "kind"]:
        """Fraction of variance unexplained, about the mean of each kind; NaN where there is none."""
        variance = self.squares - self.sums.square().sum(1) / self.n
        return torch.where(variance > 0, self.errors / variance, torch.nan)

    @property
    def poor(self) -> Float[Tensor, "latent"]:
        """Of every latent the share of its mass that lies where little is explained; NaN for one that never fires."""
        mass, poor = self.mass.unbind(1)
        return torch.where(mass > 0, poor / mass, torch.nan)


Counted = tuple[Int[Tensor, "row_pos"], Float[Tensor, "latent 2"]]


def _of_dense(z: Float[Tensor, "row pos latent"], places: Bool[Tensor, "row_pos 2"]) -> Counted:
    """How many latents fire at each position, and the mass of each latent at some."""
    return (z > 0).sum(-1).flatten(), z.flatten(0, 1).T @ places.to(z)


def _of_sparse(z: Sparse, places: Bool[Tensor, "row_pos 2"]) -> Counted:
    """The same."""
    fired = torch.bincount(z.position[z.value > 0], minlength=len(places))
    mass = places[z.position] * z.value[:, None].double()
    return fired, mass.new_zeros(z.shape[-1], 2).index_add_(0, z.unit, mass)


NAMES = tuple(field.name for field in fields(Fit))


class Fitting:
    """Takes in what the dictionaries of a scan explain; empty until one was seen."""

    def __init__(self) -> None:
        self.fits: dict[str, Fit] = {}

    def see(self, place: str, tensors: dict[str, Tensor], z: Tensor | Sparse, kinds: Tensor) -> None:
        """What a place was read from, and its latents [row, pos, latent]; nothing for sites that explain nothing."""
        site, _ = at(place)
        found = site.explained(tensors, z) if site.indexed_by == "row" else None
        if found is None:
            return
        x, explained, base = found
        if place not in self.fits:
            self.fits[place] = Fit.empty(x.shape[-1], z.shape[-1], x.device)
        self.fits[place].update(kinds, x, explained, base, z)

    def tensors(self) -> dict[str, Tensor]:
        """As a block stores them."""
        return {f"{place}/fit/{name}": t for place, fit in self.fits.items() for name, t in fit.tensors().items()}


def fits_of(files: Iterable[Any]) -> dict[str, Fit]:
    """Of the blocks of a run, or of `scan.safetensors`: by place, put together in their order."""
    found: dict[str, Fit] = {}
    for file in files:
        names = file.keys()  # safetensors cannot be iterated over
        for place in [name.removesuffix("/fit/n") for name in names if name.endswith("/fit/n")]:
            start = f"{place}/fit/"
            one = Fit.of({name.removeprefix(start): file.get_tensor(name) for name in names if name.startswith(start)})
            if place in found:
                found[place].merge(one)
            else:
                found[place] = one
    return found


def dictionary_fit(run: Run) -> pd.DataFrame:
    """How well the dictionaries of a run describe what they are encoded from, and transcoders what the MLP puts out:
    trained on text, they may not fit images.

    Args:
        run: a finished scan of dictionaries (`vlm_neurons.sites.SAE`, `Transcoder`) that read the backbone.

    Returns:
        One row per dictionary, layer and kind of token (`"visual"`, `"text"`, `"template"`): `site`, `layer`, `kind`,
        `n` (positions), `unexplained` (fraction of variance: 0 is perfect, 1 as good as the mean of this kind, above
        1 worse) and `fired` (mean number of latents that fire, L0).

    Raises:
        FileNotFoundError: the scan is not finished.
        ValueError: it has no dictionary.

    >>> from vlm_neurons.scanning import dictionary_fit
    >>> dictionary_fit(run)
    Traceback (most recent call last):
    ValueError: run has no dictionary of the backbone: layers 0-3 at site gate (pole +) ...
    """
    import pandas as pd

    rows = []
    for place, fit in _fits(run).items():
        site, layer = place.rsplit(":L", 1)
        for k, kind in enumerate(KINDS):
            n = int(fit.n[k])
            unexplained = float(fit.unexplained[k])
            fired = float(fit.fired[k]) / n if n else float("nan")
            rows.append((site, int(layer), kind.name.lower(), n, unexplained, fired))
    return pd.DataFrame(rows, columns=["site", "layer", "kind", "n", "unexplained", "fired"])


def poorly_explained(run: Run) -> pd.DataFrame:
    """Of every latent, how much of what it does lies where its dictionary explains little: a label that rests on such
    positions says more about the misfit than about the latent.

    Returns:
        One row per latent: `neuron`, `mass` (sum of its values at visual and text positions), `poor` (the share of that
        at positions of which at least half is not explained; NaN for a latent that never fires).

    Raises:
        FileNotFoundError: the scan is not finished.
        ValueError: it has no dictionary.
    """
    import pandas as pd

    tables = []
    for place, fit in _fits(run).items():
        ids = at(place)[0].ids(place, "+", len(fit.mass))
        tables.append(pd.DataFrame({"neuron": ids, "mass": fit.mass[:, 0].numpy(), "poor": fit.poor.numpy()}))
    return pd.concat(tables, ignore_index=True)


def with_poor(run: Run, table: pd.DataFrame) -> pd.DataFrame:
    """A table of labels with the column `poor` of `poorly_explained`, where the run has dictionaries: NaN for other
    units."""
    import numpy as np

    if not (fits := _read(run)):
        return table
    poor, places = np.full(len(table), np.nan), table["hook"].to_numpy()
    for place, fit in fits.items():
        poor[places == place] = fit.poor.numpy()
    return table.assign(poor=poor)


def _read(run: Run) -> dict[str, Fit]:
    with run.open_result() as file:
        return fits_of([file])


def _fits(run: Run) -> dict[str, Fit]:
    if not (found := _read(run)):
        raise ValueError(f"{run.path.name} has no dictionary of the backbone: {run.scanned} were scanned")
    return found


def in_words(run: Run) -> str:
    """A sentence per dictionary; empty without."""
    lines = []
    for place, fit in _read(run).items():
        parts = [
            f"{kind.name.lower()} {float(fit.unexplained[k]):.2f} ({float(fit.fired[k] / fit.n[k]):.1f} latents fire)"
            for k, kind in enumerate(KINDS)
            if fit.n[k] > 0
        ]
        lines.append(f" {place}: unexplained variance of tokens: {', '.join(parts)}.")
    return "".join(lines)
