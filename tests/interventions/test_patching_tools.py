"""Every `transformer_lens.patching.get_act_patch_*` through `model.bind(batch)`: the numbers are those of patching the
plain Hugging Face model by hand, with the images in place; what LLaVA's attention cannot do is an error."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import tiny
import torch
from torch import Tensor, nn
from transformer_lens import patching
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from vlm_neurons import HookedVLM

HEAD = 8  # width of a head of the tiny model
ATTENTION: dict[str, Any] = {"layer": -1, "edit": None, "seen": {}}


def attention_by_hand(module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any, scaling: float, **_: Any) -> Any:
    """Grouped-query attention written out, with a place to see and to change the pattern."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = q @ k.transpose(2, 3) * scaling
    pattern = (scores if mask is None else scores + mask[..., : k.shape[2]]).softmax(-1)
    ATTENTION["seen"][module.layer_idx] = pattern
    if ATTENTION["edit"] is not None and module.layer_idx == ATTENTION["layer"]:
        pattern = ATTENTION["edit"](pattern.clone())
    return (pattern @ v).transpose(1, 2).contiguous(), pattern


class Plain:
    """The Hugging Face model without any bridge, patched with torch hooks on its own modules."""

    def __init__(self, hf: Any, clean: Any, corrupt: Any) -> None:
        self.hf, self.corrupt = hf, corrupt
        self.layers = hf.model.language_model.layers
        if "by_hand" not in ALL_ATTENTION_FUNCTIONS:
            ALL_ATTENTION_FUNCTIONS.register("by_hand", attention_by_hand)
            ALL_MASK_ATTENTION_FUNCTIONS.register("by_hand", eager_mask)
        hf.model.language_model.config._attn_implementation = "by_hand"
        self.clean, self.dirty = self.cache(clean), self.cache(corrupt)

    def run(self, batch: Any) -> Tensor:
        with torch.no_grad():
            return self.hf(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, pixel_values=batch.pixel_values
            ).logits

    def modules(self, layer: int) -> dict[str, tuple[nn.Module, str]]:
        """Where an activation is: the output of a module, or its input."""
        block = self.layers[layer]
        attn = block.self_attn
        return {
            "resid_pre": (block, "in"), "resid_mid": (block.post_attention_layernorm, "in"), "attn_out": (attn, "out"),
            "mlp_out": (block.mlp, "out"), "z": (attn.o_proj, "in"), "q": (attn.q_proj, "out"),
            "k": (attn.k_proj, "out"), "v": (attn.v_proj, "out"),
        }  # fmt: skip

    def cache(self, batch: Any) -> dict[tuple[str, int], Tensor]:
        found: dict[tuple[str, int], Tensor] = {}
        handles = []
        for layer in range(len(self.layers)):
            for name, (module, side) in self.modules(layer).items():
                handles.append(self.hook(module, side, lambda t, key=(name, layer): found.update({key: t.clone()})))
        self.run(batch)
        for handle in handles:
            handle.remove()
        return found | {("pattern", i): p.clone() for i, p in ATTENTION["seen"].items()}

    @staticmethod
    def hook(module: nn.Module, side: str, fn: Callable[[Tensor], Tensor | None]) -> Any:
        if side == "in":

            def before(module: Any, args: Any) -> Any:
                new = fn(args[0])
                return None if new is None else (new, *args[1:])

            return module.register_forward_pre_hook(before)

        def after(module: Any, args: Any, output: Any) -> Any:
            new = fn(output[0] if isinstance(output, tuple) else output)
            return None if new is None else ((new, *output[1:]) if isinstance(output, tuple) else new)

        return module.register_forward_hook(after)

    def patched(self, name: str, layer: int, edit: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Logits of the corrupted run with `edit(activation, clean activation)` at one place."""
        clean = self.clean[name, layer]
        if name == "pattern":
            ATTENTION.update(layer=layer, edit=lambda pattern: edit(pattern, clean))
            try:
                return self.run(self.corrupt)
            finally:
                ATTENTION["edit"] = None
        if name == "resid_mid":  # read twice: reached through what attention adds
            name, old = "attn_out", self.dirty["resid_mid", layer]
            delta = edit(old.clone(), clean) - old
            return self.with_hook(*self.modules(layer)[name], lambda t: t + delta)
        return self.with_hook(*self.modules(layer)[name], lambda t: edit(t.clone(), clean))

    def with_hook(self, module: nn.Module, side: str, fn: Callable[[Tensor], Tensor | None]) -> Tensor:
        handle = self.hook(module, side, fn)
        try:
            return self.run(self.corrupt)
        finally:
            handle.remove()


def metric(logits: Tensor) -> Tensor:
    return logits[:, -1].logsumexp(-1).sum() + logits[:, -1, 7].sum()


@pytest.fixture(scope="module")
def setting() -> Any:
    tok = tiny.tokenizer()
    hf = tiny.llava(tok, image_size=14)
    plain = copy.deepcopy(hf)
    model = HookedVLM(hf, tiny.processor(tok, image_size=14))
    prompts = ["Hi", "Hi, what is it?"]  # rows of two lengths; one has two images
    clean, corrupt = (model.prepare([[tiny.image(), tiny.image()], tiny.image()], prompts) for _ in range(2))
    assert bool((clean.attention_mask == 0).any())
    return model, clean, corrupt, Plain(plain, clean, corrupt)


def at(*index: Any) -> Callable[[Tensor, Tensor], Tensor]:
    def edit(tensor: Tensor, clean: Tensor) -> Tensor:
        tensor[index] = clean[index]
        return tensor

    return edit


ALL = slice(None)


def head(h: int) -> slice:
    return slice(h * HEAD, (h + 1) * HEAD)


BY_HAND: dict[str, tuple[str, tuple[str, ...], Callable[..., Any]]] = {
    **{f"get_act_patch_{n}": (n, ("layer", "pos"), lambda p: at(ALL, p))
       for n in ("resid_pre", "resid_mid", "attn_out", "mlp_out")},
    **{f"get_act_patch_attn_head_{n}_by_pos": (a, ("layer", "pos", "head"), lambda p, h: at(ALL, p, head(h)))
       for n, a in (("out", "z"), ("q", "q"), ("k", "k"), ("v", "v"))},
    **{f"get_act_patch_attn_head_{n}_all_pos": (a, ("layer", "head"), lambda h: at(ALL, ALL, head(h)))
       for n, a in (("out", "z"), ("q", "q"), ("k", "k"), ("v", "v"))},
    "get_act_patch_attn_head_pattern_all_pos": ("pattern", ("layer", "head_index"), lambda h: at(ALL, h)),
    "get_act_patch_attn_head_pattern_by_pos":
        ("pattern", ("layer", "head_index", "dest_pos"), lambda h, d: at(ALL, h, d)),
    "get_act_patch_attn_head_pattern_dest_src_pos":
        ("pattern", ("layer", "head_index", "dest_pos", "src_pos"), lambda h, d, s: at(ALL, h, d, s)),
}  # fmt: skip
EVERY = {
    "get_act_patch_attn_head_all_pos_every": ["out", "q", "k", "v", "pattern"],
    "get_act_patch_attn_head_by_pos_every": ["out", "q", "k", "v", "pattern"],
    "get_act_patch_block_every": ["resid_pre", "attn_out", "mlp_out"],
}
DIRECT = {"get_act_patch_direct_path", "get_act_patch_direct_path_all_sources"}


def test_no_patching_function_of_transformer_lens_is_left_out() -> None:
    there = {name for name in dir(patching) if name.startswith("get_act_patch_")}
    assert there == {*BY_HAND, *EVERY, *DIRECT}


def cells(setting: Any, axes: tuple[str, ...], kind: str, n: int = 6) -> pd.DataFrame:
    model, _, corrupt, _ = setting
    heads = 2 if kind in ("k", "v") else 4
    most = {"layer": model.n_layers, "head": heads, "head_index": heads}
    rows = [[int(torch.randint(most.get(a, corrupt.input_ids.shape[1]), ())) for a in axes] for _ in range(n)]
    table = pd.DataFrame(rows, columns=list(axes))
    for place in {"pos", "dest_pos"} & set(axes):  # chance may pick nothing but padding, or what the metric cannot see
        table.loc[:2, place] = corrupt.input_ids.shape[1] - 1
        table.loc[:2, "layer"] = model.n_layers - 1  # before it, equal last tokens are still equal
    for name in {"head", "head_index"} & set(axes):  # one alone may matter little
        table.loc[:2, name] = [i % heads for i in range(3)]
    if "src_pos" in axes:  # one entry of a pattern matters where the metric reads, and not at padding
        table["dest_pos"] = corrupt.input_ids.shape[1] - 1
        table["src_pos"] = [int(i) for i in torch.randperm(10)[:n] + corrupt.input_ids.shape[1] - 10]
    return table


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(BY_HAND))
def test_patching_equals_patching_the_plain_model_by_hand(setting: Any, name: str) -> None:
    model, clean, corrupt, plain = setting
    kind, axes, edit = BY_HAND[name]
    _, cache = model.run_with_cache(clean)
    chosen = cells(setting, axes, kind)
    found = getattr(patching, name)(
        model.bind(corrupt), corrupt.input_ids, cache, metric, index_df=chosen, index_axis_names=None
    )
    expected = [float(metric(plain.patched(kind, int(r[0]), edit(*map(int, r[1:]))))) for r in chosen.to_numpy()]
    assert torch.allclose(found, torch.tensor(expected), atol=1e-4), (found, expected)
    unpatched = float(metric(plain.run(corrupt)))
    assert max(abs(e - unpatched) for e in expected) > 1e-4, "some patch matters"


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(EVERY))
def test_sweeps_over_every_kind_are_their_parts(setting: Any, name: str) -> None:
    model = setting[0]
    clean, corrupt = (model.prepare([tiny.image()], ["Hi"]) for _ in range(2))  # a run for every pair of positions
    setting = model, clean, corrupt, None
    _, cache = model.run_with_cache(clean)
    found = getattr(patching, name)(model.bind(corrupt), corrupt.input_ids, cache, metric)
    for part, kind in zip(found, EVERY[name], strict=True):
        if name.endswith("block_every"):
            single, axes = f"get_act_patch_{kind}", ["layer", "pos"]
        else:
            single = f"get_act_patch_attn_head_{kind}_{'all_pos' if 'all_pos' in name else 'by_pos'}"
            axes = list(BY_HAND[single][1])
        chosen = cells(setting, tuple(axes), kind, n=5)
        alone = getattr(patching, single)(
            model.bind(corrupt), corrupt.input_ids, cache, metric, index_df=chosen, index_axis_names=None
        )
        order = ["layer", *[a for a in axes if "pos" in a], *[a for a in axes if "head" in a]]
        assert torch.allclose(part[tuple(chosen[order].to_numpy().T.copy())], alone, atol=1e-5)


@torch.no_grad()
def test_direct_paths_into_queries_equal_those_by_hand_and_into_keys_are_refused(setting: Any) -> None:
    model, clean, corrupt, plain = setting
    (_, cache), (_, dirty) = model.run_with_cache(clean), model.run_with_cache(corrupt)
    args = (model.bind(corrupt), corrupt.input_ids, cache, dirty, metric)
    every = patching.get_act_patch_direct_path_all_sources(*args)
    block = plain.layers[1]
    source = 1
    found = patching.get_act_patch_direct_path(*args, 0, source, component="q", verbose=False)
    write = plain.clean["z", 0] - plain.dirty["z", 0]
    delta = write[..., head(source)] @ plain.layers[0].self_attn.o_proj.weight[:, head(source)].T
    for target in range(4):
        moved = block.self_attn.q_proj(block.input_layernorm(plain.dirty["resid_pre", 1] + delta))

        def one_head(q: Tensor, target: int = target, moved: Tensor = moved) -> Tensor:
            q = q.clone()
            q[..., head(target)] = moved[..., head(target)]
            return q

        expected = metric(plain.with_hook(block.self_attn.q_proj, "out", one_head))
        assert torch.allclose(found[1, target], expected, atol=1e-4)
    assert torch.allclose(every[0, source, 1], found[1], atol=1e-4)
    for component in ("k", "v"):  # grouped-query attention has no keys of one head
        with pytest.raises(ValueError, match=r"GQA.*unsupported|unsupported.*GQA"):
            patching.get_act_patch_direct_path(*args, 0, source, component=component, verbose=False)
    assert torch.equal(model(corrupt), model(corrupt)) and not model.bridge.cfg.use_split_qkv_input


@torch.no_grad()
def test_without_the_bound_batch_patching_is_an_error_not_a_run_without_images(setting: Any) -> None:
    model, clean, corrupt, _ = setting
    _, cache = model.run_with_cache(clean)
    for name in BY_HAND:
        with pytest.raises(ValueError, match="no pixels were given"):
            getattr(patching, name)(model.bridge, corrupt.input_ids, cache, metric)
