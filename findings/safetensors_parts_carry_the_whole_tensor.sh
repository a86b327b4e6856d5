#!/usr/bin/env bash
# Guess: ten rows of a decoder that are read by safetensors' `get_slice` are these ten rows, whatever the framework.
# Seen (safetensors 0.8.0, torch 2.13.0 on a CPU, numpy 2.4.6): with framework="numpy" they are. With "pt" they are a view of the whole
# tensor in the file: `torch.save`, pickle (what a process is sent) and `copy.deepcopy` of ten rows take the whole tensor with them,
# `save_file` of them does not. `.clone()` of the part is the part alone.
# Exits with 0 as long as that is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q safetensors==0.8.0 torch==2.13.0 numpy==2.4.6
cd "$work"
cat >part.py <<'PYTHON'
import copy
import io
import pickle
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

decoder = torch.randn(20_000, 64)
save_file({"W_dec": decoder}, "sae.safetensors")
whole, part = decoder.nbytes, 10 * 64 * 4
with safe_open("sae.safetensors", "pt") as file:
    rows = file.get_slice("W_dec")[100:110]
with safe_open("sae.safetensors", "numpy") as file:
    array = file.get_slice("W_dec")[100:110]
assert torch.equal(rows, decoder[100:110]) and (array == rows.numpy()).all()


def sizes(one: torch.Tensor) -> dict[str, int]:
    saved = io.BytesIO()
    torch.save(one, saved)
    save_file({"rows": one}, "rows.safetensors")
    return {
        "torch.save": saved.tell(),
        "pickle": len(pickle.dumps(one)),
        "deepcopy": copy.deepcopy(one).untyped_storage().nbytes(),
        "save_file": Path("rows.safetensors").stat().st_size,
    }


found, cloned, of_numpy = sizes(rows), sizes(rows.clone()), len(pickle.dumps(array))
print(f"{part} bytes of {whole}: {found}; of a clone: {cloned}; pickled from numpy: {of_numpy}")
assert min(found[name] for name in ("torch.save", "pickle", "deepcopy")) >= whole
assert max(found["save_file"], of_numpy, *cloned.values()) < 2 * part
PYTHON
env/bin/python part.py
