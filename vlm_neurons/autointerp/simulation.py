"""A simulation of one neuron on one side."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vlm_neurons.autointerp.explanation import Failure
from vlm_neurons.autointerp.protocols import Prediction, Side, Simulator

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, eq=False)
class Simulation:
    """What a simulator predicts for one neuron, on one side, from its explanation.

    Attributes:
        neuron: its id.
        side: `"picture"` or `"text"`.
        explanation: the words that it was made from.
        simulator: name.
        samples: ids of the exemplars of the split `"test"`, in the order of the evidence.
        predictions: one for each of them; failures included.
        settings: SHA-256 of simulator, explanation, side and evidence: the same question has the same.
        made_by: of the simulator alone, the beginning (`mark_of`).

    >>> simulation = simulations["L2N304", "picture"]
    >>> simulation
    Simulation('L2N304', 'picture', by 'concepts', 12 samples)
    >>> simulation.explanation, simulation.n_failed
    ('pink regions', 0)
    >>> real = evidence["L2N304"].split("test")[0]
    >>> predicted = simulation.of(real.seen.sample).patch_acts[0]
    >>> int(predicted.argmax()) == int(real.patch_acts[0].argmax())  # the same patch
    True
    """

    neuron: str
    side: Side
    explanation: str
    simulator: str
    samples: tuple[int, ...]
    predictions: tuple[Prediction, ...]
    settings: str = ""
    made_by: str = ""

    def __repr__(self) -> str:
        failed = f", {self.n_failed} failed" if self.n_failed else ""
        return f"Simulation({self.neuron!r}, {self.side!r}, by {self.simulator!r}, {len(self.samples)} samples{failed})"

    @property
    def n_failed(self) -> int:
        """Exemplars with a failure."""
        return sum(p.failure is not None for p in self.predictions)

    @property
    def failed(self) -> bool:
        """Whether it has to be asked for again."""
        return self.n_failed > 0

    @property
    def came(self) -> bool:
        """Whether there is any prediction."""
        return self.n_failed < len(self.predictions)

    @property
    def cost(self) -> float:
        """US dollars."""
        return sum(p.cost for p in self.predictions)

    def of(self, sample: int) -> Prediction:
        """The prediction for one sample.

        Raises:
            KeyError: the sample is not a test exemplar of the neuron.
        """
        if sample not in self.samples:
            raise KeyError(f"{self.neuron}: sample {sample} was not simulated; those of the split 'test' are")
        return self.predictions[self.samples.index(sample)]


def mark_of(simulator: Simulator) -> str:
    """Eight characters that tell a simulator's settings from others."""
    return hashlib.sha256(simulator.settings().encode()).hexdigest()[:8]


def from_rows(rows: Sequence[dict[str, Any]]) -> Simulation:
    """Read what `rows_of` made."""
    first = rows[0]
    return Simulation(
        first["neuron"], first["side"], first["explanation"], first["simulator"], tuple(r["sample"] for r in rows),
        tuple(_prediction(r) for r in rows), first["settings"], first["made_by"],
    )  # fmt: skip


def _prediction(row: dict[str, Any]) -> Prediction:
    patches = tuple(np.array(p, np.float32).reshape(g) for p, g in zip(row["patch_acts"], row["grids"], strict=True))
    tokens = None if row["token_acts"] is None else np.array(row["token_acts"], np.float32)
    failure = Failure(row["failure"], row["detail"]) if row["failure"] is not None else None
    return Prediction(patches, tokens, failure, row["tokens_in"], row["tokens_out"], row["cost"])


def rows_of(s: Simulation) -> list[dict[str, Any]]:
    """A simulation as rows of a table, one for each exemplar."""
    return [
        {"neuron": s.neuron, "side": s.side, "explanation": writable(s.explanation), "simulator": s.simulator,
         "settings": s.settings, "made_by": s.made_by, "sample": sample, "grids": [list(m.shape) for m in p.patch_acts],
         "patch_acts": [m.ravel().tolist() for m in p.patch_acts],
         "token_acts": None if p.token_acts is None else p.token_acts.tolist(),
         "failure": p.failure.kind if p.failure else None, "detail": writable(p.failure.detail) if p.failure else None,
         "tokens_in": p.tokens_in, "tokens_out": p.tokens_out, "cost": p.cost}
        for sample, p in zip(s.samples, s.predictions, strict=True)
    ]  # fmt: skip


def writable(text: str) -> str:
    """Text that a table can hold: half of a character (a lone surrogate) becomes the replacement character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def schema() -> pa.Schema:
    """Of these rows."""
    import pyarrow as pa

    text, whole, floats = pa.string(), pa.int64(), pa.list_(pa.float32())
    return pa.schema([
        *((name, text) for name in ("neuron", "side", "explanation", "simulator", "settings", "made_by")),
        ("sample", whole), ("grids", pa.list_(pa.list_(whole))), ("patch_acts", pa.list_(floats)),
        ("token_acts", floats), ("failure", text), ("detail", text), ("tokens_in", whole), ("tokens_out", whole),
        ("cost", pa.float64()),
    ])  # fmt: skip
