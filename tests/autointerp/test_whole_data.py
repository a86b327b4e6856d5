"""r is of the whole data: an explanation that is too broad loses, however rare the concept is."""

from __future__ import annotations

import numpy as np
import pytest
import seeds

import vlm_neurons as vn
from vlm_neurons.autointerp.sampling import drawn
from vlm_neurons.autointerp.simulators import ConceptSimulator
from vlm_neurons.stats import auroc

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
    for kind, pairs in found.items():
        r, whole = np.array(pairs).T
        assert abs(r.mean() - whole.mean()) < 0.15, (kind, pairs)  # of one draw at .01 the error's SD is .04 to .09
    for kind in ("half", "broad"):
        values = np.array([r for r, _ in (*found["true"], *found[kind])])
        assert auroc(values, np.arange(8) < 4) >= 0.95, (kind, found)


def test_weights_add_up_to_the_data_and_every_sample_counts_once():
    evidence = rare(0.02, 1000, seeds.rng())
    test = drawn({"rare": EXPLANATIONS["broad"]}, {"rare": evidence}, 45)["rare"].split("test")
    assert len(test) == len({e.seen.sample for e in test}) == 45
    assert sum(e.weight for e in test) == pytest.approx(1000)
    assert {e.stratum for e in test} >= {"top", "foreseen", "rest"}
    seen = {e.seen.sample for split in ("explain", "select") for e in evidence.split(split)}
    assert not seen & {e.seen.sample for e in test}


def test_without_the_size_of_the_data_there_is_no_r_and_the_old_number_stands():
    from dataclasses import replace

    row = r_of(replace(rare(0.2, 200, seeds.rng()), n_samples=None, pool=()), EXPLANATIONS["true"])
    assert np.isnan([row.r, row.r_low, row.r_high]).all() and row.r_top_random > 0.8 and "how many samples" in row.note


def test_evidence_keeps_its_pool_on_disk(tmp_path):
    from vlm_neurons.evidence import load, save

    evidence = rare(0.1, 200, seeds.rng())
    again = load(save({"rare": evidence}, tmp_path))["rare"]
    assert again.n_samples == 200 and [e.seen.sample for e in again.pool] == [e.seen.sample for e in evidence.pool]
    assert r_of(again, EXPLANATIONS["true"]).r == pytest.approx(r_of(evidence, EXPLANATIONS["true"]).r)
