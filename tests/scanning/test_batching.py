"""How many samples share a forward pass, and which: chosen, halved where memory is too small, and kept in the run."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny
import torch
from runs import one_of_two
from safetensors import safe_open
from torch import Tensor, nn

import vlm_neurons as vn
from vlm_neurons.data import ImageTextData
from vlm_neurons.models import HookedVLM
from vlm_neurons.scanning import batching, planning
from vlm_neurons.scanning import job as jobs

SETTINGS = {"top_n": 4, "block_size": 6, "progress": False}


class Small(nn.Embedding):
    """What a card does that has memory for so many samples and no more."""

    rows = 100

    def forward(self, ids: Tensor) -> Tensor:
        if len(ids) > Small.rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore.")
        return super().forward(ids)


@pytest.fixture(scope="module")
def model() -> HookedVLM:
    processor = tiny.processor()
    hf = tiny.llava(processor.tokenizer, seed=5)
    own = hf.model.language_model.embed_tokens
    hf.model.language_model.embed_tokens = Small(*own.weight.shape, _weight=own.weight.detach())
    return HookedVLM(hf, processor)


@pytest.fixture
def memory_for() -> Iterator[Any]:
    def set_rows(rows: int) -> None:
        Small.rows = rows

    yield set_rows
    Small.rows = 100


@pytest.fixture(scope="module")
def data() -> ImageTextData:
    words = ["A dog.", "A dog and one cat beside a green door.", "Two cats on a tree, and a third one below it."]
    return ImageTextData.from_samples(
        [{"image": tiny.image(), "response": f"{words[i % 3]} {i}", "name": f"{i}"} for i in range(12)]
    )


def assert_close(a: vn.Run, b: vn.Run) -> None:
    for column in a.columns:
        mine, theirs = a.top(*column), b.top(*column)
        torch.testing.assert_close(mine.scores, theirs.scores, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(a.moments(*column).sums, b.moments(*column).sums, rtol=1e-4, atol=1e-6)
    assert vn.classify(a).label.equals(vn.classify(b).label) and a.samples.equals(b.samples)


def test_too_little_memory_halves_the_batch_says_so_and_changes_no_result(
    tmp_path: Path, model: HookedVLM, data: ImageTextData, memory_for: Any
) -> None:
    whole = vn.scan(model, data, batch_size=8, out=tmp_path / "whole", **SETTINGS)
    memory_for(3)
    with pytest.warns(UserWarning, match="out of memory with ") as told, one_of_two():
        run = vn.scan(model, data, batch_size=8, out=tmp_path / "run", **SETTINGS)
    assert [str(one.message).split(":")[1].split(",")[0] for one in told] == [
        " going on with 3",
    ]
    assert "with 6 samples at once" in str(told[0].message)  # a block has no more
    assert vn.Run.load(run.path).info["batch_size_that_fits"] == 3 and run.identity == whole.identity
    with warnings.catch_warnings():  # a later call begins where this one ended
        warnings.simplefilter("error")
        run = vn.scan(model, data, batch_size=8, out=tmp_path / "run", **SETTINGS)
    assert_close(run, whole)
    with safe_open(run.path / "scan.safetensors", framework="pt") as file:
        assert [one["batch_size"] for one in json.loads(file.metadata()["made_with"])] == [3]


def test_memory_may_give_out_in_the_middle_of_a_block_which_is_done_again(
    tmp_path: Path, model: HookedVLM, data: ImageTextData, memory_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, seen = vn.scan(model, data, batch_size=2, out=tmp_path / "whole", **SETTINGS), []

    def look(self: Any, batch: Any, *given: Any) -> None:
        seen.append(len(batch))
        memory_for(1 if len(seen) == 3 else 100)  # of the block's three batches the last
        real(self, batch, *given)

    real = jobs.Recorder.see
    monkeypatch.setattr(jobs.Recorder, "see", look)
    with pytest.warns(UserWarning, match="out of memory with 2 samples at once: going on with 1, "):
        run = vn.scan(model, data, batch_size=2, out=tmp_path / "run", **SETTINGS)
    assert seen == [2] * 3 + [1] * 12
    assert_close(run, whole)


def test_too_little_memory_for_one_sample_says_what_helps_and_keeps_what_is_done(
    tmp_path: Path, model: HookedVLM, data: ImageTextData, memory_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with one_of_two():
        done = vn.scan(model, data, batch_size=1, out=tmp_path, **SETTINGS).missing_blocks()
    said = r"^there is too little memory for one sample\. Free some, .*goes on \(CUDA out of memory\. Tried .*GiB\.\)$"
    memory_for(0)
    with pytest.raises(torch.OutOfMemoryError, match=said):  # the first sample
        vn.scan(model, data, batch_size=1, out=tmp_path, **SETTINGS)
    memory_for(100)
    real = jobs.Recorder.see
    monkeypatch.setattr(jobs.Recorder, "see", lambda *given: (memory_for(0), real(*given)))
    with pytest.raises(torch.OutOfMemoryError, match=said):  # a later one
        vn.scan(model, data, batch_size=1, out=tmp_path, **SETTINGS)
    assert vn.Run.load(tmp_path).missing_blocks() == done == [1]


def test_what_one_sample_needs_halves_no_batch(
    tmp_path: Path, model: HookedVLM, data: ImageTextData, memory_for: Any
) -> None:
    with one_of_two():
        run = vn.scan(model, data, batch_size=8, out=tmp_path, **SETTINGS)
    memory_for(0)
    with pytest.raises(torch.OutOfMemoryError, match="too little memory for one sample"):
        vn.scan(model, data, batch_size=8, out=tmp_path, **SETTINGS)
    assert "batch_size_that_fits" not in vn.Run.load(tmp_path).info
    file = run.path / "scan.json"
    for known, fits in ((1, 1), (4, 4)):  # a process that halves 8 does not undo what another one found
        file.write_text(json.dumps({**json.loads(file.read_text()), batching.FITS: known}))
        run.info.pop(batching.FITS, None)
        with pytest.warns(UserWarning, match="out of memory with 8 samples"):
            batching.halve(run, torch.OutOfMemoryError(""))
        assert run.info[batching.FITS] == json.loads(file.read_text())[batching.FITS] == fits


def test_by_default_a_run_is_gone_on_with_as_it_was_begun_and_two_calls_choose_the_same(
    tmp_path: Path, model: HookedVLM, data: ImageTextData
) -> None:
    for name in ("a", "b"):
        assert vn.scan(model, data, out=tmp_path / name, **SETTINGS).info["parameters"]["batch_size"] == 8
    with one_of_two():
        vn.scan(model, data, batch_size=3, out=tmp_path / "c", **SETTINGS)
    assert vn.scan(model, data, out=tmp_path / "c", **SETTINGS).info["parameters"]["batch_size"] == 3


def test_a_batch_has_no_more_samples_by_default_than_there_is_room_for(
    model: HookedVLM, data: ImageTextData, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlm_neurons.scanning.recorder import measure_columns

    batch = model.prepare([data[0].load_images()], ["What?"], [data[0].response])
    columns = measure_columns(model, model.site_hooks("gate"), batch, fast=True)
    one = batch.input_ids.shape[1] * columns[0].d * 4
    for room, size in ((100 * one, 8), (8 * one, 8), (8 * one - 1, 7), (2 * one, 2), (one - 1, 1)):
        monkeypatch.setattr(batching, "ROOM", room)
        assert batching.suitable(model, columns, batch) == size


def test_batches_are_filled_by_length_inside_a_block(tmp_path: Path, model: HookedVLM, data: ImageTextData) -> None:
    padded: list[int] = []
    real = jobs.Recorder.see

    def look(self: Any, batch: Any, *given: Any) -> None:
        padded.append(int((~batch.attention_mask.bool()).sum()))
        real(self, batch, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs.Recorder, "see", look)
        run = vn.scan(model, data, top_n=4, batch_size=4, out=tmp_path, progress=False)
    batch = model.prepare([s.load_images() for s in data], ["What?"] * 12, [s.response for s in data])
    lengths = batch.attention_mask.sum(1).view(3, 4)
    assert sum(padded) < int((lengths.amax(1, keepdim=True) - lengths).sum()) / 4
    assert run.samples["id"].tolist() == list(range(12))


def test_the_cost_is_said_once_after_three_batches_and_none_is_run_for_it(
    tmp_path: Path, model: HookedVLM, data: ImageTextData, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    seen: list[tuple[int, str]] = []
    real = HookedVLM.observe

    def look(self: Any, batch: Any, *given: Any, **more: Any) -> None:
        seen.append((len(batch), capsys.readouterr().err))
        real(self, batch, *given, **more)

    monkeypatch.setattr(HookedVLM, "observe", look)
    vn.scan(model, data, batch_size=1, out=tmp_path, top_n=4, block_size=6)
    assert [n for n, _ in seen] == [1] * 13  # one to see how wide layers are, and every sample once
    said = ["s a sample" in err for _, err in seen]
    assert said == [False] * 4 + [True] + [False] * 8
    first = next(err for _, err in seen if "s a sample" in err)
    assert "2 blocks (12 samples) to do here, at about " in first


def test_the_pace_is_that_of_the_first_batches_in_which_samples_are_scanned(monkeypatch: pytest.MonkeyPatch) -> None:
    now, told = [0.0], list[float]()
    monkeypatch.setattr(planning.time, "perf_counter", lambda: now[0])

    def pace_of(*blocks: list[tuple[float, int]]) -> list[float]:
        told.clear()
        pace = planning.Pace(told.append, torch.device("cpu"))
        for block in blocks:
            pace.begin()
            for number, (seconds, samples) in enumerate(block):
                now[0] += seconds
                pace.done(samples, number == len(block) - 1)
            now[0] += 100
        return told

    assert pace_of([(1.0, 2), (3.0, 2), (2.0, 1), (50.0, 1)], [(9.0, 1)]) == [6 / 5]  # three batches
    assert pace_of([(1.0, 2), (3.0, 2)], [(9.0, 1)]) == [1.0]  # a block of two
    assert pace_of([(11.0, 8), (6.0, 8), (1.0, 8)]) == [11 / 8]  # ten seconds are enough
    assert pace_of([(0.0, 0), (0.0, 0)], [(0.0, 0), (2.0, 1), (0.0, 0)]) == [2.0]  # samples that are left out take none
    assert pace_of([(0.0, 0)]) == []


def test_controls_and_responses_are_halved_too(
    tmp_path: Path, model: HookedVLM, data: ImageTextData, memory_for: Any
) -> None:
    whole = vn.scan(model, data, batch_size=8, out=tmp_path / "whole", controls=True, **SETTINGS)
    run = vn.scan(model, data, batch_size=8, out=tmp_path / "run", **SETTINGS)
    memory_for(4)
    with pytest.warns(UserWarning, match="out of memory with 8 samples at once: going on with 4"):
        vn.scan(model, data, batch_size=8, out=run.path, controls=True, **SETTINGS)
    (a, b) = (pd.read_parquet(one.path / "controls.parquet") for one in (whole, run))
    pd.testing.assert_frame_equal(a, b, rtol=1e-4, atol=1e-5)

    memory_for(3)
    silent = ImageTextData.from_samples([{"image": tiny.image(), "name": f"{i}"} for i in range(4)])
    with pytest.warns(UserWarning, match="with 4 samples at once: going on with 2") as told:
        written = vn.scan(model, silent, batch_size=8, out=tmp_path / "written", **SETTINGS)
    assert written.complete and sum(", to write responses" in str(one.message) for one in told) == 1
