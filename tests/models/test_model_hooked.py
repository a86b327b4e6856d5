"""What a HookedVLM offers beside parity and guards."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

import vlm_neurons as vn
from vlm_neurons.hooks import ablate
from vlm_neurons.models.adapters import adapter_of
from vlm_neurons.models.bridge import wrap
from vlm_neurons.models.guards import cannot_matter
from vlm_neurons.sites import names
from vlm_neurons.sites.mlp import MLPS


@pytest.fixture(scope="module")
def model() -> vn.HookedVLM:
    tok = tiny.tokenizer()
    return vn.HookedVLM(tiny.llava(tok), tiny.processor(tok))


def batch_of(model: vn.HookedVLM, responses: Any = None) -> Any:
    return model.prepare([[tiny.image(), tiny.image()], None, tiny.image()], tiny.PROMPTS, responses)


@torch.no_grad()
def test_a_bridge_that_the_user_built_is_extended_in_place() -> None:
    tok = tiny.tokenizer()
    hf = tiny.llava(tok)
    processor = tiny.processor(tok)
    bridge = wrap(copy.deepcopy(hf), tok, adapter_of(hf.config), "mine")
    assert "blocks.0.mlp.hook_act" not in bridge.hook_dict
    from_bridge, from_hf = vn.HookedVLM(bridge, processor), vn.HookedVLM(hf, processor)
    assert from_bridge.bridge is bridge
    batch = batch_of(from_hf, tiny.RESPONSES)
    hooks = [h for site in names() for h in from_bridge.site_hooks(site)]
    a, cache_a = from_bridge.run_with_cache(batch, names_filter=hooks)
    b, cache_b = from_hf.run_with_cache(batch, names_filter=hooks)
    assert torch.equal(a, b)
    assert all(torch.equal(cache_a[h], cache_b[h]) for h in hooks)
    again = vn.HookedVLM(bridge, processor)  # and twice does no harm
    assert torch.equal(
        again.run_with_hooks(batch, fwd_hooks=ablate("L0N1")), from_hf.run_with_hooks(batch, fwd_hooks=ablate("L0N1"))
    )
    # the bridge's own calls have the new hooks, too
    _, own = bridge.run_with_cache(
        batch.input_ids, attention_mask=batch.attention_mask, pixel_values=batch.pixel_values, names_filter=hooks
    )
    assert torch.equal(own["blocks.1.mlp.hook_act"], cache_a["blocks.1.mlp.hook_act"])


def test_a_model_inside_a_bridge_is_refused_with_the_remedy() -> None:
    tok = tiny.tokenizer()
    hf = tiny.llava(tok)
    vn.HookedVLM(hf, tiny.processor(tok))
    with pytest.raises(ValueError, match=r"pass the bridge"):
        vn.HookedVLM(hf, tiny.processor(tok))


def test_families_that_are_not_supported_are_refused_by_name() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    tok = tiny.tokenizer()
    processor = tiny.processor(tok)
    small = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=20))
    with pytest.raises(
        ValueError,
        match=r"'gpt2' is not supported .to write its record: .*Supported: llava .*clip_vision_model.*mistral",
    ):
        vn.HookedVLM(small, processor)
    record = r" is.* \(to write its record: vlm_neurons/models/README.md"
    hf = tiny.llava(tok)
    hf.config.text_config.model_type = "gemma"
    where = r"as model.language_model.layers.\{i\}.mlp.gate_proj"
    with pytest.raises(ValueError, match=f"backbone 'gemma' is not supported: .*{where}{record}"):
        vn.HookedVLM(hf, processor)
    hf = tiny.llava(tok)
    hf.config.vision_config.model_type = "dinov2"
    with pytest.raises(ValueError, match=f"tower 'dinov2' is not supported: .*as model.vision_tower.*fc1{record}"):
        vn.HookedVLM(hf, processor)
    hf = tiny.llava(tok)
    hf.config.vision_feature_select_strategy = "full"
    with pytest.raises(ValueError, match="has to be 'default'"):
        vn.HookedVLM(hf, processor)


@pytest.mark.parametrize(("kind", "why"), [
    ("Blip2", "learned queries, each of which sees the whole picture"), ("Mllama", "cross-attention"),
    ("Llama4", "mixture of experts"), ("Qwen3_5Moe", "mixture of experts"), ("Cohere2Vision", "written its record"),
])  # fmt: skip
def test_families_that_cannot_be_supported_are_refused_with_the_reason(kind: str, why: str) -> None:
    import transformers

    config = getattr(transformers, f"{kind}Config")()
    with pytest.raises(ValueError, match=f"{config.model_type!r} is not supported: .*{why}.* Supported: llava"):
        adapter_of(config)


def test_gemma_4_with_experts_is_refused_with_the_reason() -> None:
    from transformers import Gemma4Config

    config = Gemma4Config(text_config={"enable_moe_block": True}, vision_config={})
    with pytest.raises(ValueError, match=r"Gemma 4 26B.*not supported: its experts stand beside the MLP"):
        adapter_of(config)


@pytest.mark.parametrize("tower", ["clip", "siglip"])
@torch.no_grad()
def test_a_saved_model_loads_without_installing_anything(
    tower: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tok = tiny.tokenizer("unigram")
    hf = tiny.llava(tok, tower=tower)
    processor = tiny.processor(tok, tower=tower, chat_template=tiny.CHATML)
    hf.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)

    from transformer_lens.model_bridge import TransformerBridge

    def forbidden(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"a process was started: {args}")

    for name in ("Popen", "run", "check_call", "check_output"):
        monkeypatch.setattr(subprocess, name, forbidden)
    loaded = vn.HookedVLM.from_pretrained(tmp_path, device="cpu")
    in_memory = vn.HookedVLM(hf, processor)
    assert loaded.dtype == torch.float32 and loaded.device == torch.device("cpu")
    assert loaded.fingerprint() == in_memory.fingerprint()
    images = [tiny.image(), None]
    a = loaded.prepare(images, ["Hi", "What?"], ["A dog.", "Blue."])
    b = in_memory.prepare(images, ["Hi", "What?"], ["A dog.", "Blue."])
    assert torch.equal(a.input_ids, b.input_ids) and torch.equal(a.kinds, b.kinds)
    assert torch.equal(a.pixel_values, b.pixel_values) and a.texts == b.texts
    assert torch.equal(loaded(a), in_memory(b))
    booted = vn.HookedVLM(TransformerBridge.boot_transformers(str(tmp_path)), processor)  # by TransformerLens' own way
    assert torch.equal(booted(b), in_memory(b)) and booted.fingerprint() == in_memory.fingerprint()
    assert vn.HookedVLM.from_pretrained(str(tmp_path), dtype=torch.bfloat16).dtype == torch.bfloat16
    assert torch.equal(vn.HookedVLM.from_pretrained(tmp_path, device_map="cpu")(a), loaded(a))


@torch.no_grad()
def test_checkpoints_without_a_processor_config_load(tmp_path: Path) -> None:
    tok = tiny.tokenizer()
    hf, processor = tiny.llava(tok), tiny.processor(tok)
    hf.save_pretrained(tmp_path)
    processor.image_processor.save_pretrained(tmp_path)
    tok.save_pretrained(tmp_path)
    loaded, in_memory = vn.HookedVLM.from_pretrained(tmp_path), vn.HookedVLM(hf, processor)
    batch = batch_of(in_memory)
    assert torch.equal(
        loaded.prepare(list([[*batch.images[:2]], None, batch.images[2]]), tiny.PROMPTS).input_ids, batch.input_ids
    )


def test_names_that_cannot_be_found_say_how_to_pass_a_directory(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"(?s)'llava-hf/no-such-model'.*local directory"):
        vn.HookedVLM.from_pretrained("llava-hf/no-such-model")
    with pytest.raises(OSError, match="not a complete Hugging Face model"):
        vn.HookedVLM.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="not both"):
        vn.HookedVLM.from_pretrained(tmp_path, device="cpu", device_map="auto")


@torch.no_grad()
def test_an_unsupported_checkpoint_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    from transformers import GPT2Config

    GPT2Config().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'gpt2' is not supported"):
        vn.HookedVLM.from_pretrained(tmp_path)


@torch.no_grad()
def test_observe_gives_the_cached_activations_and_computes_no_logits(model: vn.HookedVLM) -> None:
    batch = batch_of(model, tiny.RESPONSES)
    hooks = [h for site in names() for h in model.site_hooks(site)] + ["ln_final.hook_out", "blocks.1.hook_out"]
    _, cache = model.run_with_cache(batch, names_filter=hooks)
    seen: dict[str, Tensor] = {}
    ran: list[Any] = []
    handle = model.bridge.unembed.original_component.register_forward_hook(lambda *a: ran.append(1))
    model.observe(batch, {h: (lambda t, h=h: seen.__setitem__(h, t.clone())) for h in hooks})
    assert not ran, "the unembedding ran"
    model(batch)
    assert ran
    handle.remove()
    assert set(seen) == set(hooks)
    assert all(torch.equal(seen[h], cache[h]) for h in hooks)
    assert not any(p.fwd_hooks for p in model.bridge.hook_points()), "hooks were left behind"


def test_observe_takes_its_hooks_off_when_a_function_fails(model: vn.HookedVLM) -> None:
    def fail(tensor: Tensor) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        model.observe(batch_of(model), {"blocks.0.mlp.hook_act": fail})
    assert not any(p.fwd_hooks for p in model.bridge.hook_points())


@torch.no_grad()
def test_patching_tools_see_the_image(model: vn.HookedVLM) -> None:
    """get_act_patch_* through the bound model, against the same patch made by hand."""
    from transformer_lens import patching

    prompt, response = "Hi", "A dog."
    clean = model.prepare([tiny.image()], prompt, response)
    corrupted = model.prepare([tiny.image()], prompt, response)

    def metric(logits: Tensor) -> Tensor:
        return logits[0, -1, 7]

    _, cache = model.run_with_cache(clean)
    bound = model.bind(corrupted)
    result = patching.get_act_patch_resid_pre(bound, corrupted.input_ids, cache, metric)
    for layer in range(2):
        for at in range(0, clean.input_ids.shape[1], 7):

            def patch(tensor: Tensor, hook: Any, layer: int = layer, at: int = at) -> Tensor:
                tensor = tensor.clone()
                tensor[:, at] = cache[f"blocks.{layer}.hook_resid_pre"][:, at]
                return tensor

            logits = model.run_with_hooks(corrupted, fwd_hooks=[(f"blocks.{layer}.hook_resid_pre", patch)])
            assert torch.allclose(result[layer, at].float(), metric(logits), atol=1e-5)
    # With the image, patching image positions matters; blind to it, nothing could.
    visual = clean.mask("visual")[0]
    assert float((result[0, visual] - metric(model(corrupted))).abs().max()) > 0.01
    heads = patching.get_act_patch_attn_head_out_all_pos(bound, corrupted.input_ids, cache, metric)
    assert heads.shape == (2, 4)
    with bound.hooks(ablate("L0N1")) as inside:
        assert torch.equal(inside(corrupted.input_ids), model.run_with_hooks(corrupted, fwd_hooks=ablate("L0N1")))


@torch.no_grad()
def test_the_logit_lens_sees_the_image(model: vn.HookedVLM) -> None:
    from transformer_lens.tools.analysis.logit_lens import logit_lens

    batch = model.prepare([tiny.image()], "Hi")
    lens = logit_lens(model.bind(batch), batch.input_ids)
    assert lens is not None


@torch.no_grad()
def test_hooks_hold_while_generating(model: vn.HookedVLM) -> None:
    batch = batch_of(model)
    edited = copy.deepcopy(model.bridge.original_model)
    prompts, pictures = tiny.PROMPTS, [list(batch.images[:2]), None, batch.images[2]]
    plain = model.generate(pictures, prompts, max_new_tokens=8)
    neurons = [f"L1N{i}" for i in range(44)]
    with model.hooks(ablate(neurons)):
        ablated = model.generate(pictures, prompts, max_new_tokens=8)
    layer = edited.model.language_model.layers[1].mlp
    layer.out.original_component.weight.zero_()
    new = edited.generate(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        pixel_values=batch.pixel_values,
        do_sample=False,
        max_new_tokens=8,
        pad_token_id=model.words.pad_id,
    )[:, batch.input_ids.shape[1] :]
    expected = [t.strip() for t in model.tokenizer.batch_decode(new, skip_special_tokens=True)]
    assert ablated == expected
    assert ablated != plain
    assert model.generate(pictures, prompts, max_new_tokens=8) == plain


def test_generate_refuses_what_it_cannot_continue(model: vn.HookedVLM) -> None:
    with pytest.raises(ValueError, match="padding_side='left'"):
        model.generate(batch_of(model, tiny.RESPONSES))
    with pytest.raises(ValueError, match="prompts are missing"):
        model.generate([tiny.image()])
    with pytest.raises(ValueError, match="has its prompts already"):
        model.generate(batch_of(model), ["Hi"])


@pytest.mark.parametrize("tower", ["clip", "siglip"])
@torch.no_grad()
def test_the_hook_map_is_true_of_every_hook(tower: str) -> None:
    """Brute force: which hooks fire, with what in dimension 0, and whose disturbance changes the logits."""
    tok = tiny.tokenizer()
    model = vn.HookedVLM(tiny.llava(tok, tower=tower, n_layers=1, vision_layers=2), tiny.processor(tok, tower=tower))
    table = model.hook_map()
    assert list(table.columns) == ["hook", "site", "holds", "shape", "indexed_by", "affects_logits", "same_as"]
    batch = model.prepare([[tiny.image(), tiny.image()], tiny.image()], tiny.PROMPTS[:2])
    real = batch.attention_mask.bool()
    unhooked = model(batch)[real]
    fired: dict[str, tuple[int, ...]] = {}
    changed: dict[str, bool] = {}
    inputs = {"attention_mask": batch.attention_mask, "pixel_values": batch.pixel_values}
    for name, point in model.bridge.hook_dict.items():
        if name != point.name or model.bridge._gated_hook_reason(name) is not None:
            continue

        def disturb(tensor: Tensor, hook: Any, name: str = name) -> Tensor | None:
            fired[name] = tuple(tensor.shape)
            return tensor + torch.randn_like(tensor) if tensor.is_floating_point() else None

        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logits = model.bridge.run_with_hooks(batch.input_ids, fwd_hooks=[(name, disturb)], **inputs)
        changed[name] = not torch.equal(logits[real], unhooked)
    own = table[table["same_as"] == ""].set_index("hook")
    assert set(own.index) == set(fired)
    for name, row in own.iterrows():
        assert row["affects_logits"] == changed[str(name)], name
        if not str(name).startswith("rotary_emb") and "hook_cos" not in str(name) and "hook_sin" not in str(name):
            assert fired[str(name)][0] == (3 if row["indexed_by"] == "image" else 2), name
        assert row["holds"], name
    for site in MLPS:
        assert list(table[table["site"] == site.name]["hook"]) == model.site_hooks(site.name)
    assert "vision_projector.hook_projected" in table.attrs["never_fire"]
    assert set(table.attrs["never_fire"]).isdisjoint(table["hook"])
    last = table[table["hook"] == "vision.1.mlp.hook_post"].iloc[0]
    assert not last["affects_logits"]
    assert all(p.requires_grad for p in model.bridge.original_model.parameters())


@pytest.mark.parametrize("layers", [-1, -2, -3, 1, [1, -1]])
def test_vision_layers_that_cannot_matter_follow_the_config(layers: Any) -> None:
    tok = tiny.tokenizer()
    hf = tiny.llava(tok, n_layers=1, vision_feature_layer=layers)
    model = vn.HookedVLM(hf, tiny.processor(tok))
    table = model.hook_map().set_index("hook")
    for layer, hook in enumerate(model.site_hooks("vision")):
        assert table.loc[hook, "affects_logits"] == (layer < model.first_dead_layer)
    for hook in table.index:
        if hook.startswith("vision_encoder.") and not hook.endswith(("hook_pattern", "hook_attn_scores")):
            assert cannot_matter(hook, model.first_dead_layer) == (not table.loc[hook, "affects_logits"]), hook


@torch.no_grad()
def test_activations_by_patch_are_those_of_the_patches(model: vn.HookedVLM) -> None:
    batch = batch_of(model, tiny.RESPONSES)
    names = ["vision_encoder.encoder_layers.1.hook_out", "vision_projector.hook_in"]
    _, cache = model.run_with_cache(batch, names_filter=[*names, "vision_encoder.encoder_layers.0.attn.hook_pattern"])
    tower, projector = (batch.by_patch(n, cache[n]) for n in names)
    assert torch.equal(tower[0], projector[0]), "hidden state -2 without CLS is what the projector reads"
    assert tower[1].tolist() == projector[1].tolist() == list(range(len(batch.patches)))
    with pytest.raises(ValueError, match=f"rows for each of {len(batch.patches)} patches"):
        batch.by_patch("vision_encoder.hook_in", batch.pixel_values)
    pattern = "vision_encoder.encoder_layers.0.attn.hook_pattern"
    with pytest.raises(ValueError, match=f"rows for each of {len(batch.patches)} patches"):
        batch.by_patch(pattern, cache[pattern])


def test_a_batch_moves_to_another_device_whatever_it_was_asked_before(model: vn.HookedVLM) -> None:
    batch = batch_of(model, tiny.RESPONSES)
    rows = batch.row_of_patches.tolist()
    assert len(batch.rows_by_site["vision"].shown) == len(rows) == len(batch.patches)
    moved = batch.to("meta")  # a device that is everywhere
    assert moved.input_ids.device.type == moved.image_inputs["pixel_values"].device.type == "meta"
    assert moved.patches == batch.patches and moved.patch_counts == batch.patch_counts


def test_site_hooks_and_what_exists(model: vn.HookedVLM) -> None:
    assert model.site_hooks("gate") == ["blocks.0.mlp.hook_act", "blocks.1.mlp.hook_act"]
    assert model.site_hooks("projector") == ["projector.0.hook_post"]
    assert len(model.site_hooks("vision")) == 3
    assert model.site_hooks("blocks.1.hook_mlp_out") == ["blocks.1.hook_mlp_out"]
    with pytest.raises(ValueError, match=r"site 'gates': choose from gate, post, projector, vision, .*close: gate"):
        model.site_hooks("gates")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("projector.0.hook_post", "vision_projector.hook_post"),
     ("vision.1.mlp.hook_post", "vision_encoder.encoder_layers.1.mlp.hook_post"),
     ("blocks.1.mlp.hook_act", "blocks.1.mlp.act.hook_out")],
)  # fmt: skip
def test_transformerlens_own_names_stay_valid(model: vn.HookedVLM, ours: str, theirs: str) -> None:
    batch = model.prepare([tiny.image()], "Hi", "A dog.")
    _, cache = model.run_with_cache(batch, names_filter=[ours, theirs])
    assert torch.equal(cache[ours], cache[theirs])
    edits = [model.run_with_hooks(batch, fwd_hooks=[(name, lambda t, hook: 2 * t)]) for name in (ours, theirs)]
    assert torch.equal(*edits) and not torch.allclose(edits[0], model(batch))
    table = model.hook_map().set_index("hook")
    shown = ["shape", "indexed_by", "affects_logits", "holds"]
    assert table.loc[ours, shown].tolist() == table.loc[theirs, shown].tolist()


def test_the_fingerprint_tells_models_apart_and_survives_wrapping() -> None:
    from vlm_neurons.models.fingerprint import fingerprint

    tok = tiny.tokenizer()
    processor = tiny.processor(tok)
    hf = tiny.llava(tok)
    before = fingerprint(hf, hf.config, processor)
    model = vn.HookedVLM(hf, processor)
    assert model.fingerprint() == before
    assert vn.HookedVLM(tiny.llava(tok), processor).fingerprint() != before
    with torch.no_grad():
        model.bridge.blocks[0].mlp.out.weight.mul_(1.01)
    assert model.fingerprint() != before


def test_gradients_flow_from_logits_to_visual_neurons(model: vn.HookedVLM) -> None:
    batch = model.prepare([tiny.image()], "Hi")
    kept: list[Tensor] = []

    def keep(tensor: Tensor, hook: Any) -> None:
        tensor.retain_grad()
        kept.append(tensor)

    logits = model.run_with_hooks(batch, fwd_hooks=[("vision_projector.hook_post", keep)])
    logits[0, -1, 0].backward()
    assert float(kept[0].grad.abs().sum()) > 0  # type: ignore[union-attr]
    model.bridge.original_model.zero_grad()


def test_importing_the_package_does_not_import_transformer_lens() -> None:
    code = (
        "import sys, vlm_neurons, vlm_neurons.hooks, vlm_neurons.models;"
        "print([m for m in ('transformer_lens', 'transformers', 'pandas') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
