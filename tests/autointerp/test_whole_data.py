"""r is of the whole data: an explanation that is too broad loses, however rare the concept is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import seeds
from pieces import Answers

import vlm_neurons as vn
from vlm_neurons.autointerp.explanation import Failure
from vlm_neurons.autointerp.sampling import STRATA_IN_WORDS, drawn
from vlm_neurons.autointerp.simulators import ConceptSimulator, Prediction

EXPLANATIONS = {"true": "the word 'dog'; the word 'horse'", "half": "the word 'dog'",
                "broad": "the word 'dog'; the word 'horse'; the word 'cat'"}  # fmt: skip


def rare(share, n, rng):
    """A neuron of dogs and horses, in a share of n texts; cats, in as many others, leave it cold."""
    texts, acts = [], []
    for _ in range(n):
        animal = rng.choice(["dog", "horse", "cat", "cow"], p=[share / 2, share / 2, share, 1 - 2 * share])
        texts.append([" a", " small", f" {animal}", " sits", " near", " the", " table", "."])
        values = rng.normal(0, 0.05, 8)
        values[2] += rng.lognormal(0, 0.3) * (animal in ("dog", "horse"))
        acts.append(values)
    return vn.Evidence.from_arrays("rare", tokens=texts, token_acts=acts, label="text", seed=int(rng.integers(999)))


def whole_r(evidence, text):
    """By force: every sample simulated."""
    every = [*evidence.exemplars, *evidence.pool]
    guesses = [p.token_acts for p in ConceptSimulator().simulate(text, every, "text")]
    real = np.concatenate([evidence.scale(e.token_acts) for e in every])
    return np.corrcoef(real, np.concatenate(guesses))[0, 1]


def r_of(evidence, text, **options):
    table = vn.score(
        {"rare": text}, {"rare": evidence}, n_null=0, n_permutations=999, progress=False, full=True, **options
    )
    return table.iloc[0]


@pytest.mark.parametrize(("share", "n"), [(0.2, 600), (0.02, 1500), (0.01, 1500)])
def test_r_is_that_of_the_whole_data_and_falls_for_what_is_too_broad_or_too_narrow(share, n):
    found, rng = {kind: [] for kind in EXPLANATIONS}, seeds.rng()
    for _ in range(4):
        evidence = rare(share, n, rng)
        for kind, text in EXPLANATIONS.items():
            row = r_of(evidence, text)
            assert row.n_exemplars == 60, "no more simulations than the split has samples"
            found[kind].append((row.r, whole_r(evidence, text)))
        true, half, broad = (found[kind][-1][0] for kind in EXPLANATIONS)
        assert true > broad, ("every neuron, not their mean", found)
        assert true > half or share == 0.01, found  # of seven horses in 1500 texts hardly one is drawn
    for kind, pairs in found.items():
        # of what is rarest no sample may have been drawn, and a constant simulation has no r
        r, whole = np.array([pair for pair in pairs if np.isfinite(pair[0])]).T
        assert abs(r.mean() - whole.mean()) < 0.15, (kind, pairs)  # of one draw at .01 the error's SD is .04 to .09
    for kind in ("half", "broad"):
        assert np.nanmean(found["true"], 0)[0] > np.nanmean(found[kind], 0)[0] + 0.05, (kind, found)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_few_samples_too_stand_for_all_of_the_data(n):
    evidence = rare(0.1, 300, seeds.rng())
    tests = evidence.split("test")
    few = [next(e for e in tests if e.group == group) for group in ("top", "random")]
    small = replace(evidence, exemplars=(*(e for e in evidence.exemplars if e.split != "test"), *few))
    for one, asked in ((evidence, n), (small, n), (small, None)):
        test = drawn({"rare": EXPLANATIONS["true"]}, {"rare": one}, asked)["rare"].split("test")
        assert len(test) == (asked or 2)
        assert "top" in {e.stratum for e in test} and sum(e.weight for e in test) == pytest.approx(300)
    with pytest.raises(ValueError, match="n_test=1: give a whole number from 2 on"):
        r_of(evidence, EXPLANATIONS["true"], n_test=1)


def test_top_samples_alone_are_not_the_whole_data():
    evidence = rare(0.1, 300, seeds.rng())
    tops = replace(evidence, exemplars=tuple(e for e in evidence.exemplars if e.group == "top"), pool=())
    row = r_of(tops, EXPLANATIONS["true"])
    assert np.isnan([row.r, row.r_low]).all() and row.r_top_random > 0.5
    assert "none beside the top ones" in row.note


def test_where_every_simulation_of_a_part_of_the_data_failed_there_is_no_r():
    """What failed drops out of the estimate: the rest is not the whole data, and no null either."""
    evidence = {"rare": rare(0.2, 600, seeds.rng())}

    def scored(lost, words=EXPLANATIONS["true"]):
        failed = Prediction(failure=Failure("cost", "max_cost"))
        simulator = Answers(
            lambda job: failed if job.explanation == words and job.exemplar.stratum in lost
            else Prediction(token_acts=np.nan_to_num(job.exemplar.token_acts) + (not job.explanation))
        )  # fmt: skip
        return vn.score({"rare": EXPLANATIONS["true"]}, evidence, simulator, n_null=0, n_permutations=999,
                        progress=False, full=True).iloc[0]  # fmt: skip

    strata = {e.stratum for e in drawn({"rare": EXPLANATIONS["true"]}, evidence, None)["rare"].split("test")}
    assert strata == {"top", "foreseen", "rest"} and scored(()).r > 0.9
    for stratum in strata:
        row = scored((stratum,))
        assert np.isnan([row.r, row.r_low, row.r_high, row.ceiling]).all() and 0 < row.n_images < row.n_exemplars
        assert "every simulation of" in row.note and STRATA_IN_WORDS[stratum] in row.note and "cost" in row.note
        assert np.isfinite(row.r_top_random)
        empty = scored((stratum,), words="")
        assert empty.r > 0.9 and np.isnan(empty.r_empty) and "1 null simulations failed" in empty.note
    assert scored(strata).note == "every simulation failed: cost"


def test_without_the_size_of_the_data_there_is_no_r_and_the_old_number_stands():
    row = r_of(replace(rare(0.2, 200, seeds.rng()), n_samples=None, pool=()), EXPLANATIONS["true"])
    assert np.isnan([row.r, row.r_low, row.r_high]).all() and row.r_top_random > 0.8 and "how many samples" in row.note


def test_evidence_keeps_its_pool_on_disk(tmp_path):
    from vlm_neurons.evidence import load, save

    evidence = rare(0.1, 200, seeds.rng())
    again = load(save({"rare": evidence}, tmp_path))["rare"]
    assert again.n_samples == 200 and [e.seen.sample for e in again.pool] == [e.seen.sample for e in evidence.pool]
    assert r_of(again, EXPLANATIONS["true"]).r == pytest.approx(r_of(evidence, EXPLANATIONS["true"]).r)
