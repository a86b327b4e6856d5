"""What explain and score of one neuron after the other cost, for `benchmark_scan.py --concepts --baseline PYTHON`.

Run by a Python in which an older version of the package is installed, that of commit 83d2710, which has only that:

    PYTHON concept_baseline.py MODEL SCENES NEURONS

explains and scores a few neurons, drawn from all, then NEURONS more, and prints the CPU seconds of each of these as JSON,
evidence included. Their difference is what a neuron costs beside what is paid once.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time

import vlm_neurons as vn

FEW = 4


def main(folder: str, n_scenes: int, n: int) -> None:
    model, data = vn.HookedVLM.from_pretrained(folder), vn.scenes(n_scenes, seed=0)
    found = []
    with tempfile.TemporaryDirectory() as out:
        run = vn.scan(model, data, site="gate", out=out, progress=False)
        drawn = random.Random(0).sample(vn.classify(run)["neuron"].tolist(), 3 * FEW + n)
        for neurons in (drawn[:FEW], drawn[FEW : 2 * FEW], drawn[2 * FEW :]):
            began = time.process_time()
            evidence = vn.gather_evidence(model, data, run, neurons, write=False, progress=False)
            explanations = vn.explain(evidence, progress=False)
            vn.score(explanations, evidence, progress=False)
            found.append(time.process_time() - began)
    print(json.dumps(found[1:]))  # the first call pays for what is loaded late


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
