"""The modality test: equal to scipy's tests on stored images, and error rates that hold on simulated neurons."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import seeds
import torch
from safetensors.torch import save_file
from scipy import stats

from vlm_neurons.classification import modality, modality_test, statistics
from vlm_neurons.classification.interval import t_values
from vlm_neurons.classification.modality import CLASSES, compare_modalities
from vlm_neurons.scanning import Run, TopSamples
from vlm_neurons.scanning.blocks import FORMAT, tensor_name
from vlm_neurons.scanning.moments import Moments
from vlm_neurons.stats import false_discovery

KAPPA = 1.2 / 0.8
GATE, PROJECTOR = "blocks.0.mlp.hook_act", "projector.0.hook_post"


@pytest.fixture(scope="module")
def simulation():
    file = Path(__file__).parents[2] / "examples" / "simulate_modality_test.py"
    spec = importlib.util.spec_from_file_location("simulate_modality_test", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


POWERS = ((1, 0), (0, 1), (2, 0), (0, 2), (1, 1), (3, 0), (2, 1), (1, 2), (0, 3))


def sums_of(v, t):
    return np.stack([(v**i * t**j).sum(1) for i, j in POWERS], 1)


def random_means(d, n, rng):
    preference = rng.uniform(0.1, 3, (d, 1))
    return rng.gamma(1.0, preference, (d, n)), rng.gamma(1.0, 1.0, (d, n))


def two_tests(x):
    """p of a mean > 0, of values themselves: the larger of Student's and of Hall's (1992), who removes skewness."""
    plain, n = stats.ttest_1samp(x, 0).statistic, len(x)
    g = stats.skew(x) * ((n - 1) / n) ** 1.5
    corrected = plain + g * plain**2 / (3 * n**0.5) + g**2 * plain**3 / (27 * n) + g / (6 * n**0.5)
    return stats.t.sf(min(plain, corrected), n - 1)


def test_p_values_equal_tests_on_the_images_themselves():
    v, t = random_means(30, 40, seeds.rng())
    found = compare_modalities(sums_of(v, t), 40)
    for j in range(30):
        visual, text = v[j] - KAPPA * t[j], t[j] - KAPPA * v[j]
        p_v, p_t, p_m = two_tests(visual), two_tests(text), max(two_tests(-visual), two_tests(-text))
        assert found.p_classes[j] == pytest.approx([p_v, p_t, p_m], rel=1e-6, abs=1e-12)
        assert found.p[j] == pytest.approx(min(1, 2 * min(p_v, p_t, p_m)))
        assert found.index[j] == pytest.approx((v[j].sum() - t[j].sum()) / (v[j].sum() + t[j].sum()))


def test_the_interval_ends_where_the_test_of_that_value_turns():
    v, t = random_means(20, 60, seeds.rng())
    found = compare_modalities(sums_of(v, t), 60)
    for j in range(20):
        for end, sign in ((found.low[j], 1), (found.high[j], -1)):
            p = 2 * two_tests(sign * ((v[j] - t[j]) - end * (v[j] + t[j])))
            assert p == pytest.approx(0.05, abs=1e-6)
        assert found.low[j] < found.index[j] < found.high[j]


def test_intervals_are_those_of_bisection_for_rare_constant_and_one_sided_neurons():
    rng = seeds.rng()
    v, t = random_means(120, 40, rng)
    v[:40] *= rng.uniform(size=(40, 40)) < 0.3
    t[20:60] *= rng.uniform(size=(40, 40)) < 0.3
    v[60:65], t[65:70], v[70:72], t[71:73] = 0, 0, 1, 2
    v[80:100], t[80:100] = rng.uniform(size=(2, 20, 1))  # the same in all images
    found = compare_modalities(sums_of(v, t), 40)
    assert ((found.low <= found.index) & (found.index <= found.high)).sum() == (~np.isnan(found.index)).sum()
    many = seeds.rng().integers(1, 4, (200, 100)).astype(float)  # nearly all on one side: roots that coincide
    close = compare_modalities(sums_of(many, many * 10.0 ** -seeds.rng().integers(1, 9, (200, 1))), 100)
    assert ((close.low <= close.index) & (close.index <= close.high)).all()
    critical = stats.t.ppf(0.975, 39)
    for j, index in enumerate(found.index):
        for end, outer in ((found.low[j], -1.0), (found.high[j], 1.0)):

            def rejected(m, j=j, outer=outer):
                two = t_values(sums_of(v[[j]], t[[j]]).T / 40, 40, 1 - m, -1 - m)
                return min(-outer * x.item() for x in two) > critical

            inside, outside = index, outer
            for _ in range(40 if rejected(outer) else 0):
                middle = (inside + outside) / 2
                inside, outside = (inside, middle) if rejected(middle) else (middle, outside)
            assert end == pytest.approx(inside if rejected(outer) else outer, abs=1e-7), j


def test_what_is_said_of_a_neuron_does_not_depend_on_the_hooks_that_are_tested_with_it(monkeypatch):
    monkeypatch.setattr(modality, "AT_ONCE", 7)
    rng = seeds.rng()
    moments = []
    for d in (3, 0, 1, None, 5, 20, 2):
        if d is None:  # a hook without text
            moments.append(None)
            continue
        n = rng.integers(2, 60, d)
        sums = [sums_of(*random_means(1, k, rng))[0] for k in n]
        sums = torch.tensor(np.array(sums).reshape(d, 9))
        moments.append(Moments(sums, torch.zeros(d, 2, dtype=torch.int32), torch.tensor(n)))
    found = modality._tested(moments, 0.2)
    assert found[3] is None
    for of_hook, tested in zip(moments, found, strict=True):
        for i in range(0 if of_hook is None else len(of_hook.n_images)):
            alone = compare_modalities(of_hook.sums[[i]].numpy(), of_hook.n_images[[i]].numpy(), 0.2)
            for name in ("index", "low", "high", "p_classes", "p"):
                np.testing.assert_array_equal(getattr(tested, name)[i], getattr(alone, name)[0])
        assert of_hook is None or len(tested.p) == len(of_hook.n_images)


def test_silent_neurons_and_constant_ones_have_no_false_certainty():
    v, t = np.zeros((3, 50)), np.zeros((3, 50))
    v[1], t[1] = 1.0, 1.0
    v[2, 0] = 5.0  # one image alone
    found = compare_modalities(sums_of(v, t), 50)
    assert np.isnan(found.index[0]) and found.p[0] == 1 and (found.low[0], found.high[0]) == (-1, 1)
    assert CLASSES[found.p_classes[1].argmin()] == "multimodal" and found.index[1] == 0
    assert found.p[2] > 0.05 and (found.low[2], found.high[2]) == (-1, 1)
    single = compare_modalities(sums_of(v, t)[[0, 2]], 1)
    assert (single.p == 1).all() and single.low.tolist() == [-1, -1] and single.high.tolist() == [1, 1]
    assert np.isnan(single.index[0]) and single.index[1] == 1


def test_false_discovery_of_yekutieli_is_stricter():
    p = seeds.rng().uniform(size=100) ** 3
    assert (false_discovery(p, "by") >= false_discovery(p, "bh")).all()
    assert len(false_discovery(np.zeros(0))) == 0


@pytest.mark.parametrize("correction", ["bh", "by"])
def test_q_values_are_those_of_scipy_and_of_the_definition(correction):
    p = np.round(seeds.rng().uniform(size=60) ** 3, 2)  # with equals, 0 among them
    q = false_discovery(p, correction)
    assert q == pytest.approx(stats.false_discovery_control(p, method=correction), rel=1e-14)
    worst = sum(1 / k for k in range(1, 61)) if correction == "by" else 1
    assert (q >= p).all()
    for wrong, how in ((p + 1, correction), (p - 0.5, correction), (p, correction.upper())):
        with pytest.raises(ValueError, match="choose 'bh' or 'by', for p-values from 0 to 1"):
            false_discovery(wrong, how)
    for j, own in enumerate(p):  # the smallest rate at which j is among those below rate * rank / n
        rates = [min(1, worst * other * 60 / (p <= other).sum()) for other in p if other >= own]
        assert q[j] == pytest.approx(min(rates))


def run_of(path, v, t):
    """A run whose moments are those of given images."""
    d, n = v.shape
    state = TopSamples.empty(d, 1, 1, 1, torch.float32)
    active = np.stack([(v > 0).sum(1), (t > 0).sum(1)], 1)
    moments = Moments(torch.from_numpy(sums_of(v, t)), torch.from_numpy(active).int(), torch.full((len(active),), n))
    tensors = {tensor_name((GATE, "+"), k): x for part in (state, moments) for k, x in part.tensors().items()}
    tensors |= {tensor_name((PROJECTOR, "+"), k): x.clone() for k, x in state.tensors().items()}
    common = {"pole": "+", "layer": 0, "d": d}
    columns = [
        {"hook": GATE, "site": "gate", "indexed_by": "row", **common},
        {"hook": PROJECTOR, "site": "projector", "indexed_by": "image", **common},
    ]
    run = Run(path, {"columns": columns, "parameters": {"n_visual": 1, "n_text": 1}})
    save_file(tensors, path / "scan.safetensors", {"format": str(FORMAT), "run": run.identity})
    return run


def test_labels_reasons_and_columns(tmp_path):
    rng = seeds.rng()
    v, t = rng.gamma(2.0, 1.0, (6, 300)), rng.gamma(2.0, 1.0, (6, 300))
    v[0] *= 5  # visual
    t[1] *= 5  # text, 2 is multimodal
    v[3] *= KAPPA * v[3].mean() ** -1 * t[3].mean()  # on the edge
    v[4, 50:], t[4, 50:] = 0, 0  # active in 50 images
    t[5], v[5] = 0, 0
    t[5, :15], v[5] = 1000, t[2]  # means are alike, text in 15 images only
    run = run_of(tmp_path, v, t)
    table = modality_test(run)
    gate = table[table["site"] == "gate"]
    assert gate["label"].tolist()[:3] == ["visual", "text", "multimodal"] and gate["confident"][:3].all()
    assert gate["label"].tolist()[3:5] == ["unknown"] * 2 and gate["reason"].tolist()[3:5] == ["undecided", "inactive"]
    assert gate["label"][5] != "multimodal" and gate["active_text"][5] == 15
    assert gate["q"].isna().tolist() == [False] * 4 + [True, False]
    assert ((gate["index_low"] <= gate["modality_index"]) & (gate["modality_index"] <= gate["index_high"])).all()
    projector = table[table["site"] == "projector"]
    assert (projector["label"] == "not_applicable").all() and projector["p"].isna().all()
    assert run.save(table) == tmp_path / "modality-test.parquet"
    stored = run.table("modality-test")
    pd.testing.assert_frame_equal(stored, table, check_dtype=False)
    assert stored.attrs["parameters"] == {"method": "modality-test", "fdr": 0.05, "delta": 0.2, "correction": "bh"}
    assert not (tmp_path / "neurons.parquet").exists()
    counts = statistics(table).set_index(["site", "layer", "label"])["count"]
    assert counts["gate", "all", "visual"] == 1 and counts["projector", "all", "not_applicable"] == 6


@pytest.mark.parametrize("spoil", [lambda t: t[1:], lambda t: t[::-1], lambda t: t.set_index("neuron"), pd.concat])
def test_only_a_whole_table_of_the_run_is_saved(tmp_path, spoil):
    run = run_of(tmp_path, np.ones((3, 9)), np.ones((3, 9)))
    table = modality_test(run)
    with pytest.raises(ValueError, match="table= "):
        run.save(spoil([table.assign(), table.assign()] if spoil is pd.concat else table))
    with pytest.raises(ValueError, match="does not say how it was made"):
        run.save(pd.DataFrame(table.to_dict("list")))
    assert [file.name for file in tmp_path.iterdir()] == ["scan.safetensors"]


@pytest.mark.parametrize("options", [{"delta": 0.0}, {"delta": 1.0}, {"fdr": 0}, {"correction": "holm"}])
def test_settings_without_meaning_are_refused(tmp_path, options):
    ones = np.ones((2, 9))
    with pytest.raises(ValueError, match=next(iter(options))):
        modality_test(run_of(tmp_path, ones, ones), **options)


@pytest.mark.parametrize("correlation", [0.0, 0.02, 0.1])
def test_simulated_nulls_are_rejected_as_often_as_promised_and_pooling_more_often(simulation, correlation):
    size = simulation.Size(neurons=3_000, images=100, visual=48, text=16, chunk=500)
    rates = simulation.null_rates(simulation.gaussian(correlation), size, [0.05])[0.05]
    for name in ("no preference", "edge of the margin"):
        hits = round(rates[name][0] * size.neurons)  # the full version bounds the rate itself
        assert stats.binomtest(hits, size.neurons, 0.06, alternative="greater").pvalue > 1e-4, (name, rates[name])
    if correlation == 0.1:
        assert rates["no preference, pooled tokens"][0] > 0.11


def test_a_rare_and_heavy_tailed_modality_brings_a_fraction_of_the_wrong_claims_of_a_plain_t_test(simulation):
    size = simulation.Size(neurons=1_000, images=100, visual=32, text=8, chunk=500)
    rates = simulation.null_rates((simulation.gaussian(0.0), simulation.rare), size, [0.05, 0.01])
    for alpha, found in rates.items():
        assert found["edge of the margin"][0] < found["edge, plain t-test"][0] / 2, (alpha, found)
    same = simulation.null_rates(simulation.skewed, size, [0.05])[0.05]  # where a correction alone claims too much
    assert same["no preference"][0] < 0.08 and same["edge of the margin"][0] < 0.05


def test_simulated_preferences_are_found_and_false_discoveries_rare(simulation):
    size = simulation.Size(neurons=200, images=400, visual=32, text=8, chunk=50)
    draw = simulation.gaussian(0.1)
    assert simulation.power(draw, 0.6, size) > 0.95 and simulation.power(draw, 0.0, size) > 0.95
    found = {c: simulation.false_discoveries(c, 10, simulation.Size(chunk=200, images=300)) for c in ("bh", "by")}
    assert found["bh"][0] < 0.05 and found["by"][0] <= found["bh"][0] and found["bh"][2] > 0.3
