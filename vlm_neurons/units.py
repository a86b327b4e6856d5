"""Units: the ids of neurons, at any site."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vlm_neurons import sites
from vlm_neurons._checks import short
from vlm_neurons.sites.protocol import Address
from vlm_neurons.sites.protocol import Pole as Pole


@dataclass(frozen=True, order=True)
class Neuron:
    """One coordinate of one hook point; accepted wherever a neuron id is.

    Attributes:
        hook: TransformerLens hook name, such as `"blocks.3.mlp.hook_act"`, or the place of another kind of unit,
            such as `"NAME:L3"`; see `vlm_neurons.sites`.
        index: coordinate in the last dimension of that tensor.
        pole: `"+"` for the value itself, `"-"` for its negation.

    >>> neuron = vn.Neuron("blocks.3.mlp.hook_post", 17, "-")
    >>> neuron.id, neuron.site, neuron.layer
    ('post:L3N17-', 'post', 3)
    """

    hook: str
    index: int
    pole: Pole = "+"

    @property
    def site(self) -> str:
        """Name of the site, or the hook name itself for a hook that is no site."""
        return sites.at(self.hook)[0].name

    @property
    def layer(self) -> int:
        """Layer that the hook belongs to; 0 where the hook name has no number."""
        return sites.at(self.hook)[1]

    @property
    def id(self) -> str:
        """The id that a table shows.

        >>> Neuron("blocks.3.mlp.hook_post", 17, "-").id
        'post:L3N17-'
        """
        return sites.at(self.hook)[0].id(Address(self.hook, self.index, self.pole))

    @classmethod
    def parse(cls, neuron: str | Neuron) -> Neuron:
        """Read a neuron id.

        Args:
            neuron: `L3N17` (gate), `post:L3N17`, `P0N5` (projector), `V1N2` (vision tower), any hook as
                `blocks.3.hook_mlp_out:17`; a trailing `-` means the negative pole. A `Neuron` is returned as it is.

        Raises:
            ValueError: the id has none of these forms, and no registered site knows it.

        >>> Neuron.parse("L3N17")
        Neuron(hook='blocks.3.mlp.hook_act', index=17, pole='+')
        """
        if isinstance(neuron, Neuron):
            return neuron
        return cls(*sites.parse(str(neuron).strip()))


Neurons = str | Neuron | Iterable[str | Neuron]


def of_rows(given: object) -> list[str] | None:
    """Ids in a table or in one of its rows, as pandas gives them (Series, named tuple, dict); None for other things.

    >>> of_rows({"neuron": "L3N17", "label": "visual"}), of_rows("L3N17")
    (['L3N17'], None)
    """
    found = given.get("neuron") if isinstance(given, Mapping) else getattr(given, "neuron", None)
    if found is None or callable(found):
        return None
    return [found] if isinstance(found, str) else list(found)


def ids_of(neurons: Neurons | None) -> list[str] | None:
    """Names under which something is stored, which may be those of probes too; None where nothing is chosen.

    >>> ids_of(Neuron.parse("L3N17")), ids_of(["L3N17", "probe"]), ids_of(None)
    (['L3N17'], ['L3N17', 'probe'], None)
    """
    if neurons is None:
        return None
    every = [neurons] if isinstance(neurons, str | Neuron) else neurons
    return [n.id if isinstance(n, Neuron) else n for n in every]


def parse_neurons(neurons: Neurons) -> list[Neuron]:
    """Read one id, a comma-separated string of ids, a table or rows of one, or an iterable of any of these.

    Raises:
        ValueError: an id has none of the known forms.
        TypeError: it is none of these things.

    >>> [n.id for n in parse_neurons("L3N17, P0N5")]
    ['L3N17', 'P0N5']
    """
    if isinstance(neurons, Neuron):
        return [neurons]
    if isinstance(neurons, str):
        return [Neuron.parse(part) for part in neurons.split(",") if part.strip()]
    if (ids := of_rows(neurons)) is not None:
        return [Neuron.parse(one) for one in ids]
    if isinstance(neurons, Mapping) or not isinstance(neurons, Iterable):
        raise TypeError(f"neurons={short(neurons)}: give ids such as 'L3N17', or rows of a table")
    return [one for each in neurons for one in parse_neurons(each)]
