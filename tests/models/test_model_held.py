"""Models as users hold them: each works, or is refused by name where it is made."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

import vlm_neurons as vn
from vlm_neurons.models.readout import written_by

GATE = "blocks.1.mlp.hook_act"


PICTURE = tiny.image(rng=np.random.default_rng(7))


def batch_of(model: vn.HookedVLM) -> vn.Batch:
    return model.prepare([PICTURE, None], tiny.PROMPTS[:2], tiny.RESPONSES[:2])


def given(batch: vn.Batch) -> dict[str, Any]:
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, **batch.model_inputs}


def gates(model: vn.HookedVLM, batch: vn.Batch, fast: bool) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    model.observe(batch, {GATE: lambda tensor: seen.append(tensor.clone())}, fast=fast)
    return seen[0][batch.attention_mask.bool()]


def with_adapter(targets: list[str], **settings: Any) -> Any:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=targets, init_lora_weights=False, lora_dropout=0.5, **settings)
    return peft.get_peft_model(tiny.llava(), config)


def test_a_lower_precision_leaves_rotary_positions_exact_and_who_rounded_them_is_told() -> None:
    def frequencies(model: Any) -> list[torch.Tensor]:
        return [b for n, b in model.named_buffers() if n.endswith("inv_freq")]

    exact = [b.clone() for b in frequencies(tiny.llava())]
    model = vn.HookedVLM(tiny.llava(), tiny.processor()).to(torch.bfloat16)
    kept = frequencies(model.bridge.original_model)
    assert model.dtype == torch.bfloat16 and len(kept) == len(exact) > 0
    assert all(torch.equal(a, b) for a, b in zip(kept, exact, strict=True))
    assert gates(model, batch_of(model), fast=True).dtype == torch.bfloat16
    with pytest.warns(UserWarning, match=r"rotary positions are torch\.bfloat16, .* from_pretrained\(\.\.\., dtype"):
        vn.HookedVLM(tiny.llava().to(torch.bfloat16), tiny.processor())


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft's own
@torch.no_grad()
def test_a_peft_model_is_read_with_its_adapter_as_if_it_were_merged() -> None:
    wrapped = with_adapter(["q_proj", "gate_proj", "down_proj", "linear_1", "fc1"])
    wrapped.train()  # as fine-tuning leaves it: dropout would fall on the adapter
    merged = vn.HookedVLM(copy.deepcopy(wrapped).merge_and_unload(), tiny.processor())
    model = vn.HookedVLM(wrapped, tiny.processor())
    batch = batch_of(model)
    here = batch.attention_mask.bool()
    torch.testing.assert_close(model(batch)[here], merged(batch)[here], atol=1e-4, rtol=1e-4)
    for fast in (False, True):
        torch.testing.assert_close(gates(model, batch, fast), gates(merged, batch, False), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(written_by(model, "gate", 1), merged.W_out[1].T, atol=1e-6, rtol=1e-5)
    with pytest.raises(ValueError, match=r"adapters that are not merged.*direct_logit_attribution"):
        _ = model.W_out
    before, on = model.fingerprint(), model(batch)
    with wrapped.disable_adapter():
        assert not model.fast_hooks and model.fingerprint() != before
        assert not torch.allclose(model(batch)[here], on[here], atol=1e-3)
        torch.testing.assert_close(written_by(model, "gate", 1), model.bridge.blocks[1].mlp.out.base_layer.weight)
    assert torch.equal(model(batch), on) and model.fingerprint() == before


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_adapters_that_are_no_sum_run_and_their_weights_are_not_read() -> None:
    model = vn.HookedVLM(with_adapter(["down_proj"], use_dora=True), tiny.processor())
    assert model(batch_of(model)).isfinite().all()
    with pytest.raises(ValueError, match=r"not added to the weights.*merge"):
        written_by(model, "gate", 0)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_a_prompt_that_only_the_wrapper_knows_is_refused() -> None:
    peft = pytest.importorskip("peft")
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2, token_dim=32, num_layers=2,
                                     num_attention_heads=4, num_transformer_submodules=1)  # fmt: skip
    wrapped = peft.get_peft_model(tiny.llava(), config)
    with pytest.raises(ValueError, match="PromptTuningConfig, whose prompt is not in the model"):
        vn.HookedVLM(wrapped, tiny.processor())


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("kind", ["data parallel", "mixed adapters", "both"])
@torch.no_grad()
def test_other_wrappers_are_seen_through(kind: str) -> None:
    peft = pytest.importorskip("peft")
    hf = tiny.llava()
    wrapped: Any = hf
    if kind != "data parallel":
        config = peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
        wrapped = peft.get_peft_model(wrapped, config, mixed=True).eval()
    if kind != "mixed adapters":
        wrapped = torch.nn.DataParallel(wrapped)
    model = vn.HookedVLM(wrapped, tiny.processor())
    batch = batch_of(model)
    assert torch.equal(model(batch), hf(**given(batch)).logits)


@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_offloaded_models_are_refused_by_name(where: str, tmp_path: Path) -> None:
    from accelerate import cpu_offload, disk_offload

    cpu, hf = torch.device("cpu"), tiny.llava()
    hf = cpu_offload(hf, cpu) if where == "cpu" else disk_offload(hf, str(tmp_path), cpu)
    with pytest.raises(ValueError, match=r"of \d+ weights are not in memory .*offloaded"):
        vn.HookedVLM(hf, tiny.processor())


@torch.no_grad()
def test_a_device_map_gives_the_numbers_of_one_device_and_refuses_to_offload(tmp_path: Path) -> None:
    tok = tiny.tokenizer()
    hf, processor = tiny.llava(tok), tiny.processor(tok)
    hf.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    model, whole = vn.HookedVLM.from_pretrained(tmp_path, device_map={"": "cpu"}), vn.HookedVLM(hf, processor)
    batch = batch_of(whole)
    assert torch.equal(model(batch), whole(batch)) and model.fingerprint() == whole.fingerprint()
    places = dict.fromkeys(("model.vision_tower", "model.multi_modal_projector", "lm_head"), "cpu")
    inner = {"embed_tokens": "cpu", "layers.0": "cpu", "layers.1": "disk", "norm": "cpu", "rotary_emb": "cpu"}
    places |= {f"model.language_model.{name}": where for name, where in inner.items()}
    with pytest.raises(ValueError, match=r"9 of \d+ weights are not in memory \(the first is .*layers\.1"):
        vn.HookedVLM.from_pretrained(tmp_path, device_map=places)


def test_ids_beyond_the_embedding_are_an_error_of_their_row() -> None:
    tok = tiny.tokenizer()
    hf = tiny.llava(tok)
    tok.add_tokens([f"zz{i}" for i in range(10)])
    model = vn.HookedVLM(hf, tiny.processor(tok))
    with pytest.raises(ValueError, match=r"row 1: the token 'zz9' has the id \d+, the model's embedding has \d+ rows"):
        model.prepare(None, ["Hi", "Hi"], ["zz0 fits", "A zz9 dog."])


@torch.no_grad()
def test_padding_that_is_the_image_token_is_replaced() -> None:
    tok = tiny.tokenizer()
    hf = tiny.llava(tok)
    usual = vn.HookedVLM(copy.deepcopy(hf), tiny.processor(tok))
    odd = tiny.tokenizer()
    odd.pad_token = "<image>"
    model = vn.HookedVLM(hf, tiny.processor(odd))
    batch = batch_of(model)
    here = batch.attention_mask.bool()
    assert not here.all()
    assert torch.equal(model(batch)[here], usual(batch_of(usual))[here])
    asked = [PICTURE, None], ["Hi", "What colour is it?"], 3
    assert model.generate(*asked) == usual.generate(*asked)


@torch.no_grad()
def test_a_model_in_training_is_read_without_its_dropout(tmp_path: Path) -> None:
    hf = tiny.llava()
    for module in hf.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    still = vn.HookedVLM(copy.deepcopy(hf).eval(), tiny.processor())
    model = vn.HookedVLM(hf.train(), tiny.processor())
    batch = batch_of(model)
    assert torch.equal(model(batch), still(batch))
    data = vn.ImageTextData.from_samples([{"image": tiny.image(), "response": "A dog."}])
    with pytest.raises(ValueError, match=r"in training mode.*model\.eval\(\)"):
        vn.scan(model.train(), data, out=tmp_path / "run", progress=False)
    model.eval()
    hf.train()  # the bridge's own flag does not change
    for run in (
        lambda: vn.scan(model, data, out=tmp_path / "run", progress=False),
        lambda: model.generate([tiny.image()], ["Hi"]),
    ):
        with pytest.raises(ValueError, match=r"in training mode.*model\.eval\(\)"):
            run()


@pytest.mark.parametrize("compiled", [torch.compile, lambda hf: hf.compile() or hf], ids=["wrapped", "in place"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # dynamo's, of weak references
@torch.no_grad()
def test_a_compiled_model_gives_the_numbers_of_the_model(compiled: Callable[[Any], Any]) -> None:
    hf = tiny.llava()
    plain = vn.HookedVLM(copy.deepcopy(hf), tiny.processor())
    model = vn.HookedVLM(compiled(hf), tiny.processor())
    batch = batch_of(model)
    torch.testing.assert_close(model(batch), plain(batch), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(gates(model, batch, True), gates(plain, batch, True), atol=1e-4, rtol=1e-4)
    assert model.fingerprint() == plain.fingerprint()
