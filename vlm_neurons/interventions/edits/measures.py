"""Does a neuron follow? Sufficiency, necessity and specificity of one edit, for one neuron."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from vlm_neurons.interventions.edits.trials import Sheet
from vlm_neurons.stats import sign_flip
from vlm_neurons.synthetic.editing import OF_GROUND

RESAMPLES = 1000
LEAST = 10  # trials of another change, to be compared
MEASURES = ("change", "sufficiency", "necessity", "necessity_margin", "specificity", "over_background")


@dataclass(frozen=True)
class Levels:
    """What a neuron does on the data as it is: of the largest positive activation of every sample.

    Attributes:
        sd: standard deviation; 0 for a neuron that is always the same.
        median: of the values above 0; NaN where there are none.
        top: 95th percentile.
    """

    sd: float
    median: float
    top: float

    @classmethod
    def of(cls, natural: Float[np.ndarray, " sample"]) -> Levels:
        """Of the samples' values."""
        positive = natural[natural > 0]
        median = float(np.median(positive)) if len(positive) else float("nan")
        return cls(float(natural.std()), median, float(np.percentile(natural, 95)))


@dataclass(frozen=True)
class Followed:
    """A neuron in the trials of an edit; changes in standard deviations.

    Attributes:
        change: with what is named, less without.
        other: sizes of the changes that other attributes make; NaN where there is no such trial.
        ground: which of those are of the background.
        control: size of the change by the same edit where nothing is named.
        again: size of the change by encoding anew.
        above: whether the activation with it is above the 95th percentile.
        lost: share of the activation that goes with what is named.
        taken: share of it that other attributes take away from where what is named stays, or that goes with something
            else in its place; NaN where there is no such trial, or it tells nothing of necessity.
        brought: trials that tell of sufficiency.
        strong: trials that tell of necessity: with it the activation is not below the median of positive values.
    """

    change: Float[np.ndarray, " trial"]
    other: Float[np.ndarray, "other trial"]
    ground: Bool[np.ndarray, " other"]
    control: Float[np.ndarray, " trial"]
    again: Float[np.ndarray, " trial"]
    above: Float[np.ndarray, " trial"]
    lost: Float[np.ndarray, " trial"]
    taken: Float[np.ndarray, "other trial"]
    brought: Bool[np.ndarray, " trial"]
    strong: Bool[np.ndarray, " trial"]

    @classmethod
    def of(cls, sheet: Sheet, acts: Float[np.ndarray, " input"], levels: Levels) -> Followed:
        """Read a neuron's activations in the trials."""
        present, absent = acts[sheet.present].astype(float), acts[sheet.absent].astype(float)
        strong = (present > 0) & (present >= levels.median)
        with np.errstate(divide="ignore", invalid="ignore"):
            lost = np.where(strong, 1 - absent / present, np.nan)
            stays = strong & (sheet.other[..., 0] == sheet.present)
            taken = np.where(stays, 1 - acts[sheet.other[..., 1]] / present, np.nan)
            instead = _beside(sheet.other, sheet.absent)  # another object, word or region where nothing is
            gone = np.where(strong & (instead >= 0), (acts[instead] - absent) / present, np.nan)
        return cls(
            (present - absent) / levels.sd, _sizes(acts, sheet.other) / levels.sd,
            np.array([name in OF_GROUND for name in sheet.others], bool), _sizes(acts, sheet.control) / levels.sd,
            np.abs(acts[sheet.again] - present) / levels.sd, (present > levels.top).astype(float), lost,
            np.where(stays, taken, gone), sheet.brought, strong,
        )  # fmt: skip

    def tried(self, among: Bool[np.ndarray, " other"]) -> Bool[np.ndarray, " other"]:
        """Which changes the largest is sought in."""
        return _tried(np.where(among[:, None], self.other, np.nan))

    def summaries(self, weights: Float[np.ndarray, "draw trial"]) -> dict[str, Float[np.ndarray, " draw"]]:
        """`MEASURES` of weighted trials, by draw."""
        change = _means(weights, self.change)
        sizes = _means(weights, self.other)
        # where nothing else is changed (all that can be is named; texts have no background) there is no comparison
        kept = self.tried(np.ones(len(self.other), bool)), self.tried(self.ground)
        largest, behind = (np.fmax.reduce(sizes[:, some], axis=1) if some.any() else np.nan for some in kept)
        lost, taken = _means(weights, self.lost), _means(weights, self.taken)[:, _tried(self.taken)]
        return {
            "change": change, "sufficiency": _means(weights, np.where(self.brought, self.above, np.nan)),
            "necessity": lost, "necessity_margin": lost - (np.fmax.reduce(taken, axis=1) if taken.size else np.nan),
            "specificity": change - largest,
            "over_background": change - behind,
        }  # fmt: skip


def _tried(values: Float[np.ndarray, "other trial"]) -> Bool[np.ndarray, " other"]:
    """Changes with at least `LEAST` trials, or where none has as many, with the most. The largest of many would often
    be one that was tried once."""
    counts = np.isfinite(values).sum(1)
    return np.asarray((counts > 0) & (counts >= min(LEAST, counts.max(initial=0))))


def _beside(
    pairs: Int[np.ndarray, "other trial 2"], number: Int[np.ndarray, " trial"]
) -> Int[np.ndarray, "other trial"]:
    """The other one of pairs that have a number, whichever way round; -1 of those that have not."""
    first, second = pairs[..., 0] == number, pairs[..., 1] == number
    return np.asarray(np.where(first, pairs[..., 1], np.where(second, pairs[..., 0], -1)))


def _sizes(acts: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """|after - before|; NaN where there is no pair."""
    sizes = np.abs(acts[pairs[..., 1]].astype(float) - acts[pairs[..., 0]])
    return np.where(pairs[..., 0] >= 0, sizes, np.nan)


def _means(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Weighted means along the last axis, of what is there: [draw, ...]."""
    there = np.isfinite(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((weights @ np.where(there, values, 0).T) / (weights @ there.T.astype(float)))


def plain(followed: Followed) -> dict[str, float]:
    """The measures, without intervals."""
    weights = np.ones((1, len(followed.change)))
    return {name: float(values[0]) for name, values in followed.summaries(weights).items()}


def measured(followed: Followed, names: tuple[str, ...], rng: np.random.Generator) -> dict[str, object]:
    """The measures, their intervals (percentile bootstrap over samples), the controls, and p.

    Args:
        followed: a neuron in at least one trial.
        names: of `followed.other`.
        rng: of resamples and flips.
    """
    n = len(followed.change)
    drawn = followed.summaries(rng.multinomial(n, np.full(n, 1 / n), RESAMPLES) / n)
    found: dict[str, object] = {}
    for name, value in plain(followed).items():
        enough = np.isfinite(value) and np.isfinite(drawn[name]).mean() > 0.5
        low, high = np.nanpercentile(drawn[name], [2.5, 97.5]) if enough else (np.nan, np.nan)
        found |= {name: value, f"{name}_low": float(low), f"{name}_high": float(high)}
    control = _means(np.ones((1, n)), followed.control)[0]
    found |= {"control": float(control), "reencoded": float(followed.again.mean()), "other": "", "other_change": np.nan}
    if (kept := followed.tried(np.ones(len(names), bool))).any():
        sizes = np.where(kept, _means(np.ones((1, n)), followed.other)[0], -1)
        most = int(np.isfinite(followed.other).sum(1).max())
        few = (
            f"no other change was tried on {LEAST} samples, `other` is of those tried on {most}" if most < LEAST else ""
        )
        found |= {"other": names[int(sizes.argmax())], "other_change": float(sizes.max()), "note": few}
    n_control = int(np.isfinite(followed.control).sum())
    compared = n_control >= min(LEAST, n)  # a p of few trials tells of those few alone
    if n_control > 0 and not compared:
        few = f"p is against 0: {n_control} of {n} trials {'has' if n_control == 1 else 'have'} a control"
        found["note"] = "; ".join(filter(None, (str(found.get("note", "")), few)))
    paired = followed.change - (followed.control if compared else 0)
    return found | {"n_control": n_control, "p": sign_flip(paired[np.isfinite(paired)], rng)}
