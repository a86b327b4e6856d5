"""A run reads what was written into it: of every neuron the explanation that counts, of scores the full table."""

from __future__ import annotations

from pathlib import Path

import cases
import pandas as pd
import pytest

import vlm_neurons as vn
from vlm_neurons.autointerp import Explanation, Failure, read_explanations
from vlm_neurons.autointerp.store import append_explanations


def run_at(path: Path) -> vn.Run:
    """A run directory with nothing but results."""
    return vn.Run(path, {})


def test_of_every_neuron_the_explanation_counts_that_a_failure_does_not_replace(tmp_path: Path) -> None:
    failed = Failure("network", "down")
    made = [
        Explanation("a", "red"), Explanation("b", "", failure=failed), Explanation("a", "", failure=failed),
        Explanation("c", "one"), Explanation("c", "two"), Explanation("d", "old"),
    ]  # fmt: skip
    append_explanations(tmp_path, made)
    append_explanations(tmp_path, [Explanation("d", "", failure=failed)], redo=True)
    with (tmp_path / "explanations.jsonl").open("a") as file:
        file.write('{"neuron": "a", "te')  # a crash
    table = run_at(tmp_path).explanations().set_index("neuron")
    assert table["text"].to_dict() == {"a": "red", "b": "", "c": "two", "d": ""}
    assert table["text"].to_dict() == {n: e.text for n, e in read_explanations(tmp_path).items()}
    assert table["failure"]["b"] == {"kind": "network", "detail": "down"} and table["failure"].isna()["a"]


@pytest.mark.parametrize("line", ["3", '"text"', "{}", "not JSON", '{"neuron": "a", "failure": 3}'])
def test_a_line_that_is_no_explanation_is_named(tmp_path: Path, line: str) -> None:
    append_explanations(tmp_path, [Explanation("a", "red")])
    file = tmp_path / "explanations.jsonl"
    file.write_text(line + "\n" + file.read_text())
    with pytest.raises(ValueError, match=r"explanations.jsonl, (line 1|a): no explanation .*remove it"):
        read_explanations(tmp_path)


def test_the_full_table_is_read_whatever_was_returned_and_by_its_simulator(tmp_path: Path) -> None:
    evidence, run = cases.text_neurons(2), run_at(tmp_path)
    told = {n: f"the word '{w}'" for n, w in zip(evidence, ("w", "red"), strict=True)}
    few = vn.score(told, evidence, out=run, n_permutations=999, progress=False)
    table = run.scores()
    pd.testing.assert_frame_equal(table[list(few.columns)], few)
    assert {"q", "label", "made_by", "r_within", "n_failed"} <= set(table) - set(few)
    vn.score(told, evidence, "position-prior", out=run, n_permutations=999, progress=False)
    assert set(run.scores()["simulator"]) == {"position-prior"}
    pd.testing.assert_frame_equal(run.scores("concepts"), table)


def test_what_is_not_there_is_named_with_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"explanations.jsonl is not there: vn.explain\(evidence, out=run\)"):
        run_at(tmp_path).explanations()
    with pytest.raises(FileNotFoundError, match=r"no scores by 'clip' in .*vn.score\(..., out=run\)"):
        run_at(tmp_path).scores("clip")
