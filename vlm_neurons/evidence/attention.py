"""Where attention heads look."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlm_neurons._checks import check_columns, whole
from vlm_neurons.data import DEFAULT_PROMPT
from vlm_neurons.evidence.evidence import Evidence
from vlm_neurons.sites import named
from vlm_neurons.tokens import MODALITIES, NOT_APPLICABLE, TokenKind
from vlm_neurons.units import Neuron, parse_neurons

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

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
        batch_size: samples at a time; their attention patterns of all layers are held at once.
        progress: show a bar.

    Returns:
        One row a head: `neuron` (as `L5H7`), `layer`, `head`; shares of its attention, which sum to 1: `to_image`,
        `to_first` (the first token, which takes what heads have no use for: Xiao et al. 2023, arXiv 2309.17453; BOS in
        most models, in PaliGemma a patch, which then is not in `to_image`), `to_itself`, `to_text` (earlier words of
        the response), `to_template` (the rest); `focus`: how unevenly the patches get what the image gets, 1 - H /
        log(patches) with the entropy H of their shares, averaged over words (0: all patches the same, 1: one patch
        alone); NaN without a look at the image or with a single patch; and `n_samples`.

    Raises:
        ValueError: no sample has an image and a response, or `batch_size` is no whole number above 0.

    >>> looks = vn.evidence.where_heads_look(model, data, progress=False)
    >>> looks.neuron[0], len(looks), bool((looks[[*vn.evidence.attention.SHARES]].sum(axis=1) - 1).abs().max() < 1e-5)
    ('L0H0', 16, True)
    """
    chosen = _answered(data)
    layers = named("heads").layers(model.hook_dict)
    seen: dict[int, list[Float[Tensor, "row head what"]]] = {layer: [] for layer in layers}
    for _, batch, patterns in _patterns(model, data, chosen, layers, prompt, batch_size, progress):
        for layer, pattern in patterns.items():
            seen[layer].append(torch.stack([_looks(one, batch.kinds[row]) for row, one in enumerate(pattern)]))
    return _table(seen)


def heads_by_class(looks: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Where heads of every class look, by layer. A head's class says what it writes most at, which is another question
    than where it looks.

    Args:
        looks: what `where_heads_look` returned.
        table: labels of a scan of the site `"heads"` of the same model, as `vn.classify` or `vn.modality_test` returns
            them; rows of other sites are not read.

    Returns:
        One row per layer and class that has heads there, and at the end one per class over all layers (layer `"all"`):
        `layer`, `label`, `n_heads`, and of these the means of the shares and of `focus` (NaN where none has one), all
        heads the same.

    Raises:
        ValueError: a column is missing, or a head of `looks` has no label.

    >>> looks = vn.evidence.where_heads_look(model, data, progress=False)
    >>> found = vn.scan(model, data, "heads", top_n=4, out="heads", progress=False)
    >>> by_class = vn.evidence.heads_by_class(looks, vn.classify(found))
    >>> int(by_class[by_class.layer == "all"].n_heads.sum())
    16
    """
    import pandas as pd

    told = [*SHARES, "focus"]
    check_columns("looks", looks, "neuron", "layer", *told)
    check_columns("table", table, "neuron", "label")
    labels = dict(zip(table["neuron"], table["label"], strict=True))
    if lacking := [one for one in looks["neuron"] if one not in labels]:
        raise ValueError(
            f"table has no label of {lacking[0]} and {len(lacking) - 1} other heads: give the labels of a scan with "
            'site="heads" of the same model'
        )
    heads = looks.assign(label=pd.Categorical(looks["neuron"].map(labels), [*MODALITIES, NOT_APPLICABLE]))
    groups = [(layer, own) for layer, own in heads.groupby("layer")] + [("all", heads)]
    rows = [
        {"layer": layer, "label": label, "n_heads": len(own), **own[told].mean().to_dict()}
        for layer, part in groups
        for label, own in part.groupby("label", observed=True)
    ]
    return pd.DataFrame(rows, columns=["layer", "label", "n_heads", *told])


def attention_evidence(
    model: HookedVLM,
    data: ImageTextData,
    heads: str | Neuron | Iterable[str | Neuron] | pd.DataFrame,
    n_samples: int = 24,
    prompt: str = DEFAULT_PROMPT,
    batch_size: int = 8,
    progress: bool = True,
) -> dict[str, Evidence]:
    """Where some heads look, as evidence: at every patch, and at every word of the response, the attention that it gets
    from the words of the response on average (a word is asked only about earlier ones and itself). A card of it is the
    head's map; what `gather_evidence` gives of a head is what it writes.

    Args:
        model: any.
        data: the first samples with one image and a response are looked at.
        heads: ids such as `"L2H1"`, or rows of a table.
        n_samples: at most so many.
        prompt, batch_size, progress: as for `where_heads_look`.

    Returns:
        id -> evidence.

    Raises:
        ValueError: no sample has one image and a response, what is named is no head, or a number is out of range.
        IndexError: there is no such head.

    >>> looked = vn.evidence.attention_evidence(model, data, "L2H1", n_samples=4, progress=False)
    >>> card = vn.show_neuron(looked["L2H1"])
    >>> looked["L2H1"].exemplars[0].patch_acts[0].shape
    (8, 8)
    """
    whole(1, n_samples=n_samples)
    units = dict.fromkeys(parse_neurons(heads))
    if wrong := [one.id for one in units if one.site != "heads"]:
        raise ValueError(f"heads: {', '.join(wrong)}: ids of attention heads are L2H1")
    chosen = [i for i in _answered(data) if len(data.facts[i].paths) == 1][:n_samples]
    if not chosen:
        raise ValueError("no sample with a response has exactly one image")
    layers = sorted({one.layer for one in units})
    if lacking := set(layers) - {*named("heads").layers(model.hook_dict)}:
        raise IndexError(f"layer {min(lacking)} of {model.name} has no attention heads")
    images: list[Image.Image] = []
    tokens: list[list[str]] = []
    maps: dict[Neuron, tuple[list[np.ndarray], list[np.ndarray]]] = {one: ([], []) for one in units}
    for _, batch, patterns in _patterns(model, data, chosen, layers, prompt, batch_size, progress):
        for row in range(len(batch)):
            kinds = batch.kinds[row].cpu()
            (image,) = (i for i, home in enumerate(batch.image_rows.tolist()) if home == row)
            words = (kinds == TokenKind.TEXT).nonzero()[:, 0]
            images.append(batch.seen_image(image))
            tokens.append([batch.tokens(row)[k] for k in words.tolist()])
            for one, (patches, said) in maps.items():
                got = _received(patterns[one.layer][row], one, words)
                grid = np.full(batch.grids[image], np.nan, np.float32)
                for position, index in enumerate(batch.patch_index[row].tolist()):
                    if index >= 0:
                        grid[batch.patches[index].row, batch.patches[index].column] = got[position]
                patches.append(grid)
                said.append(got[words].numpy())
    return {
        one.id: Evidence.from_arrays(
            one.id, images=images, patch_acts=patches, tokens=tokens, token_acts=said, sample_ids=chosen,
            names=[data.facts[i].name for i in chosen], source={"model": model.name, "what": "attention"}, words=False,
        )
        for one, (patches, said) in maps.items()
    }  # fmt: skip


def _received(
    pattern: Float[Tensor, "head query key"], head: Neuron, words: Int[Tensor, "word"]
) -> Float[Tensor, "key"]:
    """What every position gets from the words that can see it, on average."""
    if not 0 <= head.index < len(pattern):
        raise IndexError(f"{head.id}: {head.hook} has {len(pattern)} heads, 0 to {len(pattern) - 1}")
    asked = (words[:, None] >= torch.arange(pattern.shape[2])).sum(0)
    return pattern[head.index, words].sum(0) / asked.clamp(min=1)


def _answered(data: ImageTextData) -> list[int]:
    chosen = [i for i, one in enumerate(data.facts) if one.paths and (one.response or "").strip()]
    if not chosen:
        raise ValueError("no sample has an image and a response: heads are looked at where a response follows an image")
    return chosen


def _patterns(
    model: HookedVLM,
    data: ImageTextData,
    chosen: Sequence[int],
    layers: Sequence[int],
    prompt: str,
    batch_size: int,
    progress: bool,
) -> Iterator[tuple[list[int], Batch, dict[int, Float[Tensor, "row head query key"]]]]:
    """Sample ids, batch, and the attention patterns of some layers."""
    from tqdm import tqdm

    whole(1, batch_size=batch_size)
    with tqdm(total=len(chosen), desc="heads", unit="sample", disable=not progress) as bar:
        for start in range(0, len(chosen), batch_size):
            ids = list(chosen[start : start + batch_size])
            samples = [data[i] for i in ids]
            batch = model.prepare(
                [s.load_images() for s in samples], [s.question(prompt) for s in samples], [s.response for s in samples]
            )
            found: dict[int, Tensor] = {}

            def keep(layer: int, pattern: Tensor, found: dict[int, Tensor] = found) -> None:
                found[layer] = pattern.float().cpu()

            model.observe(batch, {PATTERN.format(layer=i): partial(keep, i) for i in layers})
            yield ids, batch, found
            bar.update(len(ids))


def _looks(pattern: Float[Tensor, "head query key"], kinds: Tensor) -> Float[Tensor, "head what"]:
    """The shares, and the focus, of one row."""
    kinds = kinds.cpu()
    queries = (kinds == TokenKind.TEXT).nonzero()[:, 0]
    weights = pattern[:, queries].double()
    first = int((kinds != TokenKind.PAD).nonzero()[0])
    picture = weights[:, :, kinds == TokenKind.VISUAL]
    own = weights.gather(2, queries.view(1, -1, 1).expand(len(weights), -1, 1))[..., 0]
    rest = weights.index_fill(2, torch.tensor([first]), 0)
    rest.scatter_(2, queries.view(1, -1, 1).expand(len(weights), -1, 1), 0)
    seen = picture.sum(2) - (weights[:, :, first] if kinds[first] == TokenKind.VISUAL else 0)
    parts = [seen, weights[:, :, first], own]
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
