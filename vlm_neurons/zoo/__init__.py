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
    "HuggingFaceM4/Idefics3-8B-Llama3", "HuggingFaceTB/SmolVLM-Instruct", "google/gemma-4-E4B-it",
    "zai-org/GLM-4.1V-9B-Thinking", "deepseek-community/deepseek-vl-1.3b-chat", "CohereLabs/aya-vision-8b",
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


def find(name_or_dir: str | Path) -> tuple[str, dict[str, str]]:
    """Where a model is, for `from_pretrained` of transformers.

    The hub is asked once whether it has the model: transformers would take seconds to be imported, and where there is
    no network it would try for half a minute at each file that is not here, such as those that the model does not have.

    Args:
        name_or_dir: a directory, an embedded model, or a name on the hub, with `@` and a revision (a branch, a tag, a
            commit) behind it if that is not the newest.

    Returns:
        A directory, or the name on the hub; and `{"revision": ...}`, if it has one there.

    Raises:
        OSError: there is no such model, or it is neither here nor to be had; with the names that it is like.

    >>> from vlm_neurons import zoo
    >>> Path(zoo.find("tiny-llava-scenes")[0]).name
    'tiny-llava-scenes'
    """
    if (folder := Path(name_or_dir).expanduser()).is_dir():
        return str(folder), {}
    name, _, revision = str(name_or_dir).partition("@")
    embedded = path(str(name_or_dir))
    if embedded is not None:
        return str(embedded), {}
    if "/" not in name and "\\" not in name:  # the hub's have an owner
        raise OSError(
            f"{name!r} is no directory here and no embedded model{close(name)}. Models on the Hugging Face hub are "
            "named with their owner, as llava-hf/llava-1.5-7b-hf"
        )
    stored, trouble = _stored(name, revision), _not_on_hub(name, revision)
    if trouble and stored is not None:
        return str(stored), {}
    if trouble:
        raise OSError(
            f"{str(name_or_dir)!r} is no directory here, no embedded model, and cannot be downloaded ({trouble})"
            f"{close(name)}. Pass the path of a local directory that holds config.json, the weights, the tokenizer and "
            "preprocessor_config.json, such as HookedVLM.from_pretrained('/models/llava-1.5-7b-hf')"
        )
    return name, {"revision": revision} if revision else {}


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


def _stored(name: str, revision: str) -> Path | None:
    """Where a model of the hub is on this machine."""
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    try:
        found = huggingface_hub.try_to_load_from_cache(name, "config.json", revision=revision or None)
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def _not_on_hub(name: str, revision: str) -> str:
    """Why the hub does not give a model, where that is certain; empty where it may."""
    import huggingface_hub
    from huggingface_hub import errors

    try:
        huggingface_hub.HfApi().model_info(name, revision=revision or None, timeout=_SECONDS)
    except errors.HFValidationError as error:
        return str(error)
    except errors.GatedRepoError:
        return ""  # it is there: loading says how to log in
    except errors.RevisionNotFoundError:
        return f"the hub's has no revision {revision!r}"
    except errors.RepositoryNotFoundError:
        return "the hub has no such model, or it is private and you are not logged in: hf auth login"
    except errors.OfflineModeIsEnabled:
        return "it is not on this machine, and HF_HUB_OFFLINE forbids to ask the hub"
    except errors.HfHubHTTPError:
        return ""  # a mirror that cannot tell
    except Exception as error:  # of whichever HTTP library it uses
        return f"it is not on this machine, and the hub cannot be reached: {type(error).__name__}: {error}"
    return ""
