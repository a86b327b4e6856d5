"""A call returns what it asked for, whatever was stored before, by whom, and wherever the process is by then."""

from __future__ import annotations

import copy
import os
import pickle
import resource
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import vlm_neurons as vn
from vlm_neurons.evidence import activations, load, looking, save
from vlm_neurons.evidence import stored as stored_module

NEURONS = ["L0N3", "L1N4", "post:L1N2"]
N = {"n_top": 4, "n_spare": 3, "n_pool": 5, "progress": False}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[vn.HookedVLM, vn.ImageTextData, vn.Run]:
    model, data = vn.HookedVLM.from_pretrained("tiny-llava-scenes"), vn.scenes(40, seed=4)
    out = tmp_path_factory.mktemp("run")
    return model, data, vn.scan(model, data, site=["gate", "post"], top_n=8, batch_size=8, out=out, progress=False)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Samples in each forward pass."""
    sizes: list[int] = []

    def look_into(model: Any, samples: Any, *more: Any) -> Any:
        sizes.append(len(samples))
        return activations.look_into(model, samples, *more)

    monkeypatch.setattr(looking, "look_into", look_into)
    return sizes


def interrupted(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that ends after its neurons are written, and before its pieces go."""

    def end(folder: Path) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(looking, "_gone", end)
        call()


def digests(found: Any) -> dict[str, str]:
    return {name: one.digest for name, one in found.items()}


def test_a_call_that_goes_on_returns_its_own_evidence_and_not_what_another_call_wrote_meanwhile(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: list[int]
) -> None:
    call = partial(vn.gather_evidence, *made, NEURONS, **N)
    own, other = digests(call()), digests(call(seed=1))
    assert own.keys() == other.keys() and not {*own.values()} & {*other.values()}
    interrupted(partial(call, out=tmp_path), monkeypatch)
    assert digests(call(out=tmp_path, seed=1)) == other
    passes.clear()
    assert digests(call(out=tmp_path)) == own == digests(load(tmp_path))
    assert not passes, "its pieces are there"
    assert not list(tmp_path.glob("evidence/.*"))


def test_labels_are_those_of_now_and_need_no_model(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: list[int]
) -> None:
    model, data, run = made
    call = partial(vn.gather_evidence, model, data, run, out=tmp_path, **N)
    rows = vn.classify(run).query("neuron in @NEURONS")[["neuron", "label"]]
    interrupted(partial(call, NEURONS), monkeypatch)
    before = len(passes)
    for labels in (rows["label"].tolist(), ["visual", float("nan"), "text"]):
        found = call(rows.assign(label=labels))
        wanted = {n: x if x == x else None for n, x in zip(rows["neuron"], labels, strict=True)}
        assert {n: e.label for n, e in found.items()} == wanted == {n: e.label for n, e in load(tmp_path).items()}
    n = len(list(tmp_path.glob("evidence/neurons-*")))
    call(rows.assign(label=labels))
    assert len(list(tmp_path.glob("evidence/neurons-*"))) == n and len(passes) == before


def test_some_of_what_is_stored_in_any_order_needs_no_model(made: Any, tmp_path: Path, passes: list[int]) -> None:
    call = partial(vn.gather_evidence, *made, out=tmp_path, **N)
    whole, n = call(NEURONS), len(passes)
    assert digests(call(NEURONS[::-1])) == digests(whole) and list(call(NEURONS[::-1])) == NEURONS[::-1]
    assert digests(call(NEURONS[1])) == {NEURONS[1]: whole[NEURONS[1]].digest}
    assert len(passes) == n


def test_other_data_of_the_same_length_is_refused_where_evidence_is_stored_too(made: Any, tmp_path: Path) -> None:
    model, data, run = made
    vn.gather_evidence(model, data, run, NEURONS, out=tmp_path, **N)
    with pytest.raises(ValueError, match="another model or other data"):
        vn.gather_evidence(model, vn.scenes(40, seed=5), run, NEURONS, out=tmp_path, **N)


def test_samples_share_a_forward_pass_as_memory_allows(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: list[int]
) -> None:
    model, data, run = made
    run = vn.Run(tmp_path, copy.deepcopy(run.info))
    for file in made[2].path.iterdir():
        (tmp_path / file.name).symlink_to(file) if file.name != "scan.json" else None
    (tmp_path / "scan.json").write_bytes((made[2].path / "scan.json").read_bytes())
    prepare = type(model).prepare

    def small(self: Any, images: Any, *more: Any) -> Any:
        if len(images) > 2:
            raise torch.OutOfMemoryError("too many")
        return prepare(self, images, *more)

    monkeypatch.setattr(type(model), "prepare", small)
    with pytest.warns(UserWarning, match="going on with"):
        found = vn.gather_evidence(model, data, run, NEURONS[:1], out=tmp_path, **N)
    assert max(passes[2:]) == 2 and list(found) == NEURONS[:1] and not list(tmp_path.glob("evidence/.*"))
    passes.clear()
    vn.gather_evidence(model, data, vn.Run.load(tmp_path), NEURONS[1], **N)
    assert max(passes) == 2, "later calls know it"


def test_it_is_read_from_another_folder_and_goes_to_another_process(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = vn.gather_evidence(*made, NEURONS, out="here", **N)
    stored, elsewhere = load("here"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    wanted = digests(found)
    for one in (stored, found):
        assert digests(pickle.loads(pickle.dumps(one))) == wanted  # noqa: S301 - our own, as to another process
        assert digests(copy.deepcopy(one)) == wanted == digests(one)


def test_evidence_of_more_saves_than_files_may_be_open_is_read(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = vn.gather_evidence(*made, NEURONS[0], **N)[NEURONS[0]]
    names = [f"L0N{k}" for k in range(60)]
    for name in names:
        save({name: replace(one, neuron=name)}, tmp_path)
    monkeypatch.setattr(stored_module, "_OPEN", 8)
    stored, other = load(tmp_path), load(tmp_path)
    # counted, not limited: which numbers are free depends on what ran before in this process
    unopened = len(os.listdir("/dev/fd"))
    assert len({stored[name].digest for name in names}) == len(names)
    assert len(os.listdir("/dev/fd")) - unopened <= 2 * 8, "files of former reads stay open"
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
        with pytest.raises(OSError, match=r"[Tt]oo many open files"):
            other[names[0]]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
