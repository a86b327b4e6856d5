"""Evidence is added to, never rewritten; a neuron is read alone; a kill at any moment loses what was being saved."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import seeds
from PIL import Image

import vlm_neurons as vn
from vlm_neurons.evidence import load, save
from vlm_neurons.evidence import stored as reading


def made(n: int = 12) -> vn.Evidence:
    rng = seeds.rng()
    return vn.Evidence.from_arrays(
        "L0N0", images=[Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(n)],
        patch_acts=[rng.normal(size=(2, 3)) for _ in range(n)], tokens=[[" a"] * (1 + i % 4) for i in range(n)],
        token_acts=[rng.normal(size=1 + i % 4) for i in range(n)],
    )  # fmt: skip


def named(one: vn.Evidence, names: list[str]) -> dict[str, vn.Evidence]:
    return {name: replace(one, neuron=name) for name in names}


def written(path: Path) -> dict[str, int]:
    return {p.name: p.stat().st_size for p in path.iterdir()}


def test_one_more_neuron_writes_as_much_beside_many_as_beside_few(tmp_path: Path) -> None:
    one, sizes = made(), []
    for n in (2, 200):
        folder = tmp_path / str(n)
        save(named(one, [f"L0N{i}" for i in range(n)]), folder)
        before = written(folder)
        save(named(one, ["L1N7"]), folder)
        after = written(folder)
        assert before.items() <= after.items(), "nothing is rewritten"
        (new,) = after.keys() - before.keys()
        sizes.append(after[new])
        assert new.startswith("neurons-"), "its samples are there already"
    assert sizes[0] == sizes[1]


def test_what_is_read_is_what_was_saved_and_the_newest_counts(tmp_path: Path) -> None:
    one, other = made(), replace(made(6), label="text")
    save(named(one, ["L0N1", "L0N2"]), tmp_path)
    save(named(other, ["L0N2", "L0N3"]), tmp_path)
    stored = load(tmp_path)
    assert list(stored) == ["L0N1", "L0N2", "L0N3"] and len(stored) == 3 and "L0N4" not in stored
    for name, wanted in (("L0N1", one), ("L0N2", other), ("L0N3", other)):
        assert stored[name].digest == replace(wanted, neuron=name).digest
        assert [e.seen.digest for e in stored[name].pool] == [e.seen.digest for e in wanted.pool]
    assert stored.about("L0N2")["label"] == "text"
    first = stored["L0N1"]
    assert stored["L0N1"].exemplars[0].seen is first.exemplars[0].seen, "samples in use are shared"
    with pytest.raises(KeyError):
        stored["L0N9"]


def test_a_file_is_parsed_once_however_many_of_its_neurons_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, parsed, told = made(), list[str](), reading.told_in
    for group in range(3):
        save(named(one, [f"L{group}N{k}" for k in range(30)]), tmp_path)

    def counted(file: Path, name: str) -> list[Any]:
        parsed.append(file.name)
        return told(file, name)

    monkeypatch.setattr(reading, "told_in", counted)
    newest, every = max(name for name in written(tmp_path) if name.startswith("neurons-")), load(tmp_path)
    assert all(f"L2N{k}" in every for k in range(30)) and parsed == [newest], "what is older is not parsed for these"
    assert all(f"L{group}N{k}" in every for group in range(3) for k in range(30)) and "L3N0" not in every
    assert sorted(parsed) == sorted(set(parsed)) and len(every) == 90
    assert len(parsed) == 3


def test_it_can_be_read_without_this_package(tmp_path: Path) -> None:
    import json

    import pyarrow as pa

    one = made()
    save(named(one, ["L0N1", "L0N2"]), tmp_path)
    (file,) = tmp_path.glob("neurons-*.arrow")
    table = pa.ipc.open_file(str(file))
    told = json.loads(table.schema.metadata[b"neurons"])
    rows = table.get_batch([n["name"] for n in told].index("L0N2")).to_pylist()
    every = (*one.exemplars, *one.pool)
    assert [row["token_acts"] for row in rows] == [pytest.approx(e.token_acts.tolist(), nan_ok=True) for e in every]
    assert rows[0]["patch_acts"][0] == pytest.approx(every[0].patch_acts[0].ravel().tolist())


def _saves(folder: str, start: Any) -> None:
    one = made()
    start.set()
    for i in range(10_000):
        save(named(one, [f"L{os.getpid()}N{i}"]), folder)


def test_samples_that_were_stored_compressed_are_read_too(tmp_path: Path) -> None:
    one = made()
    save(named(one, ["L0N1"]), tmp_path)
    (file,) = tmp_path.glob("samples-*.arrow")
    with pa.ipc.open_file(file) as shard:
        kind, batches = shard.schema, [shard.get_batch(i) for i in range(shard.num_record_batches)]
    plain = file.stat().st_size
    with pa.ipc.new_file(str(file), kind, options=pa.ipc.IpcWriteOptions(compression="zstd")) as out:
        for batch in batches:
            out.write_batch(batch)
    assert file.stat().st_size != plain
    assert [e.seen.digest for e in load(tmp_path)["L0N1"].exemplars] == [e.seen.digest for e in one.exemplars]
    assert load(tmp_path)["L0N1"].exemplars[0].seen.images[0].tobytes() == one.exemplars[0].seen.images[0].tobytes()


def test_two_processes_save_at_once_and_a_kill_loses_nothing_that_was_saved(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    starts = [context.Event() for _ in range(2)]
    both = [context.Process(target=_saves, args=(str(tmp_path), start)) for start in starts]
    for process, start in zip(both, starts, strict=True):
        process.start()
        start.wait(60)
    time.sleep(0.7)
    for process in both:
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
    stored = load(tmp_path)
    assert {name.split("N")[0] for name in stored} == {f"L{p.pid}" for p in both} and len(stored) > 4
    wanted = made()
    for name in stored:
        assert stored[name].digest == replace(wanted, neuron=name).digest


def test_evidence_of_an_earlier_version_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "exemplars.parquet").write_bytes(b"old")
    with pytest.raises(ValueError, match=r"of an earlier version.*gather it again"):
        load(tmp_path)
