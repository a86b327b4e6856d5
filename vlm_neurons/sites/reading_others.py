"""Dictionaries as EleutherAI's sparsify, dictionary_learning and Qwen-Scope have them."""

from __future__ import annotations

import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlm_neurons.sites.coder import checked
from vlm_neurons.sites.files import Raw, Read, facts_of, take, tensors_of

QWEN_SCOPE = re.compile(r"layer(\d+)\.sae\.pt")


def sparsify(folder: Path, name: str) -> Read:
    """EleutherAI's sparsify (https://github.com/EleutherAI/sparsify), `SparseCoder.save_to_disk`: `cfg.json` and
    `sae.safetensors`. The decoder's bias is subtracted before encoding, but in transcoders.

    Raises:
        ValueError: another activation function than topk, or weights that are missing or do not fit.
    """
    facts, raw = facts_of(folder / "cfg.json", name), tensors_of(folder / "sae.safetensors", name)
    if (kind := facts.get("activation", "topk")) != "topk" or facts.get("signed"):
        raise ValueError(f"{name}: the activation function {kind!r} is not read here: wrap it, vn.sites.SAE.wrap")
    weight, b_enc, w_dec, b_dec = take(raw, name, "encoder.weight", "encoder.bias", "W_dec", "b_dec")
    layer = re.search(r"layers[._](\d+)(.*)", folder.name)
    hook = None if layer is None else f"layer {layer[1]}" if layer[2] else f"blocks.{layer[1]}.hook_resid_post"
    transcoder = bool(facts.get("transcode"))
    before = None if transcoder else b_dec
    more = {"before": before, "skip": raw["W_skip"].T if "W_skip" in raw else None}
    coder = checked(name, weight.T, b_enc, w_dec, b_dec, rule="topk", k=_k(facts.get("k"), name), **more)
    return Read(coder, None if transcoder and hook and hook.startswith("blocks") else hook, "" if transcoder else None)


def dictionary_learning(folder: Path, name: str) -> Read:
    """dictionary_learning (https://github.com/saprmarks/dictionary_learning): `config.json` and `ae.pt`, of which only
    tensors are read (`weights_only=True`).

    Raises:
        ValueError: a class that is not known, a threshold that was never set, weights that are missing or do not fit.
    """
    facts = facts_of(folder / "config.json", name).get("trainer") or {}
    raw, kind = _unpickled(folder / "ae.pt", name), facts.get("dict_class")
    readers = {
        "AutoEncoder": _auto_encoder,
        "AutoEncoderNew": _auto_encoder_new,
        "GatedAutoEncoder": _gated,
        "JumpReluAutoEncoder": _jump_relu,
        "AutoEncoderTopK": _top_k,
        "BatchTopKSAE": _batch_top_k,
        "MatryoshkaBatchTopKSAE": _batch_top_k,
    }
    if kind not in readers:
        raise ValueError(
            f"{name}: dict_class {kind!r} is not read here ({', '.join(readers)}): vn.sites.SAE.wrap takes it"
        )
    weights = readers[kind](raw, name)
    if kind == "AutoEncoderTopK":
        weights["k"] = _k(int(raw["k"]) if "k" in raw else facts.get("k"), name)
    layer = facts.get("layer")
    return Read(checked(name, **weights), f"layer {layer}" if isinstance(layer, int) else None, None)


def qwen_scope(folder: Path, files: Sequence[str], name: str) -> Read:
    """Qwen-Scope (https://huggingface.co/collections/Qwen/qwen-scope, arXiv 2605.11887): a directory such as
    `SAE-Res-Qwen3-8B-Base-W64K-L0_50` has a file for every layer, `layer12.sae.pt`, of which only tensors are read.
    TopK, nothing subtracted before encoding; k stands in the directory's name alone.

    Args:
        folder: the directory.
        files: its files, or the one that is meant.
        name: starts error messages.

    Raises:
        ValueError: several layers and none is named, a directory of another name, or weights that do not fit.
    """
    if len(files) > 1:
        raise ValueError(
            f"{name}: {folder} has the dictionaries of {len(files)} layers: give the file of one, {folder / files[0]}"
        )
    said, layer = re.findall(r"SAE-Res-[^/\\]+-L0_(\d+)", str(folder.absolute())), QWEN_SCOPE.fullmatch(files[0])
    if not said or layer is None:
        raise ValueError(
            f"{name}: k of {folder / files[0]} is nowhere said: keep the directory's own name, such as "
            "SAE-Res-Qwen3-8B-Base-W64K-L0_50"
        )
    w_enc, b_enc, w_dec, b_dec = take(_unpickled(folder / files[0], name), name, "W_enc", "b_enc", "W_dec", "b_dec")
    coder = checked(name, w_enc.T, b_enc, w_dec.T, b_dec, rule="topk", k=_k(int(said[-1]), name))
    return Read(coder, f"blocks.{layer[1]}.hook_resid_post", None)


def _k(k: Any, name: str) -> int:
    if not isinstance(k, int) or k < 1:
        raise ValueError(f"{name}: k={k!r}: TopK needs a whole number from 1 on")
    return k


def _unpickled(file: Path, name: str) -> Raw:
    try:
        raw = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{name}: {file} holds more than tensors, or is damaged, and is not loaded: nothing is unpickled here. "
            f"Save its state_dict() anew ({str(error).splitlines()[0]})"
        ) from error
    if not isinstance(raw, dict) or not all(isinstance(value, Tensor) for value in raw.values()):
        raise ValueError(f"{name}: {file} holds no weights by name: save the dictionary's state_dict()")
    return {key: value.float() if value.is_floating_point() else value for key, value in raw.items()}


def _auto_encoder(raw: Raw, name: str) -> dict[str, Any]:
    """Decoder rows are made to be of norm 1, as `AutoEncoder.from_pretrained` does, unless they are."""
    bias, w_enc, b_enc, w_dec = take(raw, name, "bias", "encoder.weight", "encoder.bias", "decoder.weight")
    norms = w_dec.norm(dim=0)
    if not torch.allclose(norms, torch.ones_like(norms)):
        w_enc, b_enc, w_dec = w_enc * norms[:, None], b_enc * norms, w_dec / norms
    return {"W_enc": w_enc.T, "b_enc": b_enc, "W_dec": w_dec.T, "b_dec": bias, "before": bias}


def _auto_encoder_new(raw: Raw, name: str) -> dict[str, Any]:
    keys = "encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"
    w_enc, b_enc, w_dec, b_dec = take(raw, name, *keys)
    return {"W_enc": w_enc.T, "b_enc": b_enc, "W_dec": w_dec.T, "b_dec": b_dec}


def _gated(raw: Raw, name: str) -> dict[str, Any]:
    keys = "encoder.weight", "gate_bias", "decoder.weight", "decoder_bias", "r_mag", "mag_bias"
    w_enc, gate, w_dec, b_dec, r_mag, b_mag = take(raw, name, *keys)
    return {"W_enc": w_enc.T, "b_enc": gate, "W_dec": w_dec.T, "b_dec": b_dec, "before": b_dec, "rule": "gated",
            "magnitude": (r_mag.exp(), b_mag)}  # fmt: skip


def _jump_relu(raw: Raw, name: str) -> dict[str, Any]:
    keys = "W_enc", "b_enc", "W_dec", "b_dec", "threshold"
    return dict(zip(keys, take(raw, name, *keys), strict=True)) | {"rule": "jumprelu"}


def _top_k(raw: Raw, name: str) -> dict[str, Any]:
    keys = "encoder.weight", "encoder.bias", "decoder.weight", "b_dec"
    w_enc, b_enc, w_dec, b_dec = take(raw, name, *keys)
    return {"W_enc": w_enc.T, "b_enc": b_enc, "W_dec": w_dec.T, "b_dec": b_dec, "before": b_dec, "rule": "topk"}


def _batch_top_k(raw: Raw, name: str) -> dict[str, Any]:
    """With the threshold that was learnt for use, one of all latents."""
    if "W_enc" in raw:  # Matryoshka
        w_enc, b_enc, w_dec, b_dec = take(raw, name, "W_enc", "b_enc", "W_dec", "b_dec")
        weights: dict[str, Any] = {"W_enc": w_enc, "b_enc": b_enc, "W_dec": w_dec, "b_dec": b_dec, "before": b_dec}
    else:
        weights = _top_k(raw, name)
    (threshold,) = take(raw, name, "threshold")
    if threshold.numel() != 1 or float(threshold) < 0:
        raise ValueError(
            f"{name}: threshold is {threshold.tolist()}: training had not come to it yet; train on, or measure one and "
            "wrap the object, vn.sites.SAE.wrap"
        )
    return weights | {"rule": "jumprelu", "threshold": threshold.reshape(1).expand(len(weights["b_enc"])).clone()}
