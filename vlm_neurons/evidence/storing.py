"""Evidence on disk: Arrow files that anything can read, images as PNG, no pickle; nothing is ever rewritten.

A call of `save` adds two files. `samples-{digest}.arrow`: the samples that no other file has, a record batch each (what
`Seen` says; images as PNG bytes); the metadata of its schema has `keys` of their content (JSON, in the order of the
batches). `neurons-{time}-{digest}.arrow`: a record batch a neuron, in it a row a sample; the metadata has `neurons`
(peak, seed, `written` ...). Of a neuron that several files have the newest counts. So what adding a neuron costs
does not grow with the neurons that are there (a little with the number of earlier calls, whose files are opened),
several processes may save at once, and a kill loses what was being saved and nothing else.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vlm_neurons._files import told_where
from vlm_neurons.evidence.evidence import Evidence
from vlm_neurons.evidence.exemplars import Seen
from vlm_neurons.evidence.rows import exemplars_batch, exemplars_schema, sample_row, schema
from vlm_neurons.evidence.shards import told_in, write_shard
from vlm_neurons.evidence.stored import Stored
from vlm_neurons.evidence.written import Written

if TYPE_CHECKING:
    import pyarrow as pa

K = TypeVar("K", bound=Hashable)


def save(evidence: Mapping[str, Evidence], path: str | Path) -> Path:
    """Add evidence to a directory. Neurons that are there already are replaced, others stay.

    Returns:
        the directory.
    """
    path = Path(path)
    with told_where(path):
        path.mkdir(parents=True, exist_ok=True)
    if not evidence:
        return path
    every = {name: (*one.exemplars, *one.pool) for name, one in evidence.items()}
    keys = save_samples({id(e.seen): e.seen for own in every.values() for e in own}, path, known_samples(path))
    told = [about(name, one.neuron, one.peak, one.label, one.seed, one.source, one.n_samples, one.written)
            for name, one in evidence.items()]  # fmt: skip
    batches = (exemplars_batch(own, [keys[id(e.seen)] for e in own]) for own in every.values())
    save_neurons(path, told, batches)
    return path


def about(
    name: str, neuron: str, peak: float, label: str | None, seed: int, source: dict[str, Any], n_samples: int | None,
    written: Written | None,
) -> dict[str, Any]:  # fmt: skip
    """What a file says of a neuron beside what it did."""
    return {"name": name, "neuron": neuron, "peak": peak, "label": label, "seed": seed, "source": source,
            "n_samples": n_samples, **({} if written is None else {"written": asdict(written)})}  # fmt: skip


def known_samples(path: Path) -> set[str]:
    """Keys of the samples that are in a directory."""
    return {key for file in path.glob("samples-*.arrow") for key in told_in(file, "keys")}


def save_samples(samples: Mapping[K, Seen], path: Path, known: set[str]) -> dict[K, str]:
    """Write those of some samples that are not known yet, and add them to what is.

    Returns:
        The key of each.
    """
    import pyarrow as pa

    keys = {name: key_of(seen) for name, seen in samples.items()}
    fresh = {keys[name]: seen for name, seen in samples.items() if keys[name] not in known}
    if fresh:
        batches = (pa.RecordBatch.from_pylist([sample_row(seen)], schema=schema()) for seen in fresh.values())
        told = {"keys": [*fresh], "digests": [[seen.digest, seen.image_digests] for seen in fresh.values()]}
        write_shard(path / f"samples-{_digest([*fresh])}.arrow", schema(), batches, told)
        known.update(fresh)
    return keys


def save_neurons(
    path: Path, told: Sequence[dict[str, Any]], batches: Iterable[pa.RecordBatch], keys: Sequence[str] = ()
) -> None:
    """Write what neurons did, a batch each; their samples are there already, with `keys` if these are told."""
    name = f"neurons-{time.time_ns():020d}-{_digest([told, time.perf_counter_ns()])}.arrow"
    write_shard(path / name, exemplars_schema(), batches, {"neurons": told, **({"samples": keys} if keys else {})})


def relabel(stored: Stored, labels: Mapping[str, str | None]) -> Stored:
    """Write neurons again whose class is another one now, as they are but for that.

    Returns:
        The directory as it is then.
    """
    changed = [name for name, label in labels.items() if stored.about(name)["label"] != label]
    if not changed:
        return stored
    told = [{**stored.about(name), "label": labels[name]} for name in changed]
    save_neurons(stored.path, told, map(stored.rows, changed), sorted(stored.keys_of(changed)))
    return Stored(stored.path)


def key_of(seen: Seen) -> str:
    """Of all that is stored of a sample."""
    return _digest([seen.digest, seen.name, seen.whole_rows, [i.mode for i in seen.images], seen.prompt, seen.answer])


def _digest(words: Any) -> str:
    return hashlib.sha256(repr(words).encode()).hexdigest()[:24]
