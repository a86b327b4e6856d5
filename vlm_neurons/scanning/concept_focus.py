"""What told neurons of a trained model from random ones best: how far a unit answers to one specific concept alone."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def focus(specific: Float[Tensor, "d"], generic: Float[Tensor, "d"], share: Float[Tensor, "d"]) -> Float[Tensor, "d"]:
    """Held-out r of the best specific concept, less that of the best generic one, and the share of one concept.

    Random units answer to mixtures, and to what holds widely: the same units with random gates have lower ones. One
    number for pictures and words alike, with equal weights; it was chosen among some sixty on one model, before it was
    tried on another (`examples/one_pass_validity.py`, and the page of this room).

    Args:
        specific: r of the best concept that says something; NaN without one.
        generic: r of the best one that holds widely; NaN without one: nothing is taken off.
        share: r^2 of one concept over that of the whole bank.

    Returns:
        A number from -2 to 3; NaN without a specific concept.
    """
    return specific - generic.nan_to_num(0.0) + share
