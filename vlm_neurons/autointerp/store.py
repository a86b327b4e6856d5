"""What a run directory keeps of explanations, simulations and scores, and what of it needs not be made again.

The files are those of `vlm_neurons.scanning.results`. They are written whole or not at all, but for lines that are
added to `explanations.jsonl`. A failure does not take the place of a result.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from vlm_neurons._checks import of_kind
from vlm_neurons._files import append_lines, changing, write_atomic
from vlm_neurons.autointerp.explanation import Explanation, says_nothing
from vlm_neurons.autointerp.protocols import Side
from vlm_neurons.autointerp.simulation import Simulation, from_rows, rows_of, schema
from vlm_neurons.scanning import Run
from vlm_neurons.scanning.results import (
    EXPLANATIONS,
    SCORES,
    SIMULATIONS,
    TABLE_FORMAT,
    last_explanations,
    metadata_of,
    newest,
    read_table,
    scores_of,
)
from vlm_neurons.stats import false_discovery

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

REPLIES = "cache.sqlite"
ROWS = 4096  # of a table that are read together, where some neurons are asked for


class Result(Protocol):
    """An explanation or a simulation."""

    @property
    def settings(self) -> str:
        """Marks the question."""
        ...

    @property
    def failed(self) -> bool:
        """Whether it has to be asked again."""
        ...


K = TypeVar("K", bound=Hashable)
R = TypeVar("R", bound=Result)


def answered(stored: Mapping[K, R], settings: Mapping[K, str]) -> dict[K, R]:
    """Of stored results those that answer the same question and did not fail: they are not asked for again."""
    return {k: stored[k] for k, mark in settings.items()
            if k in stored and stored[k].settings == mark and not stored[k].failed}  # fmt: skip


def folder(out: Any) -> Path:
    """The directory of a run, or of a path.

    Raises:
        TypeError: neither.
    """
    if isinstance(out, Run):
        return out.path
    of_kind("out", out, str | Path, "give a vn.Run, or the path of a directory")
    return Path(out)


def read_explanations(path: str | Path, neurons: Sequence[str] | None = None) -> dict[str, Explanation]:
    """What counts of every neuron: the last explanation, or the last failure where there is none, or where all were
    asked for again (`redo`). A last line that a crash cut off is left out.

    Args:
        path: the directory.
        neurons: only these, of which some may have none; the lines of others are not parsed.

    Raises:
        ValueError: a line that is no explanation.
    """
    found = {}
    for neuron, record in last_explanations(path, neurons).items():
        try:
            found[neuron] = Explanation.from_record(record)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{Path(path) / EXPLANATIONS}, {neuron}: no explanation ({error}); remove it") from None
    return found


def append_explanations(path: str | Path, explanations: Iterable[Explanation], redo: bool = False) -> None:
    """Add lines; each is in the file when this returns, also where another process adds some.

    Raises:
        OSError: the disk is full or cannot be written to.
    """
    for one in explanations:
        record = one.to_record() | ({"redo": True} if redo else {})
        append_lines(Path(path) / EXPLANATIONS, json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")


def table_file(path: str | Path, kind: str, simulator: str, made_by: str) -> Path:
    """Where the simulations, or scores, of a simulator with certain settings are."""
    plain = [re.sub(r"[^A-Za-z0-9_.]+", "-", name) for name in (simulator, made_by) if name]
    return Path(path) / kind / ("-".join(plain) + ".parquet")


def check_table(path: str | Path, kind: str, simulator: str, made_by: str) -> None:
    """Say now that the table that is going to be written is damaged.

    Raises:
        ValueError: it is.
    """
    file = table_file(path, kind, simulator, made_by)
    if file.is_file():
        metadata_of(file)


def save_simulations(simulations: Iterable[Simulation], path: str | Path, redo: bool = False) -> None:
    """Write simulations into a directory; others that are there stay. Those without any prediction take the place of
    none that has some, unless `redo`."""
    import pyarrow as pa

    by_simulator: dict[tuple[str, str], list[Simulation]] = {}
    for one in simulations:
        by_simulator.setdefault((one.simulator, one.made_by), []).append(one)
    for own, fresh in by_simulator.items():
        with changing(file := table_file(path, SIMULATIONS, *own)):
            every = _simulations(file)
            for one in fresh:
                before = every.get((one.neuron, one.side))
                if redo or before is None or one.came or not before.came:
                    every[one.neuron, one.side] = one
            rows = [row for one in every.values() for row in rows_of(one)]
            _write(path, SIMULATIONS, *own, pa.Table.from_pylist(rows, schema()))


def anything_came(simulations: Iterable[Simulation]) -> bool:
    """Whether any explanation that names something gave a prediction; also where none names anything."""
    asked = [s for s in simulations if not says_nothing(s.explanation)]
    return not asked or any(s.came for s in asked)


def load_simulations(
    path: str | Path,
    simulator: str | None = None,
    made_by: str | None = None,
    neurons: Sequence[str] | None = None,
) -> dict[tuple[str, Side], Simulation]:
    """Simulations of a run directory, by neuron and side; none if there are none.

    Args:
        path: the directory.
        simulator: whose; of the one that wrote last if not given.
        made_by: the mark of its settings; of those that wrote last if not given.
        neurons: only theirs, of which some may have none; of the file the parts that have them are read.

    Raises:
        ValueError: they are damaged, or in a format that this version does not know.
    """
    if simulator is not None and made_by is not None:
        return _simulations(table_file(path, SIMULATIONS, simulator, made_by), neurons)
    return _simulations(newest(path, SIMULATIONS, simulator), neurons)


def save_scores(
    table: pd.DataFrame, path: str | Path, simulator: str, made_by: str, keep_stability: bool = False
) -> pd.DataFrame:
    """Write a full table of scores of one simulator; its rows of other neurons that are there stay, and q is over all.
    Rows of which every simulation failed take the place of no row with a score. With `keep_stability`, that which was
    measured before stays with an explanation that is the same.

    Returns:
        The rows that were there and stay, and those of the table.
    """
    import pyarrow as pa

    with changing(file := table_file(path, SCORES, simulator, made_by)):
        earlier = scores_of(file) if file.is_file() else table.iloc[:0]
        table = _with_stability(table, earlier) if keep_stability else table
        every, written = _beside(earlier, table)
        _write(path, SCORES, simulator, made_by, pa.Table.from_pandas(written, preserve_index=False))
    return every


def _beside(earlier: pd.DataFrame, table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of others that are there and those of a table, with q over all; and what of them is written."""
    import pandas as pd

    others = earlier[~earlier["neuron"].isin(table["neuron"])]
    failed = table[(table["n_failed"] > 0) & (table["n_images"] == 0)]
    good = earlier[earlier["r"].notna()].set_index(["neuron", "side"]).index
    lost = failed.set_index(["neuron", "side"]).index.intersection(good)
    every = pd.concat([others, table], ignore_index=True) if len(others) else table.reset_index(drop=True)
    every["q"] = false_discovery(every["p"].to_numpy(float))
    stay = every.set_index(["neuron", "side"]).index.isin(lost)
    kept = earlier[earlier.set_index(["neuron", "side"]).index.isin(lost)]
    return every, pd.concat([kept, every[~stay]], ignore_index=True) if len(kept) else every


def _with_stability(table: pd.DataFrame, earlier: pd.DataFrame) -> pd.DataFrame:
    """Rows with the stability that was measured before of the same explanation."""
    if "stability" not in earlier:  # of an earlier version
        return table
    same = ["neuron", "side", "explainer", "explanation"]
    known = earlier.drop_duplicates(same).set_index(same)["stability"].reindex(table.set_index(same).index)
    return table.assign(stability=known.to_numpy(float))


def _write(path: str | Path, kind: str, simulator: str, made_by: str, table: pa.Table) -> None:
    import pyarrow.parquet as pq

    told = {
        b"format": TABLE_FORMAT,
        b"simulator": simulator.encode(errors="replace"),
        b"written": b"%d" % time.time_ns(),
    }
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **told})
    write_atomic(
        table_file(path, kind, simulator, made_by),
        lambda part: pq.write_table(table, part, compression="zstd", row_group_size=ROWS),
    )


def _simulations(file: Path | None, neurons: Sequence[str] | None = None) -> dict[tuple[str, Side], Simulation]:
    if file is None or not file.is_file():
        return {}
    grouped: dict[tuple[str, Side], list[dict[str, Any]]] = {}
    for row in read_table(file, neurons).to_pylist():
        grouped.setdefault((row["neuron"], row["side"]), []).append(row)
    return {key: from_rows(rows) for key, rows in grouped.items()}
