"""States have rows for the latents that fired alone, and tell of every latent what a row of its own would."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from runs import one_of_two
from safetensors.torch import load_file, save_file
from scanning.test_end_to_end import random_data
from scanning.test_sparse_scan import HOOK, Dense, N, made, model

import vlm_neurons as vn
from vlm_neurons import sites
from vlm_neurons.interventions.effects import activation_sizes
from vlm_neurons.scanning import merge, poorly_explained
from vlm_neurons.scanning.always_on import read_controls
from vlm_neurons.scanning.state import TENSORS

Runs = tuple[vn.Run, vn.Run]


@pytest.fixture(scope="module")
def coder() -> Any:
    return made("jumprelu")


@pytest.fixture(scope="module")
def data() -> vn.ImageTextData:
    return random_data(11)


@pytest.fixture(scope="module")
def runs(coder: Any, data: vn.ImageTextData, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """A scan, and one with a row for every latent."""
    out = tmp_path_factory.mktemp("runs")
    yield tuple(scan(data, kind(coder, HOOK, "d", HOOK), out / kind.__name__) for kind in (sites.SAE, Dense))


def scan(data: vn.ImageTextData, site: vn.sites.SAE, out: Path) -> vn.Run:
    try:
        return vn.scan(model(), data, site, 4, 3, 2, batch_size=3, block_size=4, out=out, progress=False)
    finally:
        sites.forget("d")


def test_rows_are_stored_and_read_for_latents_that_fired_alone(runs: Runs) -> None:
    own, whole = runs
    state, rows = own.states("d:L1")
    fired = whole.moments("d:L1").active.any(1) | (whole.top("d:L1").peak_all > 0)
    assert 20 < fired.sum() < N - 20 and (torch.from_numpy(rows) > 0).equal(fired)
    assert len(state.sample_ids) == 1 + fired.sum() and len(whole.states("d:L1")[0].sample_ids) == N
    for name in TENSORS:
        assert torch.equal(getattr(own.top("d:L1"), name), getattr(whole.top("d:L1"), name)), name


def test_a_block_has_rows_for_latents_that_fired_in_it_alone(
    runs: Runs, coder: Any, data: vn.ImageTextData, tmp_path: Path
) -> None:
    with one_of_two():
        part = scan(data, sites.SAE(coder, HOOK, "d", HOOK), tmp_path)
    ids = load_file(part.block_path(0))["d:L1/+/sample_ids"]
    assert 1 < len(ids) < len(runs[0].states("d:L1")[0].sample_ids)


@pytest.mark.parametrize(
    "told",
    [
        lambda run: vn.classify(run, n_visual=3),
        lambda run: vn.classify(run, n_visual=3, peak="all"),
        lambda run: vn.modality_test(run),
        lambda run: vn.statistics(vn.classify(run, n_visual=3)),
        lambda run: vn.classification.sensitivity(run, n_visual=3),
        lambda run: vn.classification.sweep(run, (1.0, 2.0), (3,), (3.0,), (2,)),
        lambda run: poorly_explained(run),
    ],
)
def test_tables_are_those_of_a_row_for_every_latent(runs: Runs, told: Callable[[vn.Run], pd.DataFrame]) -> None:
    pd.testing.assert_frame_equal(*map(told, runs), rtol=1e-6, atol=1e-6)  # means are summed in another order


def test_parts_of_two_processes_give_one_run_to_the_last_bit(
    runs: Runs, coder: Any, data: vn.ImageTextData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        parts.append(scan(data, sites.SAE(coder, HOOK, "d", HOOK), tmp_path / str(rank)))
    together = merge(parts, tmp_path / "merged", data)
    found, expected = (load_file(run.path / "scan.safetensors") for run in (together, runs[0]))
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def test_a_run_of_an_earlier_format_is_read_and_not_gone_on_with(
    coder: Any, data: vn.ImageTextData, tmp_path: Path
) -> None:
    run = scan(data, sites.SAE(coder, HOOK, "d", HOOK), tmp_path)
    file = run.path / "scan.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 5}))
    with pytest.raises(ValueError, match=r"earlier version of this package \(format 5, now 6\).*another directory"):
        scan(data, sites.SAE(coder, HOOK, "d", HOOK), tmp_path)


def test_controls_evidence_and_sizes_are_those_of_all_values(
    coder: Any, data: vn.ImageTextData, tmp_path: Path
) -> None:
    found = []
    for kind in (sites.SAE, Dense):
        site = sites.register(kind(coder, HOOK, "d", HOOK))
        out = tmp_path / kind.__name__
        run = vn.scan(model(), data, site, 4, batch_size=4, out=out, controls=True, progress=False)  # type: ignore[arg-type]
        strongest = vn.classify(run).nlargest(2, "peak").neuron.tolist()
        ids = [*strongest, "d:L1F0"]
        evidence = vn.gather_evidence(model(), data, run, ids, n_top=3, progress=False)
        some = [data[i] for i in range(4)]
        batch = model().prepare([one.load_images() for one in some], ["Hi"] * 4, [one.response for one in some])
        sizes = [activation_sizes(model(), [batch], ["d:L1"], where)["d:L1"] for where in ("visual", None)]
        shown = [one for i in ids if i in evidence for one in evidence[i].exemplars]
        acts = [np.concatenate([np.ravel(x) for x in (*one.patch_acts, one.token_acts)]) for one in shown]
        found.append(([*sizes, *acts], read_controls(run)))
        sites.forget("d")
    (numbers, controls), (expected, all_controls) = found
    assert len(numbers) == len(expected) >= 5 and max(np.nanmax(one) for one in numbers) > 1
    for one, other in zip(numbers, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert controls is not None and all_controls is not None and (controls.natural > 0).sum() > 20
    pd.testing.assert_frame_equal(controls, all_controls, rtol=1e-4, atol=1e-5)


def test_a_run_of_the_format_before_is_read(runs: Runs, tmp_path: Path) -> None:
    whole = runs[1]
    (tmp_path / "scan.json").write_text(json.dumps({**whole.info, "format": 5}))
    tensors, old = load_file(whole.path / "scan.safetensors"), vn.Run.load(tmp_path)
    save_file(tensors, tmp_path / "scan.safetensors", {"format": "5", "run": old.identity})
    assert torch.equal(old.top("d:L1").visual, runs[0].top("d:L1").visual)
    pd.testing.assert_frame_equal(vn.classify(old, n_visual=3), vn.classify(runs[0], n_visual=3), rtol=1e-6)
