"""What is known of one family of models, and how its modules are found in a Hugging Face model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from vlm_neurons.tokens import Patch

Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Placed:
    """One image, placed.

    Attributes:
        grid: rows and columns of patches.
        patches: one per image token, in order; None for a token that shows no place, such as the end of a row.
    """

    grid: tuple[int, int]
    patches: Sequence[Patch | None]


def one_view(image_processor: Any, inputs: Mapping[str, Tensor], image: int) -> Tensor:
    """An image as the model saw it, where its pixels are one view of it."""
    return inputs["pixel_values"][image]


@dataclass(frozen=True)
class MLPs:
    """The MLPs whose neurons are a site: paths in the Hugging Face model, with `{i}` where there is one per layer.

    Attributes:
        into: the projection in front of the activation function.
        out: the last projection; its input is the neurons.
        act: the activation function, if its output is a site of its own.
        up: the projection that a gate is multiplied by, if it has one.
        rows: of a stack that is indexed by image: (config, grid) -> the patch of every row of one image, -1 for a
            row that is none (class tokens, padding).
    """

    into: str
    out: str
    act: str | None = None
    up: str | None = None
    rows: Callable[[Any, tuple[int, int]], Sequence[int]] | None = None


@dataclass(frozen=True)
class Adapter:
    """All that is known of one family of models.

    Attributes:
        name: Hugging Face `model_type`.
        architecture: class name of the Hugging Face model, and of the TransformerLens adapter.
        towers: `model_type` of the vision towers, and how many class tokens stand in their tensors.
        backbones: `model_type` of the language models. All have a gated MLP.
        geometry: (image processor, config, sizes of the images as given, pixels as processed) -> where the image tokens
            look.
        feature_layers: config -> how many vision layers are below each tensor that the projector reads; layers from
            the largest on cannot change the logits.
        processor: class name of the Hugging Face processor.
        processor_settings: config -> what the processor has to be told where the checkpoint leaves it out.
        backbone: MLPs of the language model: sites gate and post.
        vision: MLPs of the vision tower; None: not reachable.
        projector: the projector's; None: it has no hidden neurons.
        layers: the layers of the language model.
        body: the model without its unembedding; empty: the model itself.
        norm: the norm before the unembedding.
        norm_offset: what the norm adds to its weight.
        unembed: the unembedding.
        inputs: what else the image processor returns and the forward pass takes, one entry per image.
        causal: whether no position sees a later one; if not, padding on any side needs its mask.
        seen: (image processor, what the model is given of the images, number of an image) -> its pixels
            [3, height, width] as the model saw it, in which the boxes of its patches are. A function of a module, since
            batches travel between processes.
        check: raises a ValueError for a config that is not supported.
        limits: what does not work, for `families`.
    """

    name: str
    architecture: str
    towers: Mapping[str, int]
    backbones: tuple[str, ...]
    geometry: Callable[[Any, Any, Sequence[Size], Tensor], list[Placed]]
    feature_layers: Callable[[Any], tuple[int, ...]]
    processor: str
    processor_settings: Callable[[Any], dict[str, Any]]
    backbone: MLPs
    vision: MLPs | None
    projector: MLPs | None
    layers: str = "model.language_model.layers.{i}"
    body: str = "model"
    norm: str = "model.language_model.norm"
    norm_offset: float = 0.0
    unembed: str = "lm_head"
    inputs: tuple[str, ...] = ()
    causal: bool = True
    seen: Callable[[Any, Mapping[str, Tensor], int], Tensor] = one_view
    check: Callable[[Any], None] = lambda config: None
    limits: str = ""

    @property
    def sites(self) -> dict[str, tuple[MLPs, str, bool]]:
        """Of every site its MLPs, the path that holds its neurons, and whether they are that module's output."""
        found: dict[str, tuple[MLPs, str, bool]] = {}
        if self.backbone.act:
            found["gate"] = self.backbone, self.backbone.act, True
        found["post"] = self.backbone, self.backbone.out, False
        for name, mlps in (("projector", self.projector), ("vision", self.vision)):
            if mlps is not None:
                found[name] = mlps, mlps.out, False
        return found

    def mlps(self, site: str) -> MLPs:
        """The MLPs of a site.

        Raises:
            ValueError: the family has none.
        """
        if site not in self.sites:
            raise ValueError(f"{self.name} models have no MLP neurons at site {site!r}: {', '.join(self.sites)}")
        return self.sites[site][0]


def module_at(model: nn.Module, path: str) -> Any:
    """The module at a path, in a model that may be inside a bridge.

    Raises:
        LookupError: there is none.
    """
    found: Any = model
    try:
        for part in path.split(".") if path else ():
            found = found[int(part)] if part.isdigit() else getattr(found, part)
    except (AttributeError, IndexError, TypeError) as error:
        raise LookupError(f"{type(model).__name__} has no module {path!r}") from error
    return found


def along(model: nn.Module, path: str) -> Iterator[tuple[int, str]]:
    """The layers of a path with `{i}`, and their paths; layer 0 for a path without.

    Raises:
        LookupError: the model has no such modules.
    """
    before, layered, _ = path.partition(".{i}")
    for i in range(len(module_at(model, before)) if layered else 1):
        yield i, path.format(i=i)
