"""What makes two scans the same: what is in `scan.json`, which of it decides the numbers, and what only bears note."""

from __future__ import annotations

import json
import re
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vlm_neurons.models.fused import hooked
from vlm_neurons.scanning.blocks import FORMAT, ColumnInfo
from vlm_neurons.sites import at

if TYPE_CHECKING:
    from vlm_neurons.data import ImageTextData
    from vlm_neurons.models import Batch, HookedVLM

# What decides the numbers: a run goes on only where all of this is the same ...
_DECIDES = ("format", "model", "hooked", "data", "parameters", "columns", "sites", "rendered", "threads", "versions")
# ... except these, which name or find a thing whose fingerprint is compared
_NAMES = ("model.name", "data.source")
_LIBRARIES = ("vlm-neurons", "torch", "transformers", "transformer-lens")


def describe_scan(
    model: HookedVLM,
    data: ImageTextData,
    parameters: dict[str, Any],
    columns: list[ColumnInfo],
    first: Batch,
    fast: bool,
) -> dict[str, Any]:
    """Content of `scan.json`."""
    return {
        "format": FORMAT,
        "model": {
            "name": model.name,
            "family": model.adapter.name,
            "fingerprint": model.fingerprint(),
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
            "forward": "transformers, fused attention" if fast else "bridge",
        },
        "hooked": hooked(model.bridge),
        "data": {"source": data.source, "fingerprint": data.fingerprint(), "n": len(data)},
        "parameters": parameters,
        "columns": [column.record() for column in columns],
        "sites": {column.site: at(column.hook)[0].fingerprint() for column in columns},
        "rendered": first.texts[0],
        "day": model.day,
        "threads": torch.get_num_threads(),
        "versions": {name.replace("-", "_"): version(name) for name in _LIBRARIES},
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def identity_of(info: dict[str, Any]) -> dict[str, Any]:
    """The identity of a run as one level of names, such as `parameters.top_n`.

    The number of threads decides last digits on a CPU only; of versions, the release (2.13 of 2.13.1) may.
    """
    flat = {name: value for name, value in _flat(info).items() if name not in _NAMES}
    for name in [name for name in flat if name.startswith("versions.")]:
        flat[name] = _release(flat[name])
    if flat.get("model.device") != "cpu":
        flat.pop("threads", None)
    return flat


def _flat(info: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name in _DECIDES:
        value = info.get(name)
        flat |= {f"{name}.{key}": v for key, v in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def _release(number: str) -> str:
    """
    >>> _release("2.13.1+cpu"), _release("0.2.0.dev0"), _release("5.23")
    ('2.13', '0.2', '5.23')
    """
    return ".".join(re.findall(r"\d+", number)[:2])


def differences(a: dict[str, Any], b: dict[str, Any], at_a: object, at_b: object) -> str:
    """What differs between the identities of two runs, in words; empty where nothing does."""
    found = _differing(identity_of(a), identity_of(b))
    if "parameters.sites" in found:
        found -= {"parameters.hooks"}  # follow from the sites, by the page
    if len(found) > 1:
        found -= {"columns"}  # follow from the rest
    return _in_words(found, a, b, at_a, at_b)


def noteworthy(a: dict[str, Any], b: dict[str, Any]) -> str:
    """What else is not the same on this machine as when a run was begun, in words; it decides no number."""
    found = _differing(_flat(a), _flat(b)) - _differing(identity_of(a), identity_of(b)) - {*_NAMES}
    return _in_words(found, a, b, "there", "here")


def _differing(a: dict[str, Any], b: dict[str, Any]) -> set[str]:
    return {name for name in {*a, *b} if a.get(name) != b.get(name)}


def _in_words(names: set[str], a: dict[str, Any], b: dict[str, Any], at_a: object, at_b: object) -> str:
    there, here = _flat(a), _flat(b)
    return "; ".join(f"{name}: {there.get(name)!r} {at_a}, {here.get(name)!r} {at_b}" for name in sorted(names))


def made_with(info: dict[str, Any]) -> str:
    """Threads and versions as JSON, which every block says of itself."""
    return json.dumps({name: info[name] for name in ("threads", "versions")})


def day_of(path: Path, model: HookedVLM) -> str:
    """The day that chat templates are told in a run: that of its first call."""
    try:
        return json.loads((path / "scan.json").read_text(encoding="utf-8"))["day"]
    except (OSError, ValueError, KeyError, TypeError):  # none yet, or none that can be gone on with
        return model.day
