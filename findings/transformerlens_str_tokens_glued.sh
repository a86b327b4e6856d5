#!/usr/bin/env bash
# Guess: strings of `bridge.to_str_tokens`, which circuitsvis shows side by side, say where words begin (" red"), so that
# together they are the text, for Llama's tokenizers as for GPT-2's.
# Seen (transformer-lens 4.3.0, transformers 5.24.0, tokenizers 0.23.3): every token is decoded alone, and the decoder of Llama's
# tokenizers takes the space from the front of what it is given. Words are glued: "a red dog." becomes "areddog.", a
# token that begins a word cannot be told from one that goes on with it, and "▁red" and "red" have one string.
# `bridge.to_string` of the whole row is right.
# Exits with 0 as long as that is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 transformer-lens==4.3.0 transformers==5.24.0 tokenizers==0.23.3
cd "$work"
cat >strings.py <<'PYTHON'
import transformers
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *"▁abcdefghijklmnopqrstuvwxyz."]
merges = [("▁", "a"), ("r", "e"), ("re", "d"), ("▁", "red"), ("d", "o"), ("do", "g"), ("▁", "dog")]
vocab = {piece: number for number, piece in enumerate([*pieces, *(left + right for left, right in merges)])}
tokenizer = transformers.LlamaTokenizer(vocab=vocab, merges=merges, pad_token="</s>")
tokenizer.save_pretrained("tokenizer")
tokenizer = transformers.AutoTokenizer.from_pretrained("tokenizer")
config = transformers.LlamaConfig(
    vocab_size=len(vocab), hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=2, bos_token_id=1, eos_token_id=2, pad_token_id=2,
)
model = transformers.LlamaForCausalLM(config).eval()
bridge = build_bridge_from_module(model, "LlamaForCausalLM", hf_config=config, tokenizer=tokenizer, model_name="tiny")
text = "a red dog."
tokens = bridge.to_tokens(text)[0]
strings = bridge.to_str_tokens(text)
print("transformer-lens 4.3.0, transformers", transformers.__version__)
print("tokens     ", tokenizer.convert_ids_to_tokens(tokens.tolist()))
print("str_tokens ", strings)
print("to_string  ", repr(bridge.to_string(tokens)))
assert strings == ["<s>", "a", "red", "dog", "."]
assert bridge.to_string(tokens).removeprefix("<s>").strip() == text
same = bridge.to_str_tokens(tokens.new_tensor([vocab["▁red"], vocab["red"]]), prepend_bos=False)
assert same == ["red", "red"], same
PYTHON
"$work/env/bin/python" strings.py
