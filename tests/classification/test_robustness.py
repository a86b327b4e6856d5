"""Sweeps, sensitivity and confusion equal classifying again by hand."""

from __future__ import annotations

import itertools
from dataclasses import asdict
from inspect import signature

import numpy as np
import pandas as pd
import pytest
import seeds
import torch
from classification.test_classify import GATE, PROJECTOR, random_samples, run_of, state_of

from vlm_neurons.classification import classify, confusion, counting, sensitivity, statistics, sweep
from vlm_neurons.classification.robustness import NAMES
from vlm_neurons.classification.thresholds import Thresholds, sample_classes
from vlm_neurons.scanning.state import TopSamples
from vlm_neurons.stats import wilson
from vlm_neurons.tokens import MODALITIES
from vlm_neurons.viz import show_distribution

POST = "blocks.0.mlp.hook_post"


@pytest.fixture
def run(tmp_path):
    samples = [random_samples(30, 40, torch.float32) for _ in range(3)]
    for acts, _ in samples[0]:
        acts[:, :20] *= torch.rand(20) * 3  # so that the last of the samples do not set the scale
    a, b, c = (state_of(s, 12, 4, 2) for s in samples)
    a.peak_all *= torch.where(torch.rand(40) < 0.5, 20.0, 1.0)  # sinks at template tokens
    return run_of(
        tmp_path, [(GATE, "gate", "row", a), (POST, "post", "row", b), (PROJECTOR, "projector", "image", c)], 4, 2
    )


def test_a_sweep_equals_classifying_again_with_every_combination(run):
    axes = [(1.0, 2.0, 4.0), (1, 4), (3.0, 5.0), (1, 2)]
    found = sweep(run, *axes)
    labels = {}
    for one in itertools.product(*axes):
        table = classify(run, *one)
        labels[one] = table.loc[table["site"] != "projector", "label"].to_numpy()
    assert len(found) == len(labels) == 24
    for _, row in found.iterrows():
        one = (row["t_visual"], int(row["n_visual"]), row["t_text"], int(row["n_text"]))
        assert [row[name] for name in MODALITIES] == pytest.approx(
            [(labels[one] == name).mean() for name in MODALITIES]
        )
        assert row["same_as_paper"] == pytest.approx((labels[one] == labels[2.0, 4, 3.0, 2]).mean())
        near = [
            x for x in labels if sum(abs(a.index(p) - a.index(q)) for a, p, q in zip(axes, x, one, strict=True)) == 1
        ]
        assert row["same_as_neighbours"] == pytest.approx(np.mean([(labels[one] == labels[x]).mean() for x in near]))
    assert found["same_as_paper"].max() == 1 and found["same_as_paper"].min() < 1
    with pytest.raises(ValueError, match="n_visual=5"):
        sweep(run, n_visual=(5,))


@pytest.mark.parametrize(
    ("axis", "shown"), [({"t_visual": 2.0}, "2.0"), ({"t_text": []}, r"\[\]"), ({"n_text": "12"}, "'12'")]
)
def test_a_sweep_over_no_numbers_is_refused_by_name(run, axis, shown):
    with pytest.raises(ValueError, match=rf"{next(iter(axis))}={shown}: give the numbers to try as a list"):
        sweep(run, **axis)


def test_results_do_not_depend_on_how_many_columns_a_file_is_opened_for(run, monkeypatch):
    at_once = [call(run) for call in (classify, sweep, sensitivity)]
    monkeypatch.setattr(counting, "_OPEN", 1)
    for call, expected in zip((classify, sweep, sensitivity), at_once, strict=True):
        pd.testing.assert_frame_equal(call(run), expected)


def test_what_is_no_table_of_classify_is_refused_by_name():
    good = pd.DataFrame({"neuron": ["L0N0"], "label": ["text"]})
    with pytest.raises(ValueError, match="table= is DataFrame without site, pole, layer, confident: pass the table"):
        statistics(good)
    with pytest.raises(ValueError, match="other= is DataFrame without neuron, label"):
        confusion(good, pd.DataFrame({"a": [1]}))
    with pytest.raises(ValueError, match="table= is str without neuron, label"):
        confusion("neurons.parquet", good)


def test_sensitivity_compares_with_the_labels_under_each_choice(run):
    found = sensitivity(run).set_index(["site", "choice"])
    state = run.top(GATE)

    def labels(peak):
        peak = torch.where(peak > 0, peak, state.peak)
        return sample_classes(state, Thresholds(), peak).sum(1).numpy().argmax(1)

    expected = {"default": state.peak, "maximum over all tokens": state.peak_all}
    expected["maximum of the second sample"] = state.scores[:, 1]
    expected["maximum without the strongest tokens"] = torch.maximum(state.visual[..., 3], state.text[..., 1]).amax(1)
    for choice, peak in expected.items():
        assert found.loc[("gate", choice), "same"] == pytest.approx((labels(peak) == labels(state.peak)).mean())
    post = run.top(POST)
    other = sample_classes(post, Thresholds()).sum(1).numpy().argmax(1)
    assert found.loc[("gate", "site post"), "same"] == pytest.approx((other == labels(state.peak)).mean())
    assert found.loc[("gate", "maximum over all tokens"), "same"] < 1 and found.loc[("gate", "default"), "same"] == 1
    assert "projector" not in found.index.get_level_values(0)


def test_sensitivity_notices_a_sink_that_is_in_every_sample(tmp_path):
    # One patch of every sample is a sink: on its scale all other patches are below the threshold.
    visual = torch.full((8, 50, 4), 8.0)
    visual[..., 0] = 100.0
    state = TopSamples(torch.arange(50).repeat(8, 1).int(), visual, torch.zeros(8, 50, 2), torch.full((8,), 100.0))
    found = sensitivity(run_of(tmp_path, [(GATE, "gate", "row", state)], 4, 2)).set_index("choice")
    assert found.loc["default", "unknown"] == 1 and found.loc["maximum of the second sample", "same"] == 1
    assert found.loc["maximum without the strongest tokens", "visual"] == 1


def test_confusion_counts_every_neuron_once_and_leaves_out_what_has_no_class():
    rng = seeds.rng()
    labels = [rng.choice(MODALITIES, 300) for _ in range(2)]
    names = [f"L0N{i}" for i in range(300)]
    tables = [pd.DataFrame({"neuron": names, "label": x}) for x in labels]
    tables[0].loc[0, "label"] = "not_applicable"
    found = confusion(tables[0], tables[1].sample(frac=1))
    for a, b in itertools.product(MODALITIES, MODALITIES):
        assert found.loc[a, b] == ((labels[0] == a) & (labels[1] == b))[1:].sum()
    assert found.attrs["agreement"] == pytest.approx((labels[0] == labels[1])[1:].mean())
    assert abs(found.attrs["kappa"]) < 0.25 and confusion(tables[1], tables[1]).attrs["kappa"] == pytest.approx(1)
    with pytest.raises(ValueError, match="no classified neuron in common"):
        confusion(tables[0], tables[1].assign(neuron="x"))


def test_statistics_say_how_sure_a_share_is_and_where_a_class_lies():
    labels = ["visual"] * 30 + ["text"] * 10 + ["unknown"] * 0
    table = pd.DataFrame(
        {"site": "gate", "pole": "+", "layer": [0] * 20 + [4] * 20, "label": labels, "confident": True}
    )
    found = statistics(table).set_index(["layer", "label"])
    both = found.loc[("all", "visual")]
    low, high = wilson(30, 40)
    assert (both["share_low"], both["share_high"]) == (low, high) and low < 0.75 < high
    assert both["depth"] == pytest.approx(10 * 4 / 30 / 4) and both["half_in"] == 1
    assert found.loc[("all", "text"), "concentration"] == 1 and found.loc[("all", "text"), "depth"] == 1
    assert 0 < both["concentration"] < 1 and np.isnan(found.loc[(0, "visual"), "depth"])
    assert found.loc[("all", "unknown"), "share_low"] == 0 and found.loc[("all", "unknown"), "share_high"] > 0


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.97])
def test_wilsons_interval_covers_the_truth_about_as_often_as_it_says(share):
    counts = np.random.default_rng(3).binomial(60, share, 4000)
    covered = np.mean([low <= share <= high for low, high in map(lambda c: wilson(int(c), 60), counts)])
    assert 0.92 < covered <= 1


def test_thresholds_that_are_not_given_are_everywhere_those_of_the_paper():
    for taker in (classify, sensitivity, show_distribution):
        defaults = {name: p.default for name, p in signature(taker).parameters.items()}
        asked = {"t_visual": 2.0, "n_visual": 4, "t_text": 3.0, "n_text": 2}
        assert asdict(Thresholds()) == asked
        assert {n: defaults[n] for n in NAMES if n in defaults} == {n: asked[n] for n in NAMES if n in defaults}
        assert "t_visual" in defaults and "t_text" in defaults
