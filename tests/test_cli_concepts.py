"""Concepts on the command line: a scan with banks by name, and their table."""

from __future__ import annotations

import pandas as pd
import pytest

import vlm_neurons as vn
from vlm_neurons.cli.main import main

SCAN = ["scan", "--model", "tiny-llava-scenes", "--batch-size", "16", "--top-n", "5"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("concepts") / "run"
    given = ["--data", "scenes:n=48,seed=3", "--out", str(out), "--concepts", "truth+words"]
    assert main([*SCAN, *given]) == 0
    return out


def test_a_scan_with_banks_leaves_a_table_that_says_which_concept_lives_where(run, tmp_path, capsys):
    assert main(["concepts", str(run), "--min-images", "3"]) == 0
    said = capsys.readouterr()
    assert "at image patches" in said.out and "random units" in said.out and "most in layer" in said.out
    assert "it ranks explanations of one neuron, not neurons" in " ".join(said.out.split())
    wanted = vn.Run.load(run).concepts(3)
    pd.testing.assert_frame_equal(pd.read_parquet(run / "concepts.parquet"), wanted)
    assert main(["concepts", str(run), "--min-images", "3", "--out", str(tmp_path / "x.csv")]) == 0
    there = pd.read_csv(tmp_path / "x.csv", keep_default_na=False)
    assert there["neuron"].tolist() == wanted["neuron"].tolist()
    assert there["concept"].tolist() == wanted["concept"].tolist()


@pytest.mark.parametrize(
    ("banks", "said"),
    [("pixel", "'pixel' is no bank; there are pixels, words, truth"), ("words+coco", "'coco' is no bank"),
     ("words:x", "'words:x' is no bank"), ("masks:nowhere", "nowhere/names.json")],
)  # fmt: skip
def test_banks_that_are_not_there_are_named(banks, said, tmp_path, capsys):
    assert main([*SCAN, "--data", "scenes:n=4,seed=3", "--out", str(tmp_path / "run"), "--concepts", banks]) == 1
    assert said in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_table_has_an_ending_that_says_how_it_is_written(run, capsys):
    assert main(["concepts", str(run), "--out", "table.xls"]) == 1
    assert "end it in .parquet or .csv" in capsys.readouterr().err
