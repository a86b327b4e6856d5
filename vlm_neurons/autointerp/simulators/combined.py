"""One simulator for pictures and another for words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from vlm_neurons.autointerp.client.prices import NOTHING, Plan
from vlm_neurons.autointerp.simulators.protocol import SIDES, Job, Prediction, Resolution, Side, Simulates, Simulator
from vlm_neurons.autointerp.simulators.purse import on_one_purse

if TYPE_CHECKING:
    from vlm_neurons.evidence import Evidence


@dataclass(frozen=True)
class TwoResolutions(Resolution):
    """Maps at the resolution of one simulator, tokens at that of another.

    Attributes:
        visual: of maps.
        text: of tokens.
    """

    visual: Resolution = field(default_factory=Resolution)
    text: Resolution = field(default_factory=Resolution)

    def of_map(self, scaled: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "rows columns"]:
        """See `Resolution.of_map`."""
        return self.visual.of_map(scaled)

    def of_values(self, scaled: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """See `Resolution.of_values`."""
        return self.text.of_values(scaled)


@dataclass(frozen=True, eq=False)
class BothSides(Simulates):
    """Patches from one simulator, tokens from another.

    Attributes:
        visual: predicts patches.
        text: predicts tokens.
        cache: file of replies, for those of the two that keep replies and have no file of their own.

    Raises:
        ValueError: one of them cannot predict its side.

    >>> from vlm_neurons.autointerp.simulators.prompted import ApiSimulator
    >>> BothSides(visual=ApiSimulator("seer"), text=ApiSimulator("reader")).name
    'api:seer+api:reader'
    """

    visual: Simulator
    text: Simulator
    cache: str | Path | None = None

    def __post_init__(self) -> None:
        for side in SIDES:
            one: Any = getattr(self, side)
            if isinstance(one, type) or not isinstance(one, Simulator):
                raise ValueError(f"{side}={one!r}: give a simulator object, such as vn.ConceptSimulator()")
            if side not in one.sides:
                raise ValueError(f"{side}={one.name}: it predicts {' and '.join(sorted(one.sides))} only")
            if self.cache is not None and getattr(one, "cache", "none") is None:
                object.__setattr__(self, side, replace(one, cache=self.cache))  # type: ignore[type-var]

    @property
    def parts(self) -> dict[Side, Simulator]:
        """The simulator of each side."""
        return {"visual": self.visual, "text": self.text}

    @property
    def name(self) -> str:
        """Names of both."""
        return f"{self.visual.name}+{self.text.name}"

    @property
    def paid(self) -> bool:  # type: ignore[override]
        """Whether either is."""
        return self.visual.paid or self.text.paid

    @property
    def resolution(self) -> Resolution:  # type: ignore[override]
        """Of each side its own."""
        return TwoResolutions(visual=self.visual.resolution, text=self.text.resolution)

    def settings(self) -> str:
        """All that decides the answers, as one string."""
        return json.dumps({side: one.settings() for side, one in self.parts.items()})

    @property
    def for_neuron(self) -> Any:
        """A function from evidence to the same for one neuron; None unless one of the two is about single neurons."""
        about = {side: getattr(one, "for_neuron", None) for side, one in self.parts.items()}
        if not any(about.values()):
            return None

        def own(evidence: Evidence) -> BothSides:
            return replace(self, **{side: make(evidence) for side, make in about.items() if make})

        return own

    def on_one_purse(self) -> BothSides:
        """The same, of each of which all runs together keep to its `max_cost`; one simulator on both sides has one."""
        visual = on_one_purse(self.visual)
        return replace(self, visual=visual, text=visual if self.text == self.visual else on_one_purse(self.text))

    def plan(self, jobs: Sequence[Job]) -> Plan:
        """What both would send and cost at most; sends nothing."""
        total = NOTHING
        for side, one in self.parts.items():
            of: Any = getattr(one, "plan", None)
            total += of([job for _, job in _about(side, jobs)]) if of else NOTHING
        return total

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Prediction]]:
        """(place in jobs, prediction) of every job, failures included: those about pictures alone first."""
        first: dict[int, Prediction] = {}
        yield from ((place, Prediction()) for place, job in enumerate(jobs) if not job.sides)
        for side, one in self.parts.items():
            asked = _about(side, jobs)
            for number, prediction in one.run([job for _, job in asked]):
                place = asked[number][0]
                if len(jobs[place].sides) == 1:
                    yield place, prediction
                elif place in first:
                    yield place, _joined(first.pop(place), prediction)
                else:
                    first[place] = prediction


def _about(side: Side, jobs: Sequence[Job]) -> list[tuple[int, Job]]:
    return [(place, replace(job, sides=(side,))) for place, job in enumerate(jobs) if side in job.sides]


def _joined(visual: Prediction, text: Prediction) -> Prediction:
    return Prediction(
        visual.patch_acts, text.token_acts, visual.failure or text.failure, visual.tokens_in + text.tokens_in,
        visual.tokens_out + text.tokens_out, visual.cost + text.cost,
    )  # fmt: skip
