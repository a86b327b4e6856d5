"""Many questions to one model: bounded, cached, within a budget, and safe to interrupt."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

from vlm_neurons.autointerp.client.asking import Ask, Reply
from vlm_neurons.autointerp.client.cache import Cache
from vlm_neurons.autointerp.client.connection import Connection
from vlm_neurons.autointerp.client.prices import Plan, Price, images_of
from vlm_neurons.autointerp.client.running import Asking


class ChatClient(Connection):
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
        retry_failures: ask again where the cache has a failure: a refusal, an answer that was cut off, filtered, or not
            what was asked for. What the server could not do is found out anew too.

    What is found out is confirmed before it is believed: the question is sent again as it was, and then without the
    field that the server blames. It holds for a day.
    """

    def plan(self, asks: Iterable[Ask]) -> Plan:
        """What `stream` would do; sends nothing."""
        cache = Cache(self.cache, reading=True)
        able = self.capabilities(cache)
        price = self.price if isinstance(self.price, Price) else None
        counts = price or Price(0, 0)
        calls = cached = images = tokens_in = tokens_out = again = 0
        for ask in asks:
            if self.stored(cache, ask, able) is not None:
                cached += 1
                continue
            sent = ask.sent(able)
            calls, images = calls + 1, images + len(images_of(sent))
            again += cache.left_under_way(self.key(ask, able))
            tokens_in, tokens_out = tokens_in + counts.tokens(sent), tokens_out + ask.max_tokens
        cache.close()
        cost = (price.cost(tokens_in // 2, tokens_out // 5), price.cost(tokens_in, tokens_out)) if price else None
        return Plan(calls, cached, images, tokens_in, tokens_out, cost, price.source if price else "", again)

    def known(self, asks: Sequence[Ask]) -> list[Reply | None]:
        """What the cache has to each question; sends nothing."""
        cache, run = Cache(self.cache, reading=True), Asking(self, (), None)
        able = self.capabilities(cache)
        stored = [self.stored(cache, a, able) for a in asks]
        cache.close()
        return [None if s is None else run.reply(a, *s, cached=True) for a, s in zip(asks, stored, strict=True)]

    def stream(self, asks: Iterable[Ask]) -> Iterator[Reply]:
        """A reply to every question, in the order in which they come; failures are replies too. Questions are taken one
        by one, as they can be sent.

        Leaving the loop, or Ctrl-C, cancels what is under way; what has come is in the cache. Works inside a running
        event loop (a notebook) too.
        """
        replies: queue.Queue[Reply | BaseException | None] = queue.Queue()
        loop = asyncio.new_event_loop()
        run = Asking(self, asks, replies)
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
        extra_body: fields of the server's own, such as `{"add_special_tokens": True}` for vLLM (see `ApiSimulator`).
        retry_failures: ask again where the cache has a failure, and find out anew what the server can do.

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
    retry_failures: bool = False

    def __post_init__(self) -> None:
        self.client()  # says now what is wrong

    def client(self) -> ChatClient:
        """The client that asks."""
        return ChatClient(
            self.model, self.base_url, self.api_key, self.cache, self.concurrency, self.timeout, self.deadline,
            self.max_retries, self.max_cost, self.price, self.images, self.schema, self.extra_body,
            retry_failures=self.retry_failures,
        )  # fmt: skip


def _first(error: BaseException) -> BaseException:
    """What went wrong, out of the group that asyncio wraps it in."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
