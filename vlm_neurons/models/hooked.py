"""HookedVLM: the model that everything above works on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vlm_neurons.models import bound, guards, held
from vlm_neurons.models.adapters import Adapter, adapter_of, module_at
from vlm_neurons.models.batch import Batch
from vlm_neurons.models.bound import BoundVLM
from vlm_neurons.models.bridge import OverBridge, extend, wrap
from vlm_neurons.models.fingerprint import fingerprint
from vlm_neurons.models.fused import Twin, make_twin
from vlm_neurons.models.generating import Sampling, continuable, generate_tokens
from vlm_neurons.models.images import Images
from vlm_neurons.models.prepare import prepare
from vlm_neurons.models.template import words_of

if TYPE_CHECKING:
    import pandas as pd
    from transformer_lens import ActivationCache
    from transformer_lens.model_bridge import TransformerBridge


class HookedVLM(OverBridge):
    """A vision-language model over a `TransformerBridge`, with its neurons as hook points.

    Args:
        model: a Hugging Face model of a supported family (changed in place: save it before; taken out of PEFT's and
            torch.compile's wrappers, adapters kept), or a TransformerBridge over one (extended in place).
        processor: its Hugging Face processor.
        name: what to call the model in records; by default the name that the config carries.

    Attributes:
        bridge: the TransformerBridge. Its attributes are the model's too (`cfg`, `W_out`, `blocks`, `to_tokens`,
            `add_hook`, `reset_hooks` ...), but for what would run without the images (`models.bridge.REFUSED`).
        processor: as given.
        tokenizer: the processor's.
        config: the Hugging Face config.
        adapter: what is known of its family.
        name: what the model is called in records.
        day: ISO date that chat templates with a date in them are told; the day on which the model was made.

    Raises:
        ValueError: family, tower or backbone is not supported (named, with those that are), or weights are offloaded.
        RuntimeError: the bridge is in compatibility mode.

    Sites of neurons (`vlm_neurons.sites`) are hook points that fire and can be edited: `"gate"`
    `blocks.{i}.mlp.hook_act` = act(gate_proj(x)), `"post"` `blocks.{i}.mlp.hook_post`, `"projector"`
    `projector.0.hook_post`, `"vision"` `vision.{i}.mlp.hook_post`.

    >>> model = vn.HookedVLM.from_pretrained("tiny-llava-scenes", device="cpu")
    >>> model
    HookedVLM('tiny-llava-scenes', 4 layers, torch.float32, cpu)
    """

    def __init__(self, model: nn.Module | TransformerBridge, processor: Any, name: str | None = None) -> None:
        model = model.bridge if isinstance(model, HookedVLM) else model
        given_bridge = hasattr(model, "original_model")
        hf_model: Any = held.whole(model.original_model if given_bridge else model)
        self.processor = processor
        self.tokenizer = held.tokenizer_of(processor)
        self.config = hf_model.config
        self.adapter: Adapter = adapter_of(self.config)
        self.name = name or getattr(self.config, "_name_or_path", "") or self.adapter.name
        self.words = words_of(processor, self.config)
        self.day = date.today().isoformat()
        self._twin: Twin | None = None
        if given_bridge:
            guards.check_mode(model)  # type: ignore[arg-type]
            self.bridge: TransformerBridge = model  # type: ignore[assignment]
        else:
            self._twin = make_twin(hf_model.eval(), self.adapter)  # before the model is changed
            self.bridge = wrap(hf_model, self.tokenizer, self.adapter, self.name)
        extend(self.bridge, self.adapter)
        self.bridge.processor = processor
        self.first_dead_layer = max(self.adapter.feature_layers(self.config), default=sys.maxsize)  # all may be read
        body, words = module_at(hf_model, self.adapter.body), self.words
        self._guard = guards.guard_of(body, words.image_id, words.pad_id, self.tokenizer.bos_token_id)
        self._map: Any = None
        if self._twin is not None:
            self._twin.remember(self.bridge)

    @classmethod
    def from_pretrained(
        cls,
        name_or_dir: str | Path,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        device_map: Any = None,
        check_geometry: bool = False,
        revision: str | None = None,
    ) -> HookedVLM:
        """Load a model: an embedded one (`"tiny-llava-scenes"`), a local directory, or a name on the Hugging Face hub.

        Args:
            name_or_dir: as above.
            device: default CUDA if there is one, else CPU.
            dtype: default bfloat16 on CUDA, float32 on CPU.
            device_map: passed to transformers instead of `device`, to spread a model over devices.
            revision: on the hub, if not the newest; `"owner/name@revision"`, as runs record it, says the same.
            check_geometry: measure on a few positions that patches are where batches say (`models.measure_geometry`).

        Raises:
            OSError: it is neither here nor to be downloaded.
            ValueError: the family is not supported, or `check_geometry` found a position that looks elsewhere.
        """
        from vlm_neurons.models.load import load
        from vlm_neurons.models.measuring import measure_geometry

        model = cls(*load(name_or_dir, device, dtype, device_map, revision))
        if check_geometry:
            measure_geometry(model).check()
        return model

    def __repr__(self) -> str:
        return f"HookedVLM({self.name!r}, {self.n_layers} layers, {self.dtype}, {self.device})"

    def prepare(
        self,
        images: Sequence[Images] | Images,
        prompts: Sequence[str] | str,
        responses: Sequence[str | None] | str | None = None,
        padding_side: Literal["left", "right"] | None = None,
        end: bool = True,
    ) -> Batch:
        """Make a batch.

        Args:
            images: one entry per row: a PIL image, a path, a list of those, or None (no image).
            prompts: one per row, or one for all.
            responses: what the assistant said, one per row, or None. TEXT is exactly the tokens that have a character
                of the response, taken as it is, blanks included; a response of no characters has no TEXT tokens.
            padding_side: default `"right"` with responses, `"left"` without (so that the next token is last).
            end: whether responses end there; False makes them beginnings, with nothing behind and padding on the left.

        The text is the processor's chat template if it has one, else LLaVA-1.5's; images come before the prompt.
        Text that contains a special token's name (`<image>`, `</s>`) is refused: it would be read as that token.

        Raises:
            RowError: a row cannot be used (special token in the text, too long); it has `.row` and `.reason`.
            OSError: an image cannot be read; the message names the file.
            ValueError: lists of different lengths, or a processor whose geometry is not known.

        >>> picture = data[0].load_images()[0]
        >>> batch = model.prepare([picture, None], "What is it?", ["a red circle", "a color"])
        >>> batch.mask("visual").sum(1).tolist(), batch.mask("text").sum(1).tolist()  # the second row has no picture
        ([64, 0], [3, 2])
        """
        own = self.processor, self.config, self.adapter, self.words
        return prepare(*own, images, prompts, responses, padding_side, self.day, end)

    def bind(self, batch: Batch) -> BoundVLM:
        """The model with this batch's images bound, for tools that pass tokens only.

        `transformer_lens.patching.get_act_patch_resid_pre(model.bind(batch), batch.input_ids, clean_cache, metric)`.

        >>> tool = model.bind(batch)
        >>> torch.equal(tool(batch.input_ids), model(batch))
        True
        """
        return BoundVLM(self, batch)

    def __call__(self, batch: Batch, **kwargs: Any) -> Float[Tensor, "batch pos d_vocab"]:
        """Logits at every position. Keywords as `TransformerBridge.forward` (`return_type=`, `stop_at_layer=`)."""
        return self.bind(batch)(**kwargs)

    def run_with_cache(
        self,
        batch: Batch,
        names_filter: str | Sequence[str] | Callable[[str], bool] | None = None,
        **kwargs: Any,
    ) -> tuple[Float[Tensor, "batch pos d_vocab"], ActivationCache]:
        """Logits and activations. `hook_embed` holds the embeddings after the image features are put in.

        >>> logits, cache = model.run_with_cache(batch, names_filter=model.site_hooks("gate"))
        >>> cache["gate", 2].shape  # short for blocks.2.mlp.hook_act: row, position, neuron
        torch.Size([1, 114, 384])
        """
        return self.bind(batch).run_with_cache(names_filter=names_filter, **kwargs)

    def run_with_hooks(
        self,
        batch: Batch,
        fwd_hooks: Sequence[guards.Hook] = (),
        bwd_hooks: Sequence[guards.Hook] = (),
        **kwargs: Any,
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """Logits with hooks: `(name, fn(tensor, hook))`; a tensor that fn returns replaces the activation.

        >>> from vlm_neurons.hooks import record
        >>> seen = {}
        >>> logits = model.run_with_hooks(batch, fwd_hooks=record("L2N304", into=seen))
        >>> activation = seen["L2N304"][batch.mask("visual")].reshape(8, 8)
        >>> pink = torch.tensor(data.concept("color", "pink")[0] > 0.5)
        >>> bool(activation[pink].mean() > 1), bool(activation[~pink].mean() < 0.1)
        (True, True)
        """
        return self.bind(batch).run_with_hooks(fwd_hooks=fwd_hooks, bwd_hooks=bwd_hooks, **kwargs)

    @contextmanager
    def hooks(
        self, fwd_hooks: Sequence[guards.Hook] = (), bwd_hooks: Sequence[guards.Hook] = (), **kwargs: Any
    ) -> Iterator[HookedVLM]:
        """A context in which every forward pass, `generate` too, has these hooks.

        Raises:
            HookNeverFires: on leaving, if something was run and a hook named in `fwd_hooks` never fired.

        >>> from vlm_neurons.hooks import ablate
        >>> with model.hooks(ablate([f"blocks.{i}.mlp.hook_post" for i in range(4)], where="visual")):
        ...     model.generate(data[0].load_images(), [data[0].prompt], max_new_tokens=9)  # the small cross is pink
        ['a large purple cross and a small red cross']
        """
        guards.check_mode(self.bridge)
        watch = self._watch(fwd_hooks)
        before = self._guard.passes, self._guard.passes_with_images
        with self.bridge.hooks(fwd_hooks=watch.hooks, bwd_hooks=list(bwd_hooks), **kwargs):
            yield self
        if self._guard.passes > before[0]:
            watch.check(self._guard.passes_with_images > before[1])

    def observe(self, batch: Batch, hooks: Mapping[str, Callable[[Tensor], None]], fast: bool | None = False) -> None:
        """Forward pass that stops before the unembedding: no logits. For scans.

        Args:
            batch: from `prepare`.
            hooks: hook name -> function of the activation, which must not change it, and must copy what it keeps.
                Hooks indexed by image are not called on a batch without images.
            fast: by transformers' own pass with fused attention, for `fast_hooks`: 1.4 times as quick, other digits; it
                ends behind the last layer with a hook. None: where it serves all hooks.

        Raises:
            KeyError, HookNeverFires: a hook does not exist; it did not fire.
        """
        served = frozenset() if fast is False else self.fast_hooks  # asked once: it looks at all modules
        slow = sorted(set(hooks) - served)
        if not fast and (slow or not served):
            return bound.observe(self, batch, hooks)
        if slow or self._twin is None:
            raise KeyError(f"fast=True cannot observe {slow}: leave it out; model.fast_hooks has what it can")
        self._twin.observe(bound.checked(self, batch), hooks)

    @property
    def fast_hooks(self) -> frozenset[str]:
        """Hooks that `observe(..., fast=True)` can serve: the sites, the residual stream (`hook_resid_pre`, `mid`,
        `post`), what attention and MLPs add to it, and what MLPs read. Empty for a model that was given as a bridge,
        is quantised or spread over devices, and while hooks are active (the fast way would not see what they do)."""
        if self._twin is None or not self._twin.stands_for(self.bridge):
            return frozenset()
        return frozenset(self._twin.points)

    def generate(
        self,
        images: Sequence[Images] | Images | Batch,
        prompts: Sequence[str] | str | None = None,
        max_new_tokens: int = 64,
        *,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> list[str]:
        """Continuations, one per row, without special tokens and without blanks at the ends. Greedy, unless one of
        `temperature`, `top_p` and `seed` is given; the checkpoint's `generation_config` has no say. Hooks have.

        Args:
            images: entries as for `prepare`, or a batch (padded on the left; responses made with `end=False`).
            prompts: prompts as for `prepare`; none with a batch.
            max_new_tokens: at most so many.
            temperature, top_p, seed: how tokens are drawn: see `generating.Sampling`.

        >>> scene = vn.scenes(1, seed=1, task="question")[0]
        >>> scene.prompt, model.generate(scene.load_images(), scene.prompt)
        ('What size is the red cross?', ['large.'])
        """
        batch = continuable(self, images, prompts)
        new = generate_tokens(self, batch, max_new_tokens, Sampling(temperature, top_p, seed))
        return [text.strip() for text in self.tokenizer.batch_decode(new, skip_special_tokens=True)]

    def generate_tokens(self, batch: Batch, max_new_tokens: int = 64) -> Int[Tensor, "batch new"]:
        """The token ids that `generate` decodes, greedily; rows that ended earlier are padded."""
        return generate_tokens(self, batch, max_new_tokens, Sampling())

    def site_hooks(self, site: str) -> list[str]:
        """Hook names of a site in order of layers, or `[site]` if it is the name of a hook.

        Raises:
            ValueError: there is neither such a site nor such a hook.
        """
        return guards.hooks_of_site(site, self._points())

    def hook_map(self) -> pd.DataFrame:
        """Every hook point that fires on a batch with an image: hook, site, holds, shape, indexed_by (`row` or
        `image`), affects_logits, same_as (the name it is another name of). Measured by running a small batch once;
        `.attrs["never_fire"]` lists the hook points that exist and did not fire.

        >>> hooks = model.hook_map().set_index("hook")
        >>> hooks.indexed_by["blocks.2.mlp.hook_act"], hooks.indexed_by["projector.0.hook_post"]
        ('row', 'image')
        >>> hooks.index[(hooks.site != "") & ~hooks.affects_logits].tolist()  # LLaVA reads the tower before this layer
        ['vision.0.mlp.hook_post']
        """
        from vlm_neurons.models.hook_map import measure

        if self._map is None:
            self._map = measure(self)
        return self._map.copy()

    def fingerprint(self) -> str:
        """SHA-256 (hex) over the config and a sample of the weights; see `vlm_neurons.models.fingerprint`."""
        return fingerprint(self.bridge.original_model, self.config, self.processor)
