"""Many questions to one model: bounded, cached, within a budget, and safe to interrupt."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vlm_neurons._checks import amount, seconds, whole
from vlm_neurons._text import printable
from vlm_neurons.autointerp.client.asking import Ask, Reply, body_of, read, redactor, tokens_of
from vlm_neurons.autointerp.client.cache import Cache, request_key
from vlm_neurons.autointerp.client.completions import message_of
from vlm_neurons.autointerp.client.planning import Plan
from vlm_neurons.autointerp.client.prefilled import reduced
from vlm_neurons.autointerp.client.prices import Price, images_of, price_as

__all__ = ["Ask", "ChatClient", "Plan", "Reply"]
_OPENAI = "https://api.openai.com/v1"
_REFUSALS = ("support", "not a multimodal", "at most 0", "text-only", "text only", "unknown variant", "accept")


@dataclass
class ChatClient:
    """A model behind an OpenAI-compatible server.

    Attributes:
        model: its name there.
        base_url: the server; `OPENAI_BASE_URL`, or OpenAI, if not given.
        api_key: `OPENAI_API_KEY` if not given. A server of one's own that needs none is given any.
        cache: file of replies; None keeps none after the run.
        concurrency: requests under way at once.
        timeout: seconds without a byte until a try is given up.
        deadline: seconds for a request with all its tries.
        max_retries: further tries after 408, 409, 429, 5xx and broken connections (the SDK's, which obeys Retry-After).
        max_cost: US dollars for one run; no call is sent that could pass it. A call counts as the most that it could
            cost where the server does not say how many tokens it took, or the connection broke.
        price: dollars per million tokens in and out, any pair; by default from the table that comes with the package.
        images: whether the model takes pictures: True, False, or None to find out.
        schema: whether the server obeys a JSON schema, likewise. Without it, it is asked for in words and checked here.
        extra_body: fields of the vendor's own.
        logprobs: whether the server gives the likeliest tokens; True, False, or None to find out.
    """

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

    def plan(self, asks: Sequence[Ask]) -> Plan:
        """What `stream` would do; sends nothing."""
        cache = Cache(self.cache, reading=True)
        able = self._capabilities(cache)
        keyed = [(self._key(a, able), a) for a in asks]
        todo = [(key, a) for key, a in keyed if cache.get(key) is None]
        again = sum(cache.left_under_way(key) for key, _ in todo)
        cache.close()
        price = self.price if isinstance(self.price, Price) else None
        counts, sent = price or Price(0, 0), [a.sent(able) for _, a in todo]
        tokens_in, tokens_out = sum(map(counts.tokens, sent)), sum(a.max_tokens for _, a in todo)
        cost = (price.cost(tokens_in // 2, tokens_out // 5), price.cost(tokens_in, tokens_out)) if price else None
        images = sum(len(images_of(messages)) for messages in sent)
        source = price.source if price else ""
        return Plan(len(todo), len(asks) - len(todo), images, tokens_in, tokens_out, cost, source, again)

    def known(self, asks: Sequence[Ask]) -> list[Reply | None]:
        """What the cache has to each question; sends nothing."""
        cache, run = Cache(self.cache, reading=True), _Run(self, (), None)
        able = self._capabilities(cache)
        stored = [cache.get(self._key(a, able)) for a in asks]
        cache.close()
        return [None if s is None else run.reply(a, s, able, cached=True) for a, s in zip(asks, stored, strict=True)]

    def stream(self, asks: Sequence[Ask]) -> Iterator[Reply]:
        """A reply to every question, in the order in which they come; failures are replies too.

        Leaving the loop, or Ctrl-C, cancels what is under way; what has come is in the cache. Works inside a running
        event loop (a notebook) too.
        """
        replies: queue.Queue[Reply | BaseException | None] = queue.Queue()
        loop = asyncio.new_event_loop()
        run = _Run(self, asks, replies.put)
        task = loop.create_task(run.all())

        def work() -> None:
            try:
                loop.run_until_complete(task)
                replies.put(None)
            except BaseException as error:  # handed over to the thread that reads
                replies.put(error)
            finally:
                loop.run_until_complete(loop.shutdown_asyncgens())
                loop.close()

        thread = threading.Thread(target=work, name="asks", daemon=True)
        thread.start()
        try:
            while (reply := replies.get()) is not None:
                if isinstance(reply, BaseException):
                    raise _first(reply)
                yield reply
        finally:
            if not loop.is_closed():
                with contextlib.suppress(RuntimeError):  # it closed in the meantime
                    loop.call_soon_threadsafe(task.cancel)
            thread.join()
            if run.again:
                text = f"{run.again} requests were under way when an earlier run ended: they may be charged twice"
                warnings.warn(text, stacklevel=2)

    def _capabilities(self, cache: Cache) -> dict[str, bool]:
        declared = {
            name: value for name in ("images", "schema", "logprobs") if (value := getattr(self, name)) is not None
        }
        return {**cache.capabilities(str(self.base_url), self.model), **declared}

    def _key(self, ask: Ask, capabilities: dict[str, bool]) -> str:
        body = body_of(ask, self.model, capabilities, self.extra_body)
        return request_key({"server": self.base_url, "attempt": ask.attempt, **body})


class _Run:
    """One run over questions, inside one event loop."""

    def __init__(self, client: ChatClient, asks: Sequence[Ask], done: Any) -> None:
        self.client, self.asks, self.done = client, iter(asks), done
        self.spent = self.reserved = 0.0
        self.under_way = self.again = 0
        self.returned = asyncio.Condition()
        self.finding = asyncio.Lock()
        self.key = client.api_key or os.environ.get("OPENAI_API_KEY")
        self.redact = redactor(self.key)

    async def all(self) -> None:
        self.cache = Cache(self.client.cache)
        self.capabilities = self.client._capabilities(self.cache)
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
        stored = self.cache.get(self.client._key(ask, self.capabilities))
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
            self.api = self.connect()
        while True:
            used = dict(self.capabilities)
            key = self.client._key(ask, used)
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
        fields = {
            "logprobs": ("logprobs",),
            "schema": ("response_format", "json_schema", "guided", "grammar"),
            "max_tokens": ("max_completion_tokens", "max_tokens"),
            "temperature": ("temperature",),
            "images": ("image", "multimodal", "content part"),
        }
        if not images_of(ask.sent(used)) or not any(w in said for w in _REFUSALS):
            del fields["images"]  # what is wrong with one picture is no word on pictures
        async with self.finding:
            for name, words in fields.items():
                if any(w in said for w in words) and used.get(name, True) and getattr(self.client, name, None) is None:
                    if self.capabilities.get(name, True):
                        self.capabilities[name] = False
                        self.cache.put_capability(str(self.client.base_url), self.client.model, name, False)
                    return name != "images" or ask.plain is not None
        return False

    def connect(self) -> Any:
        """The SDK's client; made late, since it needs a key."""
        from openai import AsyncOpenAI

        if not self.key and self.client.base_url == _OPENAI:
            raise ValueError(
                "no API key: set OPENAI_API_KEY, pass base_url= for a server of your own, or use what needs "
                "none: the explainer 'dissection', the simulator 'concepts'"
            )
        return AsyncOpenAI(
            api_key=self.key or "none",
            base_url=self.client.base_url,
            timeout=self.client.timeout,
            max_retries=self.client.max_retries,
        )

    def reply(self, ask: Ask, stored: dict[str, Any], able: dict[str, bool], cached: bool) -> Reply:
        """A stored completion as a reply of a server with these capabilities."""
        answer, failure = read(ask, stored)
        counted, price = tokens_of(stored), self.client.price
        tokens = counted or (0, 0)
        cost = price.cost(*tokens) if isinstance(price, Price) and not cached else 0.0
        failure = (failure[0], self.redact(failure[1])) if failure else None
        model, unbilled = printable(str(stored.get("model") or "")), counted is None and not cached
        return Reply(ask, answer, failure, model, *tokens, cost, cached, stored, ask.is_plain(able), unbilled)


def _first(error: BaseException) -> BaseException:
    """What went wrong, out of the group that asyncio wraps it in."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
