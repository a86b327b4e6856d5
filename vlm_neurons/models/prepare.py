"""Images, prompts and responses -> Batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Int

from vlm_neurons._checks import of_kind
from vlm_neurons._text import not_utf8
from vlm_neurons.models.adapters import Adapter
from vlm_neurons.models.batch import Batch, RowError
from vlm_neurons.models.images import Images, Pixels, process_images
from vlm_neurons.models.template import Rendered, Words, needs_bos, render
from vlm_neurons.tokens import Patches, TokenKind


def prepare(
    processor: Any,
    config: Any,
    adapter: Adapter,
    words: Words,
    images: Sequence[Images] | Images,
    prompts: Sequence[str] | str,
    responses: Sequence[str | None] | str | None = None,
    padding_side: Literal["left", "right"] | None = None,
    day: str | None = None,
    end: bool = True,
) -> Batch:
    """Make a batch; see `HookedVLM.prepare`."""
    entries, prompt_list, response_list = _rows(images, prompts, responses)
    if padding_side not in (None, "left", "right"):
        raise ValueError(f"padding_side={padding_side!r}: 'left', 'right' or None")
    side = padding_side or ("left" if not end or all(r is None for r in response_list) else "right")
    for row, (prompt, response) in enumerate(zip(prompt_list, response_list, strict=True)):
        _check_text(words, row, prompt, response)
    pixels = process_images(processor, config, adapter, entries)
    rendered = [
        _render(row, processor, adapter.plain, prompt, pixels.rows.count(row), response, day, end)
        for row, (prompt, response) in enumerate(zip(prompt_list, response_list, strict=True))
    ]
    tokens = _tokenise(words, rendered, pixels)
    return _assemble(processor, config, adapter, words, pixels, rendered, tokens, side, prompt_list, response_list)


def _rows(images: Any, prompts: Any, responses: Any) -> tuple[list[Images], list[str], list[str | None]]:
    of_kind("prompts", prompts, str | Sequence, "give one text, or one a row")
    of_kind("responses", responses, str | Sequence | None, "give one text, or one (or None) a row")
    entries = list(images) if isinstance(images, (list, tuple)) else [images]
    prompt_list = [prompts] * len(entries) if isinstance(prompts, str) else list(prompts)
    if not isinstance(images, (list, tuple)) and images is None and not isinstance(prompts, str):
        entries = [None] * len(prompt_list)  # images=None: no row has one
    if responses is None or isinstance(responses, str):
        responses = [responses] * len(prompt_list)
    response_list = list(responses)
    if not len(entries) == len(prompt_list) == len(response_list):
        raise ValueError(
            f"{len(entries)} entries of images, {len(prompt_list)} prompts, {len(response_list)} responses: one of "
            "each per row; an entry of images may be a list of images, or None"
        )
    if not entries:
        raise ValueError("an empty batch: give at least one row")
    return entries, prompt_list, response_list


def _render(row: int, *given: Any) -> Rendered:
    try:
        return render(*given)
    except Exception as error:  # a template raises what it likes: about this row, which others have no part in
        why = str(error) if isinstance(error, ValueError) else f"the chat template refuses it: {error}"
        raise RowError(row, why) from error


def _check_text(words: Words, row: int, prompt: str, response: str | None) -> None:
    """User text never counts as a special token: text that would be read as one is refused."""
    for name, text in (("prompt", prompt), ("response", response)):
        if text is None and name == "response":
            continue
        if not isinstance(text, str):
            raise TypeError(f"row {row}: the {name} is {type(text).__name__}, it has to be a string")
        if reason := not_utf8(text):
            raise RowError(row, f"the {name} cannot be read: {reason}; remove it")
        hit = next((t for t in words.special_texts if t and t in text), None)
        if hit is not None:
            images = (words.placeholder, words.image_token)
            advice = "images go before the prompt by themselves" if hit in images else "remove or reword it"
            raise RowError(row, f"the {name} contains {hit!r}, which the tokenizer reads as a special token: {advice}")


@dataclass(frozen=True)
class _Row:
    ids: list[int]
    spans: Int[np.ndarray, "token 2"]
    """Characters in the text as rendered."""
    kinds: Int[np.ndarray, "token"]
    images: list[int]
    """Images of the row, by number in the batch."""


def _tokenise(words: Words, rendered: list[Rendered], pixels: Pixels) -> list[_Row]:
    """One tokenizer call for the whole batch, then the kind of every token."""
    images_of = [[i for i, r in enumerate(pixels.rows) if r == row] for row in range(len(rendered))]
    expanded = []
    for row, (one, images) in enumerate(zip(rendered, images_of, strict=True)):
        pieces = one.text.split(words.placeholder)
        if len(pieces) - 1 != len(images):
            raise RowError(row, f"the chat template puts {len(pieces) - 1} image tokens for {len(images)} images")
        parts = [pieces[0]]
        for image, piece in zip(images, pieces[1:], strict=True):
            parts += [pixels.texts[image], piece]
        expanded.append("".join(parts))
    encoded = words.tokenizer(
        expanded,
        add_special_tokens=needs_bos(words.tokenizer, expanded[0]),
        return_offsets_mapping=True,
        return_attention_mask=False,
        padding=False,
        truncation=False,
        verbose=False,
    )
    return [
        _row(words, row, one, text, images, pixels, ids, offsets)
        for row, (one, text, images, ids, offsets) in enumerate(
            zip(rendered, expanded, images_of, encoded["input_ids"], encoded["offset_mapping"], strict=True)
        )
    ]


def _row(
    words: Words,
    row: int,
    one: Rendered,
    text: str,
    images: list[int],
    pixels: Pixels,
    ids: list[int],
    offsets: list[Any],
) -> _Row:
    """Ids, spans and kinds of one row; `text` is the expanded text, which the offsets are about."""
    if words.max_tokens is not None and len(ids) > words.max_tokens:
        raise RowError(row, f"{len(ids)} tokens, the model takes {words.max_tokens}: shorten the text")
    beyond = next((token for token in ids if token >= words.n_ids and token != words.image_id), None)
    if beyond is not None:
        raise RowError(
            row,
            f"the token {words.tokenizer.convert_ids_to_tokens(beyond)!r} has the id {beyond}, the model's embedding "
            f"has {words.n_ids} rows: the tokenizer was added to, or is another model's "
            "(hf_model.resize_token_embeddings makes room before it is trained)",
        )
    n_visual = sum(pixels.count(i) for i in images)
    if ids.count(words.image_id) != n_visual:
        raise RowError(row, f"{ids.count(words.image_id)} image tokens for {n_visual} patches")
    special = np.array([token in words.special_ids for token in ids])
    spans = _true_spans(words, text, ids, np.array(offsets), special)
    spans = _as_rendered(words, one, spans, [len(pixels.texts[i]) for i in images])
    said = ~special & (np.maximum(spans[:, 0], one.start) < np.minimum(spans[:, 1], one.end))
    kinds = np.where(said, int(TokenKind.TEXT), int(TokenKind.TEMPLATE))
    placed = [pixels.placed[i] for i in images]
    looks = [np.ones(len(one), bool) if one.looks is None else one.looks for one in placed]
    if looks:
        visual, other = int(TokenKind.VISUAL), int(TokenKind.TEMPLATE)
        kinds[np.array(ids) == words.image_id] = np.where(np.concatenate(looks), visual, other)
    return _Row(ids, spans, kinds, images)


def _true_spans(
    words: Words,
    text: str,
    ids: list[int],
    offsets: Int[np.ndarray, "token 2"],
    special: Bool[np.ndarray, "token"],
) -> Int[np.ndarray, "token 2"]:
    """Offsets, put right where a tokenizer reports them loosely.

    Byte-level tokenizers may leave out blanks (`Ġ` is the byte-level blank, the only character that is trimmed): a
    token that is all blanks would have no characters. SentencePiece-like ones put a `▁` of their own before a word
    and report it as that word's first character: it has none.
    """
    spans, reached, before = offsets.copy(), 0, 0
    places = np.flatnonzero(~special).tolist()
    for k, piece in zip(places, words.tokenizer.convert_ids_to_tokens([ids[k] for k in places]), strict=True):
        start, end = offsets[k].tolist()
        reached = max(reached, int(spans[before:k, 1].max(initial=0)))
        if words.trims:
            blanks = len(piece) - len(piece.lstrip("Ġ"))
            if blanks == len(piece):
                start = end - blanks
            else:
                start, end = start - blanks, end + len(piece) - len(piece.rstrip("Ġ"))
            if blanks:
                start = max(start, min(reached, end))  # the tokenizer may make up a blank before the first word
        elif not piece.strip("▁") and text[start:end].strip() and text[start:end] != piece:
            end = start
        spans[k], before = (start, end), k
    return spans


def _as_rendered(
    words: Words, one: Rendered, spans: Int[np.ndarray, "token 2"], sizes: list[int]
) -> Int[np.ndarray, "token 2"]:
    """Move spans of the expanded text to the text with one placeholder per image, which is `sizes` characters there."""
    if not sizes:
        return spans
    size = len(words.placeholder)
    (starts, ends), found = spans.T, spans.copy()
    searched = shift = 0
    for expanded in sizes:
        at = one.text.index(words.placeholder, searched)
        searched, first = at + size, at + shift
        last, shift = first + expanded, shift + expanded - size
        found[starts >= first, 0], found[ends > first, 1] = at, at + size  # inside
        found[starts >= last, 0] = starts[starts >= last] - shift
        found[ends > last, 1] = ends[ends > last] - shift
    found[(starts == 0) & (ends == 0)] = 0
    return found


def _assemble(
    processor: Any,
    config: Any,
    adapter: Adapter,
    words: Words,
    pixels: Pixels,
    rendered: list[Rendered],
    rows: list[_Row],
    side: str,
    prompts: list[str],
    responses: list[str | None],
) -> Batch:
    n_rows, width = len(rows), max(len(r.ids) for r in rows)
    input_ids = torch.full((n_rows, width), words.pad_id)
    kinds = torch.full((n_rows, width), int(TokenKind.PAD))
    patch_index = torch.full((n_rows, width), -1)
    spans = torch.zeros((n_rows, width, 2), dtype=torch.long)
    patches = [one.shown for one in pixels.placed]
    starts = [sum(map(len, patches[:i])) for i in range(len(patches) + 1)]
    for i, row in enumerate(rows):
        at = width - len(row.ids) if side == "left" else 0
        place = slice(at, at + len(row.ids))
        input_ids[i, place] = torch.tensor(row.ids)
        kinds[i, place] = torch.from_numpy(row.kinds)
        spans[i, place] = torch.from_numpy(row.spans)
        if row.images:
            indices = torch.cat([torch.arange(starts[k], starts[k + 1]) for k in row.images])
            patch_index[i, kinds[i] == int(TokenKind.VISUAL)] = indices
    image_rows = torch.tensor(pixels.rows, dtype=torch.long)
    return Batch(
        input_ids=input_ids,
        attention_mask=(kinds != int(TokenKind.PAD)).long(),
        kinds=kinds,
        image_inputs=pixels.inputs,
        image_rows=image_rows,
        patch_index=patch_index,
        patches=Patches.joined(patches),
        images=pixels.images,
        grids=tuple(one.grid for one in pixels.placed),
        prompts=tuple(prompts),
        responses=tuple(responses),
        texts=tuple(r.text for r in rendered),
        spans=spans,
        row_inputs=adapter.row_inputs(config, kinds, image_rows),
        site_rows=pixels.site_rows,
        splits=pixels.splits,
        _tokenizer=words.tokenizer,
        _image_processor=processor.image_processor,
        _seen=adapter.seen,
    )
