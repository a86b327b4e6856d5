#!/usr/bin/env bash
# Guess: a TransformerBridge generates what transformers generates, whichever 5.x release is installed (its requirement
# is transformers>=5), or says that it cannot.
# Seen (transformer-lens 4.3.0, torch 2.13.0): right with transformers 5.23.0. With 5.24.0, where layers are given the keys and
# values of earlier tokens as `cache` instead of `past_key_values`, the bridge's attention does not find them and says
# nothing: from the second new token on, each token is made from the newest one alone. `bridge.generate` and the wrapped
# model's own `generate` are both wrong; without a cache both are right.
# Exits with 0 as long as that is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 transformer-lens==4.3.0 transformers==5.23.0
cat >"$work/generate.py" <<'PYTHON'
import copy

import torch
import transformers
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

torch.manual_seed(0)
config = transformers.LlamaConfig(
    vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, bos_token_id=1, eos_token_id=None, pad_token_id=0,
)
model = transformers.LlamaForCausalLM(config).eval()
with torch.no_grad():
    for weight in model.parameters():
        weight.mul_(5)
prompt = torch.randint(3, 60, (1, 8))
greedy = dict(attention_mask=torch.ones_like(prompt), max_new_tokens=8, do_sample=False)
true = copy.deepcopy(model).generate(prompt, **greedy)[0, 8:].tolist()
bridge = build_bridge_from_module(model, "LlamaForCausalLM", hf_config=config, tokenizer=None, model_name="tiny")
own = dict(max_new_tokens=8, do_sample=False, return_type="tokens", verbose=False, stop_at_eos=False)
found = {
    "wrapped model": bridge.original_model.generate(prompt, **greedy)[0, 8:].tolist(),
    "bridge.generate": bridge.generate(prompt, **own)[0, 8:].tolist(),
}
without = bridge.generate(prompt, use_past_kv_cache=False, **own)[0, 8:].tolist()
print("transformers", transformers.__version__, true)
for name, tokens in found.items():
    print(f"{name}, with cache: {tokens}")
print(f"bridge.generate, without: {without}")
assert without == true
right = transformers.__version__ != "5.24.0"
assert all((tokens == true) == right and tokens[0] == true[0] for tokens in found.values())
PYTHON
"$work/env/bin/python" "$work/generate.py"
"$work/env/bin/pip" install -q --no-deps transformers==5.24.0
"$work/env/bin/python" "$work/generate.py"
