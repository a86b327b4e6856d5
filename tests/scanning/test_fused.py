"""The compiled summaries of a batch keep exactly what the plain ones do."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._inductor import config as inductor
from torch._inductor import cpp_builder

import vlm_neurons as vn
from vlm_neurons.scanning.blocks import ColumnInfo
from vlm_neurons.scanning.fused import Fused, choose, compiled, largest_by_chunk, reduced
from vlm_neurons.scanning.moments import image_means, of_both
from vlm_neurons.scanning.summarise import extremes, one_by_one, rows_by_kind, summarise
from vlm_neurons.units import Pole

COLUMN = ColumnInfo("blocks.0.mlp.hook_act", "+", "gate", 0, "row", 4, "float32")


def random_batch(pos: int, d: int, dtype: torch.dtype, rows: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations with ties and zeros of both signs; kinds in any order, some rows lack one; padding is infinite."""
    kinds = torch.randint(0, 4, (rows, pos))
    kinds[0][kinds[0] == 2] = 1
    kinds[1][kinds[1] == 3] = 1
    kinds[2] = 1
    kinds[2, 0], kinds[2, -1] = 2, 3  # one token of each
    acts = (torch.randint(-9, 9, (rows, pos, d)) / 4).to(dtype) * (-1) ** torch.randint(0, 2, (rows, pos, d))
    return acts.masked_fill((kinds == 0)[..., None], torch.inf), kinds


def assert_same(fused: Fused, acts: torch.Tensor, kinds: torch.Tensor, n_visual: int, n_text: int, pole: Pole) -> None:
    flat, rows = acts.flatten(0, 1), rows_by_kind(kinds)
    summary, found, means = fused(acts, kinds, n_visual, n_text, pole)
    plain, expected = summarise(flat, rows, n_visual, n_text, pole), extremes(flat, rows, pole)
    bits = torch.int32 if acts.dtype == torch.float32 else torch.int16
    for name in ("visual", "text"):
        assert torch.equal(getattr(summary, name).contiguous().view(bits), getattr(plain, name).view(bits)), name
    for name in ("score", "peak_all"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert torch.equal(found.broken(), expected.broken())
    for a, b in zip(of_both(means, rows), image_means(flat, rows, pole), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pole", ["+", "-"])
def test_masks_give_what_cuts_give_to_the_last_bit(dtype: torch.dtype, pole: Pole) -> None:
    for pos, n_visual, n_text in ((1, 4, 2), (3, 4, 2), (17, 4, 2), (64, 1, 9), (131, 20, 3)):
        acts, kinds = random_batch(max(pos, 2), 6, dtype)
        assert_same(Fused(reduced), acts, kinds, n_visual, n_text, pole)


def test_the_largest_are_found_in_chunks_and_one_by_one_as_by_sorting() -> None:
    for n in (1, 2, 5, 30):
        x = (torch.randint(-3, 3, (2, 32, 50)) / 2).masked_fill(torch.rand(2, 32, 50) < 0.8, -torch.inf)
        best = x.sort(1, descending=True).values[:, :n]
        assert torch.equal(largest_by_chunk(x, n), best)
        assert torch.equal(one_by_one(x, n)[0], best)


def test_the_graph_is_captured_whole_and_serves_every_length() -> None:
    torch._dynamo.reset()
    counted = CompileCounterWithBackend("aot_eager")
    fused = Fused(torch.compile(reduced, dynamic=True, fullgraph=True, backend=counted))
    for pos, d in ((40, 6), (57, 6), (72, 11)):
        assert_same(fused, *random_batch(pos, d, torch.float32), 2, 1, "+")
    assert counted.frame_count == 1, "one compilation for all of them"


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_scan_with_compiled_summaries_finds_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, data = vn.HookedVLM.from_pretrained("tiny-llava-scenes"), vn.scenes(20, seed=1)
    # the program grows with the numbers of values kept, and so does the time that a compiler takes
    options = {
        "site": ["gate", "projector"],
        "top_n": 5,
        "batch_size": 4,
        "n_visual": 2,
        "n_text": 1,
        "progress": False,
    }
    plain = vn.scan(model, data, out=tmp_path / "plain", **options)
    fast = vn.scan(model, data, out=tmp_path / "fast", compiled=True, **options)
    assert fast.info["parameters"]["compiled"] and not plain.info["parameters"]["compiled"]
    for hook, pole in plain.columns:
        for name in ("sample_ids", "visual", "text", "peak_all"):
            assert torch.equal(getattr(fast.top(hook, pole), name), getattr(plain.top(hook, pole), name))
        if not hook.startswith(("vision", "projector")):
            torch.testing.assert_close(
                fast.moments(hook, pole).sums, plain.moments(hook, pole).sums, rtol=1e-5, atol=1e-6
            )
            assert torch.equal(fast.moments(hook, pole).active, plain.moments(hook, pole).active)
    with pytest.raises(ValueError, match=r"parameters\.compiled: True there, False here"):
        vn.scan(model, data, out=tmp_path / "fast", **options)


@pytest.mark.filterwarnings("ignore:dynamo_pgo force disabled")
def test_without_a_working_compiler_a_scan_says_so_and_goes_on() -> None:
    said: list[str] = []
    kinds = torch.randint(1, 4, (2, 16))
    with pytest.raises(RuntimeError, match=r"torch.compile fails: .*no_such_backend"):
        compiled(torch.randn(2, 16, 4), kinds, 2, 1, backend="no_such_backend")
    assert choose(None, [COLUMN], kinds, 2, 1, said.append) is None and not said, "on a CPU by default not tried"
    torch._dynamo.reset()
    cpp_builder.cpp_compiler_search.cache_clear()  # torch remembers the one that it found
    with (
        inductor.patch({"cpp.cxx": ("/no/such/compiler",), "force_disable_caches": True}),
        pytest.raises(ValueError, match=r"^compiled=True: torch.compile fails: .*/no/such/compiler.*as exact without"),
    ):
        choose(True, [COLUMN], kinds, 2, 1, said.append)
    cpp_builder.cpp_compiler_search.cache_clear()
