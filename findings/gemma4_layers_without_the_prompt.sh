#!/usr/bin/env bash
# Guess: while Gemma 4 writes, a forward hook on a layer sees all positions of the prompt in the first pass and one new
# position in each pass after it, in every layer, as in other models of transformers.
# Seen (transformers 5.23.0, torch 2.13.0): so in the layers before the first that takes keys and values from another layer
# (here the last two of four do). From that layer on the first pass has the last position alone: whoever records or edits
# activations of the prompt during `generate` has none of them there. A forward pass of one's own has them all, and so has
# generate(output_hidden_states=True, return_dict_in_generate=True).
# Exits with 0 as long as that is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 transformers==5.23.0
cd "$work"
cat >positions.py <<'PYTHON'
import torch
import transformers

config = transformers.Gemma4TextConfig(
    vocab_size=40, vocab_size_per_layer_input=40, hidden_size=32, intermediate_size=48, num_hidden_layers=4,
    num_attention_heads=2, num_key_value_heads=1, head_dim=16, global_head_dim=16, hidden_size_per_layer_input=8,
    num_kv_shared_layers=2, layer_types=["sliding_attention", "full_attention"] * 2, pad_token_id=0, eos_token_id=1,
    bos_token_id=2,
)
model = transformers.Gemma4ForCausalLM(config).eval()
tokens = torch.tensor([[2, 5, 6, 7, 8, 9, 10]])
seen = [[] for _ in model.model.layers]
for layer, own in zip(model.model.layers, seen):
    layer.mlp.register_forward_hook(lambda module, args, out, own=own: own.append(out.shape[1]))


def positions(run):
    for own in seen:
        own.clear()
    with torch.no_grad():
        run()
    return [own[:] for own in seen]


def write(**more):
    return positions(lambda: model.generate(tokens, max_new_tokens=2, min_new_tokens=2, do_sample=False, **more))


plain, written = positions(lambda: model(tokens)), write()
whole = write(output_hidden_states=True, return_dict_in_generate=True)
print("transformers", transformers.__version__)
print("a forward pass", plain, "generate", written, "with output_hidden_states", whole)
assert plain == [[7]] * 4 and written == [[7, 1]] * 2 + [[1, 1]] * 2 and whole == [[7, 1]] * 4
PYTHON
"$work/env/bin/python" positions.py
