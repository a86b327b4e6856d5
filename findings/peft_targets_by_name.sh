#!/usr/bin/env bash
# Guess: LoRA on the names that guides give for language models (q_proj and v_proj, or the MLP's gate_proj, up_proj and
# down_proj) changes the language model of a vision-language model alone, in every family; "all-linear" changes the
# projector too.
# Seen (peft 0.21.2, transformers 5.24.0): names are matched anywhere in the model. q_proj and v_proj change the vision
# tower of LLaVA, Gemma 3 and Idefics3, but not that of Qwen2.5-VL (its layers have one `qkv`); the MLP's names change
# the vision tower of Qwen2.5-VL alone. "all-linear" leaves Gemma 3's projector as it was: its weight is no Linear.
# A vision neuron is thus the old one or a new one by the family, for one and the same configuration.
# Exits with 0 as long as that is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 transformers==5.24.0 peft==0.21.2
cat >"$work/targets.py" <<'PYTHON'
import peft
import transformers
from transformers import AutoModelForImageTextToText

wide = dict(hidden_size=32, intermediate_size=64)
text = dict(**wide, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, vocab_size=100, pad_token_id=0)
tower = dict(**wide, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14)
packed = dict(**wide, depth=2, num_heads=2, out_hidden_size=32)
sections = dict(rope_type="default", mrope_section=[2, 3, 3])
configs = {
    "LLaVA": transformers.LlavaConfig(
        text_config=dict(model_type="llama", **text), vision_config=dict(model_type="clip_vision_model", **tower)
    ),
    "Gemma 3": transformers.Gemma3Config(
        text_config=dict(**text, head_dim=16), vision_config=tower, mm_tokens_per_image=4
    ),
    "Idefics3": transformers.Idefics3Config(
        text_config=dict(model_type="llama", **text), vision_config=tower, scale_factor=2
    ),
    "Qwen2.5-VL": transformers.Qwen2_5_VLConfig(
        text_config=dict(**text, rope_parameters=sections), vision_config=packed
    ),
}
targets = {"attention": ["q_proj", "v_proj"], "MLP": ["gate_proj", "up_proj", "down_proj"], "all": "all-linear"}
parts = {"vision tower": ("vision", "visual.blocks"), "projector": ("multi_modal", "connector", "merger")}


def part(name: str) -> str:
    return next((part for part, words in parts.items() if any(word in name for word in words)), "language model")


print("peft", peft.__version__, "transformers", transformers.__version__)
seen = {}
for family, config in configs.items():
    for kind, names in targets.items():
        model = AutoModelForImageTextToText.from_config(config)
        model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=names))
        seen[family, kind] = {part(name) for name, _ in model.named_parameters() if "lora_A" in name}
        print(f"{family:10} {kind:9} changes: {', '.join(sorted(seen[family, kind]))}")
both, alone = {"language model", "vision tower"}, {"language model"}
for family in ("LLaVA", "Gemma 3", "Idefics3"):
    assert seen[family, "attention"] == both and seen[family, "MLP"] == alone, family
assert seen["Qwen2.5-VL", "attention"] == alone and seen["Qwen2.5-VL", "MLP"] == both
assert all(("projector" in seen[family, "all"]) == (family != "Gemma 3") for family in configs)
PYTHON
"$work/env/bin/python" "$work/targets.py" 2>/dev/null
