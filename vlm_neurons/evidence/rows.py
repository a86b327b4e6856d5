"""Samples and exemplars as rows of Arrow tables, and back."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from vlm_neurons.evidence.exemplars import Exemplar, Seen

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL import Image


@cache
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


@cache
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
        [e.group for e in exemplars],
        [e.split for e in exemplars],
        [e.rank for e in exemplars],
        [[p.shape for p in e.patch_acts] for e in exemplars],
        [p.ravel() for e in exemplars for p in e.patch_acts],
        [e.token_acts for e in exemplars],
    )


def rows_batch(
    keys: Sequence[str],
    samples: Sequence[int],
    groups: Sequence[str],
    splits: Sequence[str],
    ranks: Sequence[int],
    grids: Sequence[Sequence[tuple[int, ...]]],
    patch_acts: Sequence[Float[np.ndarray, "_patch"]],
    token_acts: Sequence[Float[np.ndarray, "_token"]],
) -> pa.RecordBatch:
    """Rows of `exemplars_schema`; activations go over as arrays, not as numbers one by one.

    Args:
        keys: of the samples.
        samples: their ids.
        groups, splits, ranks: see `Exemplar`.
        grids: shapes of the maps of every image.
        patch_acts: activations in all maps, one after the other, in parts of any size.
        token_acts: those at tokens, of each sample.
    """
    import pyarrow as pa

    shapes = np.array([shape for own in grids for shape in own], np.int32).reshape(-1, 2)
    images, maps = _ends([len(own) for own in grids]), _ends(shapes.prod(axis=1))
    columns = {
        "sample_key": keys, "sample": samples, "group": groups, "split": splits, "rank": ranks,
        "grids": _lists(images, _lists(_ends([2] * len(shapes)), pa.array(shapes.ravel()))),
        "patch_acts": _lists(images, _lists(maps, pa.array(_joined(patch_acts)))),
        "token_acts": _lists(_ends([len(own) for own in token_acts]), pa.array(_joined(token_acts))),
    }  # fmt: skip
    kind = exemplars_schema()
    return pa.RecordBatch.from_arrays(
        [columns[f.name] if isinstance(columns[f.name], pa.Array) else pa.array(columns[f.name], f.type) for f in kind],
        schema=kind,
    )


def _joined(parts: Sequence[Float[np.ndarray, "_place"]]) -> Float[np.ndarray, "_places"]:
    return np.concatenate([np.zeros(0, np.float32), *parts]).astype(np.float32, copy=False)


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


def _ends(sizes: ArrayLike) -> Int[np.ndarray, "_ends"]:
    """Where lists begin and end that follow each other."""
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)


def _lists(ends: Int[np.ndarray, "_ends"], values: pa.Array) -> pa.Array:
    import pyarrow as pa

    return pa.ListArray.from_arrays(pa.array(ends), values)


def _png(image: Image.Image) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    plain = Image.frombytes(image.mode, image.size, image.tobytes())  # pixels alone, no EXIF
    plain.save(buffer, "PNG", compress_level=2)  # of a photograph: a third of the time, 8 % more bytes
    return buffer.getvalue()
