"""Scores against scores, over a model, and the judge that detects."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import seeds

import vlm_neurons as vn
from vlm_neurons import planted
from vlm_neurons.autointerp import Judge
from vlm_neurons.autointerp.explaining import summary
from vlm_neurons.autointerp.explanation import Explanation, Failure


def table(r, label="visual", **more):
    n = len(r)
    return pd.DataFrame({"neuron": [f"L0N{i}" for i in range(n)], "side": "picture", "explanation": ["red"] * n,
                         "label": [label] * n, "layer": [0] * n, "r": r, "r_within": r, "r_null": np.zeros(n),
                         "q": np.where(np.nan_to_num(r) > 0.5, 0.01, 0.5), "n_failed": [1] * n, **more})  # fmt: skip


def test_a_paired_difference_is_found_that_unpaired_numbers_would_hide():
    rng = seeds.rng()
    base = rng.uniform(0, 0.9, 60)
    a, b = table(base + 0.05 + rng.normal(0, 0.02, 60)), table(base)
    row = vn.autointerp.compare(a, b).iloc[0]
    assert row.low > 0.03 and row.high < 0.07 and row.difference == pytest.approx((a.r - b.r).mean())
    assert row.a_better > 0.9 and row.n == 60
    back = vn.autointerp.compare(b, a).iloc[0]
    assert back.difference == pytest.approx(-row.difference)
    same = vn.autointerp.compare(a, a).iloc[0]
    assert same.difference == same.low == same.high == 0 and same.a_better == 0.5


def test_neurons_without_a_number_are_left_out_and_counted():
    r = np.array([0.5, np.nan, 0.7, 0.6])
    row = vn.autointerp.compare(table(r), table(np.array([0.1, 0.2, np.nan, 0.3]))).iloc[0]
    assert (row.n, row.n_left_out) == (2, 2) and row.difference == pytest.approx(0.35)
    few = vn.autointerp.compare(table(r), table(np.array([0.1]), label=None)).set_index("label")
    assert (few.n["all"], few.n_left_out["all"]) == (1, 3) and (few.n["visual"], few.n_left_out["visual"]) == (1, 3)
    with pytest.raises(ValueError, match="no neuron is in both"):
        vn.autointerp.compare(table(r), table(r).assign(neuron="x"[0]).drop_duplicates("neuron"))
    with pytest.raises(KeyError, match="'rr'"):
        vn.autointerp.compare(table(r), table(r), column="rr")
    with pytest.raises(ValueError, match="L0N0, side picture, is in one table twice"):
        vn.autointerp.compare(pd.concat([table(r), table(r)]), table(r))


def test_statistics_count_by_class_and_name_a_neuron_at_each_level():
    scores = pd.concat([table(np.array([0.9, 0.2, np.nan, 0.6, 0.4])),
                        table(np.array([0.7]), "text").assign(neuron="L9N9")])  # fmt: skip
    found = vn.autointerp.score_statistics(scores).set_index("label")
    visual = found.loc["visual"]
    assert (visual.n, visual.n_scored, visual.significant, visual.n_failed) == (5, 4, 2, 5)
    assert visual.r == pytest.approx(0.5) and visual.above_null == 1
    assert (visual.best, visual.worst) == ("L0N0", "L0N1") and found.loc["text", "median"] == "L9N9"
    assert found.loc["all", "n"] == 6


def test_statistics_count_as_explained_what_the_summary_of_explanations_does():
    made = [Explanation("L0N0", "red things"), Explanation("L0N1", "no clear pattern"), Explanation("L0N2", "blue"),
            Explanation("L0N3", "", failure=Failure("network", "cut")),
            Explanation("L0N4", "No clear pattern.")]  # fmt: skip
    scores = table(np.full(5, 0.5)).assign(explanation=[e.text for e in made])
    found = vn.autointerp.score_statistics(scores).set_index("label")
    assert (found.n["all"], found.n_explained["all"], found.n_explained["visual"]) == (5, 2, 2)
    assert summary(made).startswith("2 of 5 neurons explained, 2 without a clear pattern, 1 failed")


def test_detection_tells_a_true_explanation_from_a_wrong_one_and_counts_failures():
    (p,) = planted.neurons("color", n=1, seed=seeds.PLANTED)
    concept = next(iter(p.rule.concepts)).split(":")[1]

    class Looks(Judge):
        def judge(self, explanation, exemplars):
            from vlm_neurons.concepts import Concept, visual_bank

            wanted = Concept("color", explanation.split()[0])
            values = [float(visual_bank(e.seen)[0][wanted].max()) for e in exemplars]
            return [Failure("network", "cut"), *values[1:]]

    evidence = {p.evidence.neuron: p.evidence}
    true = vn.autointerp.detect({p.evidence.neuron: f"{concept} regions"}, evidence, Looks()).iloc[0]
    other = "green" if concept != "green" else "red"
    wrong = vn.autointerp.detect({p.evidence.neuron: f"{other} regions"}, evidence, Looks()).iloc[0]
    assert true.auroc > 0.8 > 0.7 > wrong.auroc and true.n_failed == 1 and true.n_top + true.n_random == 59


class Answers(Judge):
    name = "mine"

    def __init__(self, answers):
        self.answers = answers

    def judge(self, explanation, exemplars):
        return self.answers(len(exemplars))


def test_a_judge_without_a_number_failed_and_one_with_too_few_is_named():
    (p,) = planted.neurons("color", n=1, seed=seeds.PLANTED)
    key, evidence = p.evidence.neuron, {p.evidence.neuron: p.evidence}
    row = vn.autointerp.detect({key: "red"}, evidence, Answers(lambda n: [float("nan")] * 5 + [0.5] * (n - 5))).iloc[0]
    assert row.n_failed == 5 and row.auroc == 0.5 and row.n_top + row.n_random == 55
    with pytest.raises(ValueError, match=rf"judge mine, {key}: 3 answers to 60 exemplars"):
        vn.autointerp.detect({key: "red"}, evidence, Answers(lambda n: [0.5] * 3))
    tested = tuple(e.seen.sample for e in p.evidence.split("test"))
    with pytest.raises(ValueError, match=rf"{key}: its explanation was made from 60 of the samples"):
        vn.autointerp.detect({key: Explanation(key, "red", exemplars=tested)}, evidence, Answers(lambda n: [0.5] * n))
    with pytest.raises(ValueError, match=f"{key}: NoneType as explanation"):
        vn.autointerp.detect({key: None}, evidence, Answers(lambda n: [0.5] * n))
    with pytest.raises(KeyError, match="nobody: an explanation without evidence"):
        vn.autointerp.detect({"nobody": "red"}, evidence, Answers(lambda n: [0.5] * n))


def test_the_smaller_p_is_the_better_and_what_is_no_score_is_refused():
    sure, unsure = (table(np.array([0.5, 0.5, 0.5]), p=p, note="x") for p in ([0.01, 0.02, 0.5], [0.5, 0.6, 0.5]))
    row = vn.autointerp.compare(sure, unsure, column="p").iloc[0]
    assert row.a_better == pytest.approx(5 / 6) and row.difference < 0
    assert vn.autointerp.compare(unsure, sure, column="p").iloc[0].a_better == pytest.approx(1 / 6)
    for column in ("note", "neuron", "label", "r_null", "n_failed"):
        with pytest.raises(ValueError, match=f"'{column}' is no score: one of r, "):
            vn.autointerp.compare(sure, unsure, column=column)
