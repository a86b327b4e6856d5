"""What later steps leave in a run directory, as it is read back.

`explanations.jsonl` has a line for every neuron and attempt. `simulations/` and `scores/` have a table for every
simulator and its settings, `NAME-SETTINGS.parquet`, whose metadata tell when it was written (`written`, in
nanoseconds): the newest one counts unless a simulator is named.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_neurons._files import lines_with
from vlm_neurons._text import span
from vlm_neurons.sites.mlp import expert_at
from vlm_neurons.units import Neuron, Pole

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

EXPLANATIONS, SIMULATIONS, SCORES = "explanations.jsonl", "simulations", "scores"
TABLE_FORMAT = b"4"
_FEW = 16  # neurons; for more of them all of explanations.jsonl is read once


def has_rows_of(table: pd.DataFrame, columns: Sequence[dict[str, Any]]) -> bool:
    """Whether a table has the neurons of these columns of a run, in their order; not looked at row by row."""
    end = 0
    for column in columns:
        own, end = table.iloc[end : end + column["d"]], end + column["d"]
        if len(own) != column["d"] or not all((own[name] == column[name]).all() for name in ("hook", "pole")):
            return False
    return end == len(table)


def columns_in_words(columns: Sequence[tuple[str, Pole]]) -> str:
    """Hooks and poles by site.

    >>> columns_in_words([("blocks.0.mlp.hook_act", "+"), ("blocks.1.mlp.hook_act", "+")])
    'layers 0-1 at site gate (pole +)'
    >>> columns_in_words([("blocks.0.mlp.hook_act", "+"), ("blocks.3.mlp.experts.5.hook_act", "+")])
    'layer 0 and expert 5 of layer 3 at site gate (pole +)'
    """
    sites: dict[str, tuple[set[tuple[int, int]], set[str]]] = {}
    for hook, pole in columns:
        neuron, routed = Neuron(hook, 0, pole), expert_at(hook)
        places, poles = sites.setdefault(neuron.site, (set(), set()))
        places.add((neuron.layer, -1 if routed is None else routed[0].expert))
        poles.add(pole)
    return ", ".join(
        f"{_where(places)} at site {name} ({'poles + and -' if len(poles) > 1 else f'pole {min(poles)}'})"
        for name, (places, poles) in sites.items()
    )


def _where(places: set[tuple[int, int]]) -> str:
    """Layers, and experts of layers, of (layer, expert, or -1) in words."""
    dense, routed = ({(i, e) for i, e in places if (e >= 0) is own} for own in (False, True))
    said = [span("layer", {i for i, _ in dense})] if dense else []
    if routed:
        said.append(f"{span('expert', {e for _, e in routed})} of {span('layer', {i for i, _ in routed})}")
    return " and ".join(said)


def last_explanations(path: str | Path, neurons: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    """What counts of every neuron, as records: the last explanation, or the last failure where there is none, or where
    all were asked for again (`redo`). A last line that a crash cut off is left out; nothing where there is no file.

    Args:
        path: the directory.
        neurons: only these, in this order, those that are there; of the file only their lines are read as JSON.

    Raises:
        ValueError: a line that is no explanation; of other neurons' lines only where more than 16 are asked for.
    """
    file = Path(path) / EXPLANATIONS
    found: dict[str, dict[str, Any]] = {}
    if not file.is_file():
        return found
    every = neurons is None or len(neurons) > _FEW
    for begin, line in _all_lines(file) if every else _lines_of(file, neurons or ()):
        try:
            record = json.loads(line)
            neuron, redo = record["neuron"], record.pop("redo", False)
            failed = record["failure"] is not None and bool(record["failure"]["kind"])
            if not isinstance(neuron, str):
                raise TypeError("its neuron is no text")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if not line.endswith(b"\n"):  # cut off, or still being written
                continue
            number = file.read_bytes().count(b"\n", 0, begin) + 1
            raise ValueError(f"{file}, line {number}: no explanation ({error}); remove it") from None
        if not failed or redo or neuron not in found or found[neuron]["failure"]:
            found[neuron] = record
    return found if neurons is None else {n: found[n] for n in dict.fromkeys(neurons) if n in found}


def _all_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Every line with its end, and where it begins. U+2028 ends none."""
    begin = 0
    with file.open("rb") as lines:
        for line in lines:
            yield begin, line
            begin += len(line)


def _lines_of(file: Path, neurons: Sequence[str]) -> list[tuple[int, bytes]]:
    """The lines that have the id of one of some neurons, in their order: some are of others that speak of it."""
    words = {json.dumps(neuron, ensure_ascii=own).encode() for neuron in neurons for own in (True, False)}
    return sorted({line for word in words for line in lines_with(file, word)})


def load_explanations(path: str | Path, neurons: Sequence[str] | None = None) -> pd.DataFrame:
    """The records of `last_explanations` as a table.

    Raises:
        FileNotFoundError: there is nothing.
        KeyError: a neuron that was asked for has none.
        ValueError: a line that is no explanation.
    """
    import pandas as pd

    if not (file := Path(path) / EXPLANATIONS).is_file():
        raise FileNotFoundError(f"{file} is not there: vn.explain(evidence, out=run) writes it")
    found = last_explanations(path, neurons)
    if neurons is not None and not found.keys() >= {*neurons}:  # another program may have written ids in another way
        every = last_explanations(path)
        found = {n: every[n] for n in dict.fromkeys(neurons) if n in every}
    _check_there(neurons, found, f"explanation in {file}: vn.explain(..., out=run) makes one")
    return pd.DataFrame(found.values())


def _check_there(neurons: Sequence[str] | None, found: Collection[str], what: str) -> None:
    if lacking := [n for n in neurons or () if n not in found]:
        raise KeyError(f"{lacking[0]!r} has no {what}")


def newest(path: str | Path, kind: str, simulator: str | None = None) -> Path | None:
    """The table that was written last, of one simulator or of any; None if there is none.

    Raises:
        ValueError: one of them is damaged, or of a format that this version does not know.
    """
    found = []
    for file in sorted((Path(path) / kind).glob("[!.]*.parquet")):
        told = metadata_of(file)
        if simulator is None or told[b"simulator"].decode() == simulator:
            found.append((int(told[b"written"]), file))
    return max(found)[1] if found else None


def load_scores(path: str | Path, simulator: str | None = None, neurons: Sequence[str] | None = None) -> pd.DataFrame:
    """The full table of scores of a run directory: one row a neuron and side.

    Args:
        path: the directory.
        simulator: whose; of the one that wrote last if not given.
        neurons: only theirs; of the file the parts that have them are read.

    Raises:
        FileNotFoundError: there is none.
        KeyError: a neuron that was asked for has none.
        ValueError: it is damaged.
    """
    file = newest(path, SCORES, simulator)
    if file is None:
        whose = f" by {simulator!r}" if simulator else ""
        raise FileNotFoundError(
            f"no scores{whose} in {path}; make them with vn.score(..., out=run), or vlm-neurons score {path}"
        )
    table = scores_of(file, neurons)
    _check_there(neurons, set(table["neuron"]), f"score in {file}: vn.score(..., out=run) makes one")
    return table


def scores_of(file: Path, neurons: Sequence[str] | None = None) -> pd.DataFrame:
    """A table of scores, or the rows of some neurons.

    Raises:
        ValueError: it is damaged.
    """
    table = read_table(file, neurons)
    if missing := {"neuron", "side", "r", "p", "n_failed", "n_images"} - set(table.column_names):
        raise _damaged(file, f"it has no column {min(missing)!r}")
    return table.to_pandas()


def read_table(file: Path, neurons: Sequence[str] | None = None) -> pa.Table:
    """A table of simulations or scores, or its rows of some neurons: then the ids of all are read, and the groups of
    rows that have them.

    Raises:
        ValueError: it is damaged, or of a format that this version does not know.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    metadata_of(file)
    try:
        return pq.read_table(file) if neurons is None else _rows_of(file, neurons)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise _damaged(file, error) from error


def _rows_of(file: Path, neurons: Sequence[str]) -> pa.Table:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as table:
        if not table.metadata.num_rows:  # its words have no type
            return table.read()
        wanted = pa.array(neurons, pa.string())
        rows = np.flatnonzero(pc.is_in(table.read(columns=["neuron"])["neuron"], wanted))
        ends = np.cumsum([table.metadata.row_group(k).num_rows for k in range(table.num_row_groups)])
        found = table.read_row_groups(np.unique(np.searchsorted(ends, rows, side="right")).tolist())
        return found.filter(pc.is_in(found["neuron"], wanted))


def metadata_of(file: Path) -> dict[bytes, bytes]:
    """What a table of simulations or scores says of itself: `simulator`, `written`.

    Raises:
        ValueError: it is damaged, or of a format that this version does not know.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        told: dict[bytes, bytes] = pq.read_schema(file).metadata or {}
    except (pa.ArrowException, OSError) as error:
        raise _damaged(file, error) from error
    if told.get(b"format") != TABLE_FORMAT:
        raise _damaged(file, f"it is not of format {TABLE_FORMAT.decode()}, which this version reads")
    return told


def _damaged(file: Path, what: object) -> ValueError:
    return ValueError(f"{file} cannot be read: {what}. Move it away; vn.score(..., out=run) writes it again")
