"""One run of questions to a server: bounded, within a budget, finding out what the server can do."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from vlm_neurons._text import printable
from vlm_neurons.autointerp.client.asking import Ask, Reply, body_of, read, redactor, tokens_of
from vlm_neurons.autointerp.client.cache import Cache
from vlm_neurons.autointerp.client.connection import Connection
from vlm_neurons.autointerp.client.prices import Price, images_of
from vlm_neurons.autointerp.client.refusals import FAULTS, blamed, way_round
from vlm_neurons.autointerp.client.sending import Fault, once

_UNREAD = 64  # replies that wait to be read, beyond which no further question is sent
_DOUBTS = 3  # experiments with a field that showed nothing, until a run leaves it alone
_KEPT = "; from the cache: retry_failures=True (--retry-failures) asks again"


class Asking:
    """One run over questions, inside one event loop."""

    def __init__(self, client: Connection, asks: Iterable[Ask], replies: Any) -> None:
        self.client, self.asks, self.replies = client, iter(asks), replies
        self.broken: Exception | None = None  # why no further question could be made
        self.spent = self.reserved = 0.0
        self.under_way = self.again = 0
        self.returned = asyncio.Condition()
        self.finding = asyncio.Lock()
        self.redact = redactor(client.secret)
        self.doubts: Counter[str] = Counter()
        self.pictures_taken = False  # by the server, ever
        self.pictures_under_way = 0
        self.pictures_refused: list[set[str]] = []  # of rows that were refused twice

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
        if self.broken is not None:
            raise self.broken

    async def work(self) -> None:
        while self.broken is None:
            while self.replies.qsize() > _UNREAD:  # or whoever reads slowly would have all of them in memory
                await asyncio.sleep(0.01)
            try:
                ask = next(self.asks)  # shared: each worker takes the next one
            except StopIteration:
                return
            except Exception as error:  # what is under way is paid for: it is waited for first
                self.broken = error
                return
            self.replies.put(await self.one(ask))
            await asyncio.sleep(0)

    async def one(self, ask: Ask) -> Reply:
        """From the cache, or from the server within the budget."""
        stored = self.client.stored(self.cache, ask, self.capabilities)
        if stored is not None:
            self.pictures_taken |= bool(images_of(ask.sent(stored[1])))
            return self.reply(ask, *stored, cached=True)
        if self.capabilities.get("images") is False and images_of(ask.sent(self.capabilities)):
            detail = (
                f"{self.client.model} takes no images, as it said; retry_failures=True (--retry-failures) asks anew"
            )
            return Reply(ask, failure=("capability", detail))
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
        """Ask the server; where it refuses a field, find out which and go on without it."""
        if self.api is None:
            self.api = self.client.connect()
        while True:
            used = dict(self.capabilities)
            found = await self.attempt(ask, used)
            if isinstance(found, Fault) and self.suspects(ask, used, found):
                async with self.finding:
                    if used != self.capabilities:  # found out by another one in the meantime
                        continue
                    found, used = await self.examine(ask, used, found)
            if isinstance(found, Fault):
                return self.failed(ask, used, found)
            return self.reply(ask, found, used, cached=False)

    async def attempt(self, ask: Ask, used: dict[str, bool]) -> dict[str, Any] | Fault:
        """A completion, in the cache from now on, or why there is none."""
        key = self.client.key(ask, used)
        self.again += self.cache.begin(key)
        shown = bool(images_of(ask.sent(used)))
        self.pictures_under_way += shown
        try:
            found = await once(self.client, self.api, ask, used)
        finally:
            self.pictures_under_way -= shown
        if isinstance(found, Fault):
            self.cache.give_up(key)
            return found
        self.cache.put(key, found, again=self.client.retry_failures)
        if shown and self.capabilities.get("images") is False and self.client.images is None:
            self.remember({"images": True})  # what was said of some pictures does not hold for all
        self.pictures_taken |= shown
        return found

    def suspects(self, ask: Ask, used: dict[str, bool], fault: Fault) -> list[str]:
        """Capabilities that a refusal blames, of those that are not declared."""
        if fault.code not in FAULTS:
            return []
        names = blamed(fault.words, body_of(ask, self.client.model, used, {}))
        return [n for n in names if self.client.declared.get(n) is None and self.doubts[n] < _DOUBTS]

    async def examine(
        self, ask: Ask, used: dict[str, bool], refusal: Fault
    ) -> tuple[dict[str, Any] | Fault, dict[str, bool]]:
        """Ask once more as before. Where that is refused in the same way, ask without the field that is blamed, and
        remember it where an answer comes: no word in an error is believed alone. What pictures are blamed for has to
        be said of another row's pictures too, and what a server breaks down at, a third time."""
        first = self.suspects(ask, used, refusal)
        able, tried = dict(used), set[str]()
        last = found = await self.attempt(ask, used)  # `last` tells most if nothing helps
        while isinstance(found, Fault):
            names = [n for n in self.suspects(ask, able, found) if n not in tried and (tried or n in first)]
            if not names:
                self.doubts.update(tried)
                return last, used
            name = names[0]
            tried.add(name)
            if name == "images" and ask.plain is None:
                known = self.found_out(ask, used, {name})
                takes = "takes no images" if known else "refused these pictures"
                return replace(found, kind="capability", detail=f"{self.client.model} {takes}: {found.words}"), used
            found = await self.attempt(ask, {**able, name: False})
            if not (isinstance(found, Fault) and name in blamed(found.words, body_of(ask, "", used, {}))):
                able[name] = False  # it is blamed no more
        lacking = {name for name in tried if able.get(name) is False}
        broke_down = (refusal.code or 0) >= 500 and lacking != {"images"}
        if broke_down and not isinstance(again := await self.attempt(ask, used), Fault):
            return again, used  # for other reasons
        self.found_out(ask, used, lacking)
        return found, able

    def others_refused(self, ask: Ask, used: dict[str, bool]) -> bool:
        """Whether pictures were refused that have none in common with this question's."""
        mine = set(images_of(ask.sent(used)))
        return any(not mine & other for other in self.pictures_refused)

    def found_out(self, ask: Ask, used: dict[str, bool], names: set[str]) -> bool:
        """Remember what a server cannot do. Of pictures only if other ones were refused too, none was ever taken, and
        the answer to none is still to come."""
        known = self.others_refused(ask, used) and not self.pictures_taken and not self.pictures_under_way
        alone = "images" in names and not known
        if alone:
            self.pictures_refused.append(set(images_of(ask.sent(used))))
        self.remember({name: False for name in names if not (alone and name == "images")})
        return not alone

    def remember(self, found: dict[str, bool]) -> None:
        """Note capabilities, for this run and the next ones."""
        self.capabilities.update(found)
        for name, value in found.items():
            self.cache.put_capability(str(self.client.base_url), self.client.model, name, value)

    def failed(self, ask: Ask, used: dict[str, bool], fault: Fault) -> Reply:
        """A reply without an answer."""
        hint = ""
        if fault.kind == "request":
            hint = way_round(fault.words, body_of(ask, self.client.model, used, {}), self.pictures_taken)
        return Reply(ask, failure=(fault.kind, self.redact(fault.detail) + hint), unbilled=fault.unbilled)

    def reply(self, ask: Ask, stored: dict[str, Any], able: dict[str, bool], cached: bool) -> Reply:
        """A stored completion as a reply of a server with these capabilities."""
        answer, failure = read(ask, stored)
        counted, price = tokens_of(stored), self.client.price
        tokens = counted or (0, 0)
        cost = price.cost(*tokens) if isinstance(price, Price) and not cached else 0.0
        failure = (failure[0], self.redact(failure[1]) + _KEPT * cached) if failure else None
        model, unbilled = printable(str(stored.get("model") or "")), counted is None and not cached
        return Reply(ask, answer, failure, model, *tokens, cost, cached, stored, ask.is_plain(able), unbilled)
