"""Labels and shares equal the paper's rule followed token by token; bad parameters are refused."""

from __future__ import annotations

import json
from collections import Counter

import brute_force as brute
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import seeds
import torch
from safetensors.torch import save_file

from vlm_neurons.classification import classify, statistics
from vlm_neurons.classification.tables import neuron_table, no_classes
from vlm_neurons.classification.thresholds import Thresholds, normalise, sample_classes
from vlm_neurons.scanning import Run, TopSamples
from vlm_neurons.scanning.blocks import FORMAT, tensor_name
from vlm_neurons.scanning.summarise import extremes, rows_by_kind, summarise
from vlm_neurons.tokens import MODALITIES

GATE, PROJECTOR = "blocks.0.mlp.hook_act", "projector.0.hook_post"


def random_samples(n, d, dtype, low=-3, high=12):
    samples = []
    for _ in range(n):
        kinds = torch.randint(1, 4, (int(torch.randint(3, 14, (1,))),))
        kinds[0] = 3
        samples.append((torch.randint(low, high, (len(kinds), d)).to(dtype) / 4, kinds))
    return samples


def state_of(samples, top_n, n_visual, n_text):
    state = TopSamples.empty(samples[0][0].shape[1], top_n, n_visual, n_text, samples[0][0].dtype)
    for i, (acts, kinds) in enumerate(samples):
        rows = rows_by_kind(kinds[None])
        state.update(summarise(acts, rows, n_visual, n_text), torch.tensor([i]), extremes(acts, rows).peak_all)
    return state


def run_of(path, states, n_visual, n_text):
    """A run of states that were made without a model."""
    columns = [
        {"hook": hook, "pole": "+", "site": site, "layer": 0, "indexed_by": indexed_by, "d": s.sample_ids.shape[0]}
        for hook, site, indexed_by, s in states
    ]
    tensors = {tensor_name((hook, "+"), n): t for hook, _, _, s in states for n, t in s.tensors().items()}
    run = Run(path, {"columns": columns, "parameters": {"n_visual": n_visual, "n_text": n_text}})
    save_file(tensors, path / "scan.safetensors", {"format": str(FORMAT), "run": run.identity})
    return run


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_label_and_share_equals_the_rule_token_by_token(tmp_path, dtype):
    samples = random_samples(40, 30, dtype)
    samples[0][0][:, 0] = -100.0  # never the maximum
    for acts, kinds in samples:
        acts[kinds == 1, 2::2] *= 2  # some are strongest at template tokens
        acts[:, 1] = -acts[:, 1].abs()  # a neuron whose peak is not positive
    run = run_of(tmp_path, [(GATE, "gate", "row", state_of(samples, 15, 4, 2))], 4, 2)
    labels, other = set(), 0
    for t_visual, n_visual, t_text, n_text in ((2.0, 4, 3.0, 2), (0.0, 1, 0.0, 1), (5.0, 2, 7.5, 1), (2.5, 3, 2.5, 2)):
        table = classify(run, t_visual=t_visual, n_visual=n_visual, t_text=t_text, n_text=n_text)
        everywhere = classify(run, t_visual=t_visual, n_visual=n_visual, t_text=t_text, n_text=n_text, peak="all")
        for j, row in table.iterrows():
            recordings = [brute.Recording(i, a[:, j].double().tolist(), k.tolist()) for i, (a, k) in enumerate(samples)]
            shares = brute.classify(recordings, 15, t_visual, n_visual, t_text, n_text)
            assert [row[f"p_{name}"] for name in MODALITIES] == [shares[name] for name in MODALITIES], row["neuron"]
            best = max(shares.values())
            assert row["label"] == next(name for name in MODALITIES if shares[name] == best)
            assert row["tie"] == (list(shares.values()).count(best) > 1)
            assert row["confident"] == (best > 0.8)
            assert row["peak"] == brute.peak(recordings, 2, 3)
            assert row["peak_all_tokens"] == brute.peak(recordings, 1, 2, 3)
            assert row["n_samples"] == 15
            every = brute.classify(recordings, 15, t_visual, n_visual, t_text, n_text, (1, 2, 3))
            assert [everywhere.loc[j, f"p_{name}"] for name in MODALITIES] == [every[name] for name in MODALITIES]
            other += every != shares
        labels |= set(table["label"])
    assert len(labels) > 1 and other, "the scale matters"


def test_a_neuron_without_a_positive_peak_is_unknown(tmp_path):
    samples = random_samples(10, 3, torch.float32, low=-8, high=1)
    table = classify(
        run_of(tmp_path, [(GATE, "gate", "row", state_of(samples, 5, 4, 2))], 4, 2), t_visual=0.0, t_text=0.0
    )
    assert (table["peak"] <= 0).all()
    assert (table["label"] == "unknown").all() and (table["p_unknown"] == 1).all()


def test_activations_exceed_and_counts_reach_their_thresholds():
    # peak 10: normalised activations are the activations; 2.0 does not exceed 2.0
    def label_share(visual, text):
        state = TopSamples(
            torch.tensor([[0, 1]], dtype=torch.int32),
            torch.tensor([[[10.0, 10.0, 10.0, 10.0], visual]]),
            torch.tensor([[[10.0, 10.0], text]]),
            torch.tensor([10.0]),
        )
        return MODALITIES[int(sample_classes(state, Thresholds())[0, 1].int().argmax())]

    above2, above3 = 2.001, 3.001
    none = float("-inf")
    assert label_share([9.0, 9.0, 9.0, above2], [9.0, 3.0]) == "visual"
    assert label_share([9.0, 9.0, 9.0, 2.0], [9.0, above3]) == "text"
    assert label_share([9.0, 9.0, 9.0, above2], [9.0, above3]) == "multimodal"
    assert label_share([9.0, 9.0, 9.0, 2.0], [9.0, none]) == "unknown"


def test_a_tie_goes_to_the_first_class_and_is_said(tmp_path):
    none = float("-inf")
    visual = torch.tensor([[[10.0], [none]], [[10.0], [9.0]]])  # neuron 0: a visual and a text sample; 1: two visual
    text = torch.tensor([[[none], [9.0]], [[none], [none]]])
    state = TopSamples(torch.tensor([[0, 1]] * 2, dtype=torch.int32), visual, text, torch.tensor([10.0, 10.0]))
    table = classify(run_of(tmp_path, [(GATE, "gate", "row", state)], 1, 1), n_visual=1, n_text=1)
    assert table["tie"].tolist() == [True, False] and table["label"].tolist() == ["visual", "visual"]
    assert table["p_text"].tolist() == [0.5, 0.0] and table["confident"].tolist() == [False, True]


def test_normalisation_keeps_the_order_at_any_size():
    values = torch.randn(50, 300).mul(10.0 ** torch.randint(-30, 30, (50, 1))).sort(1).values
    scaled = normalise(values, values[:, -1])
    assert (scaled.diff(dim=1) >= 0).all()
    assert (scaled.max(1).values == 10).all()
    assert (scaled[values <= 0] == 0).all()
    assert (normalise(values, torch.zeros(50)) == 0).all()


def test_few_samples_give_shares_of_what_is_there(tmp_path):
    samples = random_samples(7, 4, torch.float32)
    table = classify(run_of(tmp_path, [(GATE, "gate", "row", state_of(samples, 50, 4, 2))], 4, 2))
    assert (table["n_samples"] == 7).all()
    assert np.allclose(table.filter(like="p_").sum(1), 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_visual": 5}, "n_visual=5: the scan kept 4"),
        ({"n_text": 3}, "n_text=3: the scan kept 2"),
        ({"n_text": 0}, "n_text=0"),
        ({"t_visual": 10.0}, "t_visual=10.0"),
        ({"t_text": -1.0}, "t_text=-1.0"),
        ({"peak": "max"}, "peak='max': choose from 'tokens', 'all'"),
        ({"t_text": float("nan")}, "t_text=nan"),
    ],
)
def test_bad_parameters_are_refused_by_name(tmp_path, arguments, message):
    run = run_of(tmp_path, [(GATE, "gate", "row", state_of(random_samples(5, 2, torch.float32), 5, 4, 2))], 4, 2)
    with pytest.raises(ValueError, match=message):
        classify(run, **arguments)
    assert not (tmp_path / "neurons.parquet").exists()


def test_table_has_the_documented_columns_and_is_saved_on_request(tmp_path):
    states = [
        (GATE, "gate", "row", state_of(random_samples(5, 2, torch.float32), 5, 4, 2)),
        (PROJECTOR, "projector", "image", state_of(random_samples(5, 3, torch.float32), 5, 4, 2)),
    ]
    run = run_of(tmp_path, states, 4, 2)
    with pytest.raises(FileNotFoundError, match=r"neurons.parquet is not there: run.save\(vn.classify\(run\)\)"):
        run.table()
    table = classify(run)
    assert not (tmp_path / "neurons.parquet").exists()
    assert run.save(table) == tmp_path / "neurons.parquet"
    shares = ["p_visual", "p_text", "p_multimodal", "p_unknown"]
    found = ["label", "confident", "tie", "peak", "peak_all_tokens", "n_samples"]
    assert list(table.columns) == ["neuron", "site", "hook", "layer", "index", "pole", *shares, *found]
    assert list(table["neuron"]) == ["L0N0", "L0N1", "P0N0", "P0N1", "P0N2"]
    pd.testing.assert_frame_equal(run.table(), table, check_dtype=False)
    stored = pq.read_table(tmp_path / "neurons.parquet").schema.metadata  # readable without this package
    assert (
        json.loads(stored[b"PANDAS_ATTRS"])["parameters"]
        == table.attrs["parameters"]
        == run.table().attrs["parameters"]
    )
    assert table.attrs["parameters"] == {
        "method": "thresholds",
        "t_visual": 2.0,
        "n_visual": 4,
        "t_text": 3.0,
        "n_text": 2,
        "peak": "tokens",
    }
    projector = table[table["site"] == "projector"]
    assert (projector["label"] == "not_applicable").all() and no_classes(projector) and not no_classes(table)
    assert projector.filter(like="p_").filter(regex="^p_").isna().all().all()
    assert projector["peak"].notna().all()


def test_statistics_count_by_layer_and_leave_not_applicable_out_of_shares():
    labels = [str(x) for x in seeds.rng().choice(MODALITIES, 200)]
    table = pd.DataFrame(
        {
            "site": ["gate"] * 200 + ["projector"] * 10,
            "pole": "+",
            "layer": [i % 3 for i in range(200)] + [0] * 10,
            "label": labels + ["not_applicable"] * 10,
            "confident": [i % 5 == 0 for i in range(200)] + [False] * 10,
        }
    )
    found = statistics(table).set_index(["site", "pole", "layer", "label"])
    for layer in (0, 1, 2, "all"):
        here = [i for i in range(200) if layer in ("all", i % 3)]
        counts = Counter(labels[i] for i in here)
        for label in MODALITIES:
            row = found.loc[("gate", "+", layer, label)]
            assert row["count"] == counts[label]
            assert row["share"] == counts[label] / len(here)
            sure = sum(labels[i] == label and i % 5 == 0 for i in here)
            assert row["confident"] == sure and row["confident_share"] == pytest.approx(sure / counts[label])
    assert found.loc[("projector", "+", "all", "not_applicable"), "count"] == 10
    assert np.isnan(found.loc[("projector", "+", "all", "not_applicable"), "share"])


def test_statistics_count_neurons_of_whatever_dtype_and_with_an_unknown_confidence():
    table = pd.DataFrame(
        {"site": "post", "pole": "+", "layer": [0, 0, 1, 1], "label": ["visual", "text", "visual", "unknown"]}
    )
    sure = [True, None, True, False]
    for kind in (object, "boolean"):
        for label in (str, "category"):
            given = table.assign(confident=pd.Series(sure, dtype=kind), label=table["label"].astype(label))
            given = pd.concat([given, given[:1].assign(site="gate")])
            found = {(row.site, row.layer, row.label): row for row in statistics(given).itertuples()}
            assert [found["post", 0, name]._asdict()["count"] for name in MODALITIES] == [1, 1, 0, 0]
            assert [found["post", "all", name].confident for name in MODALITIES] == [2, 0, 0, 0]
            assert len(found) == 20 and np.isnan(found["gate", "all", "visual"].depth)


def test_a_neuron_without_a_layer_counts_among_all_layers_alone():
    table = pd.DataFrame(
        {"site": "gate", "pole": "+", "layer": [0, None], "label": ["visual", "text"], "confident": True}
    )
    found = statistics(table).set_index(["layer", "label"])["count"]
    assert found[0].to_dict() == {"visual": 1, "text": 0, "multimodal": 0, "unknown": 0}
    assert found["all"].to_dict() == {"visual": 1, "text": 1, "multimodal": 0, "unknown": 0}


def test_a_table_can_have_hooks_without_neurons():
    column = {"hook": "blocks.0.mlp.hook_act", "site": "gate", "layer": 0, "pole": "+"}
    for widths, ids in (([0], []), ([0, 2], ["L0N0", "L0N1"])):
        assert neuron_table([{**column, "d": d} for d in widths], [])["neuron"].tolist() == ids


def test_a_7b_models_neurons_are_classified(tmp_path):
    d, layers = 11_008, 8  # a quarter of LLaVA-1.5-7B
    states = []
    for layer in range(layers):
        visual, text = torch.randn(d, 50, 4).sort(-1, True).values, torch.randn(d, 50, 2).sort(-1, True).values
        order = torch.maximum(visual[..., 0], text[..., 0]).argsort(1, descending=True)
        visual, text = (v.take_along_dim(order[..., None], 1) for v in (visual, text))
        ids = torch.randint(0, 23_000, (d, 50), dtype=torch.int32)
        states.append((f"blocks.{layer}.mlp.hook_act", "gate", "row", TopSamples(ids, visual, text, visual[:, 0, 0])))
    run = run_of(tmp_path, states, 4, 2)
    assert len(classify(run)) == d * layers
