"""A notebook with cards, run in a real kernel: one bundle for all of them, and its export opens without network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import seeds
from driver import browser

MADE = """
import numpy as np
import vlm_neurons as vn
from PIL import Image

def made(name):
    rng = np.random.default_rng(SEED)
    return vn.Evidence.from_arrays(
        name, images=[Image.fromarray(rng.integers(0, 255, (30, 40, 3), np.uint8)) for _ in range(4)],
        patch_acts=[rng.normal(size=(3, 4)) for _ in range(4)],
        tokens=[["<s>", "<image>", " a", " red", "\\n", "</script><script>window.pwned=1</script>"]] * 4,
        token_acts=[rng.normal(size=6) for _ in range(4)])
"""
BUNDLE = "window.vnUnpacking = true"
DRAWN = "[...document.querySelectorAll('.vn-strip')].every(e => e.dataset.state === 'drawn')"


@pytest.fixture(scope="module")
def kernel() -> Any:
    manager = pytest.importorskip("jupyter_client.manager", reason="no Jupyter: pip install nbconvert ipykernel")
    pytest.importorskip("ipykernel", reason="no Jupyter: pip install nbconvert ipykernel")
    started, client = manager.start_new_kernel(kernel_name="python3", extra_arguments=["--log-level=ERROR"])
    try:
        yield client
    finally:
        client.stop_channels()
        started.shutdown_kernel(now=True)


def ran(client: Any, code: str, cell: str | None) -> str:
    """The HTML that a cell shows; `cell` is what JupyterLab and VS Code send as its id, None as nbconvert."""
    content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False,
               "stop_on_error": True}  # fmt: skip
    message = client.session.msg("execute_request", content, metadata={"cellId": cell} if cell else {})
    client.shell_channel.send(message)
    shown = ""
    while True:
        got = client.get_iopub_msg(timeout=60)
        if got["parent_header"].get("msg_id") != message["header"]["msg_id"]:
            continue
        assert got["msg_type"] != "error", got["content"]
        if got["msg_type"] in ("execute_result", "display_data"):
            shown += got["content"]["data"].get("text/html", "")
        if got["msg_type"] == "status" and got["content"]["execution_state"] == "idle":
            return shown


@pytest.fixture(scope="module")
def outputs(kernel: Any) -> list[str]:
    """What two cells show: two cards and a chart, one card."""
    ran(kernel, MADE.replace("SEED", str(seeds.number())), "a")
    first = "display(vn.show_neuron(made('L0N1'), explanation='red'))\ndisplay(vn.viz.show_distribution(made('x')))\n"
    return [ran(kernel, first + "vn.show_neuron(made('L0N2'))", "b"), ran(kernel, "vn.show_neuron(made('L0N3'))", "c")]


def test_a_notebook_has_the_bundle_once_and_running_its_cell_again_keeps_it(kernel: Any, outputs: list[str]) -> None:
    assert [shown.count(BUNDLE) for shown in outputs] == [1, 0]
    again = "vn.show_neuron(made('L0N2'))"
    assert BUNDLE in ran(kernel, again, "b")
    assert BUNDLE not in ran(kernel, again, "c")
    assert BUNDLE not in ran(kernel, again, None)


def test_an_export_opens_without_network_and_complaint(outputs: list[str], tmp_path: Path) -> None:
    nbconvert = pytest.importorskip("nbconvert", reason="no Jupyter: pip install nbconvert ipykernel")
    from nbformat.v4 import new_code_cell, new_notebook, new_output

    shown = [[new_output("execute_result", {"text/html": html}, execution_count=1)] for html in outputs]
    notebook = new_notebook(cells=[new_code_cell("...", outputs=one) for one in shown])
    page, _ = nbconvert.HTMLExporter().from_notebook_node(notebook)
    assert page.count(BUNDLE) == 1
    (tmp_path / "export.html").write_text(page, encoding="utf-8")
    with browser() as tab:
        tab.open(tmp_path / "export.html", 1100)
        tab.until("document.querySelectorAll('.vn-drawn').length > 0")
        tab.run(
            "(async () => { for (const e of document.querySelectorAll('.vn-strip')) { e.scrollIntoView();"
            "await new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r))) } })()"
        )
        tab.until(DRAWN)
        tokens = tab.run("[...document.querySelector('.vn-drawn').querySelectorAll('.colored-tokens > span')]"
                         ".map(e => e.textContent.replace(/\\u2060/g, ''))")  # fmt: skip
        assert tokens[:2] == ["<image>", "<s>"] and "</script>" in tokens[6]
        assert tab.run("[document.querySelectorAll('.vn-card').length, window.pwned ?? null]") == [3, None]
        # nbconvert itself asks for formulas and a module loader, which cards do not need
        assert [line for line in (*tab.requests, *tab.console) if "https://cdnjs.cloudflare.com/" not in line] == []
