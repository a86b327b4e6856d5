"""One run of questions to a server: bounded, within a budget, finding out what the server can do."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vlm_neurons._checks import amount, seconds, whole
from vlm_neurons._text import printable
from vlm_neurons.autointerp.client.asking import Ask, Reply, body_of, read, redactor, tokens_of
from vlm_neurons.autointerp.client.cache import Cache, request_key
from vlm_neurons.autointerp.client.prices import Price, images_of, price_as
from vlm_neurons.autointerp.client.replies import message_of, reduced

_OPENAI = "https://api.openai.com/v1"
_REFUSALS = ("support", "not a multimodal", "at most 0", "text-only", "text only", "unknown variant", "accept")
_FIELDS = {  # capability -> words of a refusal that name it
    "logprobs": ("logprobs",),
    "schema": ("response_format", "json_schema", "guided", "grammar"),
    "max_tokens": ("max_completion_tokens", "max_tokens"),
    "temperature": ("temperature",),
    "images": ("image", "multimodal", "content part"),
}


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

    def __post_init__(self) -> None:
        self.base_url = (self.base_url or os.environ.get("OPENAI_BASE_URL") or _OPENAI).rstrip("/")
        if not self.base_url.lower().startswith(("http://", "https://")):
            raise ValueError(f"base_url={self.base_url!r}: begin with http:// or https://, as http://localhost:8000/v1")
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

    def capabilities(self, cache: Cache) -> dict[str, bool]:
        """What was declared, and found out."""
        declared = {name: value for name, value in self.declared.items() if value is not None}
        return {**cache.capabilities(str(self.base_url), self.model), **declared}

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

        if not self.secret and self.base_url == _OPENAI:
            raise ValueError(
                "no API key: set OPENAI_API_KEY, pass base_url= for a server of your own, or use what needs "
                "none: the explainer 'dissection', the simulator 'concepts'"
            )
        return AsyncOpenAI(
            api_key=self.secret or "none",
            base_url=self.base_url,
            timeout=self.timeout,
            max_retries=self.max_retries,
        )

    @property
    def secret(self) -> str | None:
        """The key, the environment's if none was given."""
        return self.api_key or os.environ.get("OPENAI_API_KEY")


class Asking:
    """One run over questions, inside one event loop."""

    def __init__(self, client: Connection, asks: Sequence[Ask], done: Any) -> None:
        self.client, self.asks, self.done = client, iter(asks), done
        self.spent = self.reserved = 0.0
        self.under_way = self.again = 0
        self.returned = asyncio.Condition()
        self.finding = asyncio.Lock()
        self.redact = redactor(client.secret)

    async def all(self) -> None:
        self.cache = Cache(self.client.cache)
        self.capabilities = self.client.capabilities(self.cache)
        self.api: Any = None
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self.client.concurrency):
                    group.create_task(self.work())
        finally:
            if self.api is not None:
                await self.api.close()
            self.cache.close()

    async def work(self) -> None:
        for ask in self.asks:  # shared: each worker takes the next one
            self.done(await self.one(ask))
            await asyncio.sleep(0)

    async def one(self, ask: Ask) -> Reply:
        """From the cache, or from the server within the budget."""
        stored = self.cache.get(self.client.key(ask, self.capabilities))
        if stored is not None:
            return self.reply(ask, stored, self.capabilities, cached=True)
        if self.capabilities.get("images") is False and images_of(ask.sent(self.capabilities)):
            return Reply(ask, failure=("capability", f"{self.client.model} takes no images"))
        price = self.client.price if isinstance(self.client.price, Price) else None
        bound = price.cost(price.tokens(ask.sent(self.capabilities)), ask.max_tokens) if price else 0.0
        if not await self.afford(bound):
            detail = f"could pass max_cost={self.client.max_cost}: ${self.spent:.4f} spent; run again to go on"
            return Reply(ask, failure=("cost", detail))
        try:
            reply = await self.send(ask)
            reply = replace(reply, charged=bound if reply.unbilled else reply.cost)
            self.spent += reply.charged
            return reply
        finally:
            async with self.returned:
                self.reserved, self.under_way = self.reserved - bound, self.under_way - 1
                self.returned.notify_all()

    async def afford(self, bound: float) -> bool:
        """Reserve what a call may cost; False where the budget is spent. What is under way may cost less than was
        reserved for it, so that a call waits for it before it is given up."""
        limit = self.client.max_cost
        async with self.returned:
            while limit is not None and self.under_way and self.spent + self.reserved + bound > limit:
                await self.returned.wait()
            if limit is not None and self.spent + bound > limit:
                return False
            self.reserved, self.under_way = self.reserved + bound, self.under_way + 1
            return True

    async def send(self, ask: Ask) -> Reply:
        """Ask the server; where it does not know a field, find out which and go on without it."""
        import openai

        if self.api is None:
            self.api = self.client.connect()
        while True:
            used = dict(self.capabilities)
            key = self.client.key(ask, used)
            self.again += self.cache.begin(key)
            found = await self.attempt(ask, used)
            if isinstance(found, dict):
                self.cache.put(key, found)
                return self.reply(ask, found, used, cached=False)
            self.cache.give_up(key)
            if found is not None:
                unbilled = not isinstance(found[1], openai.APIStatusError)  # what a server refuses costs nothing
                return Reply(ask, failure=(found[0], self.redact(found[1])), unbilled=unbilled)

    async def attempt(self, ask: Ask, used: dict[str, bool]) -> dict[str, Any] | tuple[str, object] | None:
        """A completion, or why there is none, or None: ask in another way."""
        import openai

        try:
            async with asyncio.timeout(self.client.deadline):
                body = body_of(ask, self.client.model, used, self.client.extra_body)
                completion = await self.api.chat.completions.create(**body)
                stored: dict[str, Any] = completion.model_dump(mode="json", warnings=False)
                stored = reduced(stored, ask.prefill) if ask.prefill else stored
        except (openai.APIConnectionError, TimeoutError) as error:
            return "network", f"{type(error).__name__}: {error}"
        except openai.APIStatusError as error:
            code = error.status_code  # llama.cpp refuses pictures with 500
            if code in (400, 422, 500) and await self.learn(error, used, ask):
                return None
            return "server" if code >= 500 or code in (408, 409, 429) else "request", error
        except (openai.OpenAIError, ValueError, AttributeError, TypeError, LookupError) as error:  # no reply
            return "server", f"{type(error).__name__}: {error}"
        return stored if message_of(stored) else ("server", f"a reply without choices: {str(stored)[:200]}")

    async def learn(self, error: Any, used: dict[str, bool], ask: Ask) -> bool:
        """Note the capability that a refusal of the server names; True if the question can be asked in another way.

        Only what the server says of the field is believed, and only of fields whose capability is not declared.
        """
        said = self.redact(error).lower()
        fields = dict(_FIELDS)
        if not images_of(ask.sent(used)) or not any(w in said for w in _REFUSALS):
            del fields["images"]  # what is wrong with one picture is no word on pictures
        async with self.finding:
            for name, words in fields.items():
                if any(w in said for w in words) and used.get(name, True) and self.client.declared.get(name) is None:
                    if self.capabilities.get(name, True):
                        self.capabilities[name] = False
                        self.cache.put_capability(str(self.client.base_url), self.client.model, name, False)
                    return name != "images" or ask.plain is not None
        return False

    def reply(self, ask: Ask, stored: dict[str, Any], able: dict[str, bool], cached: bool) -> Reply:
        """A stored completion as a reply of a server with these capabilities."""
        answer, failure = read(ask, stored)
        counted, price = tokens_of(stored), self.client.price
        tokens = counted or (0, 0)
        cost = price.cost(*tokens) if isinstance(price, Price) and not cached else 0.0
        failure = (failure[0], self.redact(failure[1])) if failure else None
        model, unbilled = printable(str(stored.get("model") or "")), counted is None and not cached
        return Reply(ask, answer, failure, model, *tokens, cost, cached, stored, ask.is_plain(able), unbilled)
