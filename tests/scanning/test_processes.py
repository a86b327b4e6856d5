"""Kills, several processes, merging, and whatever else may happen to a run directory: nothing is lost or mixed up."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import fresh
import pytest
import torch
from safetensors import safe_open
from scanning.test_resume import (  # noqa: F401
    SETTINGS,
    N,
    assert_same,
    copy_of,
    data,
    model,
    snapshot,
    unmerged,
    whole,
)

from vlm_neurons.models import HookedVLM
from vlm_neurons.scanning import Run, merge, scan
from vlm_neurons.scanning.blocks import ColumnInfo, claimed
from vlm_neurons.scanning.planning import place, state_bytes


def assert_identical(a, b):
    assert_same(a, b)
    for column in a.info["columns"]:
        if column["indexed_by"] == "row":
            for name, tensor in a.moments(column["hook"]).tensors().items():
                assert torch.equal(tensor, b.moments(column["hook"]).tensors()[name]), name


KILLS = """
import os, random, signal, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads({threads})
from scanning import test_resume as t
from vlm_neurons.data import ImageTextData
from vlm_neurons.scanning import Run, job, scan
real = job.write_block
def slow(*arguments, **named):
    real(*arguments, **named)
    with open({out!r} + "/done.log", "a") as log:
        print(arguments[0].name, file=log)
    time.sleep(0.15)
job.write_block = slow
def start(rank, world):
    child = os.fork()  # this process has computed nothing yet: a fork of it is as good as a new one
    if child == 0:
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(world))
        try:
            scan(t.make_model(), ImageTextData.from_jsonl({jsonl!r}), **t.SETTINGS, out={out!r}, progress=False)
        finally:
            os._exit(sys.exc_info()[0] is not None)
    return child
blocks = lambda: len(list((Path({out!r}) / "blocks").glob("*.safetensors")))
for kill in range(3):
    have, child = blocks(), start(0, 1)
    while blocks() == have and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.005)
    time.sleep(random.uniform(0, 0.15))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    print(os.WIFSIGNALED(status), blocks(), Run.load({out!r}).complete, flush=True)
children = [start(rank, 2) for rank in (0, 1)]
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
done = (Path({out!r}) / "done.log").read_text().split()
assert len(done) == len({{*done}}), "a finished block was scanned again"
sys.exit(max(codes))
"""


def test_three_random_kills_and_another_number_of_processes_change_nothing(tmp_path, data, whole):  # noqa: F811
    code = KILLS.format(
        tests=str(Path(__file__).parents[1]), threads=torch.get_num_threads(),
        jsonl=data.source.removeprefix("jsonl:"), out=str(tmp_path),
    )  # fmt: skip
    done = fresh.run(code)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[:3] == ["True", "1", "False"]  # the first was killed after a block
    assert_identical(Run.load(tmp_path), whole)


TELL = "import json, os, sys; json.dump(dict(os.environ), open(f'{sys.argv[1]}/{os.environ[\"RANK\"]}', 'w'))"


def test_two_processes_of_torchrun_give_what_one_gives(tmp_path, model, data, whole, monkeypatch):  # noqa: F811
    """What torchrun tells its processes is heard by some that import nothing; the scans are made in this one."""
    (tmp_path / "tell.py").write_text(TELL)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
               str(tmp_path / "tell.py"), str(tmp_path)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in (0, 1):
        told = json.loads((tmp_path / str(rank)).read_text())
        assert place(told) == (rank, 2)
        for name in sorted({*told} - {*os.environ} | {"RANK", "LOCAL_RANK"}):
            monkeypatch.setenv(name, told[name])
        run = scan(model, data, **SETTINGS, out=tmp_path / "run", progress=False)
        assert run.complete == (rank == 1)
    assert_identical(Run.load(tmp_path / "run"), whole)


def test_merged_parts_of_two_machines_are_the_whole(tmp_path, model, data, whole, monkeypatch):  # noqa: F811
    monkeypatch.setenv("WORLD_SIZE", "2")
    parts = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        parts.append(scan(model, data, **SETTINGS, out=tmp_path / rank, progress=False))
    assert not any(part.complete for part in parts)
    with pytest.raises(ValueError, match=r"blocks \[1, 3\] of 5 are in none"):
        merge(parts[:1], tmp_path / "half")
    merged = merge([tmp_path / "0", parts[1]], tmp_path / "merged")
    assert_identical(merged, whole)
    assert all(len(list((part.path / "blocks").glob("*"))) for part in parts) and not list(merged.path.rglob("0*"))
    assert_identical(merge([parts[0], merged], tmp_path / "again"), whole)  # one that is finished has all
    monkeypatch.setenv("RANK", "0")
    other = scan(model, data, **{**SETTINGS, "top_n": 4}, out=tmp_path / "other", progress=False)
    with pytest.raises(ValueError, match=r"parameters\.top_n: 5 .*, 4 "):
        merge([parts[1], other], tmp_path / "mixed")
    with pytest.raises(ValueError, match="not what was scanned"):
        merge(parts, tmp_path / "wrong", data.with_responses(["x"] * N))
    assert not (tmp_path / "mixed").exists() and not (tmp_path / "wrong").exists()


def test_a_merge_says_what_it_lacks_and_takes_data_from_where_it_is_now(tmp_path, model, monkeypatch):  # noqa: F811
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "data.jsonl").write_text('{"image": null, "response": "A dog."}\n{"image": null, "response": "Cats."}\n')
    monkeypatch.setenv("WORLD_SIZE", "2")
    parts = [tmp_path / "0", tmp_path / "1"]
    for rank, part in enumerate(parts):
        monkeypatch.setenv("RANK", str(rank))
        scan(model, folder / "data.jsonl", block_size=1, top_n=2, out=part, progress=False)
    for one in (str(parts[0]), parts[0], Run.load(parts[0])):
        with pytest.raises(ValueError, match=r"runs='.*0' is one run: give a list"):
            merge(one, tmp_path / "merged")
    moved = folder.rename(tmp_path / "moved") / "data.jsonl"
    with pytest.raises(ValueError, match=r"data\.jsonl, cannot be opened again: say where it is now, with data="):
        merge(parts, tmp_path / "merged")
    for i, where in enumerate((moved, str(moved), f"jsonl:{moved}")):
        assert merge(parts, tmp_path / f"merged {i}", data=where).summary() == "2 samples scanned, 0 skipped"


def test_a_block_that_another_process_scans_is_refused(tmp_path, model, data, whole, unmerged):  # noqa: F811
    out = copy_of(unmerged, tmp_path)
    before = snapshot(out)
    code = (
        "import sys, time; from pathlib import Path; from vlm_neurons.scanning.blocks import claimed\n"
        f"with claimed(Path({str(out / 'blocks' / '000003.safetensors')!r})): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(ValueError, match=rf"000003\.safetensors .*another process \(process {holder.pid} on"):
        scan(model, data, **SETTINGS, out=out, progress=False)
    holder.kill()
    holder.communicate()
    assert {p: c for p, c in snapshot(out).items() if p.suffix != ".lock"} == before
    assert_identical(scan(model, data, **SETTINGS, out=out, progress=False), whole)  # the dead let go
    assert not list(out.rglob("*.lock"))


def test_a_block_that_was_done_meanwhile_is_not_done_again(tmp_path):
    path = tmp_path / "blocks" / "000000.safetensors"
    with claimed(path) as to_do:
        assert to_do
        path.write_bytes(b"done")
    with claimed(path) as to_do:
        assert not to_do


def test_a_full_disk_stops_the_scan_and_leaves_what_was_finished(tmp_path, model, data, whole, unmerged):  # noqa: F811
    out = copy_of(unmerged, tmp_path)
    before = snapshot(out)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))  # a file cannot grow any further, as on a full disk
    try:
        with pytest.raises(OSError, match=r"000003\.safetensors could not be written.*same call goes on"):
            scan(model, data, **SETTINGS, out=out, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert snapshot(out) == before
    assert_identical(scan(model, data, **SETTINGS, out=out, progress=False), whole)


def test_a_disk_too_small_is_said_before_the_scan_starts(tmp_path, model, data, monkeypatch):  # noqa: F811
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10_000))
    with pytest.raises(OSError, match=r"need .* MiB, 0\.0 MiB are free"):
        scan(model, data, **SETTINGS, out=tmp_path, progress=False)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_torchruns_slurms_and_no_variables_say_which_process_this_is():
    assert place({}) == (0, 1)
    assert place({"RANK": "1", "WORLD_SIZE": "2", "SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8"}) == (1, 2)
    assert place({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8"}) == (5, 8)
    assert place({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}) == (0, 1)  # a batch script: one process
    with pytest.raises(ValueError, match="SLURM_PROCID=8"):
        place({"SLURM_PROCID": "8", "SLURM_STEP_NUM_TASKS": "8"})


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "4"}, "^RANK is not set"),
        ({"RANK": "3"}, "^WORLD_SIZE is not set"),
        ({"RANK": "0", "WORLD_SIZE": "x"}, "^WORLD_SIZE is 'x'"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "^RANK is '-1'"),
        ({"RANK": "0", "WORLD_SIZE": ""}, "^WORLD_SIZE is ''"),
        ({"SLURM_STEP_NUM_TASKS": "8"}, "^SLURM_PROCID is not set"),
        ({"SLURM_PROCID": "one", "SLURM_STEP_NUM_TASKS": "8"}, "^SLURM_PROCID is 'one'"),
    ],
)
def test_half_of_the_variables_of_a_process_or_no_number_are_refused_by_name(environment, message):
    with pytest.raises(ValueError, match=message):
        place(environment)


@pytest.mark.parametrize(("dtype", "limit"), [("bfloat16", 900), ("float16", 900), ("float32", 1500)])
def test_a_neuron_takes_few_bytes_in_memory_and_on_disk_moments_included(dtype, limit):
    column = ColumnInfo("blocks.0.mlp.hook_act", "+", "gate", 0, "row", 1000, dtype)
    assert state_bytes([column], 50, 4, 2) / 1000 <= limit


def test_what_the_cost_says_is_what_the_files_take(tmp_path, model, data, whole):  # noqa: F811
    columns = [ColumnInfo(**c) for c in whole.info["columns"]]
    with safe_open(whole.path / "scan.safetensors", "pt") as file:
        stored = sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118
    assert stored == state_bytes(columns, SETTINGS["top_n"], 4, 2)


def test_a_model_spread_by_device_map_is_scanned_on_the_bridge_with_the_same_result(tmp_path):
    from accelerate import dispatch_model
    from scanning.test_end_to_end import random_data
    from tiny import llava, processor

    prepared = processor()
    plain, spread = (llava(prepared.tokenizer, seed=3) for _ in range(2))
    spread = dispatch_model(spread, {"": "cpu"}, main_device="cpu", force_hooks=True)
    samples = random_data(6)
    a = scan(HookedVLM(plain, prepared), samples, "gate", out=tmp_path / "a", progress=False)
    b = scan(HookedVLM(spread, prepared), samples, "gate", out=tmp_path / "b", progress=False)
    assert b.info["model"]["forward"] == "bridge"
    for column in a.columns:  # sample by sample: the two passes round differently, which can swap ranks
        (mine, left), (theirs, right) = ((t.sample_ids.sort(1), t.visual) for t in (a.top(*column), b.top(*column)))
        assert torch.equal(mine.values, theirs.values)
        for neuron, (i, j) in enumerate(zip(mine.indices, theirs.indices, strict=True)):
            torch.testing.assert_close(left[neuron, i], right[neuron, j], rtol=1e-4, atol=1e-4)
