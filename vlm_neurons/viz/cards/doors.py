"""What the functions that people call check of what they are given."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.autointerp.simulations import Simulation
    from vlm_neurons.evidence import Evidence


def an_evidence(given: Any, name: str = "evidence") -> Evidence:
    """What was given, if it is evidence of one neuron.

    Raises:
        TypeError: it is not; the message says where evidence comes from.
    """
    from vlm_neurons.evidence import Evidence

    if isinstance(given, Evidence):
        return given
    if isinstance(given, Mapping):
        raise TypeError(f"{name}= is of {len(given)} neurons; give that of one, such as {name}['L0N1']")
    raise TypeError(
        f"{name}={_short(given)}: give the evidence of a neuron, such as vn.gather_evidence(model, data, run, "
        "['L0N1'])['L0N1']; vn.Evidence.from_arrays makes it from arrays"
    )


def a_simulation(given: Any) -> Simulation | None:
    """What was given, if it is the simulation of one neuron, or none.

    Raises:
        TypeError: it is something else.
    """
    from vlm_neurons.autointerp.simulations import Simulation

    if given is None or isinstance(given, Simulation):
        return given
    raise TypeError(f"simulation={_short(given)}: give that of one neuron, such as vn.simulate(...)['L0N1']")


def a_table(given: Any, name: str, source: str) -> pd.DataFrame:
    """What was given, if it is a table.

    Raises:
        TypeError: it is not; the message names the `source` of such tables.
    """
    import pandas as pd

    if isinstance(given, pd.DataFrame):
        return given
    raise TypeError(f"{name}={_short(given)}: give the table that {source} returns")


def a_threshold(given: Any, name: str) -> float:
    """What was given, if it is a number on the scale of activations.

    Raises:
        ValueError: it is not.
    """
    if isinstance(given, Real) and not isinstance(given, bool) and 0 <= float(given) <= 10:
        return float(given)
    raise ValueError(f"{name}={_short(given)}: give a number from 0 to 10, where 10 is the neuron's largest activation")


def _short(given: Any) -> str:
    """Numbers and words as they are, other things by their kind."""
    return repr(given)[:80] if isinstance(given, str | int | float) or given is None else f"a {type(given).__name__}"
