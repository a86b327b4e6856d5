"""Edits that were run, on disk: parts of them while they run, and the table at the end.

`edits/parts-IDENTITY-INPUTS/SIDE-START.safetensors` has the activations of some inputs, `edits/effects.parquet` the
table.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vlm_neurons._files import changing, write_atomic
from vlm_neurons.protocols import Side
from vlm_neurons.stats import false_discovery

if TYPE_CHECKING:
    import pandas as pd

FOLDER, TABLE = "edits", "effects.parquet"
WRITER = "vn.input_effects(..., out=...) or vlm-neurons edits RUN"
REMEDY = f"move it away, and {WRITER} writes it again"


@dataclass(frozen=True)
class Kept:
    """Where one call keeps what it has done.

    Attributes:
        folder: of all edits.
        identity: of all that decides the numbers.
        inputs: of what is run, in its order: parts are matched by number.
    """

    folder: Path
    identity: str
    inputs: str = ""

    @property
    def parts(self) -> Path:
        """Of this call alone."""
        return self.folder / f"parts-{self.identity[:16]}-{self.inputs[:16]}"

    def part(self, side: Side, start: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Activations that are there, and digests of their inputs.

        Raises:
            ValueError: the file is damaged.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        file = self._file(side, start)
        if not file.is_file():
            return None
        try:
            found = load_file(file)
            return found["acts"], found["digests"]
        except (SafetensorError, KeyError, OSError) as error:
            raise ValueError(f"{file} cannot be read ({error}): {REMEDY}") from error

    def put(self, side: Side, start: int, acts: np.ndarray, digests: np.ndarray) -> None:
        """Keep activations, and digests of their inputs."""
        from safetensors.numpy import save_file

        kept = {"acts": np.ascontiguousarray(acts), "digests": digests}
        write_atomic(self._file(side, start), lambda path: save_file(kept, path))

    def _file(self, side: Side, start: int) -> Path:
        return self.parts / f"{side}-{start:08d}.safetensors"

    def finish(self, table: pd.DataFrame) -> pd.DataFrame:
        """Write the table, which says whose it is, and drop the parts. Rows of other neurons that are there stay, and
        q is over all.

        Returns:
            The table, with that q.

        Raises:
            ValueError: the table that is there is damaged.
        """
        import pandas as pd
        import pyarrow as pa
        import pyarrow.parquet as pq

        with changing(self.folder / TABLE):
            earlier = read(self.folder / TABLE) if (self.folder / TABLE).is_file() else table.iloc[:0]
            others = earlier[~earlier["neuron"].isin(table["neuron"])]
            every = with_q(pd.concat([table, others], ignore_index=True)) if len(others) else table
            told = pa.Table.from_pandas(every, preserve_index=False)
            told = told.replace_schema_metadata({**(told.schema.metadata or {}), b"edits": self.identity.encode()})
            write_atomic(self.folder / TABLE, lambda path: pq.write_table(told, path))
        shutil.rmtree(self.parts, ignore_errors=True)
        return every.iloc[: len(table)]

    def table(self, neurons: Collection[str]) -> pd.DataFrame | None:
        """The rows of this call's neurons, if the table is of this call.

        Raises:
            ValueError: it is damaged.
        """
        file = self.folder / TABLE
        if not file.is_file():
            return None
        found = read(file)
        return found[found["neuron"].isin(neurons)] if owner(file) == self.identity else None


def with_q(table: pd.DataFrame) -> pd.DataFrame:
    """The table with q over the neurons of each edit."""
    table = table.copy()
    for _, part in table.groupby("edit"):
        table.loc[part.index, "q"] = false_discovery(part["p"].to_numpy(float))
    return table


def owner(file: Path) -> str:
    """The identity of the call that wrote a table, which can be read."""
    import pyarrow.parquet as pq

    return str((pq.read_schema(file).metadata or {}).get(b"edits", b"").decode("ascii", "replace"))


def read(file: Path) -> pd.DataFrame:
    """A table of edits.

    Raises:
        ValueError: it is damaged.
    """
    import pandas as pd
    import pyarrow as pa

    try:
        table = pd.read_parquet(file)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ValueError(f"{file} cannot be read ({error}): {REMEDY}") from error
    if lacking := {"neuron", "edit", "change", "specificity", "q"} - {*table.columns}:
        raise ValueError(f"{file} lacks {', '.join(sorted(lacking))}: {REMEDY}")
    return table.astype({name: object for name in table if table[name].dtype.kind not in "fi"})
