"""The script that made the embedded model still trains one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

import vlm_neurons as vn

SCRIPT = Path(__file__).parents[2] / "examples" / "tiny_llava" / "train.py"


def test_a_few_steps_of_the_training_script_lower_every_loss_and_write_a_loadable_model(tmp_path):
    plan = ["--steps-1", "16", "--steps-2", "16", "--batch-1", "8", "--batch-2", "8", "--warm-up", "4"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--out", str(tmp_path / "model"), *plan, "--log-every", "15"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    log = [json.loads(line) for line in (tmp_path / "model" / "training.jsonl").read_text().splitlines()]
    for stage, term in ((1, "patch"), (2, "language")):
        values = [row[term] for row in log if row["stage"] == stage]
        assert values[-1] < 0.7 * values[0], (stage, values)
    model = vn.HookedVLM.from_pretrained(tmp_path / "model")
    said = model.generate(vn.scenes(1, 3)[0].load_images()[0], ["Could you describe the image?"], max_new_tokens=5)
    assert isinstance(said[0], str)
    assert {p.dtype for p in model.bridge.original_model.parameters()} == {torch.float32}
