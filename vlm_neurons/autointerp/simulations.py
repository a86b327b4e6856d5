"""A simulation of one neuron, and `simulations.parquet`."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlm_neurons._files import write_atomic
from vlm_neurons.autointerp.explanation import Failure, says_nothing
from vlm_neurons.autointerp.simulators.protocol import Prediction, Side, Simulator

FORMAT = b"3"
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
        made_by: of the simulator alone, the beginning (`settings_id`).

    >>> simulation = simulations["L2N304"]
    >>> simulation.explanation, simulation.sides, simulation.n_failed
    ('pink regions', ('visual',), 0)
    >>> real = evidence["L2N304"].split("test")[0]
    >>> predicted = simulation.of(real.seen.sample).patch_acts[0]
    >>> int(predicted.argmax()) == int(real.patch_acts[0].argmax())  # the same patch
    True
    """

    neuron: str
    explanation: str
    simulator: str
    sides: tuple[Side, ...]
    samples: tuple[int, ...]
    predictions: tuple[Prediction, ...]
    settings: str = ""
    made_by: str = ""

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
    for name, made_by in {(s.simulator, s.made_by) for s in simulations.values()}:
        to_front(path / FILE, name, made_by)
    every = {**load(path), **{s.neuron: s for s in simulations.values()}}
    table = pa.Table.from_pylist([r for s in every.values() for r in _rows(s)], schema=_schema())
    table = table.replace_schema_metadata({"format": FORMAT})
    write_atomic(path / FILE, lambda temporary: pq.write_table(table, temporary, compression="zstd"))


def save_new(simulations: Mapping[str, Simulation], path: Path) -> None:
    """`save`; failures alone do not take the place of another simulator's."""
    (own,) = {(s.simulator, s.made_by) for s in simulations.values()}
    asked = [s for s in simulations.values() if not says_nothing(s.explanation)]
    nothing_came = asked and all(s.n_failed == len(s.predictions) for s in asked)
    if in_front(path / FILE) in (None, own) or not nothing_came:
        save(simulations, path)


def settings_id(simulator: Simulator) -> str:
    """Eight characters that tell a simulator's settings from others."""
    return hashlib.sha256(simulator.settings().encode()).hexdigest()[:8]


def to_front(file: Path, simulator: str, made_by: str) -> None:
    """Give a simulator the file: another's that is there, or that of other settings, is kept beside it as
    `simulations-NAME-SETTINGS.parquet` (or `scores-...`), and the simulator's own that was kept so comes back."""
    there = in_front(file)
    if there == (simulator, made_by):
        return
    if there:
        os.replace(file, _beside(file, *there))
    if _beside(file, simulator, made_by).is_file():
        os.replace(_beside(file, simulator, made_by), file)


def in_front(file: Path) -> tuple[str, str] | None:
    """Whose table it is: a simulator's name and the mark of its settings; None if it is not there, or empty.

    Raises:
        ValueError: it is damaged, or no such table.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not file.is_file():
        return None
    try:
        columns = [c for c in ("simulator", "made_by") if c in pq.read_schema(file).names]
        first = pq.read_table(file, columns=columns).slice(length=1).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file} cannot be read ({error}); move it away, and score again") from error
    if "simulator" not in columns:
        raise ValueError(f"{file} is no table of simulations or scores; move it away, and score again")
    return (first[0]["simulator"], first[0].get("made_by") or "") if first else None


def kept(path: Path, simulator: Simulator) -> dict[str, Simulation]:
    """What a simulator has made for a run directory before: where it is in front, or beside another's. Nothing is
    moved."""
    own = simulator.name, settings_id(simulator)
    return load(path) if in_front(path / FILE) == own else _load(_beside(path / FILE, *own))


def _beside(file: Path, *names: str) -> Path:
    plain = [re.sub(r"[^A-Za-z0-9_.]+", "-", name) for name in (file.stem, *names) if name]
    return file.with_name("-".join(plain) + ".parquet")


def load(path: str | Path) -> dict[str, Simulation]:
    """Simulations of a run directory, by neuron; none if there are none.

    Raises:
        ValueError: they are in a format that this version does not know.
    """
    return _load(Path(path) / FILE)


def _load(file: Path) -> dict[str, Simulation]:
    import pyarrow.parquet as pq

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
        first["made_by"],
    )  # fmt: skip


def _prediction(row: dict[str, Any]) -> Prediction:
    patches = tuple(np.array(p, np.float32).reshape(g) for p, g in zip(row["patch_acts"], row["grids"], strict=True))
    tokens = None if row["token_acts"] is None else np.array(row["token_acts"], np.float32)
    failure = Failure(row["failure"], row["detail"]) if row["failure"] is not None else None
    return Prediction(patches, tokens, failure, row["tokens_in"], row["tokens_out"], row["cost"])


def _rows(s: Simulation) -> list[dict[str, Any]]:
    return [
        {"neuron": s.neuron, "explanation": writable(s.explanation), "simulator": s.simulator, "sides": list(s.sides),
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


def _schema() -> Any:
    import pyarrow as pa

    text, floats = pa.string(), pa.list_(pa.float32())
    return pa.schema(
        [("neuron", text), ("explanation", text), ("simulator", text), ("sides", pa.list_(text)), ("settings", text),
         ("made_by", text),
         ("sample", pa.int64()), ("grids", pa.list_(pa.list_(pa.int64()))), ("patch_acts", pa.list_(floats)),
         ("token_acts", floats), ("failure", text), ("detail", text), ("tokens_in", pa.int64()),
         ("tokens_out", pa.int64()),
         ("cost", pa.float64())]
    )  # fmt: skip
