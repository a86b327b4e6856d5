#!/usr/bin/env bash
# Guess: `torch.histc` and `torch.histogram` of bfloat16 activations count as those of the same numbers in float32, up to values that
# rounding puts in the next bin; at worst the counts are rounded to the 8 bits that bfloat16 has.
# Seen (torch 2.13.0, CPU): every thread counts by adding 1 in the type of the input, and 256 + 1 is 256 in bfloat16: no bin gets
# beyond 256 with one thread, beyond 512 with two. 20,000 activations have 256, 256, 256, 256, 256, 223 ... where float32 has
# 7679, 5944, 3668, 1759, 676, 215 ...: a flat histogram that depends on the number of threads, and nothing is said. In float16
# bins end at 2,048 a thread. `histc(x.float(), ...)` is right.
# Exits with 0 as long as that is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 numpy==2.4.6
cd "$work"
cat >count.py <<'PYTHON'
import torch

print("torch", torch.__version__)
torch.manual_seed(0)
activations = torch.randn(20_000).abs()
for dtype, most in ((torch.bfloat16, 256), (torch.float16, 2048)):
    given = activations.to(dtype)
    right = torch.histc(given.float(), 8, 0, 4)
    print("float32, of the numbers in", dtype, right.int().tolist())
    assert right.max() > 2 * most
    for threads in (1, 2):
        torch.set_num_threads(threads)
        counts = torch.histc(given, 8, 0, 4).float()
        print(f"{dtype}, threads {threads}", counts.int().tolist())
        assert counts.max() == most * threads and (counts <= most * threads).all()
        small = right < most  # counts that no thread can reach the end with
        assert torch.equal(counts[small], right[small])
        assert torch.equal(torch.histogram(given, 8, range=(0.0, 4.0)).hist.float(), counts)
PYTHON
"$work/env/bin/python" count.py
