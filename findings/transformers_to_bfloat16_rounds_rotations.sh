#!/usr/bin/env bash
# Guess: `model.to(torch.bfloat16)` gives the model that `from_pretrained(dtype=torch.bfloat16)` gives: same weights, and
# frequencies of rotary positions stay float32, in which transformers computes the angles.
# Seen (transformers 5.24.0, torch 2.13.0): from_pretrained leaves `inv_freq` in float32, `.to` and `.bfloat16()` round it to 8 bits.
# With heads of 128 the angle at position 2,999 is off by 3.7 radians. Near position 50 logits are about as good as
# from_pretrained's; near 1,000, where one large picture leads, they are ten times as far from float32's, and near 2,950 as far from
# them as logits spread. `.float()` afterwards does not bring it back. So in each of 23 families of vision-language models
# tried, in vision towers with rotary positions too.
# Exits with 0 as long as that is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 transformers==5.24.0
cd "$work"
cat >positions.py <<'PYTHON'
import torch
import transformers

torch.manual_seed(0)
torch.set_grad_enabled(False)
transformers.logging.disable_progress_bar()
config = transformers.LlamaConfig(
    vocab_size=100, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=2, head_dim=128, max_position_embeddings=4096,
)
exact = transformers.LlamaForCausalLM(config).eval()
for weight in exact.parameters():
    weight.mul_(4)  # as large as in trained models, roughly: attention looks somewhere
exact.save_pretrained("model")
load = transformers.AutoModelForCausalLM.from_pretrained
models = {
    "from_pretrained(dtype=bfloat16)": load("model", dtype=torch.bfloat16),
    ".to(bfloat16)": load("model").to(torch.bfloat16),
    ".to(bfloat16).float()": load("model").to(torch.bfloat16).float(),
}
tokens = torch.randint(0, 100, (1, 3000))
true = exact(tokens).logits[0]
frequencies = exact.model.rotary_emb.inv_freq
print("transformers", transformers.__version__, "torch", torch.__version__, "std of logits", round(float(true.std()), 2))
far = {}
for name, model in models.items():
    seen = model.model.rotary_emb.inv_freq
    turned = float((2999 * (seen.double() - frequencies.double())).abs().max())
    off = (model.eval()(tokens).logits[0].float() - true).std(-1)
    far[name] = [float(off[start:end].mean()) for start, end in ((0, 100), (950, 1050), (2900, 3000))]
    print(f"{name}: {seen.dtype}, angle off by {turned:.2f}, logits near 50, 1000, 2950 by", [round(x, 3) for x in far[name]])
    assert (turned == 0) == (name not in (".to(bfloat16)", ".to(bfloat16).float()"))
good, *bad = far.values()
for one in bad:
    assert one[0] < 2 * good[0] and one[1] > 5 * good[1] and one[2] > 10 * good[2]
PYTHON
"$work/env/bin/python" positions.py
