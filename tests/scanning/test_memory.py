"""What a scan holds does not grow with the data."""

from __future__ import annotations

import fresh

PROGRAM = """
import resource, sys
import torch
torch.set_num_threads(1)
import vlm_neurons as vn
model = vn.HookedVLM.from_pretrained("tiny-llava-scenes")
for n in (16, 64):
    vn.scan(model, vn.scenes(n, 1), top_n=20, batch_size=8, block_size=16, out=f"{sys.argv[1]}/{n}", progress=False)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_peak_memory_does_not_depend_on_the_number_of_samples(tmp_path):
    done = fresh.run(PROGRAM, tmp_path)
    assert done.returncode == 0, done.stderr
    few, many = map(int, done.stdout.split())
    assert many - few < 30 * 1024, (few, many)  # KiB; the activations of 48 samples more are some 84 MiB
