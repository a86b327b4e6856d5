"""What a run would cost."""

from __future__ import annotations

from dataclasses import dataclass


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

    def __str__(self) -> str:
        money = f"${self.cost[0]:.4f} to ${self.cost[1]:.4f} ({self.price})" if self.cost else "unknown price"
        twice = f"; {self.again} were under way when an earlier run ended, and may be charged twice"
        return (
            f"{self.calls} calls ({self.cached} more are in the cache), {self.images} images, at most about "
            f"{self.tokens_in} tokens in and {self.tokens_out} out: {money}" + twice * bool(self.again)
        )


NOTHING = Plan(0, 0, 0, 0, 0, (0.0, 0.0), "")
