"""Where attention heads look."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from vlm_neurons._checks import whole
from vlm_neurons.data import DEFAULT_PROMPT
from vlm_neurons.sites import named
from vlm_neurons.tokens import TokenKind

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.data import ImageTextData
    from vlm_neurons.models import Batch, HookedVLM

SHARES = ("to_image", "to_first", "to_itself", "to_text", "to_template")
PATTERN = "blocks.{layer}.attn.hook_pattern"


def where_heads_look(
    model: HookedVLM, data: ImageTextData, prompt: str = DEFAULT_PROMPT, batch_size: int = 8, progress: bool = True
) -> pd.DataFrame:
    """Where every head of the backbone looks from the words of the responses, on the samples that have an image and a
    response. All samples count the same, and all words of one.

    Args:
        model: any; attention is computed step by step, on the bridge.
        data: whose samples with an image and a response are looked at.
        prompt: question for samples without one of their own.
        batch_size: samples at a time; one layer's attention pattern of them is held at once.
        progress: show a bar.

    Returns:
        One row a head: `neuron` (as `L5H7`), `layer`, `head`; shares of its attention, which sum to 1: `to_image`,
        `to_first` (the first token, BOS where a model has one, which takes what heads have no use for: Xiao et al.
        2023, arXiv 2309.17453), `to_itself`, `to_text` (earlier words of the response), `to_template` (the rest);
        `focus`: how unevenly the patches get what the image gets, 1 - H / log(patches) with the entropy H of their
        shares, averaged over words (0: all patches the same, 1: one patch alone); NaN without a look at the image or
        with a single patch; and `n_samples`.

    Raises:
        ValueError: no sample has an image and a response, or `batch_size` is no whole number above 0.

    >>> looks = vn.evidence.where_heads_look(model, data, progress=False)
    >>> looks.neuron[0], len(looks), bool((looks[[*vn.evidence.attention.SHARES]].sum(axis=1) - 1 < 1e-5).all())
    ('L0H0', 16, True)
    """
    from tqdm import tqdm

    whole(1, batch_size=batch_size)
    chosen = [i for i, one in enumerate(data.facts) if one.paths and (one.response or "").strip()]
    if not chosen:
        raise ValueError("no sample has an image and a response: heads are looked at where a response follows an image")
    layers = named("heads").layers(model.hook_dict)
    seen: dict[int, list[Float[Tensor, "row head what"]]] = {layer: [] for layer in layers}
    with tqdm(total=len(chosen), desc="heads", unit="sample", disable=not progress) as bar:
        for start in range(0, len(chosen), batch_size):
            samples = [data[i] for i in chosen[start : start + batch_size]]
            batch = model.prepare(
                [s.load_images() for s in samples], [s.prompt or prompt for s in samples], [s.response for s in samples]
            )
            model.observe(
                batch, {PATTERN.format(layer=i): _keeper(batch.to(model.device), found) for i, found in seen.items()}
            )
            bar.update(len(samples))
    return _table(seen)


def _keeper(batch: Batch, into: list[Tensor]) -> Callable[[Tensor], None]:
    def keep(pattern: Tensor) -> None:
        into.append(torch.stack([_looks(pattern[row], batch.kinds[row]) for row in range(len(batch))]).cpu())

    return keep


def _looks(pattern: Float[Tensor, "head query key"], kinds: Tensor) -> Float[Tensor, "head what"]:
    """The shares, and the focus, of one row."""
    kinds = kinds.to(pattern.device)
    queries = (kinds == TokenKind.TEXT).nonzero()[:, 0]
    weights = pattern[:, queries].double()
    first = int((kinds != TokenKind.PAD).nonzero()[0])
    picture = weights[:, :, kinds == TokenKind.VISUAL]
    own = weights.gather(2, queries.view(1, -1, 1).expand(len(weights), -1, 1))[..., 0]
    rest = weights.index_fill(2, torch.tensor([first], device=pattern.device), 0)
    rest.scatter_(2, queries.view(1, -1, 1).expand(len(weights), -1, 1), 0)
    parts = [picture.sum(2), weights[:, :, first], own]
    parts += [rest[:, :, kinds == kind].sum(2) for kind in (TokenKind.TEXT, TokenKind.TEMPLATE)]
    shares = picture / picture.sum(2, keepdim=True)
    entropy = -torch.xlogy(shares, shares).sum(2)
    parts.append(1 - entropy / torch.tensor(float(picture.shape[2])).log())
    return torch.stack([part.mean(1) for part in parts], -1)


def _table(seen: dict[int, list[Tensor]]) -> pd.DataFrame:
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for layer, parts in seen.items():
        every = torch.cat(parts)  # [sample, head, what]
        for head, (values, focus) in enumerate(zip(every.mean(0)[:, :-1], every[..., -1].nanmean(0), strict=True)):
            facts = {"neuron": f"L{layer}H{head}", "layer": layer, "head": head}
            shares = dict(zip(SHARES, values.tolist(), strict=True))
            rows.append({**facts, **shares, "focus": float(focus), "n_samples": len(every)})
    return pd.DataFrame(rows)
