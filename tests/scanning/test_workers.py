"""Images may be decoded in other processes; nothing else changes."""

from __future__ import annotations

import signal

import pytest
import tiny
import torch
from safetensors.torch import load_file

from vlm_neurons.data import ImageTextData
from vlm_neurons.models import HookedVLM
from vlm_neurons.scanning import scan
from vlm_neurons.scanning.loading import Loaded, ahead

PARAMETERS = {"site": ["gate", "projector"], "top_n": 4, "batch_size": 3, "block_size": 7, "progress": False}


@pytest.fixture(scope="module")
def model():
    processor = tiny.processor()
    return HookedVLM(tiny.llava(processor.tokenizer), processor)


def samples(folder, n=15):
    paths = [folder / f"{i}.png" for i in range(n)]
    for i, path in enumerate(paths):
        tiny.image(30 + i, 25 + 2 * i).save(path)
    paths[4].write_bytes(b"no image")
    return ImageTextData.from_samples([{"image": p, "response": f"two {i} dogs"} for i, p in enumerate(paths)])


def test_a_scan_with_workers_is_the_scan_without_tensor_for_tensor(model, tmp_path):
    data = samples(tmp_path)
    runs = [scan(model, data, out=tmp_path / str(w), workers=w, **PARAMETERS) for w in (0, 2)]
    plain, worked = (load_file(run.path / "scan.safetensors") for run in runs)
    assert plain.keys() == worked.keys()
    assert all(torch.equal(plain[name], worked[name]) for name in plain)
    assert runs[0].skipped == runs[1].skipped and [s["id"] for s in runs[1].skipped] == [4]
    assert runs[0].samples.equals(runs[1].samples)


def test_a_number_of_workers_that_makes_no_sense_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="workers=-1"):
        scan(model, samples(tmp_path), out=tmp_path / "run", workers=-1, **PARAMETERS)


def test_ctrl_c_is_left_to_the_process_that_scans_which_ends_its_workers():
    def ignores(chunk):
        return Loaded([signal.getsignal(signal.SIGINT) is signal.SIG_IGN], None, [])

    assert [one.ids for one in ahead(ignores, [range(1)] * 3, workers=2)] == [[True]] * 3
