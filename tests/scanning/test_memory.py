"""What a scan holds does not grow with the data."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import resource, sys
import torch
torch.set_num_threads(1)
import vlm_neurons as vn
model = vn.HookedVLM.from_pretrained("tiny-llava-scenes")
vn.scan(model, vn.scenes(int(sys.argv[1]), 1), top_n=20, batch_size=8, block_size=40, out=sys.argv[2], progress=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_peak_memory_does_not_depend_on_the_number_of_samples(tmp_path):
    def peak(n: int) -> int:
        command = [sys.executable, "-c", PROGRAM, str(n), str(tmp_path / str(n))]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    few, many = peak(40), peak(400)
    assert many - few < 30 * 1024, (few, many)  # KiB; the activations of 360 samples more would be some 200 MiB
