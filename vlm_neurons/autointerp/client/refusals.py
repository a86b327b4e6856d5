"""Which of its fields a server refuses, told from what it says: a suspicion, that `running` puts to the test."""

from __future__ import annotations

import re
from typing import Any

from vlm_neurons.autointerp.client.prices import images_of

FAULTS = (400, 403, 404, 405, 415, 422, 500, 501)  # statuses of a refusal: llama.cpp refuses pictures with 500
_REFUSES = (
    r"support|unknown|unrecogni|unexpected|invalid|permitted|allowed|forbidden|available|enabled|cannot|can't|failed|"
    r"must be|should be|deprecated|only|instead|requires|accept|no endpoints|disabled|not implemented|conversion"
)
_FIELDS = {  # capability -> words that name its field
    "logprobs": r"log_?probs|log[ _-]?probabilit|requested parameters",
    "schema": r"response_?format|json[ _]?schema|json[ _]mode|response_?schema|structured[ _]output|guided|grammar|"
    r"compile regex|required for format|requested parameters",
    "max_tokens": r"max_tokens",
    "temperature": r"temperature",
    "system": r"system (role|message|prompt|instruction|field)|roles?\W+['\"`]?system|['\"`]system['\"`]|"
    r"developer instruction",
}
_WHOLE = {  # capability -> words that name its field and refuse it
    "system": r"roles must alternate|only .{0,9}user[^.;]{0,40} roles",
    "images": r"|".join([
        r"no endpoints found that support image", r"not a (multi-?modal|vision)", r"at most 0 image", r"text[- ]only",
        r"(image|vision|multi-?modal)[^.;]{0,60}(not|n't) (been )?(support|enabled|loaded|available|allow|accept)",
        r"(not|n't|no) (support|accept|allow|process|handle|understand|have)\w*[^.;]{0,40}"
        r"(image|picture|vision|multi-?modal)(?!s?[ _]?(format|type|size|file|encoding|mime|url ))",
        r"unsupported[^.;]{0,30}(image_url|image input|vision)", r"unknown variant .?image_url", r"mmproj",
        r"missing data required for image", r"image_url is only",
        r"(tag|part type)\W{1,3}image_url", r"only text content", r"content'?:? (must|should) be a (valid )?string",
        r"content[^;]{0,20} input should be a valid string", r"invalid type: sequence, expected a string",
        r"content[^;]{0,40}expected a? ?string", r"cannot (process|handle|read|see|take) (images|pictures)",
    ]),
}  # fmt: skip
_OTHERWISE = re.compile(  # what explains a refusal whatever field it names
    r"context (length|window|size)|maximum context|too long|too many tokens|out of memory|\boom\b|rate limit|quota|"
    r"overloaded|billing|credit"
)
_HINTS = {"images": "images=False", "schema": "schema=False", "logprobs": "logprobs=False"}
_ONE_PICTURE = re.compile(  # what is wrong with this picture, not with pictures
    r"(image|picture)s?('s)?[ _]?(size|dimension|format|type|media|file|encoding|resolution|aspect)|"
    r"too (large|big|small)|"
    r"(could|can|was|were|is|are)(n't| ?not) (be )?(process|read|decod|load|open|fetch|download|identif)\w* "
    r"((the|this|that|your|an|all) )?(image|picture)|"
    r"(safety|content|usage|moderation) (system|filter|management|polic)|nsfw|violat|prohibited|"
    r"(cmyk|bit|gr[ae]y(scale)?|animated|svg|gif|webp|heic|tiff|bmp|alpha channel)s? (images|pictures)|"
    r"(images|pictures) (with|larger|bigger|above|over|beyond)|image with|image urls?\b|url sources|right now|"
    r"temporar|retry|try again"
)
_MANY = re.compile(
    r"(at most|up to|more than|maximum( of)?|limit(ed)? (to|of)|only) [1-9]\d* (image|picture)|"
    r"too many (images|pictures)|(number|count) of (images|pictures)|(image|picture) count|multiple (images|pictures)|"
    r"multi-?image|(one|single) (image|picture)|\b[2-9]\d* (images|pictures)"
)


def blamed(words: str, body: dict[str, Any]) -> list[str]:
    """Capabilities whose field stands in the request, and is refused in these words.

    >>> blamed("temperature is not supported", {"temperature": 0.0, "messages": []})
    ['temperature']
    >>> blamed("temperature is fine, the context window is not", {"temperature": 0.0, "messages": []})
    []
    >>> picture = {"messages": [{"content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]}
    >>> blamed("this model takes no images: images are not supported", picture)
    ['images']
    >>> blamed("Image dimensions 9x9 are not supported", picture), blamed("supports up to 5 images", picture)
    ([], [])
    """
    said = words.lower()
    if _OTHERWISE.search(said):
        return []
    refused = re.search(_REFUSES, said) is not None
    named = [n for n, pattern in _FIELDS.items() if refused and re.search(pattern, said)]
    named += [n for n, pattern in _WHOLE.items() if n not in named and re.search(pattern, said)]
    if _ONE_PICTURE.search(said) or _MANY.search(said):
        named = [n for n in named if n != "images"]
    return [n for n in named if _uses(n, body)]


def way_round(words: str, body: dict[str, Any], pictures_taken: bool = False) -> str:
    """What a user can do about a refusal that no capability explains; empty if nothing is known."""
    said = words.lower()
    if _MANY.search(said):
        return "; show fewer samples: Prompting(n_on=..., n_off=...)"
    names = [n for n, pattern in _FIELDS.items() if n in _HINTS and re.search(pattern, said) and _uses(n, body)]
    names += ["images"] if re.search(r"image|vision", said) and _uses("images", body) and not pictures_taken else []
    hints = " or ".join(_HINTS[n] for n in names)
    return f"; where the server cannot do it, say {hints}" if hints else ""


def _uses(name: str, body: dict[str, Any]) -> bool:
    if name == "images":
        return bool(images_of(body["messages"]))
    if name == "system":
        return any(m["role"] == "system" for m in body["messages"])
    return ("response_format" if name == "schema" else name) in body
