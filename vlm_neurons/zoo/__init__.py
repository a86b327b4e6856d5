"""Models that ship inside the package."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent


def names() -> list[str]:
    """Of the embedded models."""
    return sorted(config.parent.name for config in _HERE.glob("*/config.json"))


def path(name: str) -> Path | None:
    """Directory of an embedded model, an ordinary Hugging Face directory; None if there is none of that name."""
    if not name or "/" in name or "\\" in name or name in {".", ".."}:
        return None
    folder = _HERE / name
    return folder if (folder / "config.json").is_file() else None
