"""One simulator for pictures and another for words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlm_neurons.autointerp.client.prices import NOTHING, Plan
from vlm_neurons.autointerp.protocols import SIDES, Job, Prediction, Resolution, Side, Simulator

if TYPE_CHECKING:
    from vlm_neurons.evidence import Evidence


@dataclass(frozen=True, eq=False)
class BothSides(Simulator):
    """Patches from one simulator, tokens from another.

    Attributes:
        picture: predicts patches.
        text: predicts tokens.

    Raises:
        ValueError: one of them cannot predict its side.

    >>> from vlm_neurons.autointerp.simulators import ApiSimulator
    >>> BothSides(picture=ApiSimulator("seer"), text=ApiSimulator("reader")).name
    'api:seer+api:reader'
    """

    picture: Simulator
    text: Simulator

    def __post_init__(self) -> None:
        for side, one in self.parts.items():
            if not isinstance(one, Simulator):
                raise ValueError(f"{side}={one!r}: give a simulator object, such as vn.simulators.ConceptSimulator()")
            if side not in one.sides:
                raise ValueError(f"{side}={one.name}: it predicts {' and '.join(sorted(one.sides))} only")

    @property
    def parts(self) -> dict[Side, Simulator]:
        """The simulator of each side."""
        return {"picture": self.picture, "text": self.text}

    @property
    def name(self) -> str:  # type: ignore[override]
        """Names of both."""
        return f"{self.picture.name}+{self.text.name}"

    @property
    def paid(self) -> bool:  # type: ignore[override]
        """Whether either is."""
        return self.picture.paid or self.text.paid

    def resolution_on(self, side: Side) -> Resolution:
        """That of the side's own simulator."""
        return self.parts[side].resolution_on(side)

    def settings(self) -> str:
        """All that decides the answers, as one string."""
        return json.dumps({side: one.settings() for side, one in self.parts.items()})

    @property
    def per_neuron(self) -> bool:
        """Whether either is."""
        return self.picture.per_neuron or self.text.per_neuron

    def for_neuron(self, evidence: Evidence) -> BothSides:
        """The same about one neuron, of the two those that are."""
        return BothSides(self.picture.for_neuron(evidence), self.text.for_neuron(evidence))

    def with_cache(self, file: Path) -> BothSides:
        """The same with a file of replies, for those of the two that keep replies and have none."""
        return BothSides(self.picture.with_cache(file), self.text.with_cache(file))

    def on_one_purse(self) -> BothSides:
        """The same, of each of which all runs together keep to its `max_cost`; one simulator on both sides has one."""
        picture = self.picture.on_one_purse()
        return BothSides(picture, picture if self.text == self.picture else self.text.on_one_purse())

    def plan(self, jobs: Sequence[Job]) -> Plan:
        """What both would send and cost at most; sends nothing."""
        total = NOTHING
        for side, one in self.parts.items():
            total += one.plan([job for job in jobs if job.side == side]) or NOTHING
        return total

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Prediction]]:
        """(place in jobs, prediction) of every job, failures included: those about pictures first."""
        for side in SIDES:
            places = [place for place, job in enumerate(jobs) if job.side == side]
            for number, prediction in self.parts[side].run([jobs[place] for place in places]):
                yield places[number], prediction
