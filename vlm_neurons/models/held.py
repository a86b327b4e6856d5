"""Models as users hold them: wrapped by PEFT or torch.compile, quantised, offloaded."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterator
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from vlm_neurons._checks import of_kind, short


def whole(model: Any) -> Any:
    """The model inside the wrappers of torch.compile, data parallelism and PEFT, all of it, not compiled.

    Adapters stay in it, unmerged.

    Raises:
        ValueError: weights are offloaded to CPU or disk by accelerate, or an adapter is a prompt that its wrapper puts
            before the text: the model alone does not have it.

    Warns:
        UserWarning: `.to(torch.bfloat16)` has rounded the model's rotary frequencies.
    """
    while (inner := _inside(model)) is not None:
        model = inner
    remedy = "give a model of transformers or a TransformerBridge; HookedVLM.from_pretrained(name) loads one"
    of_kind("model", model, nn.Module, remedy)
    for module in model.modules():
        module._compiled_call_impl = None  # model.compile(): every set of hooks would be compiled anew, for minutes
    away = [name for name, tensor in model.named_parameters() if tensor.device.type == "meta"]
    if away:
        raise ValueError(
            f"{len(away)} of {sum(1 for _ in model.parameters())} weights are not in memory (the first is {away[0]}): "
            "accelerate has offloaded them to CPU or disk, and neurons cannot be read where weights come and go. Load "
            "the model whole: on the CPU (device='cpu'), over several GPUs, in a smaller dtype, or quantised"
        )
    if rounded := next((b.dtype for _, _, b in rotary_frequencies(model) if b.element_size() < 4), None):
        warnings.warn(
            f"the frequencies of rotary positions are {rounded}, which model.to({rounded}) makes of them: far into a "
            "prompt, as behind a large picture, positions are off. Load the model by from_pretrained(..., "
            f"dtype={rounded}), which keeps them, or give it in float32: HookedVLM(model, processor).to({rounded})",
            stacklevel=3,
        )
    return model


def rotary_frequencies(model: nn.Module) -> list[tuple[nn.Module, str, Tensor]]:
    """Modules, names and numbers of the frequencies of rotary positions, which transformers keeps in float32."""
    return [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if name.endswith("inv_freq") and buffer is not None
    ]


def tokenizer_of(processor: Any) -> Any:
    """The tokenizer of a processor.

    Raises:
        TypeError: it is no processor of images and text.
    """
    if not (hasattr(processor, "tokenizer") and hasattr(processor, "image_processor")):
        raise TypeError(
            f"processor={short(processor)}: give the model's processor, of images and text, such as "
            "transformers.AutoProcessor.from_pretrained(name)"
        )
    return processor.tokenizer


def _inside(model: Any) -> Any:
    if hasattr(model, "_orig_mod"):  # torch.compile
        return model._orig_mod
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return model.module
    if _of_peft(model) and type(model).__name__ == "PeftMixedModel":
        return model.base_model.model
    if not (_of_peft(model) and hasattr(model, "get_base_model")):
        return None
    adapter = next((c for c in model.peft_config.values() if getattr(c, "is_prompt_learning", False)), None)
    if adapter is not None:
        raise ValueError(
            f"the model is wrapped by a {type(adapter).__name__}, whose prompt is not in the model itself: neurons "
            "would be read without it. Adapters inside the model (LoRA and its kin) work"
        )
    return model.get_base_model()


def check_readable(model: nn.Module) -> None:
    """Refuse to read weights in bulk, as TransformerLens' `W_out` does, where a layer's `weight` is not all of it.

    Raises:
        ValueError: adapters that are not merged, or quantised weights.
    """
    layer = next((m for m in model.modules() if adapted(m) and not m.merged_adapters), None)
    packed = next((p for p in model.parameters() if numbers(p) is not p or not p.is_floating_point()), None)
    if layer is not None or packed is not None:
        what = "adapters that are not merged" if layer is not None else f"quantised weights ({type(packed).__name__})"
        raise ValueError(
            f"the model has {what}: TransformerLens' stacked matrices would be other than what it multiplies by; "
            "vn.interventions.direct_logit_attribution and logit_lens read such layers, one at a time"
        )


def is_plain(layer: Any) -> bool:
    """Whether a linear layer multiplies by its `weight`, and by nothing else."""
    layer = _original(layer)
    weight = layer.weight
    return (
        not adapted(layer) and isinstance(weight, Tensor) and weight.is_floating_point() and numbers(weight) is weight
    )


def weight_of(layer: Any) -> Float[Tensor, "out in"]:
    """What a linear layer multiplies by: numbers, if it is quantised, and with the adapters that are on.

    Raises:
        ValueError: an adapter that is no sum, or weights in a format that does not tell what they stand for.
    """
    layer = _original(layer)
    weight = layer.weight() if callable(layer.weight) else layer.weight  # torch.ao's layers have a method
    weight = numbers(weight.detach())
    if not weight.is_floating_point():
        raise ValueError(
            f"the weights of {type(layer).__name__} are packed {weight.dtype}, which cannot be read as numbers here: "
            "load the model without quantisation for what reads weights"
        )
    return weight + sum(_deltas(layer)) if adapted(layer) else weight


def _deltas(layer: Any) -> Iterator[Tensor]:
    """What adapters add to a weight: LoRA's, LoHa's and LoKr's do."""
    if layer.disable_adapters or layer.merged_adapters:
        return
    for name in layer.active_adapters:
        if not any(name in getattr(layer, part) for part in layer.adapter_layer_names):
            continue  # this adapter leaves the layer alone
        if name not in getattr(layer, "scaling", ()) or name in getattr(layer, "lora_variant", ()):
            raise ValueError(
                f"an adapter ({type(layer).__module__}) is not added to the weights, so that they cannot be read: "
                "merge it (model = peft_model.merge_and_unload()) for what reads weights"
            )
        yield layer.get_delta_weight(name).detach()


def adapters_of(model: nn.Module) -> tuple[Hashable, ...]:
    """Which adapters of PEFT are on, merged or off, and how strong; nothing for a model without any."""
    return tuple(
        (
            name.replace("_original_component.", ""),
            tuple(module.active_adapters),
            bool(module.disable_adapters),
            tuple(module.merged_adapters),
            str(sorted(getattr(module, "scaling", {}).items())),
        )
        for name, module in model.named_modules()
        if adapted(module)
    )


def numbers(weight: Tensor) -> Tensor:
    """A weight as numbers; the tensors of torchao and torch.ao know what they stand for."""
    if weight.is_quantized or type(weight).dequantize is not Tensor.dequantize:
        return weight.dequantize().detach()  # type: ignore[no-any-return, no-untyped-call]
    return weight


def _original(layer: Any) -> Any:
    return getattr(layer, "original_component", layer)


def adapted(module: Any) -> bool:
    return _of_peft(module) and hasattr(module, "merged_adapters")


def _of_peft(module: Any) -> bool:
    return type(module).__module__.split(".")[0] == "peft"
