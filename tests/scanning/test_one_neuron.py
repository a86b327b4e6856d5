"""What a run keeps of one neuron is read without the rest: where the rest is spoilt, nobody notices."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import cases
import pandas as pd
import pyarrow.parquet as pq
import pytest
import seeds

import vlm_neurons as vn
from vlm_neurons import _files
from vlm_neurons.autointerp import Explanation, Failure, load_simulations, read_explanations
from vlm_neurons.autointerp.simulation import rows_of
from vlm_neurons.autointerp.store import append_explanations, save_scores
from vlm_neurons.evidence import load, save

NAMES = ["a", "aa", 'quo"te', "Größe", "back\\slash", "L3N1", "L3N17", "post:L3N17-", "line\u2028end"]


def test_one_explanation_is_that_of_all_of_them(tmp_path: Path) -> None:
    rng, run = seeds.rng(), vn.Run(tmp_path, {})
    for redo in rng.random(60) < 0.2:
        failure = Failure("network", "down") if rng.random() < 0.3 else None
        text = f'like "{rng.choice(NAMES)}"' if failure is None else ""
        support = ({"concepts": [str(rng.choice(NAMES))]},)  # the id of another in quotes
        said = Explanation(str(rng.choice(NAMES)), text, confidence=0.5, failure=failure, support=support)
        append_explanations(tmp_path, [said], redo)
    file = tmp_path / "explanations.jsonl"
    lines = [json.loads(line) for line in file.read_text().split("\n")[:-1]]
    file.write_text("".join(json.dumps(line, ensure_ascii=bool(n % 2)) + "\n" for n, line in enumerate(lines)))
    with file.open("a") as torn:
        torn.write('{"neuron": "a", "te')
    every = read_explanations(tmp_path)
    for name in every:
        assert read_explanations(tmp_path, [name]) == {name: every[name]}
    some = [*every][::-1]
    assert [*read_explanations(tmp_path, some).items()] == [(name, every[name]) for name in some]
    table = run.explanations().set_index("neuron")
    pd.testing.assert_frame_equal(run.explanations(some).set_index("neuron"), table.loc[some])
    with pytest.raises(KeyError, match=r"'L9N9' has no explanation in .*jsonl: vn.explain\(..., out=run\) makes one"):
        run.explanations(["a", "L9N9"])


def test_explanations_are_read_while_another_process_writes_some(tmp_path: Path) -> None:
    append_explanations(tmp_path, [Explanation(f"L0N{k}", "x" * 2000) for k in range(3000)])
    stop, file = threading.Event(), tmp_path / "explanations.jsonl"

    def write() -> None:
        while not stop.is_set():
            append_explanations(tmp_path, [Explanation("L9N9", "y")])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(5):
            assert len(read_explanations(tmp_path)) in (3000, 3001)
            assert read_explanations(tmp_path, ["L0N7"])["L0N7"].text == "x" * 2000
    finally:
        stop.set()
        writer.join()
    with file.open("ab") as torn:
        torn.write(b'{"neuron": "L0N7", "text": "half a l')
    assert read_explanations(tmp_path, ["L0N7"])["L0N7"].text == "x" * 2000


def test_a_last_line_without_its_end_stays_and_one_of_an_odd_neuron_is_named(tmp_path: Path) -> None:
    file = tmp_path / "explanations.jsonl"
    append_explanations(tmp_path, [Explanation("a", "x")])
    file.write_text(file.read_text().removesuffix("\n"))  # as an editor saves it
    append_explanations(tmp_path, [Explanation("b", "y")])
    assert [*read_explanations(tmp_path)] == ["a", "b"]
    file.write_text(file.read_text() + '{"neuron": ["a"], "failure": null}\n')
    for asked in (None, ["a"]):
        with pytest.raises(ValueError, match=r"line 3: no explanation \(its neuron is no text\)"):
            read_explanations(tmp_path, asked)


def test_ids_that_another_program_wrote_in_other_ways_are_found(tmp_path: Path) -> None:
    append_explanations(tmp_path, [Explanation("Größe", "large"), Explanation("a/b", "x")])
    file = tmp_path / "explanations.jsonl"
    file.write_text(file.read_text().replace("ö", r"\u00F6").replace("a/b", r"a\/b"))
    run = vn.Run(tmp_path, {})
    assert run.explanations("Größe").text.tolist() == ["large"] and run.explanations("a/b").text.tolist() == ["x"]


def test_explanations_of_other_neurons_are_not_parsed(tmp_path: Path) -> None:
    append_explanations(tmp_path, [Explanation(f"L0N{k}", f"{k}") for k in range(300)])
    file = tmp_path / "explanations.jsonl"
    lines = file.read_text().split("\n")
    file.write_text("\n".join(line if k == 123 else line.replace(":", "?") for k, line in enumerate(lines)))
    run = vn.Run(tmp_path, {})
    assert run.explanations("L0N123").text.tolist() == ["123"]
    with pytest.raises(ValueError, match=r"explanations.jsonl, line 1: no explanation"):
        run.explanations()
    with pytest.raises(ValueError, match=r"explanations.jsonl, line 8: no explanation"):
        run.explanations("L0N7")


def test_of_scores_the_rows_of_a_neuron_are_read_and_those_near_them(tmp_path: Path) -> None:
    evidence, run = cases.text_neurons(1), vn.Run(tmp_path, {})
    few = vn.score(dict.fromkeys(evidence, "the word 'w'"), evidence, n_permutations=999, progress=False, full=True)
    names = [f"L0N{k}" for k in range(9_000)]
    table = pd.concat([few] * len(names), ignore_index=True).assign(neuron=names)
    table["r"] = seeds.rng().random(len(table))
    save_scores(table, tmp_path, "concepts", "x")
    every, some = run.scores(), ["L0N3", "L0N8999", "L0N4097"]
    wanted = every[every["neuron"].isin(some)].reset_index(drop=True)
    pd.testing.assert_frame_equal(run.scores(neurons=some), wanted)
    with pytest.raises(KeyError, match="'L9N9' has no score in"):
        run.scores(neurons="L9N9")
    (file,) = (tmp_path / "scores").glob("*.parquet")
    raw, first = bytearray(file.read_bytes()), pq.read_metadata(file).row_group(0)
    column = next(first.column(k) for k in range(first.num_columns) if first.column(k).path_in_schema == "r")
    begin = column.data_page_offset
    raw[begin : begin + 40] = bytes(40)
    file.write_bytes(raw)
    assert run.scores(neurons="L0N8999").r.tolist() == every.set_index("neuron").r.loc[["L0N8999"]].tolist()
    for all_or_near in (None, "L0N4"):
        with pytest.raises(ValueError, match=r"concepts-x.parquet cannot be read"):
            run.scores(neurons=all_or_near)


def test_of_evidence_the_files_of_other_neurons_are_not_parsed(tmp_path: Path) -> None:
    one = next(iter(cases.text_neurons(1).values()))
    for k in range(3):
        save({f"L{k}N{i}": replace(one, neuron=f"L{k}N{i}") for i in range(2)}, tmp_path)
    for file in sorted(tmp_path.glob("neurons-*.arrow"))[::2]:
        file.write_bytes(file.read_bytes().replace(b'[{"name": ', b'[?"name": '))
    assert load(tmp_path)["L1N1"].digest == replace(one, neuron="L1N1").digest and "L9N9" not in load(tmp_path)
    with pytest.raises(KeyError, match="L9N9"):
        load(tmp_path)["L9N9"]
    for spoilt in (lambda: load(tmp_path)["L0N1"], lambda: list(load(tmp_path))):
        with pytest.raises(ValueError, match=r"neurons-.*arrow cannot be read.*vn.gather_evidence"):
            spoilt()


def test_the_simulation_of_a_neuron_is_that_of_all_of_them(tmp_path: Path) -> None:
    evidence = cases.text_neurons(3)
    vn.simulate(dict.fromkeys(evidence, "the word 'w'"), evidence, out=tmp_path, progress=False)
    every = load_simulations(tmp_path)
    for name in evidence:
        (key,) = found = load_simulations(tmp_path, neurons=[name])
        assert key[0] == name and rows_of(found[key]) == rows_of(every[key])
    assert load_simulations(tmp_path, neurons=["L9N9"]) == {}


@pytest.mark.parametrize("piece", [1, 5, 64, 2**24])
def test_lines_with_a_word_are_the_same_whatever_pieces_a_file_is_read_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(_files, "_PIECE", piece)
    rng, file = seeds.rng(), tmp_path / "lines"
    for torn in (True, False):
        lines = [bytes(rng.choice([*b"ab"], rng.integers(0, 9)).tolist()) for _ in range(40)]
        text = b"\n".join(lines) + (b"" if torn else b"\n")
        file.write_bytes(text)
        begins = [sum(len(one) + 1 for one in lines[:k]) for k in range(40)]
        ends = [b"\n"] * 39 + [b"" if torn else b"\n"]
        expected = [(at, one + end) for at, one, end in zip(begins, lines, ends, strict=True) if b"ab" in one]
        assert [*_files.lines_with(file, b"ab")] == expected
