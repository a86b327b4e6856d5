"""Scores of neurons with a known rule: true explanations score, false ones do not, and nothing is hidden."""

from __future__ import annotations

from collections import UserDict
from dataclasses import replace

import numpy as np
import pytest
import seeds

import vlm_neurons as vn
from vlm_neurons import planted
from vlm_neurons.autointerp.explanation import Explanation, Failure
from vlm_neurons.autointerp.protocols import sides_of
from vlm_neurons.autointerp.simulators import Oracle, Prediction, Resolution, Simulator
from vlm_neurons.autointerp.store import load_simulations as load
from vlm_neurons.scanning.results import load_scores

SEED = seeds.PLANTED
KINDS = ("color", "word", "picture_or_word")


@pytest.fixture(scope="module")
def made():
    return {p.evidence.neuron: p for p in planted.neurons(KINDS, n=4, seed=SEED)}


@pytest.fixture(scope="module")
def evidence(made):
    return {k: p.evidence for k, p in made.items()}


def said(made, kind):
    return {k: p.rule.explanations[kind] for k, p in made.items()}


def scored(explanations, evidence, **options):
    return vn.score(explanations, evidence, progress=False, n_permutations=999, full=True, **options)


@pytest.fixture(scope="module")
def true(made, evidence):
    return scored(said(made, "true"), evidence)


class Counting(Simulator):
    """Predicts the truth with noise, and counts what it is asked; some replies fail."""

    name = "counting"

    def __init__(self, fails=0.0, resolution=None):
        self.asked, self.fails, self.rng = [], fails, np.random.default_rng(0)
        self.resolution = resolution or Resolution()

    def settings(self):
        return "counting"

    def run(self, jobs):
        for place, job in enumerate(jobs):
            self.asked.append((job.explanation, job.exemplar.seen.sample, job.exemplar.split))
            if self.rng.random() < self.fails:
                yield place, Prediction(failure=Failure("network", "cut"))
                continue
            if job.side == "text":
                yield place, Prediction(token_acts=job.exemplar.token_acts + 0.0)
                continue
            yield place, Prediction(tuple(p + self.rng.normal(0, 0.1, p.shape) for p in job.exemplar.patch_acts))


def test_true_explanations_score_and_false_ones_score_less(made, evidence, true):
    assert (true.r > 0.7).all() and (true.p <= 0.01).all() and (true.q <= 0.05).all(), true
    assert ((true.r_low < true.r) & (true.r < true.r_high)).all()
    assert true.set_index("neuron").loc["color-0", "side"] == "picture"
    assert true.set_index("neuron").loc["word-0", "side"] == "text"
    for kind in ("near_miss", "too_broad", "too_narrow", "wrong"):
        other = scored(said(made, kind), evidence, n_null=0)
        lower = true.r - other.r.fillna(0)  # what is false of one side may be right about the other
        assert (lower > -0.05).all() and (lower.groupby(true.neuron).max() > 0).all(), (kind, other)
    wrong = scored(said(made, "wrong"), evidence, n_null=0)  # the wrong shape is where objects are: r is not 0
    assert (wrong.r.fillna(0) < true.r - 0.3).all(), wrong
    assert (wrong[wrong.neuron.str.startswith("word")].q > 0.001).all()


def test_only_test_exemplars_are_simulated_and_scored(made, evidence):
    simulator = Counting()
    one = {"color-0": "red regions"}
    table = scored(one, evidence, simulator=simulator, n_null=0)
    assert {split for _, _, split in simulator.asked} == {"test"}
    own = evidence["color-0"]
    assert {s for _, s, _ in simulator.asked} <= {e.seen.sample for e in (*own.split("test"), *own.pool)}
    alone = replace(own, pool=())
    assert set(vn.simulate(one, {"color-0": alone}, progress=False)["color-0", "picture"].samples) == {
        e.seen.sample for e in own.split("test")
    }
    assert table.n_exemplars[0] == 60 and table.n_images[0] == 60 and not table.approximate[0]


def test_failed_replies_are_counted_and_move_the_score_by_less_than_its_interval(evidence):
    one = {"color-1": "anything"}
    whole = scored(one, evidence, simulator=Counting(), n_null=0).iloc[0]
    part = scored(one, evidence, simulator=Counting(fails=0.3), n_null=0).iloc[0]
    assert part.n_failed > 5 and part.n_images == 60 - part.n_failed
    assert whole.r_low - 0.05 <= part.r <= whole.r_high + 0.05
    none = scored(one, evidence, simulator=Counting(fails=1.0), n_null=0).iloc[0]
    assert np.isnan(none.r) and none.n_failed == 60 and "network" in none.note


def test_an_explanation_that_says_nothing_or_failed_has_no_score(evidence):
    failed = Explanation("word-0", "", failure=Failure("refusal", "no"))
    table = scored({"color-0": "no clear pattern", "color-1": "", "word-0": failed, "word-1": "words for weather"},
                   evidence, n_null=0).set_index("neuron")  # fmt: skip
    assert table.r.isna().all() and table.p.isna().all() and table.q.isna().all()
    assert table.note["color-0"] == table.note["color-1"] == "constant simulation"
    assert "refusal" in table.note["word-0"] and "vocabulary" in table.note["word-1"]
    assert table.n_failed["word-1"] == 60


def test_other_neurons_explanations_are_a_null_that_tells_specific_from_common(made, evidence, true):
    by_kind = true.assign(kind=true.neuron.str.split("-").str[0]).groupby("kind")
    assert (by_kind.r_null.median() < 0.3).all(), true
    shared = {k: "objects" for k in evidence if k.startswith("color")}
    common = scored(shared, evidence)
    there = common[common.n_null > 0]
    np.testing.assert_allclose(there.r_null, there.r, err_msg="the same explanation everywhere is not specific")


def test_null_explanations_come_from_the_same_class_and_not_from_samples_it_is_tested_on(made, evidence):
    from vlm_neurons.autointerp.scorers.other_explanations import _kin, others

    explanations = said(made, "true")
    for key in explanations:
        tested = {e.seen.sample for e in evidence[key].split("test") if e.group == "top"}
        for text in others(key, explanations, evidence, 20, np.random.default_rng(0), lambda k: _kin(evidence[k])):
            sources = [k for k, t in explanations.items() if t == text and k != key]
            assert {k.split("-")[0] for k in sources} == {key.split("-")[0]}
            assert any(not tested & {e.seen.sample for e in evidence[k].split("explain") if e.group == "top"}
                       for k in sources)  # fmt: skip


def test_one_modality_predicts_the_other_where_they_share_a_concept_and_not_where_they_do_not(evidence):
    shared = evidence["picture_or_word-0"]
    explained = vn.explain({shared.neuron: shared}, progress=False)
    table = scored(explained, {shared.neuron: shared})
    assert table.side.tolist() == ["picture", "text"] and (table.r_of_other_side > 0.7).all(), table
    assert sorted(explained[shared.neuron].by_side) == ["picture", "text"]
    other = next(v for k, v in evidence.items() if k.startswith("picture") and v is not shared)
    mixed_exemplars = tuple(replace(e, token_acts=replace_values(e, other)) for e in shared.exemplars)
    mixed_pool = tuple(replace(e, token_acts=replace_values(e, other)) for e in shared.pool)
    mixed = replace(shared, exemplars=mixed_exemplars, pool=mixed_pool, neuron="mixed")
    explained = vn.explain({"mixed": mixed}, progress=False)
    rows = scored(explained, {"mixed": mixed})
    assert not (rows.r_of_other_side > 0.3).any(), rows


def replace_values(e, other):
    """Activation at every comma instead: a concept that no picture shows."""
    return np.array([shared_peak if t.strip() == "," else -0.05 for t in e.seen.tokens], np.float32)


shared_peak = 1.0


def test_a_ceiling_is_the_truth_seen_through_the_simulators_grid(evidence):
    one, evidence = {"color-0": "x"}, {"color-0": replace(evidence["color-0"], pool=(), n_samples=100)}
    fine = scored(one, evidence, simulator=Counting(), n_null=0).iloc[0]
    coarse = scored(one, evidence, simulator=Counting(resolution=Resolution(levels=11, grid=(2, 2))), n_null=0).iloc[0]
    assert fine.ceiling == pytest.approx(1) and coarse.ceiling < 0.8
    real, seen = [], []
    for e in evidence["color-0"].split("test"):
        scaled = evidence["color-0"].scale(e.patch_acts[0])
        real.append(scaled.ravel())
        blocks = scaled.reshape(2, 4, 2, 4).mean((1, 3)).round()
        seen.append(np.kron(blocks, np.ones((4, 4))).ravel())
    assert coarse.ceiling == pytest.approx(np.corrcoef(np.concatenate(real), np.concatenate(seen))[0, 1], abs=1e-6)


def test_the_oracle_bounds_what_a_simulator_reaches_and_baselines_stay_below(made, evidence, true):
    truth = scored(said(made, "true"), evidence, simulator=Oracle.of_planted(made.values()), n_null=0)
    assert (truth.r >= true.r - 0.05).all()
    for name in ("position-prior", "image-only", "token-frequency"):
        base = scored(said(made, "true"), evidence, simulator=name, n_null=0).set_index(["neuron", "side"]).r
        best = true.set_index(["neuron", "side"]).r.loc[base.index]
        assert (base.fillna(0) < best - 0.2).all(), base
    assert scored(said(made, "true"), evidence, simulator="constant", n_null=0).r.isna().all()


def test_what_was_simulated_is_kept_and_what_failed_is_tried_again(tmp_path, evidence):
    some = {k: evidence[k] for k in ("color-0", "word-0")}
    explanations = dict.fromkeys(some, "red regions")
    simulator = Counting(fails=0.02)
    first = vn.simulate(explanations, some, simulator, out=tmp_path, progress=False)
    asked = len(simulator.asked)
    n_failed = {k: s.n_failed for k, s in first.items()}
    simulator.fails = 0.0
    second = vn.simulate(explanations, some, simulator, out=tmp_path, progress=False)
    again = sum(len(some[neuron].split("test")) for (neuron, _), n in n_failed.items() if n)
    assert len(simulator.asked) - asked == again and all(s.n_failed == 0 for s in second.values())
    stored = load(tmp_path)
    assert set(stored) == {("color-0", "picture"), ("word-0", "text")}
    for key, one in second.items():
        assert stored[key].samples == one.samples and stored[key].explanation == "red regions"
        for a, b in zip(stored[key].predictions, one.predictions, strict=True):
            for x, y in zip(a.patch_acts, b.patch_acts, strict=True):
                np.testing.assert_allclose(x, y, rtol=1e-6)
    vn.simulate({"color-0": "blue regions"}, some, simulator, out=tmp_path, progress=False)
    assert load(tmp_path)["color-0", "picture"].explanation == "blue regions" and ("word-0", "text") in load(tmp_path)


def test_the_table_is_written_and_read_as_it_is(tmp_path, made, evidence):
    table = scored(said(made, "true"), evidence, out=tmp_path, n_null=2)
    again = load_scores(tmp_path)
    assert list(again.columns) == list(table.columns)
    np.testing.assert_allclose(again.r, table.r)
    assert again.neuron.tolist() == [k for k, p in made.items() for _ in sides_of(p.evidence)]
    with pytest.raises(FileNotFoundError, match=r"vn\.score"):
        load_scores(tmp_path / "none")


def test_evidence_is_read_once_a_neuron(made, evidence):
    read = []

    class Stored(UserDict):
        def __getitem__(self, name):
            read.append(name)
            return super().__getitem__(name)

    chosen = dict(list(said(made, "true").items())[:3])
    found = scored(chosen, Stored(evidence), n_null=2)
    assert sorted(read) == sorted(chosen)
    assert found.equals(scored(chosen, evidence, n_null=2))


def test_q_is_that_of_benjamini_and_hochberg(made, evidence):
    mixed = {**said(made, "true"), "color-0": "green regions at the top of the image", "word-1": "no clear pattern"}
    table = scored(mixed, evidence, n_null=0)
    p = table.p.dropna().sort_values()
    by_hand = {}
    for i in range(len(p)):
        by_hand[p.index[i]] = min(1.0, min(p.iloc[j] * len(p) / (j + 1) for j in range(i, len(p))))
    for index, q in by_hand.items():
        assert table.q[index] == pytest.approx(q)


def test_the_same_seed_gives_the_same_table(made, evidence, true):
    again = scored(said(made, "true"), evidence)
    assert again.equals(true)


def test_odd_input_is_refused_by_name(evidence):
    with pytest.raises(ValueError, match=r"'guess'.*concepts"):
        scored({"color-0": "x"}, evidence, simulator="guess")
    with pytest.raises(KeyError, match=r"nobody.*gather_evidence"):
        scored({"nobody": "x"}, evidence)
    with pytest.raises(ValueError, match="n_permutations=10"):
        vn.score({"color-0": "x"}, evidence, n_permutations=10)
    assert len(scored({}, evidence)) == 0


def test_a_position_prior_of_a_grid_it_never_saw_is_a_failure_and_no_zeros(evidence):
    from vlm_neurons.autointerp.simulators import BASELINES, Job

    known = BASELINES["position-prior"]().for_neuron(evidence["color-0"])
    e = evidence["color-0"].split("test")[0]
    ((_, seen),) = known.run([Job("", e, "picture")])
    other = replace(e, patch_acts=(np.zeros((3, 5)),))
    ((_, unseen),) = known.run([Job("", other, "picture")])
    assert seen.failure is None and seen.patch_acts[0].any()
    assert unseen.patch_acts == () and unseen.failure.kind == "capability" and "3 x 5" in unseen.failure.detail
