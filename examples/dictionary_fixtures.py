"""Writes small dictionaries by the libraries that others use, and what these libraries make of the same activations.

    python -m venv env && env/bin/pip install torch==2.13.0 sae-lens==6.54.12
    env/bin/python examples/dictionary_fixtures.py sae_lens tests/sites/dictionaries/sae_lens

    env/bin/pip install torch==2.13.0 eai-sparsify==1.3.3        # each in an environment of its own, with sparsify
    env/bin/pip install torch==2.13.0 dictionary-learning==0.1.0 # and with dictionary_learning in the place of sae_lens

The tests hold `vn.sites.SAE.load` against `expected.safetensors` in every folder: `x`, `encoded` = encode(x), `decoded` =
decode(encode(x)), and `moved` = decode(encode(x) with latent 1 set to 2), in float32. SAELens cannot be
installed beside TransformerLens 4 (findings/sae_lens_beside_transformerlens_4.sh), so this runs in an environment of its
own and uses nothing of this package.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

D_IN, D_SAE, D_OUT, N = 16, 24, 12, 7
HOOK = "blocks.1.hook_resid_post"


def draw(sae: Any, generator: torch.Generator) -> Any:
    """Every weight random, biases and thresholds too, so that nothing can be left out unnoticed."""
    with torch.no_grad():
        for name, weight in sae.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            scale = 0.3 if weight.dim() == 1 else 1 / weight.shape[0] ** 0.5
            weight.copy_(noise.abs() * 0.4 if name == "threshold" else noise * scale)
    return sae


def keep(sae: Any, folder: Path, generator: torch.Generator) -> None:
    """What the library makes of some activations in float32."""
    x = torch.randn(N, D_IN, generator=generator) * 1.5 + 0.2
    with torch.no_grad():
        encoded = sae.encode(x)
        decoded = sae.decode(encoded.clone())
        sae.encode(x)  # some keep the norms of what they encoded last, and drop them on decoding
        changed = encoded.clone()
        changed[:, 1] = 2
        moved = sae.decode(changed)
    found = {"x": x, "encoded": encoded, "decoded": decoded, "moved": moved}
    save_file({name: value.contiguous() for name, value in found.items()}, folder / "expected.safetensors")


def sae_lens(out: Path) -> None:
    """SAELens: every architecture that it saves for inference, and what decides their values."""
    import sae_lens as lens
    from sae_lens.saes import (
        batchtopk_sae,
        gated_sae,
        jumprelu_sae,
        matryoshka_batchtopk_sae,
        standard_sae,
        topk_sae,
        transcoder,
    )

    generator = torch.Generator().manual_seed(13)
    sizes = {"d_in": D_IN, "d_sae": D_SAE}
    said = {"metadata": lens.saes.sae.SAEMetadata(hook_name=HOOK, model_name="none")}
    standard = standard_sae.StandardSAE, standard_sae.StandardSAEConfig
    topk = topk_sae.TopKSAE, topk_sae.TopKSAEConfig
    cases: dict[str, tuple[Any, dict[str, Any]]] = {
        "standard": (standard, {}),
        "standard_b_dec_kept": (standard, {"apply_b_dec_to_input": False}),
        "standard_layer_norm": (standard, {"normalize_activations": "layer_norm"}),
        "standard_constant_norm": (standard, {"normalize_activations": "constant_norm_rescale"}),
        "standard_bfloat16": (standard, {"dtype": "bfloat16"}),
        "gated": ((gated_sae.GatedSAE, gated_sae.GatedSAEConfig), {}),
        "jumprelu": ((jumprelu_sae.JumpReLUSAE, jumprelu_sae.JumpReLUSAEConfig), {"apply_b_dec_to_input": False}),
        "topk": (topk, {"k": 5}),
        "topk_decoder_norm": (topk, {"k": 5, "rescale_acts_by_decoder_norm": True}),
    }
    for name, ((made, config), more) in cases.items():
        draw(made(config(**sizes, **said, **more)), generator).save_model(out / name)
    for name, made, config, more in (
        ("batchtopk", batchtopk_sae.BatchTopKTrainingSAE, batchtopk_sae.BatchTopKTrainingSAEConfig, {}),
        ("matryoshka", matryoshka_batchtopk_sae.MatryoshkaBatchTopKTrainingSAE,
         matryoshka_batchtopk_sae.MatryoshkaBatchTopKTrainingSAEConfig, {"matryoshka_widths": [6, D_SAE]}),
    ):  # fmt: skip
        sae = draw(made(config(**sizes, **said, k=4, **more)), generator)
        sae.topk_threshold.fill_(0.7)
        sae.save_inference_model(out / name)
    said_of = {
        "metadata": lens.saes.sae.SAEMetadata(hook_name="blocks.1.mlp.hook_in", hook_name_out="blocks.1.hook_mlp_out")
    }
    for name in ("Transcoder", "SkipTranscoder", "JumpReLUTranscoder", "JumpReLUSkipTranscoder"):
        if not hasattr(transcoder, name):
            continue
        cfg = getattr(transcoder, f"{name}Config")(**sizes, **said_of, d_out=D_OUT, apply_b_dec_to_input=False)
        draw(getattr(transcoder, name)(cfg), generator).save_model(out / name.lower())
    old = out / "before_6"  # as SAELens 3 to 5 wrote it
    draw(standard_sae.StandardSAE(standard_sae.StandardSAEConfig(**sizes)), generator).save_model(old)
    facts = {"d_in": D_IN, "d_sae": D_SAE, "dtype": "float32", "hook_name": HOOK, "hook_layer": 1, "activation_fn_str": "topk",
             "activation_fn_kwargs": {"k": 3}, "apply_b_dec_to_input": True, "normalize_activations": "none",
             "finetuning_scaling_factor": False, "sae_lens_training_version": "4.0.0"}  # fmt: skip
    (old / "cfg.json").write_text(json.dumps(facts))
    for folder in sorted(one for one in out.iterdir() if one.is_dir()):
        keep(lens.SAE.load_from_disk(folder, dtype="float32"), folder, generator)
    from sae_lens.loading import pretrained_sae_loaders

    gemma(out.parent, pretrained_sae_loaders, generator)
    qwen(out.parent / "qwen_scope", pretrained_sae_loaders)
    (out / "versions.json").write_text(json.dumps({"sae-lens": lens.__version__, "torch": torch.__version__}))


def gemma(out: Path, loaders: Any, generator: torch.Generator) -> None:
    """Files as Gemma Scope (Gemma 2) and Gemma Scope 2 (Gemma 3) have them, as SAELens reads them from the hub."""
    import numpy as np

    raw = {"W_enc": (D_IN, D_SAE), "W_dec": (D_SAE, D_IN), "b_enc": (D_SAE,), "b_dec": (D_IN,), "threshold": (D_SAE,)}
    weights = {name: torch.randn(shape, generator=generator) / 4 for name, shape in raw.items()}
    weights["threshold"].abs_()
    one, two = (
        out / "gemma_scope" / "layer_1" / "width_16k",
        out / "gemma_scope_2" / "resid_post" / "layer_1_width_16k_l0_small",
    )
    one.mkdir(parents=True), two.mkdir(parents=True)
    np.savez(one / "params.npz", **{name: value.numpy() for name, value in weights.items()})
    save_file({name.replace("W_", "w_"): value for name, value in weights.items()}, two / "params.safetensors")
    facts = {"architecture": "jump_relu", "model_name": "gemma-3-4b-it", "hf_hook_point_in": "model.layers.1.output"}
    (two / "config.json").write_text(json.dumps(facts))

    def local(repo_id: str, filename: str, subfolder: str = "", **_: Any) -> str:
        return str(
            out / {"google/gemma-scope-2b-pt-res": "gemma_scope"}.get(repo_id, "gemma_scope_2") / subfolder / filename
        )

    loaders.hf_hub_download = local
    loaders.get_safetensors_tensor_shapes = lambda repo, file: {"w_enc": [D_IN, D_SAE], "w_dec": [D_SAE, D_IN]}
    from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig

    for folder, repo, loader in (
        (one, "google/gemma-scope-2b-pt-res", loaders.gemma_2_sae_huggingface_loader),
        (two, "google/gemma-scope-2-4b-it", loaders.gemma_3_sae_huggingface_loader),
    ):
        cfg, state, _ = loader(repo, str(folder.relative_to(out / folder.relative_to(out).parts[0])))
        sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=D_IN, d_sae=D_SAE, apply_b_dec_to_input=cfg["apply_b_dec_to_input"]))
        sae.load_state_dict(state)
        keep(sae, folder, generator)
    gemma_transcoder(out / "gemma_scope_2" / "transcoder" / "layer_1_width_16k_l0_small_affine", loaders)


def gemma_transcoder(folder: Path, loaders: Any) -> None:
    """A transcoder of Gemma Scope 2 with a linear path beside its latents."""
    from sae_lens.saes.transcoder import JumpReLUSkipTranscoder, JumpReLUSkipTranscoderConfig

    generator = torch.Generator().manual_seed(17)
    shapes = {"w_enc": (D_IN, D_SAE), "w_dec": (D_SAE, D_IN), "b_enc": (D_SAE,), "b_dec": (D_IN,), "threshold": (D_SAE,),
              "affine_skip_connection": (D_IN, D_IN)}  # fmt: skip
    weights = {name: torch.randn(shape, generator=generator) / 4 for name, shape in shapes.items()}
    weights["threshold"].abs_()
    folder.mkdir(parents=True)
    save_file(weights, folder / "params.safetensors")
    hooks = (f"model.layers.1.{where}_feedforward_layernorm.output" for where in ("pre", "post"))
    facts = {"architecture": "jump_relu", "model_name": "gemma-3-4b-it", "affine_connection": True,
             **dict(zip(("hf_hook_point_in", "hf_hook_point_out"), hooks, strict=True))}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(facts))
    said, state, _ = loaders.gemma_3_sae_huggingface_loader("google/gemma-scope-2-4b-it", f"transcoder/{folder.name}")
    assert said["architecture"] == "jumprelu_skip_transcoder"
    sizes = {"d_in": D_IN, "d_sae": D_SAE, "d_out": D_IN}
    sae = JumpReLUSkipTranscoder(JumpReLUSkipTranscoderConfig(**sizes, apply_b_dec_to_input=False))
    sae.load_state_dict(state)
    keep(sae, folder, generator)


def qwen(out: Path, loaders: Any) -> None:
    """Files as Qwen-Scope has them, as SAELens reads them from the hub."""
    from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig

    generator, repo = torch.Generator().manual_seed(16), "SAE-Res-Qwen3-1.7B-Base-W32K-L0_5"
    shapes = {"W_enc": (D_SAE, D_IN), "W_dec": (D_IN, D_SAE), "b_enc": (D_SAE,), "b_dec": (D_IN,)}
    folder = out / repo
    folder.mkdir(parents=True)
    torch.save(
        {n: torch.randn(shape, generator=generator) / 4 for n, shape in shapes.items()}, folder / "layer1.sae.pt"
    )
    loaders.hf_hub_download = lambda filename, **_: str(folder / filename)
    said, state, _ = loaders.qwen_scope_sae_huggingface_loader(f"Qwen/{repo}", "layer1.sae.pt")
    k, subtracted = said["activation_fn_kwargs"]["k"], said["apply_b_dec_to_input"]
    sae = TopKSAE(TopKSAEConfig(d_in=D_IN, d_sae=D_SAE, k=k, apply_b_dec_to_input=subtracted))
    sae.load_state_dict(state)
    keep(sae, folder, generator)


def sparsify(out: Path) -> None:
    """EleutherAI's sparsify. Its encode gives the k largest and where they are."""
    from importlib.metadata import version

    from sparsify import SparseCoder
    from sparsify.config import SparseCoderConfig

    generator = torch.Generator().manual_seed(14)
    for name, more in (("layers.1", {}), ("layers.1.mlp", {"transcode": True, "skip_connection": True})):
        sae = draw(SparseCoder(D_IN, SparseCoderConfig(num_latents=D_SAE, k=5, **more)), generator)
        sae.save_to_disk(out / name)

        def encode(x: torch.Tensor, sae: Any = sae) -> torch.Tensor:
            best = sae.encode(x)
            return torch.zeros(len(x), D_SAE).scatter(1, best.top_indices, best.top_acts)

        def decode(z: torch.Tensor, sae: Any = sae) -> torch.Tensor:
            return sae.decode(z, torch.arange(D_SAE).expand(len(z), -1))

        keep(type("Dense", (), {"encode": staticmethod(encode), "decode": staticmethod(decode)}), out / name, generator)
    (out / "versions.json").write_text(
        json.dumps({"eai-sparsify": version("eai-sparsify"), "torch": torch.__version__})
    )


def dictionary_learning(out: Path) -> None:
    """dictionary_learning, each class as `load_dictionary` gives it back."""
    from importlib.metadata import version

    from dictionary_learning import dictionary, utils
    from dictionary_learning.trainers import batch_top_k, matryoshka_batch_top_k, top_k

    generator = torch.Generator().manual_seed(15)
    cases = {
        "AutoEncoder": dictionary.AutoEncoder(D_IN, D_SAE),
        "AutoEncoderNew": dictionary.AutoEncoderNew(D_IN, D_SAE),
        "GatedAutoEncoder": dictionary.GatedAutoEncoder(D_IN, D_SAE),
        "JumpReluAutoEncoder": dictionary.JumpReluAutoEncoder(D_IN, D_SAE),
        "AutoEncoderTopK": top_k.AutoEncoderTopK(D_IN, D_SAE, 5),
        "BatchTopKSAE": batch_top_k.BatchTopKSAE(D_IN, D_SAE, 5),
        "MatryoshkaBatchTopKSAE": matryoshka_batch_top_k.MatryoshkaBatchTopKSAE(D_IN, D_SAE, 5, [8, 16]),
    }
    for name, sae in cases.items():
        folder = out / name
        folder.mkdir()
        draw(sae, generator)
        if "BatchTopK" in name:
            sae.threshold.fill_(0.6)
        torch.save(sae.state_dict(), folder / "ae.pt")
        facts = {"dict_class": name, "layer": 1, "activation_dim": D_IN, "dict_size": D_SAE, "k": 5}
        (folder / "config.json").write_text(json.dumps({"trainer": facts}))
        keep(utils.load_dictionary(str(folder), "cpu")[0], folder, generator)
    (out / "versions.json").write_text(
        json.dumps({"dictionary-learning": version("dictionary-learning"), "torch": torch.__version__})
    )


if __name__ == "__main__":
    where = Path(sys.argv[2])
    where.mkdir(parents=True, exist_ok=True)
    globals()[sys.argv[1]](where)
