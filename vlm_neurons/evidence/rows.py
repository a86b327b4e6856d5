"""Samples and exemplars as rows of Arrow tables, and back."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from vlm_neurons.evidence.exemplars import Exemplar, Seen

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL import Image


def schema() -> pa.Schema:
    """Of samples."""
    import pyarrow as pa

    floats, ints, flags = pa.list_(pa.float32()), pa.list_(pa.int64()), pa.list_(pa.bool_())
    truth = pa.struct([("kind", pa.string()), ("word", pa.string()), ("rows", pa.int64()),
                       ("shares", pa.list_(pa.float64()))])  # fmt: skip
    return pa.schema(
        [("sample", pa.int64()), ("name", pa.string()), ("images", pa.list_(pa.binary())), ("grids", pa.list_(ints)),
         ("boxes", pa.list_(floats)), ("tokens", pa.list_(pa.string())), ("kinds", ints), ("places", ints),
         ("token_sinks", flags), ("patch_sinks", pa.list_(flags)), ("source", pa.string()), ("truth", pa.list_(truth)),
         ("whole_rows", ints), ("prompt", pa.string()), ("answer", pa.string())]
    )  # fmt: skip


def exemplars_schema() -> pa.Schema:
    """Of what a neuron did on samples: activations at the patches of each image, row by row, and at every token."""
    import pyarrow as pa

    floats = pa.list_(pa.float32())
    return pa.schema(
        [("sample_key", pa.string()), ("sample", pa.int64()), ("group", pa.string()), ("split", pa.string()),
         ("rank", pa.int64()), ("grids", pa.list_(pa.list_(pa.int32()))), ("patch_acts", pa.list_(floats)),
         ("token_acts", floats)]
    )  # fmt: skip


def exemplars_batch(exemplars: Sequence[Exemplar], keys: Sequence[str]) -> pa.RecordBatch:
    """A row each."""
    return rows_batch(
        keys,
        [e.seen.sample for e in exemplars],
        [(e.group, e.split, e.rank) for e in exemplars],
        [[p.shape for p in e.patch_acts] for e in exemplars],
        [np.concatenate([np.zeros(0, np.float32), *(p.ravel() for p in e.patch_acts)]) for e in exemplars],
        [e.token_acts for e in exemplars],
    )


def rows_batch(
    keys: Sequence[str],
    samples: Sequence[int],
    placed: Sequence[tuple[str, str, int]],
    grids: Sequence[Sequence[tuple[int, ...]]],
    patches: Sequence[Float[np.ndarray, "_patch"]],
    tokens: Sequence[Float[np.ndarray, "_token"]],
) -> pa.RecordBatch:
    """Rows of `exemplars_schema`; activations go over as arrays, not as numbers one by one.

    Args:
        keys: of the samples.
        samples: their ids.
        placed: group, split and rank.
        grids: shapes of the maps of every image.
        patches: all maps, one after the other.
        tokens: activations at tokens.
    """
    import pyarrow as pa

    shapes = [shape for own in grids for shape in own]
    images = _ends([len(own) for own in grids])
    sizes = pa.array(np.array(shapes, np.int32).reshape(-1))
    groups, splits, ranks = zip(*placed, strict=True) if placed else ((), (), ())
    columns = {
        "sample_key": list(keys), "sample": list(samples), "group": groups, "split": splits, "rank": ranks,
        "grids": pa.ListArray.from_arrays(images, pa.ListArray.from_arrays(_ends([2] * len(shapes)), sizes)),
        "patch_acts": pa.ListArray.from_arrays(
            images, pa.ListArray.from_arrays(_ends([rows * columns for rows, columns in shapes]), _flat(patches))),
        "token_acts": pa.ListArray.from_arrays(_ends([len(t) for t in tokens]), _flat(tokens)),
    }  # fmt: skip
    kind = exemplars_schema()
    return pa.RecordBatch.from_arrays(
        [columns[f.name] if isinstance(columns[f.name], pa.Array) else pa.array(columns[f.name], f.type) for f in kind],
        schema=kind,
    )


def read_acts(
    rows: pa.RecordBatch,
) -> Iterator[tuple[tuple[Float[np.ndarray, "_rows _columns"], ...], Float[np.ndarray, "_token"]]]:
    """Activations at patches and tokens, of every row."""
    patches, tokens = rows["patch_acts"], rows["token_acts"]
    values, ends = patches.values.values.to_numpy().copy(), patches.values.offsets.to_numpy().tolist()
    said, said_ends = tokens.values.to_numpy().copy(), tokens.offsets.to_numpy().tolist()
    shapes = rows["grids"].values.values.to_numpy().reshape(-1, 2).tolist()
    first = patches.offsets.to_numpy().tolist()
    for i in range(len(rows)):
        yield (
            tuple(values[ends[k] : ends[k + 1]].reshape(shapes[k]) for k in range(first[i], first[i + 1])),
            said[said_ends[i] : said_ends[i + 1]],
        )


def sample_row(seen: Seen) -> dict[str, Any]:
    """What a sample is."""
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
        "prompt": seen.prompt,
        "answer": seen.answer,
    }  # fmt: skip


def read_sample(row: dict[str, Any]) -> Seen:
    """Read what `sample_row` made."""
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
        row.get("prompt"),  # evidence from before they were kept has no such columns
        row.get("answer"),
    )  # fmt: skip


def _ends(sizes: Sequence[int]) -> pa.Array:
    import pyarrow as pa

    return pa.array(np.cumsum([0, *sizes]), pa.int32())


def _flat(values: Sequence[np.ndarray]) -> pa.Array:
    import pyarrow as pa

    return pa.array(np.concatenate([np.zeros(0, np.float32), *(np.asarray(v, np.float32).ravel() for v in values)]))


def _png(image: Image.Image) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.frombytes(image.mode, image.size, image.tobytes()).save(buffer, "PNG")  # pixels alone, no EXIF
    return buffer.getvalue()
