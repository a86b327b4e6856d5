"""Models by name: those that ship inside the package, directories, and the Hugging Face hub's. Light to import."""

from __future__ import annotations

import difflib
from pathlib import Path

_HERE = Path(__file__).parent
_SECONDS = 10  # for the hub to say whether it has a model
# one of every family, for those who write a name from memory
KNOWN = (
    "llava-hf/llava-1.5-7b-hf", "llava-hf/llava-1.5-13b-hf", "llava-hf/llava-v1.6-mistral-7b-hf",
    "llava-hf/llava-onevision-qwen2-7b-ov-hf", "OpenGVLab/InternVL3-8B-hf", "mistral-community/pixtral-12b",
    "mistralai/Mistral-Small-3.1-24B-Instruct-2503", "Qwen/Qwen2-VL-7B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct",
    "Qwen/Qwen3-VL-8B-Instruct", "google/gemma-3-4b-it", "google/paligemma-3b-pt-224",
    "HuggingFaceM4/Idefics3-8B-Llama3", "HuggingFaceTB/SmolVLM-Instruct",
)  # fmt: skip


def names() -> list[str]:
    """Of the embedded models."""
    return sorted(config.parent.name for config in _HERE.glob("*/config.json"))


def path(name: str) -> Path | None:
    """Directory of an embedded model, an ordinary Hugging Face directory; None if there is none of that name."""
    if not name or "/" in name or "\\" in name or name in {".", ".."}:
        return None
    folder = _HERE / name
    return folder if (folder / "config.json").is_file() else None


def find(name_or_dir: str | Path) -> str:
    """A directory, if the name is one or is an embedded model; else the name, for the Hugging Face hub.

    The hub is asked once whether it has the model, unless it is on this machine: transformers would take seconds to be
    imported, and half a minute to give up where there is no network.

    Raises:
        OSError: there is no such model, or it is neither here nor to be had; with the names that it is like.
    """
    if (folder := Path(name_or_dir).expanduser()).is_dir():
        return str(folder)
    name = str(name_or_dir)
    embedded = path(name)
    if embedded is not None:
        return str(embedded)
    if "/" not in name and "\\" not in name:  # the hub's have an owner
        raise OSError(
            f"{name!r} is no directory here and no embedded model{close(name)}. Models on the Hugging Face hub are "
            "named with their owner, as llava-hf/llava-1.5-7b-hf"
        )
    if trouble := _not_on_hub(name):
        raise OSError(
            f"{name!r} is no directory here, no embedded model, and cannot be downloaded ({trouble}){close(name)}. "
            "Pass the path of a local directory that holds config.json, the weights, the tokenizer and "
            "preprocessor_config.json, such as HookedVLM.from_pretrained('/models/llava-1.5-7b-hf')"
        )
    return name


def close(name: str) -> str:
    """The names that are known and like this one, in words; empty if there is none, or it is one of them.

    >>> from vlm_neurons import zoo
    >>> zoo.close("llava-1.5-7b")
    '; close: llava-hf/llava-1.5-7b-hf, llava-hf/llava-1.5-13b-hf'
    """
    if name in KNOWN:
        return ""
    plain = {known.rpartition("/")[2].lower(): known for known in (*names(), *KNOWN)}
    alike = difflib.get_close_matches(name.rpartition("/")[2].lower(), plain, n=2)
    return f"; close: {', '.join(plain[one] for one in alike)}" if alike else ""


def _not_on_hub(name: str) -> str:
    """Why a model cannot be had, where that is certain; empty where it is here, or may be had."""
    import huggingface_hub
    from huggingface_hub import errors

    try:
        if isinstance(huggingface_hub.try_to_load_from_cache(name, "config.json"), str):
            return ""
        huggingface_hub.HfApi().model_info(name, timeout=_SECONDS)
    except errors.HFValidationError as error:
        return str(error)
    except errors.GatedRepoError:
        return ""  # it is there: loading says how to log in
    except errors.RepositoryNotFoundError:
        return "the hub has no such model, or it is private and you are not logged in: hf auth login"
    except errors.OfflineModeIsEnabled:
        return "it is not on this machine, and HF_HUB_OFFLINE forbids to ask the hub"
    except errors.HfHubHTTPError:
        return ""  # a mirror that cannot tell
    except Exception as error:  # of whichever HTTP library it uses
        return f"it is not on this machine, and the hub cannot be reached: {type(error).__name__}: {error}"
    return ""
