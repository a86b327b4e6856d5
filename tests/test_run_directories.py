"""A run directory that was moved, is torn or full, or that two write to: it works, or says what is wrong and stays."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cases
import pandas as pd
import pytest
from hostile import Made, Told

import vlm_neurons as vn
from vlm_neurons._files import append_lines, changing, held
from vlm_neurons.autointerp import Explanation, read_explanations
from vlm_neurons.autointerp.store import append_explanations, save_scores
from vlm_neurons.cli.main import main
from vlm_neurons.evidence import save
from vlm_neurons.reporting import page_files
from vlm_neurons.scanning.blocks import claimed

State = dict[str, tuple[int, int, bytes]]


@pytest.fixture
def run(told: Told, tmp_path: Path) -> vn.Run:
    """A run with all that later steps leave, under another name than it was made with."""
    shutil.copytree(told.run, tmp_path / "moved" / "elsewhere")
    return vn.Run.load(tmp_path / "moved" / "elsewhere")


def state(path: Path) -> State:
    """All files and folders, when they were changed, and what is in them; locks that stay hold nothing."""
    return {str(p.relative_to(path)): (p.stat().st_mode, p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else b"")
            for p in [path, *path.rglob("*")] if p.suffix != ".lock"}  # fmt: skip


@contextmanager
def full(size: int) -> Iterator[None]:
    """No file can grow beyond so many bytes, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_moved_run_is_read_by_everything_and_nothing_is_written_into_it(
    run: vn.Run, made: Made, tmp_path: Path
) -> None:
    before = state(run.path)
    table = vn.classify(run)
    assert len(vn.statistics(table)) and len(vn.modality_test(run)) == len(table) == len(run.table())
    assert len(vn.classification.sweep(run)) and len(vn.classification.sensitivity(run))
    stored, explained = vn.evidence.load(run), run.explanations()
    name = next(n for n in explained["neuron"] if n in run.table()["neuron"].tolist())
    assert stored[name].exemplars[0].seen.tokens and len(run.scores(neurons=name)) and len(run.explanations(name)) == 1
    assert name in str(vn.show_neuron(stored[name], table)._repr_html_())
    page = vn.report(run, out=tmp_path / "page.html", n_neurons=0)
    vn.report(run, out=tmp_path / "more.html", model=made.model, data=made.data, n_neurons=1)
    assert name in page.read_text(encoding="utf-8")
    again = vn.explain({name: stored[name]}, progress=False, out=tmp_path / "out")
    vn.score(again, {name: stored[name]}, n_permutations=999, progress=False, out=tmp_path / "out")
    vn.gather_evidence(made.model, made.data, run, [name], n_top=2, n_spare=0, progress=False)
    assert main(["report", str(run.path), "--n-neurons", "0", "--out", str(tmp_path / "by_command.html")]) == 0
    assert state(run.path) == before


def test_a_finished_scan_with_concepts_that_may_not_be_written_to_is_returned(tmp_path: Path) -> None:
    model, data = vn.HookedVLM.from_pretrained("tiny-llava-scenes"), vn.scenes(12, seed=1)
    options: dict[str, Any] = dict(top_n=3, concepts=vn.concepts.Words(), folds=4, null_directions=2, progress=False)
    vn.scan(model, data, out=tmp_path, **options)
    (tmp_path / "concepts" / ".lock").unlink()
    before = state(tmp_path)
    assert vn.scan(model, data, out=tmp_path, **options).complete
    assert state(tmp_path) == before and not (tmp_path / "concepts" / ".lock").exists()


def test_torn_files_of_evidence_are_named_and_the_whole_ones_are_read(run: vn.Run) -> None:
    stored = vn.evidence.load(run)
    name = next(iter(run.explanations()["neuron"]))
    save({"L9N9": replace(stored[name], neuron="L9N9")}, run.path / "evidence")
    old = sorted((run.path / "evidence").glob("neurons-*.arrow"))[0]
    old.write_bytes(old.read_bytes()[:-20])
    before = state(run.path)
    assert vn.evidence.load(run)["L9N9"].digest == replace(stored[name], neuron="L9N9").digest
    for reading in (lambda: vn.evidence.load(run)["L0N3"], lambda: vn.report(run, out=run, n_neurons=0)):
        with pytest.raises(ValueError, match=rf"{old.name} cannot be read: .*vn.gather_evidence.* writes it again"):
            reading()
    assert state(run.path) == before


def test_a_torn_line_of_explanations_is_left_out_and_the_next_one_takes_its_place(run: vn.Run) -> None:
    file, every = run.path / "explanations.jsonl", read_explanations(run.path)
    whole = file.read_bytes()
    with file.open("a") as lines:
        lines.write('{"neuron": "L9N9", "text": "half')
    before = state(run.path)
    assert read_explanations(run.path).keys() == every.keys() and read_explanations(run.path, ["L9N9"]) == {}
    assert state(run.path) == before, "reading mends nothing"
    append_explanations(run.path, [Explanation("L9N9", "whole")])
    assert file.read_bytes().startswith(whole) and read_explanations(run.path)["L9N9"].text == "whole"
    assert len(read_explanations(run.path)) == len(every) + 1


def _adds(folder: Path, own: int, start: Any) -> None:
    start.wait(60)
    for k in range(40):
        append_explanations(folder, [Explanation(f"L{own}N{k}", f"{own} " * 30_000)])


def test_two_processes_add_explanations_at_once_and_no_line_is_lost_or_mixed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start = context.Event()
    both = [context.Process(target=_adds, args=(tmp_path, own, start)) for own in range(2)]
    for process in both:
        process.start()
    start.set()
    for process in both:
        process.join()
    found = [json.loads(line) for line in (tmp_path / "explanations.jsonl").read_text().splitlines()]
    assert sorted(one["neuron"] for one in found) == sorted(f"L{own}N{k}" for own in range(2) for k in range(40))
    assert all(one["text"] == f"{one['neuron'][1]} " * 30_000 for one in found)


def _scores(folder: Path, table: pd.DataFrame, own: int, start: Any) -> None:
    start.wait(60)
    for k in range(8):
        save_scores(table.assign(neuron=f"L{own}N{k}"), folder, "concepts", "x")


def test_a_file_system_without_locks_is_written_to_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    append_lines(tmp_path / "lines", "{}\n")
    with changing(tmp_path / "table"), held(tmp_path / "lock") as mine, claimed(tmp_path / "block") as to_do:
        assert mine and to_do
    assert (tmp_path / "lines").read_text() == "{}\n"


def test_two_processes_that_score_into_one_run_lose_no_row(tmp_path: Path) -> None:
    evidence = cases.text_neurons(1)
    words = dict.fromkeys(evidence, "the word 'w'")
    table = vn.score(words, evidence, n_permutations=999, progress=False, full=True)
    context = multiprocessing.get_context("fork")
    start = context.Event()
    both = [context.Process(target=_scores, args=(tmp_path, table, own, start)) for own in range(2)]
    for process in both:
        process.start()
    start.set()
    for process in both:
        process.join()
    assert sorted(vn.Run(tmp_path, {}).scores()["neuron"]) == sorted(
        f"L{own}N{k}" for own in range(2) for k in range(8)
    )


def test_a_full_disk_is_named_by_every_step_and_what_was_there_stays(
    run: vn.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = vn.evidence.load(run)
    name = next(iter(run.explanations()["neuron"]))
    one, table, page = {"L9N9": replace(stored[name], neuron="L9N9")}, vn.classify(run), run.path / "report.html"
    with monkeypatch.context() as patch:
        patch.setattr(page_files, "MOST_NEURONS", 1)
        vn.report(run, out=run, n_neurons=0)
    before = {file: content for file, (_, _, content) in state(run.path).items() if content}
    empty = {str(p.relative_to(run.path)) for p in run.path.rglob("*") if p.is_file()} - before.keys()
    steps: dict[str, Callable[[], object]] = {
        "neurons.parquet": lambda: run.save(table),
        r"evidence/\w+-.*arrow": lambda: save(one, run.path / "evidence"),
        "explanations.jsonl": lambda: vn.explain(one, out=run, progress=False),
        r"(simulations|scores)/concepts-.*parquet": lambda: vn.score(
            {"L9N9": "red regions"}, one, n_permutations=999, out=run, progress=False
        ),
        "report_files": lambda: vn.report(run, out=page, n_neurons=0),
    }
    for file, step in steps.items():
        size = (run.path / file).stat().st_size + 50 if file == "explanations.jsonl" else 300  # half a line fits
        with monkeypatch.context() as patch, full(size), pytest.raises(OSError, match=rf"{file} could not be written"):
            patch.setattr(page_files, "MOST_NEURONS", 1)
            step()
        after = {file: content for file, (_, _, content) in state(run.path).items()}
        assert {k: c for k, c in after.items() if c} == before, file
        assert not [k for k, c in after.items() if not c and (run.path / k).is_file() and k not in empty], file
