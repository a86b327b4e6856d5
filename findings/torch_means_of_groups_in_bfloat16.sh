#!/usr/bin/env bash
# Guess: the ways that torch has to sum or average bfloat16 activations by group (class, word, patch) differ by rounding alone, since
# `sum` and `mean` of bfloat16 keep their running sum in float32.
# Seen (torch 2.13.0, CPU): `index_add_`, `scatter_add_`, `scatter_reduce_` and `mean` do, to 2 %. index_put_(accumulate=True),
# index_reduce_("mean") and segment_reduce("mean") keep it in bfloat16, where it stops growing once an addend is less than half of
# its last digit: means of 4,000 activations a group come out at half of what they are, of more at less, and nothing is said. index_add_
# is right for rows (tokens, neurons) and wrong in the same way for the column of one neuron.
# Exits with 0 as long as that is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 numpy==2.4.6
cd "$work"
cat >means.py <<'PYTHON'
import torch

print("torch", torch.__version__)
torch.manual_seed(0)
acts = torch.randn(20_000, 4).relu().bfloat16()  # tokens, neurons
label = torch.randint(0, 5, (len(acts),))
number = label.bincount(minlength=5)
places, order, each = label[:, None].expand_as(acts), label.argsort(stable=True), number[:, None]


def nothing() -> torch.Tensor:
    return torch.zeros(5, 4, dtype=torch.bfloat16)


exact = torch.stack([acts[label == group].double().mean(0) for group in range(5)])
right = {
    "mean of each": torch.stack([acts[label == group].mean(0) for group in range(5)]),
    "index_add_": nothing().index_add_(0, label, acts) / each,
    "scatter_add_": nothing().scatter_add_(0, places, acts) / each,
    "scatter_reduce_": nothing().scatter_reduce_(0, places, acts, "mean", include_self=False),
}
wrong = {
    "index_put_": nothing().index_put_((label,), acts, accumulate=True) / each,
    "index_reduce_": nothing().index_reduce_(0, label, acts, "mean", include_self=False),
    "segment_reduce": torch.segment_reduce(acts[order], "mean", lengths=number),
    "index_add_ of a column": torch.stack([nothing()[:, 0].index_add_(0, label, column) for column in acts.T.contiguous()], 1) / each,
}
print(f"{'exact':22}", [round(x, 3) for x in exact[:, 0].tolist()])
for name, found in {**right, **wrong}.items():
    print(f"{name:22}", [round(x, 3) for x in found[:, 0].tolist()])
    share = found.double() / exact
    assert bool(((share - 1).abs() < 0.02).all()) if name in right else bool((share < 0.6).all()), share
PYTHON
"$work/env/bin/python" means.py
