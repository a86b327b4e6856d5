"""Loading by name or directory, with transformers alone: nothing is installed, no code of the checkpoint is run."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from vlm_neurons import zoo
from vlm_neurons._checks import of_kind
from vlm_neurons.models.adapters import Adapter, adapter_of


def load(
    name_or_dir: str | Path,
    device: str | torch.device | None,
    dtype: torch.dtype | None,
    device_map: Any,
    revision: str | None = None,
) -> tuple[Any, Any, str]:
    """Model, processor and name; see `HookedVLM.from_pretrained`."""
    of_kind("name_or_dir", name_or_dir, str | Path, "give the name of a model, or its directory")
    name = str(name_or_dir) + (f"@{revision}" if revision else "")
    source, exact = zoo.find(name)
    import transformers  # after the name is known: it takes seconds

    if device is not None and device_map is not None:
        raise ValueError("give device or device_map, not both")
    try:
        config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False, **exact)
    except (OSError, ValueError) as error:
        raise _not_there(name, source, error) from error
    adapter = adapter_of(config)  # before the weights are fetched
    device = torch.device(device or (own_gpu() if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device {str(device)!r}: torch sees no CUDA GPU here; leave device out, or install torch with CUDA"
        )
    on_gpu = device.type == "cuda" if device_map is None else torch.cuda.is_available()
    dtype = dtype or (torch.bfloat16 if on_gpu else torch.float32)
    spread = {} if device_map is None else {"device_map": device_map}
    try:
        # TransformerLens computes attention eagerly; asking for it here keeps transformers from warning about it.
        model = getattr(transformers, adapter.architecture).from_pretrained(
            source, dtype=dtype, attn_implementation="eager", **spread, **exact
        )
        processor = load_processor(source, config, exact)
    except OSError as error:
        raise _not_there(name, source, error) from error
    return (model if device_map is not None else model.to(device)), processor, name


def own_gpu(environment: Mapping[str, str] | None = None, n_gpus: int | None = None) -> str:
    """The GPU of this process: of several on a machine, started by torchrun or srun, each has one of its own.

    >>> own_gpu({"LOCAL_RANK": "3"}, n_gpus=8), own_gpu({"SLURM_LOCALID": "3"}, n_gpus=1), own_gpu({}, n_gpus=8)
    ('cuda:3', 'cuda:0', 'cuda')
    """
    environment = os.environ if environment is None else environment
    local = environment.get("LOCAL_RANK", environment.get("SLURM_LOCALID"))
    if local is None:
        return "cuda"
    # srun may show each process its own GPU alone
    return f"cuda:{int(local) % (torch.cuda.device_count() if n_gpus is None else n_gpus)}"


def load_processor(source: str, config: Any, exact: Mapping[str, str] | None = None) -> Any:
    """The processor; images go by PIL, so that torchvision is not needed and results do not depend on it.

    Args:
        source: a directory, or a name on the hub.
        config: of the model.
        exact: its `revision` on the hub, if not the newest.

    Raises:
        OSError: a file of the processor is missing.
        ImportError: the family's images cannot be processed without torchvision.
    """
    import transformers

    adapter, exact = adapter_of(config), exact or {}
    try:
        images = transformers.AutoImageProcessor.from_pretrained(
            source, backend="pil", trust_remote_code=False, **exact
        )
    except (ImportError, ValueError) as error:
        if "torchvision" not in str(error).lower():
            raise
        raise ImportError(
            f"{source}: transformers has its image processor with torchvision alone: "
            "pip install 'vlm-neurons[torchvision]' (torchvision of the version that goes with your torch)"
        ) from error
    tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False, **exact)
    made = processor_class(adapter)
    try:
        saved, _ = made.get_processor_dict(source, **exact)
    except OSError:
        saved = {}
    settings: dict[str, Any] = adapter.processor_settings(config)
    taken = set(signature(made.__init__).parameters) - {"self", "image_processor", "tokenizer"}
    if "video_processor" in taken:
        taken.remove("video_processor")
        settings["video_processor"] = None  # SmolVLM's has no default
    if "feature_extractor" in taken:
        settings["feature_extractor"] = None  # of sound
    if "image_token" in taken:
        settings.setdefault("image_token", tokenizer.convert_ids_to_tokens(config.image_token_id))
    settings |= {name: saved[name] for name in taken if saved.get(name) is not None}
    return made(image_processor=images, tokenizer=tokenizer, **settings)


def processor_class(adapter: Adapter) -> Any:
    """The family's processor, which need not have what it has no use for here: a processor of videos."""
    import transformers

    named = adapter.processor
    family = getattr(transformers, named) if isinstance(named, str) else named()

    def check(self: Any, name: str, given: Any) -> None:
        if given is not None:
            family.check_argument_for_proper_class(self, name, given)

    # without torchvision, the check itself fails at the processor of videos
    return type(family.__name__, (family,), {"check_argument_for_proper_class": check})


def _not_there(name: str, source: str, error: Exception) -> OSError:
    if Path(source).is_dir():
        return OSError(f"the directory {source!r} is not a complete Hugging Face model: {error}")
    said = str(error)
    if re.search(r"\bgated\b|\b40[13]\b", said, re.IGNORECASE):  # not the digits of a commit
        return OSError(
            f"{name!r} is gated or private: accept its terms at https://huggingface.co/{source} and log in "
            f"(hf auth login, or HF_TOKEN) ({said.strip().splitlines()[0]})"
        )
    return OSError(
        f"{name!r} is no directory here, no embedded model, and cannot be downloaded "
        f"({said.strip().splitlines()[0]}){zoo.close(name)}. "
        "Pass the path of a local directory that holds config.json, the weights, the tokenizer and "
        "preprocessor_config.json, such as HookedVLM.from_pretrained('/models/llava-1.5-7b-hf')"
    )
