#!/usr/bin/env bash
# Guess: of text alone, Aya Vision gives the logits of its own language model (Cohere 2) with the same weights, as Gemma 3,
# LLaVA and Qwen-VL do.
# Seen (transformers 5.23.0, torch 2.13.0): Cohere2ForCausalLM multiplies its logits by config.logit_scale (1/16 by default),
# the image-text classes AyaVision and Cohere2Vision do not, though their text_config has the number: logits are 16 times as
# large. The likeliest token is the same; probabilities, entropies, losses, samples at a temperature and logit differences
# are not. Compare numbers of the two only after dividing.
# Exits with 0 as long as that is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 transformers==5.23.0
cd "$work"
cat >logits.py <<'PYTHON'
import torch
import transformers as hf

torch.manual_seed(0)
text = hf.Cohere2Config(
    vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=2, sliding_window=16, pad_token_id=0, bos_token_id=2, eos_token_id=1,
)
vision = hf.SiglipVisionConfig(
    hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8
)
tokens = torch.tensor([[2, 5, 6, 7, 8]])
print("transformers", hf.__version__, "logit_scale", text.logit_scale)
for kind in ("AyaVision", "Cohere2Vision"):
    config = getattr(hf, f"{kind}Config")(vision_config=vision, text_config=text)
    whole = getattr(hf, f"{kind}ForConditionalGeneration")(config).eval()
    alone = hf.Cohere2ForCausalLM(text).eval()
    alone.model.load_state_dict(whole.model.language_model.state_dict())
    alone.lm_head.load_state_dict(whole.lm_head.state_dict())
    with torch.no_grad():
        seen, expected = whole(input_ids=tokens).logits, alone(tokens).logits
    print(kind, "largest logit", float(seen.max()), "of the language model", float(expected.max()))
    assert not torch.allclose(seen, expected, atol=1e-3)
    assert torch.allclose(seen * text.logit_scale, expected, atol=1e-6)
PYTHON
"$work/env/bin/python" logits.py
