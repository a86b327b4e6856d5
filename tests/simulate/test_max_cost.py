"""What scoring may cost: one limit for all that is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import loopback
import numpy as np
import pytest
import seeing

import vlm_neurons as vn
from vlm_neurons import planted

PRICE = (100.0, 100.0)
PAID = (100 + 20) * 100 / 1e6  # what the server counts for every answer


@pytest.fixture(scope="module")
def evidence() -> dict[str, vn.Evidence]:
    found = planted.neurons("picture_or_word", n=3, seed=seeing.SEED)
    return {p.evidence.neuron: p.evidence for p in found}


@pytest.mark.parametrize("both", [False, True])
def test_max_cost_holds_over_explanations_nulls_and_swap(
    evidence: dict[str, vn.Evidence], tmp_path: Path, both: bool
) -> None:
    explained = vn.explain(evidence, progress=False)
    with loopback.running(answer=seeing.answer) as server:
        simulator: Any = vn.ApiSimulator("m", base_url=server.url, api_key="x", price=PRICE, grid=4, coarse=0,
                                         logprobs=False, max_cost=1.5)  # fmt: skip
        chosen = vn.BothSides(visual=simulator, text=simulator) if both else simulator
        table = vn.score(explained, evidence, chosen, out=tmp_path, n_permutations=999, progress=False)
        assert 0.2 < len(server.paid) * PAID <= 1.5, len(server.paid)
        assert table.n_failed.sum() > 0 and np.isfinite(table.r).any()
