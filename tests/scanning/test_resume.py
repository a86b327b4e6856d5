"""A scan survives a kill, goes on where it was, and refuses to mix runs."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import fresh
import numpy as np
import pytest
import tiny
import torch
from runs import one_of_two

from vlm_neurons.classification import classify
from vlm_neurons.data import ImageTextData
from vlm_neurons.models import HookedVLM
from vlm_neurons.scanning import Run, scan, writing

N, BLOCK = 20, 4
SETTINGS = {"site": ["gate", "projector"], "top_n": 5, "batch_size": 3, "block_size": BLOCK}


def make_model(seed=5):
    processor = tiny.processor()
    return HookedVLM(tiny.llava(processor.tokenizer, seed=seed), processor)


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    with (folder / "data.jsonl").open("w") as file:
        for i in range(N):
            tiny.image().save(folder / f"{i:02d}.png")
            file.write(json.dumps({"image": f"{i:02d}.png", "response": f"A dog and {i} cats."}) + "\n")
    return ImageTextData.from_jsonl(folder / "data.jsonl")


@pytest.fixture(scope="module")
def whole(model, data, tmp_path_factory):
    return scan(model, data, **SETTINGS, out=tmp_path_factory.mktemp("whole"), progress=False)


def assert_same(a, b):
    assert a.columns == b.columns
    for column in a.columns:
        for name, tensor in a.top(*column).tensors().items():
            assert torch.equal(tensor, b.top(*column).tensors()[name]), (column, name)
    assert a.samples.equals(b.samples) and a.skipped == b.skipped


def snapshot(path):
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(Path(path).rglob("*")) if p.is_file()}


def test_one_process_of_two_does_its_own_blocks_alone(tmp_path, model, data, whole, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    run = scan(model, data, **SETTINGS, out=tmp_path, progress=False)
    assert run.missing_blocks() == [0, 2, 4] and not run.complete
    with pytest.raises(FileNotFoundError, match="3 of 5 blocks"):
        run.top(*run.columns[0])
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    assert_same(scan(model, data, **SETTINGS, out=tmp_path, progress=False), whole)


def test_a_rank_beyond_the_world_is_refused(tmp_path, model, data, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(ValueError, match="RANK=2"):
        scan(model, data, **SETTINGS, out=tmp_path, progress=False)


def test_ctrl_c_leaves_a_run_that_goes_on(tmp_path, model, data, whole, monkeypatch, capsys):
    from vlm_neurons.scanning import job

    real, calls = job.write_block, []

    def interrupted(*arguments, **named):
        real(*arguments, **named)
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(job, "write_block", interrupted)
    with pytest.raises(KeyboardInterrupt):
        scan(model, data, **SETTINGS, out=tmp_path)
    assert "2 of 5 blocks to go" in capsys.readouterr().err
    monkeypatch.setattr(job, "write_block", real)
    assert_same(scan(model, data, **SETTINGS, out=tmp_path, progress=False), whole)


@pytest.fixture(scope="module")
def unmerged(model, data, tmp_path_factory):
    """A run directory with all blocks, of which none is merged: two processes did them, each in its own."""
    parts = [tmp_path_factory.mktemp("part") for _ in range(2)]
    for rank, part in enumerate(parts):
        with one_of_two(rank):
            scan(model, data, **SETTINGS, out=part, progress=False)
    shutil.copytree(parts[1] / "blocks", parts[0] / "blocks", dirs_exist_ok=True)
    return parts[0]


def copy_of(unmerged, tmp_path):
    """As `unmerged`, but for one block that has still to be done."""
    out = tmp_path / "run"
    shutil.copytree(unmerged, out)
    (out / "blocks" / "000003.safetensors").unlink()
    return out


def assert_refused(message, out, model, data, **changes):
    before = snapshot(out)
    with pytest.raises(ValueError, match=message):
        scan(model, data, **{**SETTINGS, **changes}, out=out, progress=False)
    assert snapshot(out) == before, "a refusal must not change anything"


@pytest.mark.parametrize(
    "changes",
    [
        {"top_n": 6},
        {"n_visual": 3},
        {"n_text": 1},
        {"batch_size": 4},
        {"block_size": 5},
        {"prompt": "Why?"},
        {"site": "gate"},
    ],
)
def test_other_parameters_are_refused_by_name(tmp_path, model, data, unmerged, changes):
    name = {"site": "sites"}.get(next(iter(changes)), next(iter(changes)))
    assert_refused(rf"parameters\.{name}: .* there, .* here", copy_of(unmerged, tmp_path), model, data, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "tiny-llava-scenes"}, "model='tiny-llava-scenes' is no HookedVLM: HookedVLM.from_pretrained"),
        ({"model": None}, "model='NoneType' is no HookedVLM"),
        ({"site": None}, "site=None: choose from gate"),
        ({"site": []}, r"site=\[\]: choose from gate"),
        ({"site": ["gate", 3]}, r"site=\['gate', 3\]: choose"),
        ({"prompt": 3}, "prompt=3: "),
        ({"prompt": "\ud83d"}, r"prompt='\\ud83d': "),
        ({"top_n": 0}, "top_n=0: "),
        ({"batch_size": 2.0}, "batch_size=2.0: "),
        ({"block_size": True}, "block_size=True: "),
    ],
)
def test_wrong_arguments_are_refused_by_name_before_anything_is_done(tmp_path, model, data, changes, message):
    with pytest.raises(ValueError, match=message):
        scan(**{**SETTINGS, "model": model, "data": data, "out": tmp_path / "run", "progress": False, **changes})
    assert not (tmp_path / "run").exists()


def test_numbers_of_numpy_are_numbers(tmp_path, model, data, whole):
    settings = {name: np.int64(value) if isinstance(value, int) else value for name, value in SETTINGS.items()}
    run = scan(model, data, **settings, n_visual=np.int32(4), workers=np.int64(0), out=tmp_path, progress=False)
    assert_same(run, whole)
    labels = classify(run, t_visual=np.float32(2), n_visual=np.int64(4), n_text=np.int8(2)).label
    assert labels.equals(classify(whole).label)


def test_other_sites_are_refused_in_a_few_words_and_a_site_named_twice_is_one(tmp_path, model, data, whole, unmerged):
    out = copy_of(unmerged, tmp_path)
    with pytest.raises(ValueError, match=r"parameters\.sites: ") as refused:
        scan(model, data, **{**SETTINGS, "site": "post"}, out=out, progress=False)
    assert "hooks" not in str(refused.value) and "columns" not in str(refused.value)
    sites = whole.info["parameters"]["sites"]
    again = scan(model, data, **{**SETTINGS, "site": [*sites, *sites[:1]]}, out=out, progress=False)
    assert again.identity == whole.identity


def test_another_model_or_dtype_is_refused(tmp_path, data, unmerged):
    out = copy_of(unmerged, tmp_path)
    assert_refused(r"model\.fingerprint", out, make_model(seed=6), data)
    processor = tiny.processor()
    half = HookedVLM(tiny.llava(processor.tokenizer, seed=5), processor).to(torch.bfloat16)
    assert_refused(r"model\.dtype: 'float32' there, 'bfloat16' here", out, half, data)


def test_other_data_is_refused(tmp_path, model, data, whole, unmerged):
    out = copy_of(unmerged, tmp_path)
    other = data.with_responses([*[s.response for s in data][:-1], "Another end."])
    assert_refused(r"data\.fingerprint", out, model, other)
    folder = tmp_path / "copy"
    shutil.copytree(Path(data.source.removeprefix("jsonl:")).parent, folder)
    moved = ImageTextData.from_jsonl(folder / "data.jsonl")
    tiny.image().save(folder / "07.png")
    assert_refused(r"data\.fingerprint", out, model, ImageTextData.from_jsonl(folder / "data.jsonl"))
    shutil.copy(data[7].images[0], folder / "07.png")
    run = scan(model, moved, **SETTINGS, out=out, progress=False)  # the same data elsewhere
    assert torch.equal(run.top(*run.columns[0]).sample_ids, whole.top(*whole.columns[0]).sample_ids)


def test_another_number_of_threads_is_refused(tmp_path, model, data, unmerged):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert_refused(rf"threads: {threads} there, {threads + 1} here", copy_of(unmerged, tmp_path), model, data)
    finally:
        torch.set_num_threads(threads)


def test_a_torn_block_and_one_of_another_run_are_refused(tmp_path, model, data, unmerged):
    out = copy_of(unmerged, tmp_path)
    block = out / "blocks" / "000001.safetensors"
    content = block.read_bytes()
    block.write_bytes(content[: len(content) // 2])
    assert_refused(r"000001\.safetensors cannot be read.*delete it", out, model, data)
    shutil.copy(out / "blocks" / "000002.safetensors", block)
    assert_refused(r"000001\.safetensors: block is '2', this run has '1'", out, model, data)
    with one_of_two(1):
        foreign = scan(model, data, **{**SETTINGS, "top_n": 6}, out=tmp_path / "foreign", progress=False)
    shutil.copy(foreign.block_path(1), block)
    assert_refused(r"000001\.safetensors: run is .* another run", out, model, data)
    (out / "scan.json").unlink()
    assert_refused("blocks but no scan.json", out, model, data)


def test_a_finished_run_is_returned_as_it_is(model, data, whole):
    before = snapshot(whole.path)
    assert_same(scan(model, data, **SETTINGS, out=whole.path, progress=False), whole)
    assert snapshot(whole.path) == before


def test_a_finished_run_has_one_copy_of_its_result_on_disk(whole, unmerged):
    assert not list((whole.path / "blocks").glob("*")) and whole.missing_blocks() == []
    blocks = sum(file.stat().st_size for file in (unmerged / "blocks").glob("*.safetensors"))
    assert blocks > 4 * (whole.path / "scan.safetensors").stat().st_size  # of five blocks: what would have stayed


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import torch
torch.set_num_threads({threads})
from scanning import test_resume as t
from vlm_neurons.data import ImageTextData
from vlm_neurons.scanning import scan
removed = []
def watch(event, args):
    if event == "os.remove" and str(args[0]).endswith(".safetensors"):
        if len(removed) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        removed.append(args[0])
sys.addaudithook(watch)
scan(t.make_model(), ImageTextData.from_jsonl({jsonl!r}), **t.SETTINGS, out={out!r}, progress=False)
"""


def test_a_kill_while_blocks_are_removed_loses_nothing_and_the_next_call_removes_them(
    tmp_path, model, data, whole, unmerged
):
    out = tmp_path / "run"
    shutil.copytree(unmerged, out)
    (out / "blocks" / ".000001.safetensors.0a1b2c3d").write_bytes(b"of an earlier kill")
    code = KILLED.format(tests=str(Path(__file__).parents[1]), threads=torch.get_num_threads(),
                         jsonl=data.source.removeprefix("jsonl:"), out=str(out))  # fmt: skip
    assert fresh.run(code).returncode == -signal.SIGKILL
    assert len(list((out / "blocks").glob("0*.safetensors"))) == 3
    killed = Run.load(out)
    assert killed.complete and killed.missing_blocks() == []
    assert_same(killed, whole)
    assert_same(scan(model, data, **SETTINGS, out=out, progress=False), whole)
    assert not list((out / "blocks").iterdir())


def test_a_process_that_comes_late_to_the_end_leaves_a_finished_run_alone(tmp_path, model, data, whole, unmerged):
    """It found blocks to merge, and another process merged and removed them meanwhile."""
    out = tmp_path / "run"
    shutil.copytree(unmerged, out)
    scan(model, data, **SETTINGS, out=out, progress=False)
    before = snapshot(out)
    writing.finish(Run.load(out), data, "Why?")
    assert snapshot(out) == before
    (out / "scan.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="000000"):
        writing.finish(Run.load(out), data, "Why?")


def test_a_torn_result_and_one_of_another_run_are_refused_and_can_be_made_anew(tmp_path, model, data, whole):
    out = tmp_path / "run"
    shutil.copytree(whole.path, out)
    result = out / "scan.safetensors"
    foreign = scan(model, data, **{**SETTINGS, "prompt": "Why?"}, out=tmp_path / "foreign", progress=False)
    for content, message in (
        (result.read_bytes()[:-100], r"scan\.safetensors cannot be read.*delete it, .*scans anew"),
        ((foreign.path / "scan.safetensors").read_bytes(), r"scan\.safetensors: run is .* another run: move it away"),
    ):
        result.write_bytes(content)
        assert_refused(message, out, model, data)
        for read in (Run.load(out).top, Run.load(out).moments):
            with pytest.raises(ValueError, match=message):
                read(*whole.columns[0])
    result.unlink()
    assert_same(scan(model, data, **SETTINGS, out=out, progress=False), whole)


@pytest.mark.parametrize("format", [1, 2, 3])
def test_an_earlier_format_is_refused(tmp_path, model, data, unmerged, format):
    out = copy_of(unmerged, tmp_path)
    info = json.loads((out / "scan.json").read_text())
    (out / "scan.json").write_text(json.dumps({**info, "format": format}))
    with pytest.raises(ValueError, match=f"format {format}, this version reads 5"):
        Run.load(out)
    assert_refused(f"format {format}", out, model, data)
    (out / "scan.json").write_text("[]")
    with pytest.raises(ValueError, match=r"no scan\.json of this package"):
        Run.load(out)
    (out / "scan.json").write_text('{"format": 6, "data": {}}')
    with pytest.raises(ValueError, match=r"scan\.json is no .*lacks model, parameters, columns"):
        Run.load(out)
    with pytest.raises(FileNotFoundError, match="no run directory"):
        Run.load(tmp_path)
