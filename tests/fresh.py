"""Processes of Python as good as new that need not import torch first: forks of one that only imported packages.

Importing torch and transformers costs more than most tests. Only packages of others are imported beforehand, so that
all of this package is new in such a process. What they read from the environment while they are imported, such as
HF_HOME, is that of the tests: a test of another one starts a process of its own.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from multiprocessing.context import ForkServerProcess
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "transformer_lens.model_bridge.sources._bridge_builder", "transformers.models.llava.modeling_llava",
        "transformers.models.clip.modeling_clip", "transformers.models.llama.modeling_llama",
        "transformers.models.llava.processing_llava", "transformers.models.clip.image_processing_clip",
        "pandas", "pyarrow.parquet", "scipy.stats", "openai", "safetensors.torch",
    ]
)  # fmt: skip


def _go(code: str, arguments: list[str], environment: dict[str, str], folder: str, out: str) -> None:
    """What `python -c CODE ARGUMENTS` does, in a fork; what it prints goes into two files."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, name in ((1, "stdout"), (2, "stderr")):
        with open(f"{out}/{name}", "wb") as file:
            os.dup2(file.fileno(), number)
    sys.stdout, sys.stderr = (open(n, "w", encoding="utf-8", closefd=False) for n in (1, 2))  # noqa: SIM115
    sys.argv = ["-c", *arguments]
    names = {"__name__": "__main__", "__builtins__": __builtins__}
    exec(compile(code, "<string>", "exec"), names)


def start(code: str, *arguments: object, out: Path, cwd: Path | None = None, **variables: str) -> ForkServerProcess:
    """A running process; `out` gets its stdout and stderr."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    given = (code, [str(a) for a in arguments], environment, str(cwd or Path.cwd()), str(out))
    process = _CONTEXT.Process(target=_go, args=given, daemon=True)
    process.start()
    return process


def run(
    code: str, *arguments: object, timeout: float = 300, cwd: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """A process that has ended, and what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        process = start(code, *arguments, out=out, cwd=cwd, **variables)
        process.join(timeout)
        assert process.exitcode is not None, f"still running after {timeout} s: {(out / 'stderr').read_text()}"
        said = [(out / name).read_text(encoding="utf-8") for name in ("stdout", "stderr")]
    return subprocess.CompletedProcess([code], process.exitcode, *said)
