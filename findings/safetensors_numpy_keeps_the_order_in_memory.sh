#!/usr/bin/env bash
# Guess: an array that does not lie row by row in memory comes back from `safetensors.numpy.save_file` as it was, or is refused,
# as such a tensor is by `safetensors.torch.save_file`.
# Seen (numpy 2.4.6): it comes back with safetensors 0.7.0. 0.8.0 takes the bytes as they lie in memory under the array's shape:
# a transposed array (`acts.T`) and chosen columns (`acts[:, neurons]`, which NumPy lays out column by column) come back in another
# order, with the right shape, type, mean and norm, and nothing is said. Chosen rows are right, and np.ascontiguousarray before
# saving is right with both.
# Exits with 0 as long as that is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
cd "$work"
cat >keep.py <<'PYTHON'
from importlib.metadata import version

import numpy as np
from safetensors.numpy import load_file, save_file

acts = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)  # tokens, neurons
given = {"all": acts, "transposed": acts.T, "neurons 3, 0, 4": acts[:, [3, 0, 4]], "tokens 5, 2": acts[[5, 2]]}
save_file(given, "as_given.safetensors")
save_file({name: np.ascontiguousarray(array) for name, array in given.items()}, "contiguous.safetensors")
kept, contiguous = load_file("as_given.safetensors"), load_file("contiguous.safetensors")
print("safetensors", version("safetensors"), "numpy", np.__version__)
for name, array in given.items():
    same = bool(np.array_equal(kept[name], array))
    print(f"{name}: {array.shape}, rows together in memory: {array.flags.c_contiguous}, comes back the same: {same}")
    assert array.flags.c_contiguous == (name in ("all", "tokens 5, 2"))
    assert same == (version("safetensors") == "0.7.0" or array.flags.c_contiguous)
    assert same or np.array_equal(kept[name].ravel(), array.ravel(order="F"))
    assert kept[name].shape == array.shape and np.isclose(kept[name].mean(), array.mean())
    assert np.array_equal(contiguous[name], array)
PYTHON
for version in 0.7.0 0.8.0; do
  "$work/env/bin/pip" install -q safetensors==$version numpy==2.4.6
  "$work/env/bin/python" keep.py
done
