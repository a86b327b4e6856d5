"""Scores are asked of random gates too, by the same steps; what is said of them is what was found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import seeds

import vlm_neurons as vn
from vlm_neurons.interventions.trusting import OF_SCORES, OWN, _each, summary
from vlm_neurons.stats import auroc_interval
from vlm_neurons.viz.wording import decimals

BANK = vn.concepts.Words()
CLASSES = ("visual", "text", "multimodal")


@pytest.fixture(scope="module")
def model() -> vn.HookedVLM:
    return vn.HookedVLM.from_pretrained("tiny-llava-scenes", device="cpu")


@pytest.fixture(scope="module")
def told(model: vn.HookedVLM, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    folder, data = tmp_path_factory.mktemp("trusted"), vn.scenes(60, seed=0)
    run = vn.scan(model, data, top_n=8, batch_size=20, concepts=BANK, null_directions=0, out=folder / "run",
                  progress=False)  # fmt: skip
    before = model.fingerprint()
    found = vn.trust(model, data, run, BANK, n=2, draws=1, out=run, progress=False)
    assert model.fingerprint() == before, "the gates are put back"
    return run, data, found


def test_random_gates_are_scanned_by_the_same_parameters(told: tuple[Any, ...]) -> None:
    run, _, _ = told
    again = vn.Run.load(run.path / "trust" / "random-0-concepts")
    assert again.info["model"]["fingerprint"] != run.info["model"]["fingerprint"]
    same = {k: v for k, v in run.info["parameters"].items() if k not in ("compiled",)}
    assert same == {k: again.info["parameters"][k] for k in same} and again.info["data"] == run.info["data"]


def test_numbers_are_those_of_counting_pairs(told: tuple[Any, ...]) -> None:
    run, _, found = told

    def lowest(one: vn.Run, label: str) -> list[float]:
        table, sides = one.concepts(), {"visual": ["picture"], "text": ["text"], "multimodal": ["picture", "text"]}
        labels = dict(zip(*vn.classify(one)[["neuron", "label"]].to_numpy().T, strict=True))
        mine = table[(table.neuron.map(labels) == label) & table.side.isin(sides[label])]
        return [rows["r"].fillna(-np.inf).min() for _, rows in mine.groupby("neuron")]

    row = found[(found.source == "concepts") & (found.statistic == "r")].set_index("label").loc["text"]
    own, random = lowest(run, "text"), lowest(vn.Run.load(run.path / "trust" / "random-0-concepts"), "text")
    pairs = [(a > b) + (a == b) / 2 for a in own for b in random]
    assert (row.n, row.n_random) == (len(own), len(random)) and len(pairs) > 100
    assert row.auroc == pytest.approx(np.mean(pairs)) and row.low < row.auroc < row.high
    assert row.above == pytest.approx(np.mean([a > np.quantile(random, 0.95, method="lower") for a in own]))


def test_responses_are_those_of_the_scan_not_those_of_random_gates(model: vn.HookedVLM, tmp_path: Path) -> None:
    bare = vn.scenes(8, seed=2).with_responses([None] * 8)
    run = vn.scan(model, bare, top_n=2, concepts=BANK, null_directions=0, folds=4, out=tmp_path / "run", progress=False)
    vn.trust(model, bare, run, BANK, explainer=None, draws=1, out=run, progress=False)
    random = vn.Run.load(run.path / "trust" / "random-0-concepts")
    assert list(random.samples.response) == list(run.samples.response) and random.samples.response[0]


def test_as_many_neurons_of_each_class_are_explained_on_both_sides(told: tuple[Any, ...]) -> None:
    scored = told[2][told[2].source == "score"].set_index(["statistic", "label"])
    assert {tuple(scored.loc["r", label][["n", "n_random"]].astype(int)) for label in CLASSES} == {(2, 2)}


def test_a_second_call_goes_on_where_the_first_was(model: vn.HookedVLM, told: tuple[Any, ...]) -> None:
    run, data, found = told
    results = sorted((run.path / "trust").rglob("scan.safetensors"))
    before = [file.stat().st_mtime_ns for file in results]
    again = vn.trust(model, data, run, BANK, n=2, draws=1, out=run, progress=False)
    pd.testing.assert_frame_equal(again, found)
    assert results and [file.stat().st_mtime_ns for file in results] == before


def test_what_has_no_number_counts_as_lower_than_all_others() -> None:
    values = pd.DataFrame({"source": "score", "statistic": "r", "label": "visual",
                           "draw": [OWN] * 4 + [0] * 2 + [1] * 2,
                           "value": [0.9, 0.8, 0.5, -np.inf, 0.6, 0.1, -np.inf, -np.inf]})  # fmt: skip
    row = summary(values).set_index("label").loc["visual"]
    assert row.auroc == pytest.approx((4 + 4 + 3 + 0.5 * 2) / 16) and row.n_random == 4
    assert np.isnan(row.median_random) and row["median"] == 0.5 and row.limit == 0.1
    assert np.isnan(summary(values).set_index("label").loc["text", "auroc"])


def test_the_report_shows_the_random_gates_beside_the_model(told: tuple[Any, ...], tmp_path: Path) -> None:
    run, _, found = told
    page = vn.report(run, out=tmp_path / "page.html", n_neurons=0)
    rows = json.loads(page.with_suffix(".json").read_text())["trained_or_random"]
    assert [row["statistic"] for row in rows] == list(found.statistic)
    html, row = page.read_text(), found[(found.statistic == "focus") & (found.label == "text")].iloc[0]
    assert "Trained or random?" in html and f"{row.n:,} neurons, {row.n_random:,} of random gates" in html
    assert f"AUROC {decimals(row.auroc)} ({decimals(row.low)} to {decimals(row.high)})" in html
    (run.path / "trust" / "values.parquet").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"vn\.trust\(model, data, run, out=run\) writes it"):
        vn.report(run, out=tmp_path / "page.html", n_neurons=0)


@pytest.mark.parametrize("gap", [0.0, 1.0, 2.5])
def test_the_interval_of_an_auroc_holds_the_truth_about_as_often_as_it_says(gap: float) -> None:
    from scipy.stats import norm

    rng, truth = seeds.rng(), float(norm.cdf(gap / np.sqrt(2)))
    drawn = [auroc_interval(rng.normal(gap, 1, 30), rng.normal(0, 1, 60)) for _ in range(400)]
    assert np.mean([low <= truth <= high for low, high in drawn]) > 0.92
    assert np.isnan(auroc_interval(np.ones(1), np.ones(9))).all()


def test_where_no_neuron_has_a_class_there_is_nothing_to_tell_and_no_error(model: vn.HookedVLM, tmp_path: Path) -> None:
    data = vn.scenes(8, seed=2)
    run = vn.scan(model, data, top_n=2, concepts=BANK, null_directions=0, folds=4, out=tmp_path / "run", progress=False)
    run.save(vn.classify(run, t_visual=9.999, t_text=9.999))
    found = vn.trust(model, data, run, BANK, n=1, draws=1, out=run, progress=False)
    assert found.auroc.isna().all() and "above" in found
    assert vn.report(run, out=tmp_path / "page.html", n_neurons=0).is_file()


def test_a_neuron_that_no_null_was_drawn_for_says_nothing_of_its_distance_to_it() -> None:
    table = pd.DataFrame({"neuron": ["a", "b", "c"], "label": "visual", "side": "picture", "r": [0.9, 0.8, np.nan],
                          "r_null": [np.nan, 0.1, np.nan]})  # fmt: skip
    (told,) = _each(table, "score", {"r - r_null": OF_SCORES["r - r_null"]})
    assert told.set_index("neuron")["value"].to_dict() == {"b": pytest.approx(0.7), "c": -np.inf}


def test_an_interval_where_all_are_equal_is_about_a_half() -> None:
    low, high = auroc_interval(np.ones(5), np.ones(5))
    assert low + high == pytest.approx(1) and low < 0.3


def test_what_cannot_be_asked_is_refused(model: vn.HookedVLM, told: tuple[Any, ...], tmp_path: Path) -> None:
    run, data, _ = told
    seen = vn.scan(model, vn.scenes(20), site="vision", top_n=2, out=tmp_path / "seen", progress=False)
    with pytest.raises(ValueError, match="only neurons of sites gate and post"):
        vn.trust(model, vn.scenes(20), seen, progress=False)
    with pytest.raises(ValueError, match="nothing to ask"):
        vn.trust(model, data, run, explainer=None, progress=False)
    with pytest.raises(ValueError, match="has 61 samples"):
        vn.trust(model, vn.scenes(61), run, progress=False)
    with pytest.raises(ValueError, match="fingerprint differs"):
        vn.trust(model, vn.scenes(60, seed=1), run, progress=False)
    plain = vn.scan(model, vn.scenes(20), top_n=2, out=tmp_path / "plain", progress=False)
    with pytest.raises(ValueError, match="without concepts"):
        vn.trust(model, vn.scenes(20), plain, BANK, progress=False)
