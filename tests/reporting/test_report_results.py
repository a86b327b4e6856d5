"""Explanations, simulations and scores of a run are in its report, with the numbers that are on disk."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html import unescape
from pathlib import Path

import fresh
import numpy as np
import pandas as pd
import pytest
from hostile import HOSTILE, Made, Told
from test_report import Reader

from vlm_neurons.autointerp.explanation import Explanation
from vlm_neurons.autointerp.store import append_explanations
from vlm_neurons.classification import sensitivity, statistics, sweep
from vlm_neurons.evidence import load
from vlm_neurons.reporting import report
from vlm_neurons.reporting.neuron_list import Shown, line
from vlm_neurons.reporting.neuron_list import record as record_of
from vlm_neurons.scanning import Run
from vlm_neurons.viz.wording import decimals, number, share_words, visible


def same(found: list[dict], table: pd.DataFrame) -> None:
    """A list of records of the JSON has every number of a table."""
    assert len(found) == len(table) > 0
    for record, row in zip(found, table.to_dict("records"), strict=True):
        for name, value in row.items():
            if isinstance(value, float) and np.isnan(value):
                assert record[name] is None
            else:
                assert record[name] == value, name


def test_evidence_of_the_run_takes_the_place_of_model_and_data(told: Told) -> None:
    ids = set(load(told.run / "evidence"))  # neither can be found again: see test_report
    assert {n["neuron"] for n in told.numbers["neurons"]} - {f"probe {HOSTILE[0]}"} == ids - {"probe"}


def test_the_json_has_the_values_of_the_tables_on_disk(made: Made, told: Told) -> None:
    table = pd.read_parquet(told.run / "neurons.parquet")
    same(told.numbers["layers"], statistics(table))
    shown = {n["neuron"]: n for n in told.numbers["neurons"]}
    known = table[table["neuron"].isin(shown)].set_index("neuron")
    for neuron, row in known.iterrows():
        for name in ("p_visual", "p_text", "p_multimodal", "p_unknown", "peak", "layer", "index", "n_samples"):
            value = shown[neuron][name]
            assert value == row[name] or (value is None and np.isnan(row[name]))
    scores = [{"neuron": n, **score} for n in told.scores["neuron"].unique() for score in shown[n]["scores"]]
    same(scores, told.scores)
    same(told.numbers["sensitivity"], sensitivity(told.run))
    every = sweep(told.run, t_visual=(1, 2, 3, 4), n_visual=(4,), t_text=(2, 3, 4, 5), n_text=(2,))
    same(told.numbers["sweep"], every)


def test_the_page_shows_the_values_of_the_json(told: Told) -> None:
    page = told.page.read_text(encoding="utf-8")
    lines = re.findall(r"<tr data-n=.*?</tr>", page, re.S)
    rows = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", line, re.S) for line in lines]
    text = [["".join(Reader(cell).text).strip() for cell in row] for row in rows]
    assert len(lines) == len(told.numbers["neurons"]) > 5
    n_scores, n_both = 0, 0
    for cells, record in zip(text, told.numbers["neurons"], strict=True):
        share, scores = record.get(f"p_{record['label']}"), record["scores"]
        assert cells[4] == ("–" if share is None else share_words(share))
        assert cells[5] == ("–" if record.get("peak") is None else number(record["peak"]))
        side = "{side} " if len(scores) > 1 or record["label"] == "multimodal" else ""
        if scores[0]["r"] is None:
            assert cells[7].startswith(f"{side.format(**scores[0])}–") and len(cells[7]) > 10  # and why
            continue
        n_scores, n_both = n_scores + 1, n_both + (len(scores) > 1)
        r = [f"{side.format(**s)}{decimals(s['r'])} [{decimals(s['r_low'])}, {decimals(s['r_high'])}]" for s in scores]
        assert cells[7] == "".join(r)  # a line each
        assert cells[8] == "".join(decimals(s["r_null"]) for s in scores)
        q = ["<.001" if s["q"] < 0.001 else f"{s['q']:.3f}".replace("0.", ".", 1) for s in scores]
        assert cells[9] == "".join(q)
    assert n_scores > 3 and n_both > 0


def test_a_failed_explanation_is_told_as_a_failure(told: Told) -> None:
    page = told.page.read_text(encoding="utf-8")
    failed = [n for n in told.numbers["neurons"] if n["explanation"]["failure"]]
    assert failed and all(n["explanation"]["text"] == "" for n in failed)
    assert page.count("failed: ") >= len(failed) and page.count("No explanation: ") == len(failed)


def test_a_score_and_a_simulation_of_an_earlier_explanation_are_left_out_and_told(told: Told, tmp_path: Path) -> None:
    shutil.copytree(told.run, tmp_path / "run")
    scored = [n for n in told.numbers["neurons"] if n["scores"][0]["r"] is not None and not n["explanation"]["failure"]]
    one = max(scored, key=lambda n: len(n["scores"]))  # of both sides
    neuron, before, n_before = one["neuron"], one["explanation"]["text"], len(one["scores"])
    append_explanations(tmp_path / "run", [Explanation(neuron, "purple elephants")])
    page = report(tmp_path / "run", out=tmp_path / "run", n_neurons=0)
    numbers = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    shown = {n["neuron"]: n for n in numbers["neurons"]}
    words = f"the score is of an earlier explanation: “{before}”; the simulation is of an earlier"
    assert n_before == 2 and shown[neuron]["scores"] == [] and shown[neuron]["earlier"].startswith(words)
    assert shown[neuron]["earlier"].count("of an earlier explanation") == 2  # not once for every side
    assert all(n["earlier"] == "" and n["scores"] for name, n in shown.items() if name != neuron)
    text = page.read_text(encoding="utf-8")
    card = next(c for c in re.findall(r"<article.*?</article>", text, re.S) if "purple elephants" in c)
    said = unescape(re.sub(r"<[^>]+>", "", card))
    assert f"No score: {visible(words)}" in said and "r =" not in said and "Real and simulated" not in said
    row = next(r for r in re.findall(r"<tr data-n=.*?</tr>", text, re.S) if "purple elephants" in r)
    assert visible(words) in unescape(row)
    assert sum(s["n"] for s in numbers["scores"] if s["side"] == "all") == len(told.scores) - n_before


def test_a_line_shows_no_sign_where_there_is_nothing_and_the_beginning_of_what_is_long(told: Told) -> None:
    rest = f"{'word ' * 300}at the very end"
    bare = Shown("L0N1", "L0N1", {}, None, None, {}, [])
    wordy = replace(bare, explanation=Explanation("L0N1", f"large dogs {rest}"))
    none, long = (line(s, record_of(s), "#") for s in (bare, wordy))
    assert none["explanation"] == none["r"] == none["q"] == "" and len(none["scores"]) == 1
    assert none["scores"][0]["note"] == "" and none["scores"][0]["r"] == none["scores"][0]["q"] == "–"
    assert long["explanation"].startswith("large dogs word") and len(long["explanation"]) <= 200
    assert rest in long["told"] and record_of(wordy)["explanation"]["text"].endswith(rest)


def test_the_lines_for_loading_the_numbers_run_as_they_stand(told: Told) -> None:
    page = told.page.read_text(encoding="utf-8")
    code = "".join(Reader(re.search(r"<pre.*?</pre>", page, re.S)[0]).text)  # type: ignore[index]
    check = "\nprint(len(shown), len(table), len(layers), len(sweep), len(choices), len(scores))"
    done = fresh.run(code + check, cwd=told.run)
    assert done.returncode == 0, done.stderr
    numbers, table = told.numbers, pd.read_parquet(told.run / "neurons.parquet")
    lengths = [len(numbers["neurons"]), len(table), len(numbers["layers"]), 96, len(numbers["sensitivity"])]
    assert done.stdout.split() == [str(n) for n in (*lengths, len(told.scores))]


def test_same_results_same_bytes(told: Told, tmp_path: Path) -> None:
    again = report(told.run, out=tmp_path / "report.html", n_neurons=0)
    assert again.read_bytes() == told.page.read_bytes()
    assert again.with_suffix(".json").read_bytes() == told.page.with_suffix(".json").read_bytes()


def test_a_page_that_cannot_be_written_is_refused_with_the_remedy(told: Told, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"call the page a\.html"):
        report(told.run, out=tmp_path / "a.json", n_neurons=0)
    with pytest.raises(ValueError, match="pass model=, or n_neurons=0"):
        report(told.run, out=tmp_path / "a.html")  # the clearest are more than those with evidence
    assert list(tmp_path.iterdir()) == []


def test_the_page_is_written_where_it_is_told_to_be(told: Told, made: Made, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="out"):
        report(told.run, n_neurons=0)  # type: ignore[call-arg]
    assert report(told.run, out=tmp_path, n_neurons=0) == tmp_path / "report.html"
    assert report(told.run, out=str(tmp_path / "page.html"), n_neurons=0) == tmp_path / "page.html"
    shutil.copytree(told.run, tmp_path / "run")
    assert report(told.run, out=Run.load(tmp_path / "run"), n_neurons=0) == tmp_path / "run" / "report.html"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["page.html", "page.json", "report.html", "report.json", "run"]


@pytest.mark.parametrize(
    ("name", "again"),
    [("neurons.parquet", "classify"), ("scores/*.parquet", "score"), ("simulations/*.parquet", "score"),
     ("evidence/neurons-*.arrow", "gather_evidence"), ("evidence/samples-*.arrow", "gather_evidence")],
)  # fmt: skip
def test_a_damaged_file_of_the_run_is_named_with_what_writes_it_again(
    told: Told, tmp_path: Path, name: str, again: str
) -> None:
    shutil.copytree(told.run, tmp_path / "run")
    file, *others = sorted((tmp_path / "run").glob(name))
    assert name.startswith("evidence") or not others
    whole = file.read_bytes()
    damages = [b"\xff\xfe nonsense\n\n", whole[: len(whole) // 2]]
    if not name.startswith("evidence"):
        pd.DataFrame({"of": ["something else"]}).to_parquet(tmp_path / "other.parquet")
        damages.append((tmp_path / "other.parquet").read_bytes())
    for damage in damages:
        file.write_bytes(damage)
        call = rf"(run\.save\()?vn\.{again}\("
        remedy = rf"^{re.escape(str(file))} cannot be read: .*Move it away; {call}.* writes it again"
        with pytest.raises(ValueError, match=re.compile(remedy, re.S)):
            report(tmp_path / "run", out=tmp_path / "run", n_neurons=0)


def test_a_damaged_line_of_the_explanations_is_named_with_the_remedy(told: Told, tmp_path: Path) -> None:
    shutil.copytree(told.run, tmp_path / "run")
    file = tmp_path / "run" / "explanations.jsonl"
    file.write_bytes(b"\xff\xfe nonsense\n" + file.read_bytes())
    with pytest.raises(ValueError, match=rf"^{re.escape(str(file))}, line 1: no explanation .*; remove it$"):
        report(tmp_path / "run", out=tmp_path / "run", n_neurons=0)


def test_evidence_of_another_run_is_not_taken_for_this_one(made: Made, told: Told, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(told.run, path)
    info = json.loads((path / "scan.json").read_text(encoding="utf-8"))
    info["threads"] += 1  # part of what identifies a run
    (path / "scan.json").write_text(json.dumps(info), encoding="utf-8")
    with pytest.raises(ValueError, match="pass model="):
        report(path, out=path, n_neurons=0)


def test_the_page_says_how_chart_and_table_of_scores_are_sorted(told: Told) -> None:
    page = " ".join(told.page.read_text(encoding="utf-8").split())
    assert "correlation of prediction and truth over all of the data, estimated from" in page
    said = "The chart sorts scores by class of the neuron, the table by side: pictures or text."
    assert said in page and page.index(said) < page.index("<caption>Scores by side")
    counts = told.scores["side"].value_counts()
    assert {s["side"]: s["n"] for s in told.numbers["scores"]} == {**counts, "all": len(told.scores)}
