"""Where a model is asked, and within which bounds: the options of everything that asks through `ChatClient`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

from vlm_neurons.autointerp.client.client import ChatClient


@dataclass(frozen=True)
class Server:
    """A model behind OpenAI, or behind any server that speaks chat completions.

    Attributes:
        model: its name there.
        base_url: the server; `OPENAI_BASE_URL` or OpenAI if not given. The key is read from `OPENAI_API_KEY`.
        max_cost: US dollars for one run; no call is sent that could pass it.
        price: (in, out) in dollars per million tokens, where the table does not know the model.
        cache: file of replies.
        images: whether the model takes pictures; None finds out.
        schema: whether the server obeys a JSON schema; None finds out.
        api_key: instead of the environment's. In no record.
        concurrency: requests under way at once.
        timeout: seconds without a byte until a try is given up.
        deadline: seconds for a request with all its tries.
        max_retries: the SDK's.
        extra_body: fields of the server's own.

    Raises:
        ValueError: a limit that cannot be kept: `max_cost` without a known price, or a number that is none.
    """

    model: str
    _: KW_ONLY
    base_url: str | None = None
    max_cost: float | None = None
    price: Sequence[float] | None = None
    cache: str | Path | None = None
    images: bool | None = None
    schema: bool | None = None
    api_key: str | None = field(default=None, repr=False)
    concurrency: int = 8
    timeout: float = 90.0
    deadline: float = 600.0
    max_retries: int = 4
    extra_body: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.client()  # says now what is wrong

    def client(self) -> ChatClient:
        """The client that asks."""
        return ChatClient(
            self.model, self.base_url, self.api_key, self.cache, self.concurrency, self.timeout, self.deadline,
            self.max_retries, self.max_cost, self.price, self.images, self.schema, self.extra_body,
        )  # fmt: skip
