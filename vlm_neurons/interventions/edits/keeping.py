"""Edits that were run, on disk: parts of them while they run, and the table at the end.

`edits/parts-IDENTITY-INPUTS/SIDE-START.safetensors` has the activations of some inputs, `edits/effects.parquet` the
table.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vlm_neurons._files import write_atomic
from vlm_neurons.protocols import Side

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

    def finish(self, table: pd.DataFrame) -> None:
        """Write the table, which says whose it is, and drop the parts."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        told = pa.Table.from_pandas(table, preserve_index=False)
        told = told.replace_schema_metadata({**(told.schema.metadata or {}), b"edits": self.identity.encode()})
        write_atomic(self.folder / TABLE, lambda path: pq.write_table(told, path))
        shutil.rmtree(self.parts, ignore_errors=True)

    def table(self) -> pd.DataFrame | None:
        """The table, if it is of this call.

        Raises:
            ValueError: it is damaged.
        """
        file = self.folder / TABLE
        if not file.is_file():
            return None
        found = read(file)
        return found if owner(file) == self.identity else None


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
