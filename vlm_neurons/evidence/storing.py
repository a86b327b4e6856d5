"""Evidence on disk: two parquet files that anything can read, images as PNG, no pickle.

`exemplars.parquet`: one row per neuron and sample; its metadata has `neurons` (JSON: peak, label, seed, source ...) and
the name of the file of samples. `samples-{digest}.parquet`: one row per sample (what `Seen` says; images as PNG bytes).
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlm_neurons._files import write_atomic
from vlm_neurons.evidence.evidence import Evidence
from vlm_neurons.evidence.exemplars import Exemplar, Seen

FORMAT = 6


def save(evidence: Mapping[str, Evidence], path: str | Path) -> Path:
    """Write evidence into a directory.

    Neurons that are there already are replaced, others stay. Both files are written whole, the one that names the
    other last, so that what is there can be read at any moment.

    Returns:
        the directory.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    everything = {**(load(path) if (path / "exemplars.parquet").is_file() else {}), **evidence}
    numbers: dict[int, int] = {}  # id(seen) -> row; samples of different sources may share an id
    rows: list[dict[str, Any]] = []
    exemplars, neurons = [], []
    by_content: dict[Any, int] = {}
    for name, one in everything.items():
        neurons.append({"name": name, "neuron": one.neuron, "peak": one.peak, "label": one.label, "seed": one.seed,
                        "source": one.source, "n_samples": one.n_samples})  # fmt: skip
        for e in (*one.exemplars, *one.pool):
            if id(e.seen) not in numbers:
                row = _sample_row(e.seen)
                key = (*(repr(v) for name, v in row.items() if name != "images"), *e.seen.image_digests)
                if key not in by_content:
                    by_content[key] = len(rows)
                    rows.append(row)
                numbers[id(e.seen)] = by_content[key]
            exemplars.append(_exemplar_row(name, e, numbers[id(e.seen)]))
    digest = hashlib.sha256(repr(list(by_content)).encode()).hexdigest()[:16]
    metadata = {"format": str(FORMAT), "neurons": json.dumps(neurons), "samples": f"samples-{digest}.parquet"}
    samples = pa.Table.from_pylist(rows, schema=_samples_schema())
    table = pa.Table.from_pylist(exemplars, schema=_exemplars_schema()).replace_schema_metadata(metadata)
    write_atomic(path / metadata["samples"], lambda temporary: pq.write_table(samples, temporary, compression="zstd"))
    write_atomic(path / "exemplars.parquet", lambda temporary: pq.write_table(table, temporary, compression="zstd"))
    for old in path.glob("samples-*.parquet"):
        if old.name != metadata["samples"]:
            old.unlink()
    return path


def load(path: str | Path) -> dict[str, Evidence]:
    """Read evidence, without a model.

    Args:
        path: the directory that `save` wrote, or a run directory with `evidence/` in it.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is in a format that this version does not know.
    """
    import pyarrow.parquet as pq

    path = Path(path)
    if not (path / "exemplars.parquet").is_file():
        path = path / "evidence"
    if not (path / "exemplars.parquet").is_file():
        raise FileNotFoundError(f"no evidence in {path}; make it with vn.gather_evidence(model, data, run, neurons)")
    table = pq.read_table(path / "exemplars.parquet")
    metadata = table.schema.metadata or {}
    if metadata.get(b"format") != str(FORMAT).encode():
        raise ValueError(f"{path}: format {metadata.get(b'format')!r}, this version reads {FORMAT}; gather it again")
    seen = [_read_sample(row) for row in pq.read_table(path / metadata[b"samples"].decode()).to_pylist()]
    by_neuron: dict[str, list[Exemplar]] = {}
    for row in table.to_pylist():
        one = seen[row["sample_row"]]
        patches = tuple(
            np.array(p, np.float32).reshape(box.shape[:2]) for p, box in zip(row["patch_acts"], one.boxes, strict=True)
        )
        by_neuron.setdefault(row["name"], []).append(
            Exemplar(one, row["group"], row["split"], row["rank"], patches, np.array(row["token_acts"], np.float32))
        )
    return {
        n["name"]: Evidence(
            n["neuron"],
            n["peak"],
            tuple(e for e in by_neuron.get(n["name"], ()) if e.group != "pool"),
            n["label"],
            n["seed"],
            n["source"],
            tuple(e for e in by_neuron.get(n["name"], ()) if e.group == "pool"),
            n["n_samples"],
        )
        for n in json.loads(metadata[b"neurons"])
    }


def _samples_schema() -> Any:
    import pyarrow as pa

    floats, ints, flags = pa.list_(pa.float32()), pa.list_(pa.int64()), pa.list_(pa.bool_())
    truth = pa.struct([("kind", pa.string()), ("word", pa.string()), ("rows", pa.int64()),
                       ("shares", pa.list_(pa.float64()))])  # fmt: skip
    return pa.schema(
        [("sample", pa.int64()), ("name", pa.string()), ("images", pa.list_(pa.binary())), ("grids", pa.list_(ints)),
         ("boxes", pa.list_(floats)), ("tokens", pa.list_(pa.string())), ("kinds", ints), ("places", ints),
         ("token_sinks", flags), ("patch_sinks", pa.list_(flags)), ("source", pa.string()), ("truth", pa.list_(truth)),
         ("whole_rows", ints)]
    )  # fmt: skip


def _exemplars_schema() -> Any:
    import pyarrow as pa

    floats = pa.list_(pa.float32())
    return pa.schema(
        [("name", pa.string()), ("sample_row", pa.int64()), ("sample", pa.int64()), ("group", pa.string()),
         ("split", pa.string()), ("rank", pa.int64()), ("patch_acts", pa.list_(floats)), ("token_acts", floats)]
    )  # fmt: skip


def _sample_row(seen: Seen) -> dict[str, Any]:
    return {
        "sample": seen.sample,
        "name": seen.name,
        "images": [_png(image) for image in seen.images],
        "grids": [list(b.shape[:2]) for b in seen.boxes],
        "boxes": [b.ravel().tolist() for b in seen.boxes],
        "tokens": list(seen.tokens),
        "kinds": seen.kinds.tolist(),
        "places": list(seen.places),
        "token_sinks": seen.token_sinks.tolist(),
        "patch_sinks": [s.ravel().tolist() for s in seen.patch_sinks],
        "source": seen.source,
        "truth": None if seen.truth is None else [
            {"kind": kind, "word": word, "rows": len(shares), "shares": shares.ravel().tolist()}
            for (kind, word), shares in seen.truth.items()
        ],
        "whole_rows": list(seen.whole_rows),
    }  # fmt: skip


def _read_sample(row: dict[str, Any]) -> Seen:
    from PIL import Image

    grids = [tuple(g) for g in row["grids"]]
    return Seen(
        row["sample"],
        row["name"],
        tuple(Image.open(io.BytesIO(data)).convert("RGB") for data in row["images"]),
        tuple(np.array(b, np.float32).reshape(*g, 4) for b, g in zip(row["boxes"], grids, strict=True)),
        tuple(row["tokens"]),
        np.array(row["kinds"], np.int64),
        tuple(row["places"]),
        np.array(row["token_sinks"], bool),
        tuple(np.array(s, bool).reshape(g) for s, g in zip(row["patch_sinks"], grids, strict=True)),
        row["source"],
        None if row["truth"] is None else {
            (t["kind"], t["word"]): np.array(t["shares"]).reshape(t["rows"], -1) for t in row["truth"]
        },
        tuple(row["whole_rows"]),
    )  # fmt: skip


def _exemplar_row(name: str, e: Exemplar, sample_row: int) -> dict[str, Any]:
    return {"name": name, "sample_row": sample_row, "sample": e.seen.sample, "group": e.group,
            "split": e.split, "rank": e.rank, "patch_acts": [p.ravel().tolist() for p in e.patch_acts],
            "token_acts": e.token_acts.tolist()}  # fmt: skip


def _png(image: Any) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.frombytes(image.mode, image.size, image.tobytes()).save(buffer, "PNG")  # pixels alone, no EXIF
    return buffer.getvalue()
