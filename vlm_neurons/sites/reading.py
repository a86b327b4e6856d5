"""Dictionaries from files: the formats that they are published in. Nothing is downloaded, and nothing unpickled."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlm_neurons.sites.coder import checked
from vlm_neurons.sites.files import Raw, Read, facts_of, take, tensors_of
from vlm_neurons.sites.reading_others import QWEN_SCOPE, dictionary_learning, qwen_scope, sparsify


def read_dictionary(path: Path, name: str) -> Read:
    """Read whichever format there is.

    Args:
        path: a directory, or one of its files.
        name: starts error messages.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: no known format, or weights are missing, damaged or do not fit together.
    """
    folder = path if path.is_dir() else path.parent
    if not path.exists():
        raise FileNotFoundError(f"{name}: {path} is not there; nothing is downloaded: give a directory on this machine")
    names = {file.name for file in folder.iterdir()} if path.is_dir() else {path.name, "cfg.json", "config.json"}
    if layers := sorted(found for found in names if QWEN_SCOPE.fullmatch(found)):
        return qwen_scope(folder, layers, name)
    for weights, reader in _FORMATS.items():
        if weights in names:
            return reader(folder, name)
    there = ", ".join(sorted(names)[:8]) or "nothing"
    raise ValueError(
        f"{name}: {path} is no dictionary that can be read ({there}): needed is one of {', '.join(_FORMATS)}, "
        "layer12.sae.pt. Other objects with encode, decode and W_dec: vn.sites.SAE.wrap"
    )


def _sae_lens(folder: Path, name: str) -> Read:
    """SAELens: https://github.com/decoderesearch/SAELens, `SAE.save_model` and `save_inference_model`."""
    facts, raw = facts_of(folder / "cfg.json", name), tensors_of(folder / "sae_weights.safetensors", name)
    said = {**facts, **(facts.get("metadata") or {})}
    hook = said.get("hook_name") or said.get("hook_point")
    k, kind = facts.get("k"), facts.get("architecture", "standard")
    before_6 = facts.get("activation_fn_str") or facts.get("activation_fn") or "relu"  # and its settings beside it
    if before_6 == "topk" and kind == "standard":
        kind, k = "topk", (facts.get("activation_fn_kwargs") or {}).get("k")
    elif before_6 not in ("relu", "topk"):
        raise ValueError(
            f"{name}: the activation function {before_6!r} is not known: wrap the object, vn.sites.SAE.wrap"
        )
    transcoder = kind.endswith("transcoder")
    kind = {"transcoder": "standard", "skip_transcoder": "standard", "jumprelu_transcoder": "jumprelu",
            "jumprelu_skip_transcoder": "jumprelu"}.get(kind, kind)  # fmt: skip
    rules = {"standard": "relu", "topk": "topk", "gated": "gated", "jumprelu": "jumprelu"}
    if kind not in rules:
        remedy = "save it for use, with save_inference_model" if "batchtopk" in kind else "wrap it, vn.sites.SAE.wrap"
        raise ValueError(f"{name}: the architecture {kind!r} is not read here: {remedy}")
    w_enc, w_dec, b_dec = take(raw, name, "W_enc", "W_dec", "b_dec")
    (b_enc,) = take(raw, name, "b_gate" if kind == "gated" else "b_enc")
    more: dict[str, Any] = {"rule": rules[kind]}
    if kind == "gated":
        r_mag, b_mag = take(raw, name, "r_mag", "b_mag")
        more["magnitude"] = r_mag.exp(), b_mag
    if kind == "jumprelu":
        (more["threshold"],) = take(raw, name, "threshold")
    if kind == "topk":
        if not isinstance(k, int) or k < 1:
            raise ValueError(f"{name}: cfg.json says k={k!r}: TopK needs a whole number from 1 on")
        more["k"] = k
        if facts.get("rescale_acts_by_decoder_norm"):
            norms = w_dec.norm(dim=-1)
            w_enc, b_enc, w_dec = w_enc * norms, b_enc * norms, w_dec / norms[:, None]
    more["norm"] = _norm(facts.get("normalize_activations"), transcoder, name)
    if facts.get("apply_b_dec_to_input", True) and not transcoder:
        more["before"] = b_dec
    if "W_skip" in raw:
        more["skip"] = raw["W_skip"].T
    out = (said.get("hook_name_out") or "") if transcoder else None
    return Read(checked(name, w_enc, b_enc, w_dec, b_dec, **more), hook, out)


def _norm(said: Any, transcoder: bool, name: str) -> str:
    """How SAELens normalises what is encoded; the two that it folds into weights are nothing in use."""
    if said in (None, False, "none"):
        return "none"
    if said in ("layer_norm", "constant_norm_rescale") and not transcoder:
        return str(said)
    if said in (True, "expected_average_only_in", "covariance_whitening"):
        warnings.warn(
            f"{name}: cfg.json says normalize_activations={said!r}, which SAELens folds into the weights before a "
            "dictionary is used, and ignores else, as is done here. If these are raw weights, fold it in first",
            stacklevel=2,
        )
        return "none"
    raise ValueError(f"{name}: normalize_activations={said!r} is not read here: wrap the object, vn.sites.SAE.wrap")


def _gemma_scope(folder: Path, name: str) -> Read:
    """Gemma Scope (Lieberum et al. 2024, arXiv 2408.05147): JumpReLU, nothing subtracted before encoding."""
    try:
        with np.load(folder / "params.npz", allow_pickle=False) as file:
            raw = {key: torch.from_numpy(np.asarray(file[key], np.float32)) for key in file.files}
    except (OSError, ValueError) as error:
        raise ValueError(f"{name}: {folder / 'params.npz'} cannot be read ({error}); download it again") from error
    return _jumprelu(raw, folder, name)


def _gemma_scope_2(folder: Path, name: str) -> Read:
    """Gemma Scope 2, of Gemma 3; SAEs and transcoders."""
    raw = tensors_of(folder / "params.safetensors", name)
    found = _jumprelu(raw, folder, name)
    if not (folder / "config.json").is_file():
        return found
    facts = facts_of(folder / "config.json", name)
    if (kind := facts.get("architecture", "jump_relu")) != "jump_relu":
        raise ValueError(f"{name}: config.json says architecture {kind!r}; Gemma Scope 2 has 'jump_relu'")
    return found._replace(hook=facts.get("hf_hook_point_in") or found.hook, hook_out=facts.get("hf_hook_point_out"))


def _jumprelu(raw: Raw, folder: Path, name: str) -> Read:
    named = {("W_" + key[2:] if key.startswith("w_") else key): value for key, value in raw.items()}
    w_enc, b_enc, w_dec, b_dec, threshold = take(named, name, "W_enc", "b_enc", "W_dec", "b_dec", "threshold")
    layer = re.findall(r"layer_(\d+)", str(folder.resolve()))
    hook = f"layer {layer[-1]}" if layer else None
    skip = named.get("affine_skip_connection")
    return Read(checked(name, w_enc, b_enc, w_dec, b_dec, rule="jumprelu", threshold=threshold, skip=skip), hook, None)


_FORMATS = {
    "sae_weights.safetensors": _sae_lens,
    "params.npz": _gemma_scope,
    "params.safetensors": _gemma_scope_2,
    "sae.safetensors": sparsify,
    "ae.pt": dictionary_learning,
}
