"""Real and simulated activations side by side, cut into what a score treats as one: an image, or a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Bool, Float

if TYPE_CHECKING:
    from vlm_neurons.autointerp.protocols import Prediction, Resolution, Side
    from vlm_neurons.evidence import Evidence, Exemplar


@dataclass(frozen=True, eq=False)
class Piece:
    """One image, or the response, of one exemplar.

    Attributes:
        exemplar: place of the exemplar among those scored.
        top: whether it is one of the strongest samples (else a random one).
        side: `"picture"` or `"text"`.
        real: activations on the 0-10 scale: [rows, columns], or [token] of the response.
        simulated: predictions, of the same shape.
        counts: places that count: with a value, and no sink.
        stratum: what the exemplar was drawn from.
        weight: how many samples it stands for; NaN where a part of the data has nothing that stands for it.
        extra: whether it is neither one of the top samples nor of the random ones.
    """

    exemplar: int
    top: bool
    side: Side
    real: Float[np.ndarray, "*place"]
    simulated: Float[np.ndarray, "*place"]
    counts: Bool[np.ndarray, "*place"]
    stratum: str = ""
    weight: float = 1.0
    extra: bool = False

    @cached_property
    def pair(self) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
        """Real and simulated values of the places that count."""
        return self.real[self.counts], self.simulated[self.counts]

    @cached_property
    def sums(self) -> Float[np.ndarray, "6"]:
        """n, sum x, sum y, sum xx, sum yy, sum xy of them; x real, y simulated."""
        x, y = self.pair
        return np.array([len(x), x.sum(), y.sum(), x @ x, y @ y, x @ y])


def pieces_of(
    evidence: Evidence, exemplars: Sequence[Exemplar], predictions: Sequence[Prediction], side: Side
) -> list[Piece]:
    """All pieces of some exemplars that have a prediction on a side.

    The others of its stratum stand for what failed. Where all of a stratum failed nothing does, and no weight is known:
    what is left speaks of less than the whole data.

    Raises:
        ValueError: a prediction is of other shapes than its exemplar.
    """
    real = _real(evidence, exemplars, side)
    said = np.full(len(real.values), np.nan)
    for e, own, guess in zip(exemplars, real.places, predictions, strict=True):
        values = guess.patch_acts if side == "picture" else () if guess.token_acts is None else (guess.token_acts,)
        for place, values_here in zip(own, values, strict=bool(values)):
            simulated = np.asarray(values_here, float)
            simulated = simulated if side == "picture" else simulated[e.seen.is_text]
            if simulated.shape != place.shape:
                raise ValueError(
                    f"{evidence.neuron}, sample {e.seen.sample}: predictions {simulated.shape} for {place.shape}"
                )
            said[place.start : place.stop] = simulated.ravel()
    known = ~np.isnan(said)
    counts, said = real.counts & known, np.where(known, said, 0.0)  # a place without a prediction does not count
    every = [(number, place) for number, own in enumerate(real.places) for place in own if place.stop > place.start]
    sums = _sums(counts, real.values, said, [place.start for _, place in every])
    found = [(number, place, own) for (number, place), own in zip(every, sums, strict=True) if own[0]]
    came = Counter(exemplars[i].stratum for i in {number for number, *_ in found})
    asked = _asked(evidence, exemplars, side)
    more = {s: n / came[s] for s, n in asked.items()} if asked.keys() == came.keys() else dict.fromkeys(came, np.nan)
    pieces = [
        Piece(number, e.group == "top", side, place.of(real.values), place.of(said), place.of(counts), e.stratum,
              e.weight * more[e.stratum], e.group == "pool")
        for number, place, _ in found for e in (exemplars[number],)
    ]  # fmt: skip
    return _with_sums(pieces, [own for *_, own in found])


def _sums(
    counts: Bool[np.ndarray, " place"], x: Float[np.ndarray, " place"], y: Float[np.ndarray, " place"],
    starts: Sequence[int],
) -> Float[np.ndarray, "piece 6"]:  # fmt: skip
    """`Piece.sums` of pieces that follow each other, at once: faster than one by one."""
    x, y = np.where(counts, x, 0.0), np.where(counts, y, 0.0)
    return (
        np.add.reduceat(np.stack([counts, x, y, x * x, y * y, x * y]), starts, axis=1).T
        if len(starts)
        else np.zeros((0, 6))
    )


def _with_sums(pieces: list[Piece], sums: Iterable[Float[np.ndarray, "6"]]) -> list[Piece]:
    """The same pieces, whose sums are known."""
    for piece, own in zip(pieces, sums, strict=True):
        vars(piece)["sums"] = own  # where the cached property looks first
    return pieces


def unheard(evidence: Evidence, exemplars: Sequence[Exemplar], pieces: Sequence[Piece], side: Side) -> set[str]:
    """Strata of exemplars that have no piece on a side, though they have places that count."""
    return {*_asked(evidence, exemplars, side)} - {p.stratum for p in pieces}


def _asked(evidence: Evidence, exemplars: Sequence[Exemplar], side: Side) -> Counter[str]:
    """How many exemplars have places that count on a side, by stratum."""
    n_places = _real(evidence, exemplars, side).n_counted
    return Counter(e.stratum for e, n in zip(exemplars, n_places, strict=True) if n)


class _Place(NamedTuple):
    """Where one image, or response, lies among all places of a side, and its shape."""

    start: int
    stop: int
    shape: tuple[int, ...]

    def of(self, values: np.ndarray) -> np.ndarray:
        """Its part of values at all places."""
        return values[self.start : self.stop].reshape(self.shape)


@dataclass(frozen=True)
class _Real:
    """One side of exemplars, of all places one after the other.

    Attributes:
        values: activations on the 0-10 scale.
        counts: places that count: with a value, and no sink.
        places: of every exemplar those of every image, or of the response.
        n_counted: how many places of every exemplar count.
    """

    values: Float[np.ndarray, " place"]
    counts: Bool[np.ndarray, " place"]
    places: list[list[_Place]]
    n_counted: list[int]


# one explanation after the other is tried on the same exemplars; what is known of them goes with the evidence
_KNOWN: WeakKeyDictionary[Evidence, dict[tuple[tuple[Exemplar, ...], Side], _Real]] = WeakKeyDictionary()


def _real(evidence: Evidence, exemplars: Sequence[Exemplar], side: Side) -> _Real:
    known, key = _KNOWN.setdefault(evidence, {}), (tuple(exemplars), side)
    if key not in known:
        known[key] = _read(evidence, exemplars, side)
    return known[key]


def _read(evidence: Evidence, exemplars: Sequence[Exemplar], side: Side) -> _Real:
    if side == "picture":
        acts = [e.patch_acts for e in exemplars]
        sinks = [sunk.ravel() for e in exemplars for sunk in e.seen.patch_sinks]
    else:
        acts = [(e.token_acts[e.seen.is_text],) for e in exemplars]
        sinks = [e.seen.token_sinks[e.seen.is_text] for e in exemplars]
    raw = np.concatenate([np.zeros(0, np.float32), *(one.ravel() for own in acts for one in own)])
    nan = np.isnan(raw)
    counts = ~(nan | np.concatenate([np.zeros(0, bool), *sinks]))
    values = np.where(nan, 0.0, evidence.scale(raw)).astype(float)
    places: list[list[_Place]] = []
    end = 0
    for own in acts:
        places.append([])
        for one in own:
            places[-1].append(_Place(end, end := end + one.size, one.shape))
    before = np.concatenate([[0], np.cumsum(counts)])
    ends = np.cumsum([0, *(sum(one.size for one in own) for own in acts)])
    return _Real(values, counts, places, np.diff(before[ends]).tolist())


def flat(
    evidence: Evidence, exemplars: Sequence[Exemplar], side: Side
) -> tuple[Float[np.ndarray, "n"], Bool[np.ndarray, " place"], Float[np.ndarray, "n"]]:
    """Activations on the 0-10 scale at the places that count, one exemplar after the other; which places these are; and
    how many each stands for."""
    real = _real(evidence, exemplars, side)
    return real.values[real.counts], real.counts, np.repeat([e.weight for e in exemplars], real.n_counted)


def resolved(pieces: Sequence[Piece], resolution: Resolution) -> list[Piece]:
    """The truth in the place of the simulation, as finely as a simulator could have said it."""
    # what does not count is no part of a cell's mean: a sink would lift its cell
    finer = [replace(p, simulated=resolution.of(np.where(p.counts, p.real, np.nan))) for p in pieces]
    counts, x, y = (np.concatenate([getattr(p, k).ravel() for p in finer]) for k in ("counts", "real", "simulated"))
    return _with_sums(finer, _sums(counts, x, y, np.cumsum([0, *(p.counts.size for p in finer[:-1])]).tolist()))
