"""The documented map of every hook point of a model, measured by running it once."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vlm_neurons.models import guards
from vlm_neurons.models.bound import BoundVLM, Runnable
from vlm_neurons.sites import site_of_hook

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.models.batch import Batch

# What a hook holds, by the end of its name: the first that fits.
HOLDS: tuple[tuple[str, str], ...] = (
    (r"experts\.hook_chosen$", "experts that every token chose [.., k]"),
    (r"experts\.hook_weights$", "what the chosen experts' outputs are multiplied by [.., k]"),
    (r"experts\.\d+\.hook_act$", "act(gate(x)) of an expert, NaN where it was not chosen: site gate"),
    (r"experts\.\d+\.hook_post$", "act(gate(x)) * up(x) of an expert, NaN where it was not chosen: site post"),
    (r"^blocks\.\d+\.mlp\.(hook_act|act\.hook_out)$", "act(gate_proj(x)), with act SiLU or GELU: site gate"),
    (r"^blocks\.\d+\.mlp\.(hook_post|out\.hook_in)$", "act(gate_proj(x)) * up_proj(x), input of down_proj: site post"),
    (r"^blocks\.\d+\.mlp\.(hook_pre|gate\.hook_out|act\.hook_in)$", "gate_proj(x), before the activation function"),
    (r"^blocks\.\d+\.mlp\.(hook_pre_linear|in\.hook_out)$", "up_proj(x)"),
    (
        r"^(vision_projector\.(hook_post|(\d+\.)?out\.hook_in)|projector\.\d+\.hook_post)$",
        "hidden neurons of the projector: site projector",
    ),
    (r"^vision_projector\.(hook_pre|in\.hook_out)$", "hidden neurons of the projector, before their activation"),
    (r"^vision_projector\.(in\.hook_in|hook_in|hook_vision_proj_in)$", "image features chosen from the vision tower"),
    (r"^vision_projector\.", "projected image features, as they enter the backbone"),
    (r"^vision(_encoder)?\..*mlp\.(hook_post|out\.hook_in)$", "neurons of the vision tower: site vision"),
    (
        r"^vision_encoder\..*mlp\.(hook_pre|in\.hook_out)$",
        "neurons of the vision tower, before their activation",
    ),
    (r"^(hook_embed|embed\.hook_out)$", "token embeddings, before image features are put in (repaired in caches)"),
    (r"^embed\.hook_in$", "token ids"),
    (r"^vision_encoder\.hook_in$", "pixels as normalised"),
    (r"^vision_encoder\.hook_out$", "last hidden state of the vision tower"),
    (r"^rotary_emb\.", "rotary position embedding"),
    (r"^unembed\.hook_out$", "logits"),
    (r"hook_resid_mid$", "residual stream between attention and MLP"),
    (r"(blocks|encoder_layers)\.\d+\.(hook_resid_pre|hook_in)$", "residual stream into the layer"),
    (r"(blocks|encoder_layers)\.\d+\.(hook_resid_post|hook_out)$", "residual stream out of the layer"),
    (r"hook_attn_scores$", "attention scores before softmax [.., head, query, key]"),
    (r"attn\.hook_products$", "products of the rows of every head's W_O, for norms of what heads write: site heads"),
    (r"hook_pattern$", "attention pattern [.., head, query, key]"),
    (r"attn\.(hook_([qkv])|([qkv])\.hook_out)$", "queries, keys or values by head"),
    (r"attn\.(hook_rot_q|hook_rot_k)$", "queries or keys after the rotary embedding"),
    (r"attn\.(hook_z|o\.hook_in)$", "attention heads' outputs before the output projection"),
    (r"(attn\.(hook_out|o\.hook_out)|hook_attn_out)$", "output of attention, added to the residual stream"),
    (r"(mlp\.(hook_out|out\.hook_out)|hook_mlp_out)$", "output of the MLP, added to the residual stream"),
    (r"(hook_scale)$", "scale of a norm"),
    (r"(hook_normalized)$", "normalised, before the norm's weight"),
    (r"hook_(cos|sin)$", "cosines and sines of the rotary position embedding"),
    (r"hook_vision_embed$", "patch embeddings with positions"),
    (r"hook_vision_out$", "last hidden state of the vision tower"),
    (r"hook_(attn|mlp)_in$", "input of the module"),
    (r"hook_in$", "input of the module"),
    (r"hook_out$", "output of the module"),
)


def holds(hook: str) -> str:
    """What a hook's tensor is, in words.

    >>> holds("blocks.3.mlp.hook_act")
    'act(gate_proj(x)), with act SiLU or GELU: site gate'
    """
    return next((text for pattern, text in HOLDS if re.search(pattern, hook)), "")


def measure(model: Runnable) -> pd.DataFrame:
    """Run one grey image with a short prompt, and see what fires and what the logits depend on."""
    import pandas as pd
    from PIL import Image

    batch = model.prepare([Image.new("RGB", (64, 48), (128, 128, 128))], ["Hi"])
    points = model._points()
    canonical = {name: point for name, point in points.items() if point.name == name}
    shapes, reached = _probe(model, batch, list(canonical))
    first = {id(point): name for name, point in canonical.items()}
    rows = []
    for name in sorted(points, key=_order):
        same = first.get(id(points[name]), name)
        if same not in shapes:
            continue
        found = site_of_hook(name)
        rows.append(
            {
                "hook": name,
                "site": found[0].name if found else "",
                "holds": holds(name),
                "shape": _shape(name, shapes[same], batch.input_ids.shape[1], batch),
                "indexed_by": "image" if guards.indexed_by_image(name) else "row",
                "affects_logits": same in reached,
                "same_as": "" if same == name else same,
            }
        )
    table = pd.DataFrame(rows)
    table.attrs["never_fire"] = sorted(set(points) - set(table["hook"]))
    return table


def _probe(model: Runnable, batch: Batch, names: list[str]) -> tuple[dict[str, tuple[int, ...]], set[str]]:
    """Shapes at the hooks that fire, and the hooks that the logits are made from.

    Every hook adds a zero that wants a gradient; the autograd graph of the logits then tells, without a backward
    pass, which of these zeros went into them. No activation is kept.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    leaves: dict[str, Tensor] = {}

    def probe(name: str) -> Callable[..., Any]:
        def fn(tensor: Any, hook: Any) -> Any:
            if not isinstance(tensor, Tensor):
                return None
            shapes[name] = tuple(tensor.shape)
            if not tensor.is_floating_point():
                return None
            leaves[name] = torch.zeros((), device=tensor.device, dtype=tensor.dtype).requires_grad_()
            return tensor + leaves[name]

        return fn

    pairs: list[guards.Hook] = [(n, probe(n)) for n in names if model.bridge._gated_hook_reason(n) is None]
    trainable = [p for p in model.bridge.original_model.parameters() if p.requires_grad]
    forget = torch.autograd.graph.saved_tensors_hooks(lambda tensor: None, lambda nothing: nothing)
    tokens, inputs = BoundVLM(model, batch).inputs()
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        with torch.enable_grad(), forget, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TransformerLens warns of edits at norms; ours add zero
            logits = model.bridge.run_with_hooks(tokens, fwd_hooks=pairs, **inputs)
        reached = _leaves(logits)
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
    return shapes, {name for name, leaf in leaves.items() if id(leaf) in reached}


def _leaves(output: Tensor) -> set[int]:
    """Ids of the leaf tensors that an output was made from."""
    found: set[int] = set()
    seen: set[Any] = set()
    stack = [output.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        stack.extend(parent for parent, _ in node.next_functions)
    return found


def _order(name: str) -> tuple[Any, ...]:
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in name.split("."))


def _shape(name: str, shape: tuple[int, ...], length: int, batch: Batch) -> str:
    """A shape in words, from a batch of one row and one image."""
    if name.startswith("rotary_emb.") or not shape:
        return str(list(shape))
    if guards.indexed_by_image(name):
        words = _of_rows(name, shape, batch)
        return f"[{', '.join([*words, *map(str, shape[len(words) :])])}]"
    attention = name.endswith(("hook_pattern", "hook_attn_scores"))
    named = range(2, 4) if attention else range(1, 2)
    parts = ["pos" if size == length and i in named else str(size) for i, size in enumerate(shape) if i > 0]
    return f"[{', '.join(['batch', *parts])}]"


def _of_rows(name: str, shape: tuple[int, ...], batch: Batch) -> list[str]:
    """Words for the leading dimensions of a tensor of the vision tower or the projector."""
    try:
        rows = batch.rows_at(name, shape)
    except ValueError:  # such as pixels
        return ["image"]
    n, every = len(batch.patches), len(rows.patch)
    word = "patch" if every == n else f"patch+{every - n}" if every < 2 * n else "row"
    before = ["image" if shape[0] == 1 else "tile"] if rows.leading > 1 else []
    return [*before, *(["row", "column"] if rows.leading == 3 else [word])]
