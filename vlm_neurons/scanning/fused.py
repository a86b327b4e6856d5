"""`summarise`, `extremes` and `image_means` at once, for torch.compile: few passes over the activations.

The forms in `summarise` and `moments` cut a batch into samples and kinds of tokens, in other places for every batch,
and leave a GPU many small steps. Here the kinds are masks over [row, pos], so that one compiled function serves every
batch. The values kept are equal to the last bit; means are sums in another order and differ in last digits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlm_neurons.scanning.summarise import Extremes, Summary, one_by_one
from vlm_neurons.tokens import TokenKind
from vlm_neurons.units import Pole

if TYPE_CHECKING:
    from vlm_neurons.scanning.blocks import ColumnInfo

Parts = tuple[Summary, Extremes, tuple[Tensor, Tensor]]  # of a batch
CHUNK = 8  # tokens; sums over so few are unrolled by the compiler, into one pass


def reduced(
    acts: Float[Tensor, "row pos d"], kinds: Int[Tensor, "row pos"], n_visual: int, n_text: int, pole: Pole
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The function to compile.

    Returns:
        The largest visual values [row, n_visual, d] and text values [row, n_text, d], the largest of the other tokens
        [row, d], and the means of max(a, 0) over visual and over text tokens [row, d] (0 where there are none).
    """
    empty = -acts.shape[1] % CHUNK
    acts = torch.nn.functional.pad(acts if pole == "+" else -acts, (0, 0, 0, empty))
    kinds = torch.nn.functional.pad(kinds, (0, empty), value=int(TokenKind.PAD))[..., None]
    positive = acts.clamp(min=0)

    def mean(mask: Tensor) -> Tensor:
        return torch.where(mask, positive, 0).sum(1, dtype=torch.float32) / mask.sum(1).clamp(min=1)

    def only(kind: TokenKind) -> Tensor:
        return torch.where(kinds == int(kind), acts, -torch.inf)

    visual, text = (kinds == int(k) for k in (TokenKind.VISUAL, TokenKind.TEXT))
    return (
        largest_by_chunk(only(TokenKind.VISUAL), n_visual), largest_by_chunk(only(TokenKind.TEXT), n_text),
        only(TokenKind.TEMPLATE).amax(1), mean(visual), mean(text),
    )  # fmt: skip


def largest_by_chunk(x: Float[Tensor, "row pos d"], n: int) -> Float[Tensor, "row n d"]:
    """The n largest values along the second axis, descending; its length is a multiple of `CHUNK`.

    All of them are in the n chunks with the largest maxima: a chunk that is left out has n values that are no smaller
    outside. So one pass finds the chunks, and what follows looks at few values.
    """
    rows, pos, d = x.shape
    n_chunks = pos // CHUNK
    # chunk i is tokens i, i + n_chunks, ...: neighbours in memory stay neighbours
    best, where = one_by_one(x.view(rows, CHUNK, n_chunks, d).amax(1), min(n, n_chunks))
    inside = where[:, None] + n_chunks * torch.arange(CHUNK, device=x.device)[:, None, None]
    # with nothing left but -inf a chunk can come twice; it must not count twice
    near = x.gather(1, inside.flatten(1, 2)).view(rows, CHUNK, -1, d)
    near = torch.where(best[:, None] == -torch.inf, -torch.inf, near)
    short = max(0, n - CHUNK * n_chunks)
    return one_by_one(torch.nn.functional.pad(near.flatten(1, 2), (0, 0, 0, short), value=-torch.inf), n)[0]


@dataclass(frozen=True)
class Fused:
    """The three summaries of a batch by one compiled function.

    Attributes:
        run: `reduced`, compiled.
    """

    run: Callable[..., tuple[Tensor, ...]]

    def __call__(
        self, acts: Float[Tensor, "row pos d"], kinds: Int[Tensor, "row pos"], n_visual: int, n_text: int, pole: Pole
    ) -> Parts:
        """As `summarise`, `extremes` and `image_means` give them; means of every row, also of those without a kind."""
        run = self.run if len(acts) > 1 else reduced  # torch.compile would compile a size of 1 anew
        visual, text, other, *means = run(acts, kinds.to(acts.device), n_visual, n_text, pole)
        summary = Summary(*((values + 0.0).permute(2, 0, 1) for values in (visual, text)))  # + 0.0: no -0.0
        return summary, Extremes(visual[:, 0], text[:, 0], other), (means[0], means[1])


def compiled(
    acts: Float[Tensor, "row pos d"],
    kinds: Int[Tensor, "row pos"],
    n_visual: int,
    n_text: int,
    backend: str = "inductor",
) -> Fused:
    """Compile, and try it on activations like those to come.

    Args:
        acts: activations of a scan's shape: the compiler plans for it, and other shapes work too.
        kinds: token kinds of them.
        n_visual: values to keep per sample at visual tokens.
        n_text: the same at text tokens.
        backend: torch.compile's.

    Raises:
        RuntimeError: torch.compile does not work here, or gives other values.
    """
    with torch.no_grad():
        try:
            fused = Fused(torch.compile(reduced, dynamic=True, backend=backend))
            summary, found, _ = fused(acts, kinds, n_visual, n_text, "+")
        except Exception as error:  # whatever compilers, drivers and their versions can come up with
            raise RuntimeError(f"torch.compile fails: {str(error).strip().splitlines()[0][:200]}") from error
        plain, expected, _ = Fused(reduced)(acts, kinds, n_visual, n_text, "+")
    pairs = ((summary.visual, plain.visual), (summary.text, plain.text), (found.peak_all, expected.peak_all))
    if not all(torch.equal(a, b) for a, b in pairs):
        raise RuntimeError("torch.compile gives other values than the same code uncompiled")
    return fused


def choose(
    wanted: bool | None,
    columns: Sequence[ColumnInfo],
    kinds: Int[Tensor, "row pos"],
    n_visual: int,
    n_text: int,
    say: Callable[[str], object],
) -> Fused | None:
    """Compiled summaries if they are wanted (None: on CUDA) and possible.

    Args:
        wanted: `compiled` of `vlm_neurons.scan`.
        columns: what is scanned. Hooks that are indexed by image are never looked at with compiled code.
        kinds: token kinds of a batch, on the device of the scan.
        n_visual: values to keep per sample at visual tokens.
        n_text: the same at text tokens.
        say: is told why there are none, where they were not asked for by name.

    Raises:
        ValueError: they were, and torch.compile does not work here, or batches have one row.
    """
    first = next((c for c in columns if c.indexed_by == "row"), None)
    if first is None or wanted is False or (wanted is None and (kinds.device.type != "cuda" or len(kinds) == 1)):
        return None
    if len(kinds) == 1:
        raise ValueError("compiled=True needs a batch_size of at least 2")
    acts = torch.randn(*kinds.shape, first.d, device=kinds.device, dtype=getattr(torch, first.dtype))
    try:
        return compiled(acts, kinds, n_visual, n_text)
    except RuntimeError as error:
        if wanted:
            raise ValueError(
                f"compiled=True: {error}. Leave it out: the scan is as exact without, and slower"
            ) from error
        say(f"Summaries are not compiled ({error}): the scan is as exact without, and slower.")
        return None
