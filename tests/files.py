"""Files that tests of data write."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any


def write(path: Path, content: Any) -> Path:
    """Text as it is, else as JSON."""
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def shard(path: Path, members: dict[str, bytes]) -> Path:
    """A tar of such files, in this order."""
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path
