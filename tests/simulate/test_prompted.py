"""Asking a model for predictions: cells and tokens come back where they belong, through a server that misbehaves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import loopback
import numpy as np
import seeing

import vlm_neurons as vn
from vlm_neurons import planted
from vlm_neurons.simulating import Prediction
from vlm_neurons.simulating.prompted import ApiSimulator

KEY = "canary-77aa01c3fe"
SEED = int(np.random.default_rng().integers(10**6))  # one a run: scenes take a second to draw


def simulator(server: loopback.Server, **options: Any) -> ApiSimulator:
    quick: dict[str, Any] = {"timeout": 0.6, "deadline": 3.0, "max_retries": 3, "concurrency": 24, "api_key": KEY}
    return ApiSimulator("some-model", base_url=server.url, price=(1.0, 2.0), **{**quick, **options})


def pooled(evidence: vn.Evidence, exemplars: Sequence[Exemplar], predictions: Sequence[Prediction]) -> float:
    real, guessed = [], []
    for e, p in zip(exemplars, predictions, strict=True):
        for patches, found, counts in zip(e.patches, p.patches, e.scored_patches(), strict=bool(p.patches)):
            real.append(evidence.scale(patches)[counts])
            guessed.append(found[counts])
        if p.tokens is not None:
            real.append(evidence.scale(e.values)[e.scored_tokens()])
            guessed.append(p.tokens[e.scored_tokens()])
    return float(np.corrcoef(np.concatenate(real), np.concatenate(guessed))[0, 1])


def ask(asker: Any, explanation: str, exemplars: Sequence[Exemplar], *sides: Any) -> list[Prediction]:
    found = list(asker.run([Job(explanation, e, sides) for e in exemplars]))
    assert sorted(place for place, _ in found) == list(range(len(exemplars))), "each once, none lost"
    return [p for _, p in sorted(found, key=lambda one: one[0])]


def test_cells_come_back_to_the_patches_that_they_cover() -> None:
    one = planted.neurons("color", n=1, seed=SEED)[0]
    test, true = one.evidence.split("test")[::3], one.rule.explanations["true"]
    with loopback.running(answer=seeing.answer) as server:
        found = ask(simulator(server, logprobs=False, timeout=5), true, test, "visual")
        asked = [json.dumps(b["messages"][1]["content"][1]) for b in server.requests]
        assert len(asked) == len(test) + sum("only some" in a for a in asked), "fine where the coarse is above 0"
        assert 5 < sum("8 rows" in a for a in asked) < len(test)
        at_once = ask(simulator(server, logprobs=False, coarse=0, timeout=5), true, test, "visual")
    best = pooled(one.evidence, test, [Prediction(planted.oracle(one, e)[0]) for e in test])
    assert not any(p.failure for p in found) and pooled(one.evidence, test, found) > 0.95 * best > 0.6
    mirrored = [Prediction((p.patches[0].T,)) for p in found]
    assert pooled(one.evidence, test, mirrored) < 0.7 * best, "this test would see a transposed grid"
    error = [np.abs(p.patches[0] - planted.oracle(one, e)[0][0]).mean() for p, e in zip(at_once, test, strict=True)]
    assert np.mean(error) < 0.3


def test_tokens_come_back_to_their_places_and_template_tokens_have_no_value() -> None:
    one = planted.neurons("word", n=1, seed=SEED)[0]
    test, true = one.evidence.split("test")[::3], one.rule.explanations["true"]
    with loopback.running(answer=seeing.answer) as server:
        asker = simulator(server, logprobs=False, timeout=5)
        found = ask(asker, true, test, "text")
        assert not any(p.failure for p in found) and pooled(one.evidence, test, found) > 0.7
        kinds = test[0].seen.kinds.copy()
        kinds[0] = int(vn.TokenKind.TEMPLATE)
        partly = ask(asker, true, [replace(test[0], seen=replace(test[0].seen, kinds=kinds))], "text")[0]
    assert partly.tokens is not None and found[0].tokens is not None
    np.testing.assert_array_equal(partly.tokens, [np.nan, *found[0].tokens[1:]])
