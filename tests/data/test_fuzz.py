"""Odd inputs are used rightly or named, in every reader; the short form of examples/fuzz_readers.py."""

from __future__ import annotations

import importlib.util
import signal
from pathlib import Path
from types import ModuleType

import pytest
import seeds

import vlm_neurons as vn

SCRIPT = Path(__file__).parents[2] / "examples" / "fuzz_readers.py"


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz_readers", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.MODEL = vn.HookedVLM.from_pretrained("tiny-llava-scenes", device="cpu")
    return module


@pytest.mark.parametrize(
    "reader",
    ["pictures", "folders", "jsonl", "llava", "coco", "shards", "frames", "samples", "datasets", "captions", "replies"],
)
def test_odd_inputs_are_used_rightly_or_named(fuzz: ModuleType, reader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGALRM, fuzz.late)
    first = seeds.number()
    try:
        found = {first + i: fuzz.give(reader, first + i) for i in range(60)}
    finally:
        signal.signal(signal.SIGALRM, before)
    assert {i: what for i, what in found.items() if what not in ("used", "named")} == {}
    assert {*found.values()} == {"used", "named"}


def test_a_reader_that_loses_something_is_found(fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from vlm_neurons.data import samples

    whole = samples.read_jsonl
    monkeypatch.setattr(samples, "read_jsonl", lambda path: (whole(path)[0][1:], *whole(path)[1:]))
    found = [fuzz.give("jsonl", i) for i in range(40)]
    assert any("samples of" in what for what in found)
