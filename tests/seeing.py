"""A "model" behind the loopback server that reads the question, finds the numbered cells in the picture by their
labels, and answers by what it sees there: what a good model would do."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vlm_neurons.autointerp.client.prices import images_of, parts_of
from vlm_neurons.autointerp.client.prompting import picture
from vlm_neurons.concepts.visual import color_names

FONT = ImageFont.load_default(13)


def answer(body: dict[str, Any]) -> Any:
    """Cells by the share of their pixels that has the colour in the explanation; tokens by the word in it."""
    text = "\n".join(p["text"] for p in parts_of(body["messages"][1:]) if p["type"] == "text")
    explanation = fenced(text, "explanation")[0]
    if "numbered cell" in text:
        found = cells(explanation, text, picture(images_of(body["messages"])[0]))
    else:
        word = re.search("the word '(.+)'", explanation)
        said = [(t, 10 * (word is not None and t.strip().lower() == word[1])) for t in fenced(text, "tokens")]
        found = {"tokens": [{"token": t, "value": v} for t, v in said]}
    if not body.get("logprobs"):
        return found
    return {"text": json.dumps(found), "logprobs": {"content": unsure(json.dumps(found)), "refusal": None}}


def fenced(text: str, name: str) -> list[str]:
    mark = re.search(rf"^(-----\w+) {name}$", text, re.MULTILINE)
    assert mark is not None, text
    inside = text.split(f"{mark[1]} {name}\n", 1)[1].split(f"\n{mark[1]} end of", 1)[0]
    return inside.split("\n")


def cells(explanation: str, text: str, sheet: Image.Image) -> dict[str, Any]:
    rows, columns = (int(n) for n in re.search(r"(\d+) rows and (\d+) columns", text).groups())  # type: ignore[union-attr]
    numbers = [int(n) for n in re.search(r"once: ([\d, ]+)\.", text)[1].split(",")]  # type: ignore[index]
    pixels, color = np.asarray(sheet), explanation.split()[0]
    height, width = pixels.shape[0] // rows, pixels.shape[1] // columns
    corners = {(r, c): pixels[r * height : r * height + 15, c * width : c * width + 22]
               for r in range(rows) for c in range(columns)}  # fmt: skip
    found = []
    for number in numbers:
        label = np.asarray(label_of(number))
        row, column = min(corners, key=lambda at: np.abs(corners[at][:, : label.shape[1]] - label.astype(int)).sum())
        inside = pixels[row * height + 16 : (row + 1) * height - 1, column * width + 1 : (column + 1) * width - 1]
        share = color_names(inside).get(color, np.zeros(1)).mean()
        found.append({"cell": number, "value": round(10 * float(share))})
    return {"cells": found[::-1]}


def label_of(number: int) -> Image.Image:
    """What stands in the corner of a cell."""
    width = int(FONT.getlength(str(number)) + 3)
    label = Image.new("RGB", (width, 15), "white")
    ImageDraw.Draw(label).text((2, 0), str(number), fill="black", font=FONT)
    return label


def unsure(said: str) -> list[dict[str, Any]]:
    """Log probabilities of an answer cut into single tokens of text and numbers: of every value its half is as likely
    as itself."""
    content = []
    for piece in re.findall(r'\d+|"value"|[^\d"]+|"', said):
        top = [{"token": piece, "logprob": math.log(0.5), "bytes": None}]
        if piece.isdigit():
            top.append({"token": str(int(piece) // 2), "logprob": math.log(0.5), "bytes": None})
        content.append({"token": piece, "logprob": math.log(0.5), "bytes": None, "top_logprobs": top})
    return content
