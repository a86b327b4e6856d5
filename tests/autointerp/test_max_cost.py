"""What scoring may cost: one limit for all that is asked."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import loopback
import numpy as np
import pytest
import seeds
import seeing

import vlm_neurons as vn
from vlm_neurons import planted
from vlm_neurons.autointerp.scoring import cost_of

PRICE = (100.0, 100.0)
PAID = (100 + 20) * 100 / 1e6  # what the server counts for every answer


@pytest.fixture(scope="module")
def evidence() -> dict[str, vn.Evidence]:
    found = planted.neurons("picture_or_word", n=3, seed=seeds.PLANTED)
    return {p.evidence.neuron: p.evidence for p in found}


@pytest.mark.parametrize("both", [False, True])
def test_max_cost_holds_over_explanations_nulls_and_swap(
    evidence: dict[str, vn.Evidence], tmp_path: Path, both: bool
) -> None:
    explained = vn.explain(evidence, progress=False)
    with loopback.running(answer=seeing.answer) as server:
        simulator: Any = vn.simulators.ApiSimulator(
            "m", base_url=server.url, api_key="x", price=PRICE, grid=4, coarse=0, logprobs=False, max_cost=1.5
        )
        chosen = vn.simulators.BothSides(picture=simulator, text=simulator) if both else simulator
        table = vn.score(explained, evidence, chosen, out=tmp_path, n_permutations=999, progress=False, full=True)
        assert 0.2 < len(server.paid) * PAID <= 1.5, len(server.paid)
        assert table.n_failed.sum() > 0 and np.isfinite(table.r).any()


def test_a_server_that_counts_nothing_is_charged_at_the_most_over_all_runs(evidence: dict[str, vn.Evidence]) -> None:
    said = vn.explain(evidence, progress=False)
    with loopback.running(answer=seeing.answer, usage=False) as server:
        simulator = vn.simulators.ApiSimulator("m", base_url=server.url, api_key="x", price=PRICE, grid=4, coarse=0,
                                    logprobs=False, max_cost=1.5)  # fmt: skip
        vn.score(said, evidence, simulator, n_permutations=999, progress=False)
        alone = len(server.requests)
        own = list(vn.simulate(said, evidence, simulator, progress=False).values())
        own_calls = len(server.requests) - alone
        assert own_calls > 0 and alone <= own_calls + 1, "the first run leaves less than most calls may cost"
    assert sum(s.n_failed for s in own) > 0


def test_a_dry_run_bounds_explanations_nulls_and_swap(evidence: dict[str, vn.Evidence], tmp_path: Path) -> None:
    few = {k: replace(e, exemplars=(*(x for x in e.exemplars if x.split != "test"), *e.split("test")[::8]))
           for k, e in evidence.items()}  # fmt: skip
    explained = vn.explain(few, progress=False)
    with loopback.running(answer=seeing.answer) as server:
        simulator = vn.simulators.ApiSimulator("m", base_url=server.url, api_key="x", price=PRICE, grid=4, coarse=0,
                                    logprobs=False, cache=tmp_path / "cache.sqlite")  # fmt: skip
        said = cost_of(explained, few, simulator)
        assert not server.requests and "modality swap, at most" in said
        bound = sum(int(n) for n in re.findall(r"(\d+) calls", said))
        vn.score(explained, few, simulator, n_permutations=999, progress=False)
        assert 0 < len(server.requests) <= bound, said
        assert "modality swap" not in cost_of(dict.fromkeys(few, "red regions"), few, simulator)
