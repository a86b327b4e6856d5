#!/usr/bin/env bash
# Guess: SAELens reads the dictionaries that EleutherAI's sparsify writes, by the loader that it has for them.
# Seen (sae-lens 6.54.12, eai-sparsify 1.3.3, torch 2.13.0): `sparsify_disk_loader` transposes W_dec, which sparsify keeps as
# (latents, inputs), as SAELens does; loading fails with "size mismatch for W_dec". With W_dec turned back it loads, and
# then the latents differ for a dictionary with normalize_decoder (sparsify's default): the loader sets apply_b_dec_to_input
# to False there, and sparsify subtracts b_dec in every dictionary that is no transcoder. With that set to True too, latents
# and reconstructions are sparsify's own.
# Exits with 0 as long as that is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 sae-lens==6.54.12 eai-sparsify==1.3.3
cd "$work"
cat >read.py <<'PYTHON'
from importlib.metadata import version

import sae_lens
import torch
from sae_lens.loading.pretrained_sae_loaders import sparsify_disk_loader
from sparsify import SparseCoder
from sparsify.config import SparseCoderConfig

torch.manual_seed(0)
torch.set_grad_enabled(False)
print(*(f"{name} {version(name)}" for name in ("sae-lens", "eai-sparsify", "torch")))


def turned(path, device="cpu", cfg_overrides=None):
    config, weights = sparsify_disk_loader(path, device, cfg_overrides)
    return config, {**weights, "W_dec": weights["W_dec"].T.contiguous()}


def turned_and_subtracting(path, device="cpu", cfg_overrides=None):
    config, weights = turned(path, device, cfg_overrides)
    return {**config, "apply_b_dec_to_input": True}, weights


def load(folder, converter):
    return sae_lens.SAE.load_from_disk(folder, dtype="float32", converter=converter)


assert SparseCoderConfig().normalize_decoder
for normalize in (True, False):
    written = SparseCoder(16, SparseCoderConfig(num_latents=24, k=5, normalize_decoder=normalize))
    written.b_dec.normal_(), written.encoder.bias.normal_()
    folder = f"normalize_{normalize}/layers.1"
    written.save_to_disk(folder)
    own = SparseCoder.load_from_disk(folder)
    x = torch.randn(7, 16)
    best = own.encode(x)
    latents = torch.zeros(7, 24).scatter(1, best.top_indices, best.top_acts)
    decoded = own.decode(best.top_acts, best.top_indices)
    assert torch.equal(best.top_acts, written.encode(x).top_acts)

    try:
        load(folder, sparsify_disk_loader)
    except RuntimeError as error:
        said = " ".join(str(error).split())
    else:
        raise SystemExit("it loads")
    print("normalize_decoder", normalize, "as it is:", said)
    assert "size mismatch for W_dec" in said and "[16, 24]" in said and "[24, 16]" in said
    for converter, same in ((turned, not normalize), (turned_and_subtracting, True)):
        sae = load(folder, converter)
        found = sae.encode(x)
        far = float((found - latents).abs().max())
        print(f"  {converter.__name__}: b_dec subtracted {sae.cfg.apply_b_dec_to_input}, latents differ by at most {far:.1e}")
        assert sae.cfg.apply_b_dec_to_input is same and (far < 1e-5 if same else far > 0.1)
        assert not same or torch.allclose(sae.decode(found), decoded, atol=1e-5)
PYTHON
"$work/env/bin/python" read.py
