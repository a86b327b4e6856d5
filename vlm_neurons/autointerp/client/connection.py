"""Where a model is, and within which bounds it is asked."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vlm_neurons._checks import amount, seconds, whole
from vlm_neurons.autointerp.client.asking import Ask, body_of, read
from vlm_neurons.autointerp.client.cache import Cache, request_key
from vlm_neurons.autointerp.client.prices import Price, price_as

OPENAI = "https://api.openai.com/v1"


@dataclass
class Connection:
    """Where a model is and within which bounds it is asked; see `client.ChatClient`."""

    model: str
    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    cache: str | Path | None = None
    concurrency: int = 8
    timeout: float = 90.0
    deadline: float = 600.0
    max_retries: int = 4
    max_cost: float | None = None
    price: Sequence[float] | Price | None = None
    images: bool | None = None
    schema: bool | None = None
    extra_body: dict[str, Any] = field(default_factory=dict)
    logprobs: bool | None = None
    retry_failures: bool = False

    def __post_init__(self) -> None:
        if self.base_url is not None and not self.base_url.strip():
            raise ValueError("base_url='': give the address of the server, or leave it out for OpenAI")
        self.base_url = (self.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI).strip().rstrip("/")
        _check_address(self.base_url)
        _check_key("api_key" if self.api_key else "OPENAI_API_KEY", self.secret)
        whole(1, concurrency=self.concurrency)
        whole(0, max_retries=self.max_retries)
        seconds(timeout=self.timeout, deadline=self.deadline)
        self.price = price_as(self.price, self.model)
        if self.max_cost is None:
            return
        amount(max_cost=self.max_cost)
        if self.price is None:
            raise ValueError(
                f"max_cost={self.max_cost} cannot be kept: the price of {self.model!r} is not known; pass "
                "price=(dollars per million tokens in, out), (0, 0) for a server of your own"
            )

    def capabilities(self, cache: Cache, ever: bool = False) -> dict[str, bool]:
        """What was declared, and found out: not long ago, or ever. What failed is asked again without it."""
        declared = {name: value for name, value in self.declared.items() if value is not None}
        if self.retry_failures and not ever:
            return declared
        return {**cache.capabilities(str(self.base_url), self.model, ever), **declared}

    def stored(self, cache: Cache, ask: Ask, able: dict[str, bool]) -> tuple[dict[str, Any], dict[str, bool]] | None:
        """What the cache has to a question, and what the server that answered it was taken to be able to do.

        It may have been asked when less was known to work: what is paid is not paid again.
        """
        ever = self.capabilities(cache, ever=True)
        for known in [able] if ever == able else [able, ever]:
            found = cache.get(self.key(ask, known))
            if found is not None and not (self.retry_failures and read(ask, found)[1]):
                return found, known
        return None

    @property
    def declared(self) -> dict[str, bool | None]:
        """What the user says of the server; None where that is to be found out."""
        return {"images": self.images, "schema": self.schema, "logprobs": self.logprobs}

    def key(self, ask: Ask, capabilities: dict[str, bool]) -> str:
        """What the cache calls a question to a server with these capabilities."""
        body = body_of(ask, self.model, capabilities, self.extra_body)
        return request_key({"server": self.base_url, "attempt": ask.attempt, **body})

    def connect(self) -> Any:
        """The SDK's client; made late, since it needs a key."""
        from openai import AsyncOpenAI

        if not self.secret and self.base_url == OPENAI:
            raise ValueError(
                "no API key: set OPENAI_API_KEY, pass base_url= for a server of your own, or use what needs "
                "none: the explainer 'dissection', the simulator 'concepts'"
            )
        return AsyncOpenAI(
            api_key=self.secret or "none",
            base_url=self.base_url,
            timeout=self.timeout,
            max_retries=0,  # `sending` tries again, and knows where it is of no use
        )

    @property
    def secret(self) -> str | None:
        """The key, the environment's if none was given."""
        return self.api_key or os.environ.get("OPENAI_API_KEY")


def _check_address(url: str) -> None:
    """Refuse what can be no server's address.

    Raises:
        ValueError: it is none.
    """
    example = "write it as http://localhost:8000/v1"
    if not url.lower().startswith(("http://", "https://")):
        raise ValueError(f"base_url={url!r}: begin with http:// or https://, as http://localhost:8000/v1")
    if url.endswith(("/chat/completions", "/completions", "/responses")):
        raise ValueError(f"base_url={url!r}: leave out what stands behind /v1; {example}")
    try:
        parts = urlsplit(url)
        good = bool(parts.hostname) and parts.port != 0 and not re.search(r"\s", url)
    except ValueError as error:
        raise ValueError(f"base_url={url!r}: {error}; {example}") from None
    if not good:
        raise ValueError(f"base_url={url!r}: no address of a server; {example}")


def _check_key(name: str, key: str | None) -> None:
    """Refuse a key that no header can hold; it is not shown.

    Raises:
        ValueError: where in it there is what.
    """
    for place, letter in enumerate(key or ""):
        if not 33 <= ord(letter) <= 126:
            what = "line break" if letter in "\r\n" else "blank" if letter.isspace() else "character that no key has"
            raise ValueError(
                f"{name} has a {what} (U+{ord(letter):04X}, character {place + 1} of {len(key or '')}); "
                "give the key alone, without quotes and blanks around it"
            )
