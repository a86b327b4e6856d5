"""One limit of money over several runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from vlm_neurons.autointerp.client.asking import Ask, Reply
from vlm_neurons.autointerp.client.client import ChatClient

T = TypeVar("T")


@dataclass
class Purse:
    """What has been spent under one limit.

    Attributes:
        spent: US dollars.
    """

    spent: float = 0.0

    def stream(self, client: ChatClient, asks: Sequence[Ask]) -> Iterator[Reply]:
        """Replies within what is left of the client's `max_cost`."""
        left = None if client.max_cost is None else max(0.0, client.max_cost - self.spent)
        for reply in replace(client, max_cost=left).stream(asks):
            self.spent += reply.charged
            yield reply


def on_one_purse(simulator: T) -> T:
    """The simulator with one purse for all the runs that follow; one that pays nobody as it is."""
    own: Any = getattr(simulator, "on_one_purse", None)
    return own() if own else simulator
