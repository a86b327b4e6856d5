"""A model with 8-bit linear layers is scanned as it is."""

from __future__ import annotations

import copy

import pytest
import tiny
import torch

from vlm_neurons.classification import classify
from vlm_neurons.data import ImageTextData
from vlm_neurons.interventions import random_gates
from vlm_neurons.models import HookedVLM
from vlm_neurons.models.readout import written_by
from vlm_neurons.scanning import scan
from vlm_neurons.tokens import TokenKind


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@torch.no_grad()
def test_neurons_of_a_quantised_model_are_those_of_transformers_own_forward_pass(tmp_path):
    processor = tiny.processor()
    hf = tiny.llava(processor.tokenizer).eval()
    # all linear layers but the unembedding, as quantising loaders do it
    hf.model = torch.ao.quantization.quantize_dynamic(hf.model, {torch.nn.Linear}, dtype=torch.qint8)
    plain = copy.deepcopy(hf)
    model = HookedVLM(hf, processor)
    assert "quantized" in type(plain.model.language_model.layers[0].mlp.gate_proj).__module__

    data = ImageTextData.from_samples(
        [{"image": tiny.image(30 + i, 40), "response": f"two {i} dogs"} for i in range(5)]
    )
    run = scan(model, data, top_n=3, batch_size=1, out=tmp_path / "run", progress=False)
    best = None
    for sample in data:
        batch = model.prepare([sample.load_images()], ["Could you describe the image?"], [sample.response])
        seen = []
        act = plain.model.language_model.layers[0].mlp.act_fn
        handle = act.register_forward_hook(lambda _m, _a, out, seen=seen: seen.append(out))
        plain(input_ids=batch.input_ids, attention_mask=batch.attention_mask, pixel_values=batch.pixel_values)
        handle.remove()
        kept = seen[0][0][batch.mask(TokenKind.VISUAL)[0] | batch.mask(TokenKind.TEXT)[0]].amax(0)
        best = kept if best is None else torch.maximum(best, kept)
    torch.testing.assert_close(run.top("blocks.0.mlp.hook_act").peak, best, atol=1e-3, rtol=1e-3)
    assert set(classify(run).label) <= {"visual", "text", "multimodal", "unknown"}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@torch.no_grad()
def test_a_model_of_torchao_in_int8_gives_its_own_values_and_weights(tmp_path):
    quantization = pytest.importorskip("torchao.quantization")
    processor = tiny.processor()
    hf = tiny.llava(processor.tokenizer).eval()
    quantization.quantize_(hf.model, quantization.Int8WeightOnlyConfig())
    plain = copy.deepcopy(hf)
    model = HookedVLM(hf, processor)
    batch = model.prepare([tiny.image()], ["Hi"], ["A dog."])
    seen, ours = [], []
    handle = plain.model.language_model.layers[0].mlp.act_fn.register_forward_hook(lambda _m, _a, out: seen.append(out))
    logits = plain(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, pixel_values=batch.pixel_values
    ).logits
    handle.remove()
    for fast in (False, True):
        model.observe(batch, {"blocks.0.mlp.hook_act": lambda t: ours.append(t.clone())}, fast=fast)
        torch.testing.assert_close(ours[-1], seen[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model(batch), logits, atol=1e-4, rtol=1e-4)
    weight = plain.model.language_model.layers[0].mlp.down_proj.weight
    assert torch.equal(written_by(model, "gate", 0), weight.dequantize())
    with pytest.raises(ValueError, match="quantised weights"):
        _ = model.W_out
    with pytest.raises(ValueError, match="is quantised or has an adapter"), random_gates(model):
        pass
    data = ImageTextData.from_samples([{"image": tiny.image(), "response": "A dog."}])
    assert scan(model, data, top_n=1, out=tmp_path / "run", progress=False).complete  # its fingerprint reads weights
