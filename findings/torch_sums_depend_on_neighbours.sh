#!/usr/bin/env bash
# Guess: `x.sum(0)` adds up every column for itself, so that a neuron's sum over tokens is the same to the last bit whichever
# neurons or samples stand beside it in the tensor.
# Seen (torch 2.13.0, CPU, one thread): not where the width is no multiple of what the processor adds at once. The columns that
# are left over at the right edge are added in another order: of 5 samples with 509 neurons each, summed one beside the other,
# some of the last neurons of every sample differ in the last digits from the same sample summed alone; of 512 neurons none does.
# So a sum changes with the number of neurons that were scanned with it, in places that look like chance.
# Exits with 0 as long as that is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 numpy==2.4.6
cd "$work"
cat >sums.py <<'PYTHON'
import torch

print("torch", torch.__version__, torch.backends.cpu.get_cpu_capability())
torch.manual_seed(0)
torch.set_num_threads(1)
for n_tokens in (17, 64, 576):
    for n_neurons in (509, 512):
        samples = [torch.randn(n_tokens, n_neurons) for _ in range(5)]
        alone = torch.stack([x.sum(0) for x in samples])
        beside = torch.cat(samples, 1).sum(0).view(5, n_neurons)
        differ = (alone != beside).any(0).nonzero().flatten()
        print(f"{n_tokens} tokens, {n_neurons} neurons: {len(differ)} neurons differ", differ.tolist()[:3], differ.tolist()[-3:])
        assert torch.allclose(alone, beside, atol=1e-4)
        if n_neurons == 512:
            assert not len(differ)
        else:
            assert len(differ) and differ.min() >= n_neurons - n_neurons % 32
PYTHON
"$work/env/bin/python" sums.py
