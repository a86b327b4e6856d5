"""Two simulators as one are scored as one simulator of both sides is, and each side has its own say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from pieces import Answers

import vlm_neurons as vn
from vlm_neurons import planted
from vlm_neurons.autointerp.scoring import cost_of
from vlm_neurons.autointerp.simulators import Job, Prediction


@pytest.fixture(scope="module")
def evidence():
    found = planted.neurons("picture_or_word", n=3)
    return {p.evidence.neuron: p.evidence for p in found}


@pytest.fixture(scope="module")
def explained(evidence):
    return vn.explain(evidence, progress=False)


def scored(explanations, evidence, simulator, **options):
    return vn.score(explanations, evidence, simulator, n_permutations=999, progress=False, full=True, **options)


def test_both_sides_from_two_simulators_have_the_numbers_of_one_that_can_do_both(explained, evidence):
    one = vn.simulators.ConceptSimulator()
    two = vn.simulators.BothSides(picture=one, text=one)
    alone, together = (scored(explained, evidence, s).drop(columns=["simulator", "made_by"]) for s in (one, two))
    assert (alone.n_null > 0).all() and alone.r_of_other_side.notna().any()
    pd.testing.assert_frame_equal(alone, together)
    assert "nulls" in cost_of(explained, evidence, two)


def sides(job: Job) -> Prediction:
    """0 at every patch and 5 at every token: that words are not patches, and nothing else."""
    if job.side == "picture":
        return Prediction(tuple(np.zeros(p.shape) for p in job.exemplar.patch_acts))
    return Prediction(token_acts=np.where(job.exemplar.seen.is_text, 5.0, np.nan))


def test_that_words_differ_from_patches_is_no_knowledge_of_images_and_the_note_says_what_is_constant(evidence):
    table = scored(dict.fromkeys(evidence, "words"), evidence, Answers(sides), n_null=0)
    assert table.r_between.isna().all() and table.r.isna().all() and table.side.tolist() == ["picture", "text"] * 3
    assert (table.note == "constant simulation").all()


def test_concepts_say_of_a_token_yes_or_no_and_the_ceiling_knows(evidence, explained):
    (one,) = planted.neurons("word", n=1)
    row = scored({"word-0": one.rule.explanations["true"]}, {"word-0": one.evidence}, "concepts", n_null=0).iloc[0]
    assert 0.3 < row.ceiling < 1 - 1e-6
    assert vn.simulators.ConceptSimulator().resolution_on("text").of(np.array([0.0, 4.0, 6.0])).tolist() == [0, 0, 10]
    assert vn.simulators.ConceptSimulator().resolution_on("picture").of(np.array([[4.2]])).tolist() == [[4.2]]
