"""What a request may cost, before it is sent, what it did cost, and what a run would."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from PIL import Image

from vlm_neurons._checks import amount

_DATED = re.compile(r"-\d{4}-\d{2}-\d{2}$")


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens, and tokens per picture.

    Attributes:
        input: of what is sent.
        output: of what is answered.
        image_base: tokens of every picture.
        image_tile: tokens of every 512 x 512 pixel tile of it.
        source: where the numbers come from.
    """

    input: float
    output: float
    image_base: int = 85
    image_tile: int = 850
    source: str = "given"

    def __post_init__(self) -> None:
        amount(price_in=self.input, price_out=self.output)

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """Dollars."""
        return (tokens_in * self.input + tokens_out * self.output) / 1e6

    def tokens(self, messages: list[dict[str, Any]]) -> int:
        """An upper estimate of the tokens of messages: a token per two bytes of text, and what pictures count."""
        text = sum(len(part["text"].encode()) for part in parts_of(messages) if part["type"] == "text")
        return math.ceil(text / 2) + 50 + sum(self._image(url) for url in images_of(messages))

    def _image(self, url: str) -> int:
        width, height = Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1]))).size
        return self.image_base + self.image_tile * math.ceil(width / 512) * math.ceil(height / 512)


def price_as(price: Sequence[float] | Price | None, model: str) -> Price | None:
    """A price from any pair of numbers; from the table where none is given.

    >>> price_as([1, 2], "my-llava").cost(1_000_000, 0)
    1.0
    """
    if price is None or isinstance(price, Price):
        return price or price_of(model)
    try:
        dollars_in, dollars_out = price
    except (TypeError, ValueError):
        raise ValueError(f"price={price!r}: give a pair, dollars per million tokens in and out") from None
    return Price(dollars_in, dollars_out)


def price_of(model: str) -> Price | None:
    """Price in the table that comes with the package; None for a model that is not there."""
    table = json.loads(files("vlm_neurons.autointerp.client").joinpath("prices.json").read_text(encoding="utf-8"))
    row = table["models"].get(_DATED.sub("", model))
    return Price(**row, source=f"table as of {table['as_of']}") if row else None


def parts_of(messages: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every part of every message."""
    for message in messages:
        content = message["content"]
        yield from [{"type": "text", "text": content}] if isinstance(content, str) else content


def images_of(messages: list[dict[str, Any]]) -> list[str]:
    """The pictures' data addresses."""
    return [p["image_url"]["url"] for p in parts_of(messages) if p["type"] == "image_url"]


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes:
        calls: requests that the cache cannot answer.
        cached: requests that it can.
        images: pictures in the calls.
        tokens_in: upper estimate of what the calls send.
        tokens_out: upper bound of what they bring.
        cost: (low, high) in US dollars, None where the price is not known. Low: half the tokens in, a fifth out.
        price: where the price comes from.
        again: of the calls, those that an earlier run had sent when it was cut off: they may be charged twice.
    """

    calls: int
    cached: int
    images: int
    tokens_in: int
    tokens_out: int
    cost: tuple[float, float] | None
    price: str
    again: int = 0

    def __add__(self, other: Plan) -> Plan:
        """Both, one after the other."""
        cost = (self.cost[0] + other.cost[0], self.cost[1] + other.cost[1]) if self.cost and other.cost else None
        return Plan(
            self.calls + other.calls, self.cached + other.cached, self.images + other.images,
            self.tokens_in + other.tokens_in, self.tokens_out + other.tokens_out, cost, self.price or other.price,
            self.again + other.again,
        )  # fmt: skip

    def times(self, n: float) -> Plan:
        """The same so many times; what was under way is told as it is, since it does not grow with the questions."""
        cost = (self.cost[0] * n, self.cost[1] * n) if self.cost else None
        return Plan(
            round(self.calls * n), round(self.cached * n), round(self.images * n), round(self.tokens_in * n),
            round(self.tokens_out * n), cost, self.price, self.again,
        )  # fmt: skip

    def __str__(self) -> str:
        money = f"${self.cost[0]:.4f} to ${self.cost[1]:.4f} ({self.price})" if self.cost else "unknown price"
        twice = f"; {self.again} were under way when an earlier run ended, and may be charged twice"
        return (
            f"{self.calls} calls ({self.cached} more are in the cache), {self.images} images, at most about "
            f"{self.tokens_in} tokens in and {self.tokens_out} out: {money}" + twice * bool(self.again)
        )


NOTHING = Plan(0, 0, 0, 0, 0, (0.0, 0.0), "")
