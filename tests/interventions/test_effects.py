"""Causal effects against runs by hand; controls that match; intervals that cover; checks that leave no trace."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import seeds
import torch

import vlm_neurons as vn
from vlm_neurons import HookedVLM, Neuron, zoo
from vlm_neurons.hooks import ablate
from vlm_neurons.interventions.effects import NEAREST, activation_sizes, matched
from vlm_neurons.interventions.measures import measure, prepare_tasks
from vlm_neurons.stats import bootstrap_means as bootstrap
from vlm_neurons.synthetic import language


def loss_by_hand(model: HookedVLM, sample: Any, hooks: Any = ()) -> tuple[float, bool]:
    """Token by token, one sample alone."""
    batch = model.prepare([sample.load_images()], [sample.prompt], [sample.response])
    with torch.no_grad():
        logits = model.run_with_hooks(batch, fwd_hooks=list(hooks))[0]
    said = batch.mask("text")[0].nonzero().flatten().tolist()
    losses = [-float(logits[p - 1].log_softmax(-1)[batch.input_ids[0, p]]) for p in said]
    return float(np.mean(losses)), all(int(logits[p - 1].argmax()) == int(batch.input_ids[0, p]) for p in said)


def test_measures_equal_those_of_every_sample_alone(model: HookedVLM, data: Any, text: Any) -> None:
    hooks = ablate("L0N3, P0N2", to=2.0)
    scores = measure(model, prepare_tasks(model, data, text=text, batch_size=3), hooks)
    for name, samples in (("description", data), ("text", text)):
        by_hand = [loss_by_hand(model, s, hooks) for s in samples]
        assert scores[f"{name} loss"] == pytest.approx([loss for loss, _ in by_hand], abs=1e-4)
        if name == "text":
            assert scores["text right"].tolist() == [float(right) for _, right in by_hand]


def test_attribute_words_and_answers_are_those_that_greedy_generation_gets_right() -> None:
    if zoo.path("tiny-llava-scenes") is None:
        pytest.skip("no embedded model")
    model = HookedVLM.from_pretrained("tiny-llava-scenes")
    scenes, questions = vn.scenes(6, seed=5), vn.scenes(12, seed=6, task="question")
    scores = measure(model, prepare_tasks(model, scenes, questions=questions))
    said = model.generate([s.load_images() for s in questions], [s.prompt for s in questions], max_new_tokens=8)
    assert [t == s.response for t, s in zip(said, questions, strict=True)] == (scores["question right"] == 1).tolist()
    said = model.generate([s.load_images() for s in scenes], [s.prompt for s in scenes])
    for i, text in enumerate(said):  # a first word that is wrong is wrong both ways; later ones depend on it
        true, found = language.facts(scenes.worlds[i])[0], language.read_description(text)[0]
        right = bool(found) and found[0]["size"] == true[0]["size"]
        assert (scores["size"][i] == 1) <= right
    for kind in ("size", "color", "shape", "place", "background"):
        assert np.isfinite(scores[kind]).all()


def test_controls_are_of_the_same_layer_as_many_and_about_as_active(model: HookedVLM, data: Any) -> None:
    tasks = prepare_tasks(model, data)
    hooks = model.site_hooks("gate")
    sizes = activation_sizes(model, tasks[0].batches, hooks, "visual")
    _, cache = model.run_with_cache(tasks[0].batches[0], names_filter=hooks)
    visual = tasks[0].batches[0].mask("visual")
    assert np.allclose(sizes[hooks[1]], cache[hooks[1]][visual].pow(2).mean(0).sqrt(), rtol=1e-4)
    for _ in range(5):
        rng = seeds.rng()
        chosen = [Neuron(h, int(i)) for h in hooks for i in rng.choice(44, 9, replace=False)]
        found = matched(chosen, sizes, rng)
        assert len(set(found)) == len(found) == 18 and not set(found) & set(chosen)
        assert [sum(n.hook == h for n in found) for h in hooks] == [9, 9]
    one = Neuron(hooks[0], 20)
    distance = np.abs(np.log(sizes[hooks[0]]) - np.log(sizes[hooks[0]][20]))
    nearest = set(np.argsort(distance)[1 : NEAREST + 1].tolist())
    drawn = {matched([one], sizes, np.random.default_rng(s))[0].index for s in range(60)}
    assert drawn == nearest, "every one of the nearest is drawn, and no other"
    most = [Neuron(hooks[0], i) for i in range(30)]
    assert sorted(n.index for n in matched(most, sizes, rng)) == list(range(30, 44)), "all others, where they are fewer"


def test_effects_are_those_of_ablating_by_hand(model: HookedVLM, data: Any, text: Any, table: pd.DataFrame) -> None:
    groups = {"some": ["L0N1", "L1N2"], "more": table[table["label"] == "text"]}
    found = vn.causal_effects(
        model, data, groups=groups, controls=2, where=(None, "visual"), text=text, progress=False, batch_size=4
    )
    for row in found.itertuples():
        samples = text if row.measure.startswith("text") else data
        assert not (row.where == "visual" and row.measure.startswith("text")), "no picture, nothing to ablate"
        if not row.measure.endswith("loss"):
            continue
        where = None if row.where == "everywhere" else "visual"
        hooks = ablate(groups[row.group], where=where)
        change = [loss_by_hand(model, s, hooks)[0] - loss_by_hand(model, s)[0] for s in samples]
        assert row.effect == pytest.approx(np.mean(change), abs=1e-4)
        assert (
            row.difference == pytest.approx(row.effect - row.control, abs=1e-9)
            and row.low <= row.difference <= row.high
        )
    assert set(found["n_control"] <= found["n_neurons"]) == {True}


def test_a_whole_layer_has_no_controls_and_no_control_is_no_zero(model: HookedVLM, data: Any) -> None:
    options: dict[str, Any] = {"groups": {"layer": [f"L0N{i}" for i in range(44)]}, "controls": 2, "where": ["visual"]}
    found = vn.causal_effects(model, data, **options, progress=False)
    assert (found["n_control"] == 0).all() and found[["intact", "effect"]].notna().all(axis=None)
    assert found[["size_ratio", "control", "difference", "low", "high", "se"]].isna().all(axis=None)
    compared = vn.interventions.compare_effects(found, found)
    assert compared[["change", "low", "high", "covers_zero"]].isna().all(axis=None)


def test_the_same_seed_gives_the_same_and_two_seeds_agree_where_nothing_differs(
    model: HookedVLM, data: Any, table: pd.DataFrame
) -> None:
    def run(seed: int) -> pd.DataFrame:
        return vn.causal_effects(model, data, table, controls=2, where=("visual",), seed=seed, progress=False)

    a = run(0)
    pd.testing.assert_frame_equal(a, run(0))
    compared = vn.interventions.compare_effects(a, run(1))
    assert len(compared) == len(a) and compared["covers_zero"].mean() > 0.4
    assert vn.interventions.compare_effects(a, a)["covers_zero"].all()


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Samples and control draws both vary: coverage over 200 made-up experiments."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        values = 0.3 + rng.normal(size=(60, 1)) + 0.5 * rng.normal(size=(1, 12)) + rng.normal(size=(60, 12))
        low, high = np.percentile(bootstrap(values, rng, 400), [2.5, 97.5])
        hits += low <= 0.3 <= high
    assert 0.87 <= hits / 200 <= 0.995


@pytest.mark.parametrize("task", ["question", "text", "describe"])
def test_a_measure_that_no_sample_has_is_left_out(task: str) -> None:
    model = HookedVLM.from_pretrained("tiny-llava-scenes")
    found = vn.causal_effects(model, vn.scenes(2, seed=1, task=task), groups={"some": ["L2N304"]}, controls=2,
                              where=["template"], progress=False)  # fmt: skip
    assert len(found) and found["n"].min() > 0 and found["effect"].notna().all()


def test_groups_are_the_classes_of_the_table(table: pd.DataFrame) -> None:
    groups = vn.interventions.class_groups(table, by_layer=True)
    assert sum(map(len, groups.values())) == len(table) and "text, layer 0" in groups
    top = vn.interventions.class_groups(table, top=5, confident=True)["unknown"]
    sure = table[(table["label"] == "unknown") & table["confident"]]
    assert set(top["neuron"]) == set(sure.nlargest(5, ["p_unknown", "peak"])["neuron"])


def test_controls_leave_the_model_as_it_was_and_are_what_they_say(model: HookedVLM, data: Any) -> None:
    before = {n: p.clone() for n, p in model.bridge.original_model.named_parameters()}
    found = vn.interventions.controls(model, data, draws=2, classes=True)
    assert all(torch.equal(before[n], p) for n, p in model.bridge.original_model.named_parameters())
    rows = found.set_index(["check", "condition"])
    mlps = ablate("blocks.1.hook_mlp_out", where="visual")
    silenced = [loss_by_hand(model, s, mlps)[0] for s in data]
    assert rows.loc[("silenced", "visual, layer 1"), "description loss"] == pytest.approx(np.mean(silenced), abs=1e-4)
    with vn.interventions.random_gates(model, seed=1):
        gates = [p for n, p in model.bridge.original_model.named_parameters() if "gate_proj" in n]
        old = [p for n, p in before.items() if "gate_proj" in n]
        assert all(torch.allclose(a.norm(dim=1), b.norm(dim=1), rtol=1e-5) for a, b in zip(gates, old, strict=True))
        assert not any(torch.allclose(a, b) for a, b in zip(gates, old, strict=True))
        random = [loss_by_hand(model, s)[0] for s in data]
    assert rows.loc[("random gates", "draw 1"), "description loss"] == pytest.approx(np.mean(random), abs=1e-4)
    classes = rows.loc[[("intact", ""), ("random gates", "draw 0")], ["visual", "text", "multimodal", "unknown"]]
    assert (classes.sum(axis=1) == 88).all()


def test_the_pruning_curve_is_that_of_ablating_so_many(model: HookedVLM, data: Any, table: pd.DataFrame) -> None:
    found = vn.interventions.pruning_curve(model, data, table, shares=(0, 0.25, 1), draws=1, progress=False)
    assert (found[found["share"] == 0]["change"] == 0).all()
    everything = ablate(table)
    gone = np.mean([loss_by_hand(model, s, everything)[0] for s in data])
    for order in ("random", "smallest"):
        row = found[(found["order"] == order) & (found["share"] == 1)].iloc[0]
        assert row["description loss"] == pytest.approx(gone, abs=1e-4) and row["n_neurons"] == 88
    sizes = activation_sizes(model, prepare_tasks(model, data)[0].batches, model.site_hooks("gate"))
    small = sorted(table["neuron"], key=lambda i: sizes[Neuron.parse(i).hook][Neuron.parse(i).index])[:22]
    hooks = ablate(small)
    row = found[(found["order"] == "smallest") & (found["share"] == 0.25)].iloc[0]
    by_hand = np.mean([loss_by_hand(model, s, hooks)[0] for s in data])
    assert row["description loss"] == pytest.approx(by_hand, abs=1e-4)


def test_mistakes_are_named(model: HookedVLM, data: Any, table: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="needs at least 2"):
        vn.causal_effects(model, data, table, controls=1)
    with pytest.raises(ValueError, match="give the table"):
        vn.causal_effects(model, data)
    with pytest.raises(ValueError, match="no response to measure"):
        vn.interventions.controls(model, data.with_responses([None] * len(data)))
    with pytest.raises(ValueError, match="orders are"):
        vn.interventions.pruning_curve(model, data, table, orders=("largest",))
