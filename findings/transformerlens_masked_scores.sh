#!/usr/bin/env bash
# Guess: `hook_attn_scores` of a TransformerBridge holds -inf where attention is masked, as those of a HookedTransformer did,
# in both of its modes, so that isinf() finds the mask.
# Seen (transformer-lens 4.3.0, torch 2.13.0, transformers 5.24.0): -inf after `enable_compatibility_mode()` only. A bridge as it is
# made has the lowest number of the dtype there (-3.4e38 in float32). Code that leaves masked scores out by isinf or
# isfinite leaves nothing out, and the mean of a row of four is -inf or -8.5e37, by how much of it is masked. Patterns,
# after the softmax, have 0 there in both.
# Exits with 0 as long as that is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 transformer-lens==4.3.0 transformers==5.24.0
cd "$work"
cat >scores.py <<'PYTHON'
import torch
import transformers
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

tokens = torch.tensor([[1, 5, 7, 9]])
config = transformers.LlamaConfig(
    vocab_size=20, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2
)
print("transformer-lens 4.3.0, transformers", transformers.__version__)
masked = torch.ones(4, 4, dtype=torch.bool).triu(1)
for compatible, expected in ((False, torch.finfo(torch.float32).min), (True, -torch.inf)):
    model = transformers.LlamaForCausalLM(config).eval()
    bridge = build_bridge_from_module(model, "LlamaForCausalLM", hf_config=config, tokenizer=None, model_name="tiny")
    if compatible:
        bridge.enable_compatibility_mode(disable_warnings=True)
    with torch.no_grad():
        _, cache = bridge.run_with_cache(tokens)
    scores, pattern = cache["blocks.0.attn.hook_attn_scores"][0, 0], cache["blocks.0.attn.hook_pattern"][0, 0]
    print("compatibility mode" if compatible else "as it is made", scores[masked].unique().tolist(), scores.mean(-1).tolist())
    assert (scores[masked] == expected).all() and (pattern[masked] == 0).all()
PYTHON
"$work/env/bin/python" scores.py
