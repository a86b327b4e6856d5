"""What is known of one family of models, and how its modules are found in a Hugging Face model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from torch import Tensor, nn

from vlm_neurons.tokens import Patches

Size = tuple[int, int]  # height, width
Inputs = Mapping[str, Tensor]
RowNumbers = Sequence[int] | Int[np.ndarray, "row"]
Paths = str | tuple[str, ...]  # in the Hugging Face model; `{i}` stands for the number of a layer
Split = tuple[int, Sequence[int]]  # a dimension of an input, and how many of its entries are each image's


@dataclass(frozen=True)
class Given:
    """The images of a batch, processed.

    Attributes:
        processor: the Hugging Face processor.
        config: of the model.
        sizes: of every image as it was given.
        rows: batch row of every image.
        output: all that the image processor returned.
    """

    processor: Any
    config: Any
    sizes: Sequence[Size]
    rows: Sequence[int]
    output: Mapping[str, Any]


@dataclass(frozen=True)
class Placed:
    """One image, placed.

    Attributes:
        grid: rows and columns of the grid that `Patch.row` and `Patch.column` count in: of the image, or of a sheet on
            which the whole view and the tiles lie side by side. Places of the sheet that hold no patch are gaps.
        shown: one patch per image token that shows a place, in order.
        looks: which image tokens show one, in order; None: all of them. The end of a row is one that does not.
    """

    grid: tuple[int, int]
    shown: Patches
    looks: Bool[np.ndarray, "token"] | None = None

    def __len__(self) -> int:
        """Image tokens."""
        return len(self.shown) if self.looks is None else len(self.looks)


def one_view(image_processor: Any, own: Inputs) -> Tensor:
    """An image as the model saw it, where its pixels are one view of it."""
    return own["pixel_values"][0]


def one_each(given: Given, placed: Sequence[Placed]) -> dict[str, Split]:
    """Where every input has one entry per image."""
    return {}


def by_processor(given: Given, image: int, placed: Placed) -> str:
    """What the processor puts in the place of an image's placeholder."""
    return given.processor.replace_image_token(given.output, image)  # type: ignore[no-any-return]


def no_row_inputs(config: Any, kinds: Tensor, image_rows: Tensor) -> dict[str, Tensor]:
    """Where the model is given nothing by row but ids and mask."""
    return {}


def as_llava(placeholder: str, prompt: str, n_images: int, bos: str) -> tuple[str, str]:
    """LLaVA-1.5's prompt (Xu, Lan, Lu 2025, section 3.2, second hand)."""
    return f"USER: {(placeholder + chr(10)) * n_images}{prompt}\nASSISTANT:", " "


@dataclass(frozen=True)
class MLPs:
    """The MLPs whose neurons are a site: paths in the Hugging Face model, with `{i}` where there is one per layer; see
    `along` for several paths.

    Attributes:
        into: the projection in front of the activation function.
        out: the last projection; its input is the neurons.
        act: the activation function, if its output is a site of its own.
        up: the projection that a gate is multiplied by, if it has one; the same as `into` where one matrix holds both,
            the gates' rows first.
        rows: of a stack that is indexed by image: (given, one placed image) -> for every row of its tensor which of
            `placed.shown` it is, -1 for a row that is none (class tokens, padding). Several rows may be one patch. Rows
            of all images stand one after the other, whatever the tensor's leading dimensions are.
    """

    into: Paths
    out: Paths
    act: Paths | None = None
    up: Paths | None = None
    rows: Callable[[Given, Placed], RowNumbers] | None = None

    def of_gates(self, weight: Tensor) -> Tensor:
        """The rows of `into`'s weight that are the neurons'."""
        return weight[: len(weight) // 2] if self.up == self.into else weight

    def of_up(self, weight: Tensor) -> Tensor:
        """The rows of `up`'s weight that gates are multiplied by."""
        return weight[len(weight) // 2 :] if self.up == self.into else weight


@dataclass(frozen=True)
class Adapter:
    """All that is known of one family of models.

    Attributes:
        name: Hugging Face `model_type`, unless that is given too.
        architecture: class name of the Hugging Face model, and of the TransformerLens adapter.
        towers: `model_type` of the vision towers.
        backbones: `model_type` of the language models. All have a gated MLP.
        geometry: where the image tokens look.
        processor: class name of the Hugging Face processor, or what makes a class that does the same.
        backbone: MLPs of the language model: sites gate and post.
        vision: MLPs of the vision tower; None: not reachable.
        projector: the projector's; None: it has no hidden neurons.
        model_type: of Hugging Face, where several records share it and differ in towers or backbones.
        image_settings: processor -> what the image processor is told beside its own settings, which are weaker.
        processor_settings: config -> what the processor has to be told where the checkpoint leaves it out.
        feature_layers: config -> how many vision layers are below each tensor that the projector reads; layers from
            the largest on cannot change the logits. Empty: what the tower puts out is read.
        layers: the layers of the language model.
        body: the model without its unembedding; empty: the model itself.
        embed: the token embedding.
        norm: the norm before the unembedding.
        norm_offset: what this norm, and those of the layers, add to their weights.
        norm_centres: whether they subtract the mean first.
        norms: of a layer, TransformerLens' names and the model's own, for families that are declared; no ln2 where
            attention and MLP read the same norm.
        post_norm: the norm between a layer's MLP and the residual stream, where layers have one.
        layer_scale: a number that a layer multiplies all of its output by, where layers have one; they also add what
            is neither attention's nor the MLP's.
        unembed: the unembedding.
        tower: the vision tower.
        connector: the projector as a whole.
        declared: whether TransformerLens has no adapter for the family, or one that asks for torchvision, so that the
            bridge is built from this record.
        nested: whether the image processor is told which images are in one row.
        splits: which entries of the model's inputs are each image's, for those that are not one entry per image.
        row_inputs: (config, kinds [batch, pos], row of every image) -> what else the model is given by row.
        causal: whether no position sees a later one; if not, padding on any side needs its mask.
        seen: (image processor, inputs of one image) -> its pixels [3, height, width] as the model saw it, in which the
            boxes of its patches are; or [view, 3, side, side], the whole view first and then its tiles, for a sheet
            (`tiles.on_sheet`). A function of a module, since batches travel between processes.
        replace: what stands in the text for an image.
        plain: (placeholder, prompt, number of images, BOS) -> text before the response, and what joins them: where the
            processor has no chat template.
        check: raises a ValueError for a config that is not supported.
        experts: the experts of layers that have some, whose neurons are sites gate and post too.
        beside_experts: a module of every such layer that is given [batch, pos, d_model] before its experts run.
        limits: what does not work, for `families`.
    """

    name: str
    architecture: str
    towers: tuple[str, ...]
    backbones: tuple[str, ...]
    geometry: Callable[[Given], list[Placed]]
    processor: str | Callable[[], Any]
    backbone: MLPs
    vision: MLPs | None
    projector: MLPs | None
    model_type: str = ""
    image_settings: Callable[[Any], dict[str, Any]] = lambda processor: dict(getattr(processor, "images_kwargs", {}))
    processor_settings: Callable[[Any], dict[str, Any]] = lambda config: {}
    feature_layers: Callable[[Any], tuple[int, ...]] = lambda config: ()
    layers: str = "model.language_model.layers.{i}"
    body: str = "model"
    embed: str = "model.language_model.embed_tokens"
    norm: str = "model.language_model.norm"
    norm_offset: float = 0.0
    norm_centres: bool = False
    norms: tuple[tuple[str, str], ...] = (("ln1", "input_layernorm"), ("ln2", "post_attention_layernorm"))
    post_norm: str = "model.language_model.layers.{i}.post_feedforward_layernorm"
    layer_scale: str = ""
    unembed: str = "lm_head"
    tower: str = "model.vision_tower"
    connector: str = "model.multi_modal_projector"
    declared: bool = False
    nested: bool = False
    splits: Callable[[Given, Sequence[Placed]], dict[str, Split]] = one_each
    row_inputs: Callable[[Any, Tensor, Tensor], dict[str, Tensor]] = no_row_inputs
    causal: bool = True
    seen: Callable[[Any, Inputs], Tensor] = one_view
    replace: Callable[[Given, int, Placed], str] = by_processor
    plain: Callable[[str, str, int, str], tuple[str, str]] = as_llava
    check: Callable[[Any], None] = lambda config: None
    experts: str = ""
    beside_experts: str = "model.language_model.layers.{i}.mlp"
    limits: str = ""

    @property
    def sites(self) -> dict[str, tuple[MLPs, Paths, bool]]:
        """Of every site its MLPs, the paths that hold its neurons, and whether they are that module's output."""
        found: dict[str, tuple[MLPs, Paths, bool]] = {}
        if self.backbone.act:
            found["gate"] = self.backbone, self.backbone.act, True
        found["post"] = self.backbone, self.backbone.out, False
        for name, mlps in (("projector", self.projector), ("vision", self.vision)):
            if mlps is not None:
                found[name] = mlps, mlps.out, False
        return found

    @property
    def attention_out(self) -> str:
        """The output projection of every attention of the language model; some families' layers have none."""
        return f"{self.layers}.self_attn?.o_proj?"

    @property
    def parallel(self) -> bool:
        """Whether the MLP of a layer reads what its attention reads."""
        return "ln2" not in dict(self.norms)

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


def along(model: nn.Module, paths: Paths) -> Iterator[tuple[int, str]]:
    """The layers of a path with `{i}`, and their paths; layer 0 for a path without. Several paths: the layers of one,
    then those of the next. Where layers differ, a "?" behind a part says that some have no such module: the path goes
    on without it, or if it is the last part, has no such layer.

    Raises:
        LookupError: the model has no such modules.
    """
    layer = 0
    for path in (paths,) if isinstance(paths, str) else paths:
        before, layered, _ = path.partition(".{i}")
        for i in range(len(module_at(model, before)) if layered else 1):
            found = _existing(model, path.format(i=i))
            if found is not None:
                yield layer, found
            layer += 1


def _existing(model: nn.Module, path: str) -> str | None:
    """A path without its parts with "?" that are not there; None if that is the last."""
    *parts, last = path.split(".")
    found = ""
    for part in (*parts, last):
        name = part.removesuffix("?")
        longer = f"{found}.{name}" if found else name
        if name == part or _has(model, longer):
            found = longer
        elif part is last:
            return None
    return found


def _has(model: nn.Module, path: str) -> bool:
    with suppress(LookupError):
        return module_at(model, path) is not None
    return False
