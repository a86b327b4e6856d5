"""Would other images give the same explanation, and does it hold where the neuron is weak?"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import seeds

import vlm_neurons as vn
from vlm_neurons import planted
from vlm_neurons.autointerp import Explainer, Explanation, Failure
from vlm_neurons.autointerp.scoring import cost_of

SEED = seeds.PLANTED


def of(*kinds: str, n: int = 1) -> tuple[dict[str, vn.Evidence], dict[str, str]]:
    made = planted.neurons(kinds, n=n, seed=SEED)
    evidence = {p.evidence.neuron: p.evidence for p in made}
    return evidence, {p.evidence.neuron: p.rule.explanations["true"] for p in made}


class Remembers(Explainer):
    """Says in turn the true words, the same in another order, others, and nothing; keeps what it was shown."""

    def __init__(self) -> None:
        self.shown: list[vn.Evidence] = []

    def explain(self, evidence):
        said = ["red circles; blue squares", "Blue squares; red circles.", "green regions"]
        for i, (key, one) in enumerate(evidence.items()):
            self.shown.append(one)
            failure = Failure("network", "lost") if i % 4 == 3 else None
            yield key, Explanation(one.neuron, "" if failure else said[i % 4], explainer=self.name, failure=failure)


def test_stability_is_the_share_of_new_explanations_that_name_the_same():
    evidence, _ = of("color")
    explainer, (neuron, one) = Remembers(), next(iter(evidence.items()))
    row = vn.autointerp.stability({neuron: "red circles; blue squares"}, evidence, explainer, n=8, progress=False).loc[
        0
    ]
    assert row.tolist()[:3] == [neuron, "red circles; blue squares", pytest.approx(4 / 6)]
    assert (row.n, row.n_failed, row.other, row.other_share) == (6, 2, "green regions", pytest.approx(2 / 6))
    assert 0 < row.low < row.stability < row.high < 1
    own = [e.seen.sample for e in one.split("explain")]
    drawn = [[e.seen.sample for e in shown.split("explain")] for shown in explainer.shown]
    assert all(len(d) == len(own) and set(d) <= set(own) for d in drawn)
    assert max(max(Counter(d).values()) for d in drawn) > 1 and len({tuple(d) for d in drawn}) == 8
    assert all(shown.split("test") == one.split("test") for shown in explainer.shown)


def test_what_a_neuron_does_is_stable_and_a_false_explanation_is_not():
    evidence, true = of("color", "word")
    assert (vn.autointerp.stability(true, evidence, n=6, progress=False)["stability"] == 1).all()
    false = vn.autointerp.stability(dict.fromkeys(true, "white crosses"), evidence, n=6, progress=False)
    assert (false["stability"] == 0).all() and (false["other_share"] == 1).all()
    assert false.set_index("neuron")["other"].to_dict() == true


def test_what_no_explainer_answered_has_no_stability():
    class Fails(Explainer):
        def explain(self, evidence):
            for key, one in evidence.items():
                yield key, Explanation(one.neuron, "", explainer=self.name, failure=Failure("network", "lost"))

    evidence, true = of("color")
    row = vn.autointerp.stability(true, evidence, Fails(), n=3, progress=False).loc[0]
    assert np.isnan([row.stability, row.low, row.high, row.other_share]).all() and (row.n, row.n_failed) == (0, 3)


def test_strengths_are_counted_by_hand_and_end_at_r():
    evidence, true = of("color", "picture_or_word")
    simulations = vn.simulate(true, evidence, progress=False)
    table = vn.autointerp.by_activation(simulations, evidence)
    scores = vn.score(true, evidence, simulations=simulations, n_null=0, progress=False).set_index(["neuron", "side"])
    assert len(table) == 10 * len(simulations) == 30
    for key, rows in table.groupby(["neuron", "side"]):
        assert rows["share"].sum() == pytest.approx(1)
        assert rows["r_up_to"].iloc[-1] == pytest.approx(scores.loc[key, "r"], abs=1e-9)
    one, side = next(iter(simulations))
    from vlm_neurons.autointerp.sampling import drawn

    own = drawn(true, evidence, None)[one]
    places = []
    for e, guess in zip(own.split("test"), simulations[one, side].predictions, strict=True):
        for acts, counts, said in zip(e.patch_acts, e.scored_patches(), guess.patch_acts, strict=True):
            scaled = np.clip(acts / own.peak * 10, 0, 10)
            places += [(scaled[i], said[i], e.weight) for i in np.ndindex(scaled.shape) if counts[i]]
    real, said, weight = np.array(places).T
    row = table[(table.neuron == one) & (table.side == side) & (table.low == 2)].iloc[0]
    here = (real > 2) & (real <= 3)
    assert row.n == here.sum() > 0 and row.share == pytest.approx(weight[here].sum() / weight.sum())
    assert row.predicted == pytest.approx(np.average(said[here], weights=weight[here]))
    up_to = real <= 3
    cov = np.cov(real[up_to], said[up_to], aweights=weight[up_to])
    assert row.r_up_to == pytest.approx(cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1]))


def test_simulations_of_other_samples_are_refused():
    evidence, true = of("color")
    simulations = vn.simulate(true, evidence, n_test=12, progress=False)
    assert len(vn.autointerp.by_activation(simulations, evidence, n_test=12)) == 10
    with pytest.raises(ValueError, match=r"that vn\.simulate was given"):
        vn.autointerp.by_activation(simulations, evidence)
    with pytest.raises(KeyError, match="without evidence"):
        vn.autointerp.by_activation(simulations, {})
    other = {k: replace(e, pool=(), exemplars=e.split("explain")) for k, e in evidence.items()}
    with pytest.raises(ValueError, match="other samples"):
        vn.autointerp.by_activation(simulations, other, n_test=12)


def test_the_mass_of_a_neuron_is_divided_among_its_causes():
    evidence, true = of("polysemantic", "picture_or_word")
    table = vn.autointerp.causes(true, evidence)
    sides = table.groupby(["neuron", "side"])
    assert len(sides) == 3 and sides["share"].sum().tolist() == pytest.approx([1, 1, 1])
    wrong = vn.autointerp.causes(dict.fromkeys(true, "white crosses; the word 'pizza'"), evidence)
    rest, of_wrong = (t[t.cause == "none of these"].share.to_numpy() for t in (table, wrong))
    assert (of_wrong > 0.95).all() and (rest < of_wrong - 0.2).all(), "noise belongs to none"
    two = sides.get_group((next(iter(true)), "picture"))
    assert len(two) == 3 and (two.share.iloc[:2] > 0.05).all()
    assert [len(sides.get_group((next(reversed(true)), side))) for side in ("picture", "text")] == [2, 2]
    neuron, one = next(iter(true)), true[next(iter(true))].split("; ")[0]
    half = vn.autointerp.causes({neuron: one}, evidence).share.tolist()
    assert half[0] == pytest.approx(two.share.iloc[0], abs=0.1) and half[1] > 0.2
    lost = vn.autointerp.causes({neuron: f"{one}; dogs in snow"}, evidence)
    assert np.isnan(lost.share.iloc[1:]).all() and lost.share.iloc[0] > 0


def test_what_silences_a_neuron_never_counts_as_what_excites_it():
    evidence, true = of("sign_flipped", n=3)
    what = {k: text.removeprefix("anything but ") for k, text in true.items()}
    right, anti = (vn.score(texts, evidence, progress=False, full=True) for texts in (true, what))
    assert (right.r > 0.1).all() and (anti.r < -0.1).all()
    assert (anti[["r_top_random", "r_within", "spearman"]] < 0).to_numpy().all() and (anti.auroc < 0.5).all()
    assert (anti.iou.fillna(0) < right.iou).all() and (anti.p > 0.5).all()


def test_causes_are_told_at_the_places_where_all_alternatives_have_a_prediction():
    from vlm_neurons.autointerp.protocols import Prediction
    from vlm_neurons.autointerp.simulators import ConceptSimulator

    class Loses(ConceptSimulator):
        def run(self, jobs):
            for place, one in super().run(jobs):
                last = len(jobs) - 1 if "regions" in jobs[place].explanation else 0
                yield place, Prediction(failure=Failure("network", "lost")) if place == last else one

    evidence, true = of("polysemantic")
    whole, part = (vn.autointerp.causes(true, evidence, one).share.to_numpy() for one in ("concepts", Loses()))
    np.testing.assert_allclose(part, whole, atol=0.05)
    with pytest.raises(ValueError, match="does not read explanations"):
        vn.autointerp.causes(true, evidence, "position-prior")


def test_a_failed_explanation_has_no_stability():
    evidence, _ = of("color")
    neuron = next(iter(evidence))
    failed = Explanation(neuron, "", explainer="mine", failure=Failure("network", "lost"))
    row = vn.autointerp.stability({neuron: failed}, evidence, n=3, progress=False).loc[0]
    assert np.isnan(row.stability) and (row.n, row.n_failed) == (0, 0)


def test_scores_tell_stability_beside_r_where_it_is_asked_for():
    evidence, _ = of("color", "word")
    made = vn.explain(evidence, progress=False)
    table = vn.score(made, evidence, n_null=0, n_permutations=999, n_stability=5, seed=2, progress=False)
    alone = vn.autointerp.stability(made, evidence, n=5, seed=2, progress=False)
    assert table.set_index("neuron").stability.to_dict() == alone.set_index("neuron").stability.to_dict()
    assert (table.stability > 0.5).all(), f"seed {SEED}"
    assert "stability: dissection: 10 explanations, no cost" in cost_of(made, evidence, "concepts", n_stability=5)
    words = {key: one.text for key, one in made.items()}
    with pytest.raises(ValueError, match=r"n_stability=5 explains again.*give explainer="):
        vn.score(words, evidence, n_stability=5, progress=False)
    named = vn.score(words, evidence, explainer="dissection", n_null=0, n_permutations=999, n_stability=5, seed=2,
                     progress=False)  # fmt: skip
    assert named.stability.equals(table.stability)
    assert "stability" not in vn.score(words, evidence, n_null=0, n_permutations=999, progress=False)


def test_scores_made_again_keep_the_stability_of_explanations_that_stayed(tmp_path):
    evidence, _ = of("color", "word")
    made = vn.explain(evidence, progress=False)
    how = {"out": tmp_path, "n_null": 0, "n_permutations": 999, "progress": False, "full": True}
    measured = vn.score(made, evidence, n_stability=3, **how).set_index("neuron").stability
    (first, one), *_ = made.items()
    again = (
        vn.score({**made, first: replace(one, text="bright regions")}, evidence, **how).set_index("neuron").stability
    )
    assert np.isnan(again[first]) and again.drop(first).equals(measured.drop(first)) and measured.notna().all()
