"""A simulation of one neuron, and `simulations.parquet`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlm_neurons.explaining.explanation import Failure
from vlm_neurons.scanning.blocks import write_atomic
from vlm_neurons.simulating.protocol import Prediction, Side

FORMAT = b"1"
FILE = "simulations.parquet"


@dataclass(frozen=True, eq=False)
class Simulation:
    """What a simulator predicts for one neuron from its explanation.

    Attributes:
        neuron: its id.
        explanation: the words that it was made from.
        simulator: name.
        sides: what was asked for: `"visual"`, `"text"` or both.
        samples: ids of the exemplars of the split `"test"`, in the order of the evidence.
        predictions: one for each of them; failures included.
        settings: SHA-256 of simulator, explanation and evidence: the same question has the same.
    """

    neuron: str
    explanation: str
    simulator: str
    sides: tuple[Side, ...]
    samples: tuple[int, ...]
    predictions: tuple[Prediction, ...]
    settings: str = ""

    @property
    def n_failed(self) -> int:
        """Exemplars with a failure."""
        return sum(p.failure is not None for p in self.predictions)

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


def save(simulations: Mapping[str, Simulation], path: Path) -> None:
    """Write simulations of one simulator into a directory; its others that are there stay."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.mkdir(parents=True, exist_ok=True)
    for name in {s.simulator for s in simulations.values()}:
        to_front(path / FILE, name)
    every = {**load(path), **{s.neuron: s for s in simulations.values()}}
    table = pa.Table.from_pylist([r for s in every.values() for r in _rows(s)], schema=_schema())
    table = table.replace_schema_metadata({"format": FORMAT})
    write_atomic(path / FILE, lambda temporary: pq.write_table(table, temporary, compression="zstd"))


def to_front(file: Path, simulator: str) -> None:
    """Give a simulator the file: another's that is there is kept beside it as `simulations-NAME.parquet` (or
    `scores-NAME.parquet`), and the simulator's own that was kept so comes back."""
    import pyarrow.parquet as pq

    def beside(name: str) -> Path:
        return file.with_name(f"{file.stem}-{re.sub(r'[^A-Za-z0-9_.]+', '-', name)}.parquet")

    if file.is_file():
        there = pq.read_table(file, columns=["simulator"])["simulator"]
        if not len(there) or there[0].as_py() == simulator:
            return
        os.replace(file, beside(there[0].as_py()))
    if beside(simulator).is_file():
        os.replace(beside(simulator), file)


def load(path: str | Path) -> dict[str, Simulation]:
    """Simulations of a run directory, by neuron; none if there are none.

    Raises:
        ValueError: they are in a format that this version does not know.
    """
    import pyarrow.parquet as pq

    file = Path(path) / FILE
    if not file.is_file():
        return {}
    table = pq.read_table(file)
    if (table.schema.metadata or {}).get(b"format") != FORMAT:
        raise ValueError(f"{file}: this version reads format {FORMAT.decode()}; remove it and simulate again")
    by_neuron: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        by_neuron.setdefault(row["neuron"], []).append(row)
    return {neuron: _simulation(rows) for neuron, rows in by_neuron.items()}


def _simulation(rows: Sequence[dict[str, Any]]) -> Simulation:
    first = rows[0]
    return Simulation(
        first["neuron"], first["explanation"], first["simulator"], tuple(first["sides"]),
        tuple(r["sample"] for r in rows), tuple(_prediction(r) for r in rows), first["settings"],
    )  # fmt: skip


def _prediction(row: dict[str, Any]) -> Prediction:
    patches = tuple(np.array(p, np.float32).reshape(g) for p, g in zip(row["patches"], row["grids"], strict=True))
    tokens = None if row["tokens"] is None else np.array(row["tokens"], np.float32)
    failure = Failure(row["failure"], row["detail"]) if row["failure"] is not None else None
    return Prediction(patches, tokens, failure, row["tokens_in"], row["tokens_out"], row["cost"])


def _rows(s: Simulation) -> list[dict[str, Any]]:
    return [
        {"neuron": s.neuron, "explanation": s.explanation, "simulator": s.simulator, "sides": list(s.sides),
         "settings": s.settings, "sample": sample, "grids": [list(m.shape) for m in p.patches],
         "patches": [m.ravel().tolist() for m in p.patches], "tokens": None if p.tokens is None else p.tokens.tolist(),
         "failure": p.failure.kind if p.failure else None, "detail": p.failure.detail if p.failure else None,
         "tokens_in": p.tokens_in, "tokens_out": p.tokens_out, "cost": p.cost}
        for sample, p in zip(s.samples, s.predictions, strict=True)
    ]  # fmt: skip


def _schema() -> Any:
    import pyarrow as pa

    text, floats = pa.string(), pa.list_(pa.float32())
    return pa.schema(
        [("neuron", text), ("explanation", text), ("simulator", text), ("sides", pa.list_(text)), ("settings", text),
         ("sample", pa.int64()), ("grids", pa.list_(pa.list_(pa.int64()))), ("patches", pa.list_(floats)),
         ("tokens", floats), ("failure", text), ("detail", text), ("tokens_in", pa.int64()), ("tokens_out", pa.int64()),
         ("cost", pa.float64())]
    )  # fmt: skip
