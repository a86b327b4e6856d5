#!/usr/bin/env bash
# Guess: of a weight that torchao has made int8, `.float()` and `.to(torch.float32)` give float32 numbers, as of any weight,
# and `untyped_storage().nbytes()` tells that it takes one byte a number.
# Seen (torchao 0.18.0, torch 2.13.0): both give the int8 tensor again, of dtype bfloat16, without a word, so what is computed
# from them is not in float32; only `.dequantize().float()` is. Its storage says two bytes a number, though one is taken.
# A row can be taken (weight[3]), a column (weight[:, 3]) and a transposed weight raise errors.
# Exits with 0 as long as that is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 torchao==0.18.0 numpy==2.4.6
cd "$work"
cat >weights.py <<'PYTHON'
import torch
from torchao.quantization import Int8WeightOnlyConfig, quantize_

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(64, 256, bias=False)).bfloat16()
quantize_(model, Int8WeightOnlyConfig())
weight = model[0].weight.detach()
for name, made in (("float()", weight.float()), ("to(float32)", weight.to(torch.float32))):
    print(name, type(made).__name__, made.dtype)
    assert type(made) is type(weight) and made.dtype is torch.bfloat16
exact = weight.dequantize()
print("dequantize().float()", exact.float().dtype, "; bytes", weight.untyped_storage().nbytes(), "of", weight.numel())
assert type(exact) is torch.Tensor and exact.float().dtype is torch.float32
assert weight.qdata.nbytes == weight.numel() and weight.untyped_storage().nbytes() == 2 * weight.numel()
assert torch.equal(weight[3].dequantize(), exact[3])
for name, take in (("column", lambda: weight[:, 3]), ("transposed", lambda: weight.T)):
    try:
        take()
    except (AssertionError, NotImplementedError) as error:
        print(name, type(error).__name__)
    else:
        raise SystemExit(f"a {name} can be taken now")
PYTHON
"$work/env/bin/python" weights.py 2>/dev/null
