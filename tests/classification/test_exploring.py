"""Looking at a run in other ways leaves what was saved as it was."""

from __future__ import annotations

from pathlib import Path

import runs

import vlm_neurons as vn
from vlm_neurons.classification import sensitivity, sweep


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_exploring_changes_nothing_on_disk_and_nothing_downstream(tmp_path: Path) -> None:
    run = runs.small(tmp_path / "run")
    table = vn.classify(run)
    run.save(table)
    before = contents(run.path)
    other = vn.classify(run, t_visual=8.0, n_visual=1)
    tested = vn.modality_test(run, fdr=0.5)
    sweep(run), sensitivity(run), vn.statistics(other), vn.statistics(tested)
    assert contents(run.path) == before

    changed = table["neuron"][(table["label"] == "visual") & (other["label"] != "visual")].head(2).tolist()
    assert len(changed) == 2, "the other thresholds change nothing: the test cannot fail"
    model, data = vn.HookedVLM.from_pretrained("tiny-llava-scenes"), run.open_data()
    evidence = vn.gather_evidence(model, data, run, changed, progress=False)
    assert {one.label for one in evidence.values()} == {"visual"}
    run.save(tested)
    assert run.table().equals(table), "the labels of the test have a file of their own"
    run.save(other)
    evidence = vn.gather_evidence(model, data, run, changed, progress=False)
    assert {n: one.label for n, one in evidence.items()} == other.set_index("neuron")["label"][changed].to_dict()
