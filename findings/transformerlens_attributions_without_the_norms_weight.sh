#!/usr/bin/env bash
# Guess: `cache.logit_attrs` of all components of `decompose_resid` sums to the difference of two logits, on a TransformerBridge
# as it is made as on a HookedTransformer (which folded norms' weights by default), and as accumulated_resid(apply_ln=True)
# gives the logits.
# Seen (transformer-lens 4.3.0, transformers 5.24.0, torch 2.13.0): only after `enable_compatibility_mode()`, which folds. As
# it is made, the bridge keeps the weight of the final norm, and logit_attrs and apply_ln_to_stack divide by the norm's scale
# alone: attributions miss a factor in each dimension, so that they have another sum and another order, and nothing is said.
# What apply_ln_to_stack returns must be multiplied by the norm's weight before it is unembedded.
# Exits with 0 as long as that is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 transformer-lens==4.3.0 transformers==5.24.0
cd "$work"
cat >attributions.py <<'PYTHON'
import torch
import transformers
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

torch.manual_seed(0)
torch.set_grad_enabled(False)
config = transformers.LlamaConfig(
    vocab_size=20, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
)
model = transformers.LlamaForCausalLM(config).eval()
for name, weight in model.named_parameters():
    weight.mul_(3) if "norm" not in name else weight.uniform_(0.2, 3)  # trained norms are far from 1
norm, unembedding = model.model.norm.weight.clone(), model.lm_head.weight.clone()
tokens, right, wrong = torch.tensor([[1, 5, 7, 9, 4, 3]]), torch.tensor(7), torch.tensor(3)
print("transformer-lens 4.3.0, transformers", transformers.__version__)
bridge = build_bridge_from_module(model, "LlamaForCausalLM", hf_config=config, tokenizer=None, model_name="tiny")
for mode in ("as it is made", "compatibility mode"):
    if mode == "compatibility mode":
        bridge.enable_compatibility_mode(disable_warnings=True)
    logits, cache = bridge.run_with_cache(tokens)
    true = logits[0, :, 7] - logits[0, :, 3]
    stack, labels = cache.decompose_resid(return_labels=True)
    attributions = cache.logit_attrs(stack, tokens=right, incorrect_tokens=wrong)[:, 0]
    print(f"{mode}: sum {[round(x, 2) for x in attributions.sum(0).tolist()]}, logits {[round(x, 2) for x in true.tolist()]}")
    print("  last position", {label: round(float(x), 2) for label, x in zip(labels, attributions[:, -1], strict=True)})
    lens = cache.accumulated_resid(apply_ln=True)[-1] @ bridge.W_U
    assert torch.allclose(lens, logits, atol=1e-5)
    assert torch.allclose(attributions.sum(0), true, atol=1e-4) == (mode == "compatibility mode")
    if mode == "as it is made":
        weighted = cache.apply_ln_to_stack(stack)[:, 0] * norm
        assert torch.allclose((weighted @ (unembedding[7] - unembedding[3])).sum(0), true, atol=1e-4)
PYTHON
"$work/env/bin/python" attributions.py
