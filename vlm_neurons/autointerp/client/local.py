"""Models of transformers in this process: opened by name, and asked the same questions as a server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

from vlm_neurons._checks import of_kind, short
from vlm_neurons.autointerp.client.asking import TOP, Ask, Reply, body_of, folded, read
from vlm_neurons.autointerp.client.prices import images_of, parts_of
from vlm_neurons.autointerp.client.prompting import picture
from vlm_neurons.autointerp.client.replies import reduced
from vlm_neurons.models.generating import end_ids, neutral
from vlm_neurons.models.guards import TRAINING
from vlm_neurons.models.held import tokenizer_of
from vlm_neurons.models.template import chat_text, needs_bos, template_of
from vlm_neurons.zoo import find


@dataclass(frozen=True, eq=False)
class LocalChat:
    """An image-text-to-text model of transformers. Greedy; the schema is asked for in words and checked.

    Attributes:
        model: any `AutoModelForImageTextToText`.
        processor: its processor, with a chat template.
    """

    model: Any = field(repr=False)
    processor: Any = field(repr=False)

    def __post_init__(self) -> None:
        check_chat(self.model, self.processor)

    @property
    def name(self) -> str:
        """What the model was loaded from; empty if it was built in memory."""
        return str(getattr(self.model.config, "_name_or_path", ""))

    def stream(self, asks: Sequence[Ask]) -> Iterator[Reply]:
        """A reply to every question, in order; failures are replies too."""
        for ask in asks:
            yield self.answer(ask)

    def answer(self, ask: Ask) -> Reply:
        """One reply. A prompt that the model cannot take is a failure of the kind `"request"`.

        Raises:
            ValueError: the model is in training mode.
        """
        if self.model.training:
            raise ValueError(f"the model that is asked is {TRAINING}")
        try:
            return self._answer(ask)
        except Exception as error:  # whatever a template, a processor or the model raises is about this prompt
            return Reply(ask, failure=("request", f"{type(error).__name__}: {error}"[:300]), model=self.name)

    def _answer(self, ask: Ask) -> Reply:
        request = body_of(ask, "", {"schema": False}, {})["messages"]
        inputs = self._inputs(request, bool(ask.prefill))
        n_in = int(inputs["input_ids"].shape[1])
        config = getattr(self.model.config, "text_config", self.model.config)
        limit = getattr(config, "max_position_embeddings", None)
        if limit is not None and n_in + ask.max_tokens > limit:
            detail = f"the prompt has {n_in} tokens and the answer up to {ask.max_tokens}, the model takes {limit}"
            return Reply(ask, failure=("request", detail), model=self.name)
        completion, n_out = self._prefilled(ask, inputs) if ask.prefill else self._completion(ask, inputs, n_in)
        answer, failure = read(ask, completion)
        return Reply(ask, answer, failure, self.name, n_in, n_out, completion=completion)

    def _inputs(self, request: list[dict[str, Any]], prefilled: bool) -> Any:
        """What the model is given: the turns by the processor's template, a system turn that it does not know at the
        beginning of the user's.

        Raises:
            ValueError: there is no template.
            Exception: whatever a template or a processor raises.
        """
        if not template_of(self.processor):
            raise ValueError("the processor has no chat template; set processor.chat_template to the model's")
        how: dict[str, Any] = {"add_generation_prompt": not prefilled, "continue_final_message": prefilled}
        turns = self._plain(request)
        told = [p["text"] for turn in turns if turn["role"] == "system" for p in turn["content"]]
        text = None
        with suppress(Exception):  # "System role not supported"
            text = chat_text(self.processor, turns, **how)
        if text is None or not all(one.strip() in text for one in told):
            text = chat_text(self.processor, folded(turns), **how)
        pictures = [picture(url) for url in images_of(request)]
        special = needs_bos(self.processor.tokenizer, text)
        made = self.processor(text=text, images=pictures or None, return_tensors="pt", add_special_tokens=special)
        # an adapter's embedding has a weight too, and no `num_embeddings`
        largest, n_ids = int(made["input_ids"].max()), len(self.model.get_input_embeddings().weight)
        if largest >= n_ids and largest != getattr(self.model.config, "image_token_id", None):
            raise ValueError(
                f"the processor gives the token id {largest}, the model's embedding has {n_ids} rows: take the "
                "processor of this checkpoint, or model.resize_token_embeddings(len(processor.tokenizer))"
            )
        return made.to(self.model.device)

    def _completion(self, ask: Ask, inputs: Any, n_in: int) -> tuple[dict[str, Any], int]:
        """What a server would answer, and its number of tokens."""
        with torch.no_grad(), neutral(self.model):
            made = self.model.generate(
                **inputs, max_new_tokens=ask.max_tokens, do_sample=False, output_logits=ask.logprobs,
                return_dict_in_generate=True,
            )  # fmt: skip
        out, decode = made.sequences[0, n_in:], self.processor.tokenizer.decode
        said = decode(out, skip_special_tokens=True)
        choice: dict[str, Any] = {"message": {"content": said}, "finish_reason": "stop"}
        if len(out) >= ask.max_tokens and int(out[-1]) not in end_ids(self.model):
            choice["finish_reason"] = "length"
        if ask.logprobs:
            content = []
            for token, scores in zip(out, made.logits, strict=True):
                best = torch.log_softmax(scores[0].float(), -1).topk(min(TOP, scores.shape[-1]))
                top = [{"token": decode([i]), "logprob": float(v)} for v, i in zip(*best, strict=True)]
                content.append({"token": decode([token]), "top_logprobs": top})
            choice["logprobs"] = {"content": content}
        return {"choices": [choice]}, len(out)

    def _prefilled(self, ask: Ask, inputs: Any) -> tuple[dict[str, Any], int]:
        """What vLLM would say of an answer that is there already: one forward pass, nothing is generated."""
        with torch.no_grad():
            logits = self.model(**inputs).logits[0]
        ids = inputs["input_ids"][0].tolist()
        text_of = cache(lambda i: self.processor.tokenizer.decode([i]))  # the same tokens come up at every place
        places: list[Any] = [None]  # nothing stands before the first token
        for here, scores in zip(ids[1:], logits[:-1], strict=True):
            chances = torch.log_softmax(scores.float(), -1)
            shown = [*dict.fromkeys([here, *chances.topk(min(ask.top, len(chances))).indices.tolist()])]
            found = zip(shown, chances[shown].tolist(), strict=True)
            places.append({i: {"decoded_token": text_of(i), "logprob": chance} for i, chance in found})
        return reduced({"choices": [{}], "prompt_logprobs": places}, ask.prefill), 0

    def _plain(self, request: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Messages as chat templates take them; names of special tokens in texts are broken up."""
        named = {*self.processor.tokenizer.all_special_tokens, "<image>", getattr(self.processor, "image_token", "")}
        named |= {t.content for t in self.processor.tokenizer.added_tokens_decoder.values() if t.special}
        tokens = sorted(named - {""}, key=len, reverse=True)

        def clean(text: str) -> str:
            for token in tokens:
                text = text.replace(token, token[:1] + " " + token[1:])
            return text

        return [
            {"role": m["role"], "content": [
                {"type": "text", "text": clean(p["text"])} if p["type"] == "text" else {"type": "image"}
                for p in parts_of([m])
            ]}
            for m in request
        ]  # fmt: skip


def check_chat(model: Any, processor: Any) -> None:
    """Refuse what can be no model of transformers with its processor.

    Raises:
        TypeError: one of them is something else.
    """
    if isinstance(getattr(model, "bridge", None), torch.nn.Module):
        raise TypeError(f"model={short(model)}: give the model of transformers inside it, .bridge.original_model")
    remedy = "give a model of transformers, such as AutoModelForImageTextToText.from_pretrained(name)"
    of_kind("model", model, torch.nn.Module, remedy)
    if not (hasattr(model, "generate") and hasattr(model, "config")):
        inside = ", .module" if hasattr(model, "module") else ""
        raise TypeError(f"model={short(model)}: {remedy}{inside and f', or the one inside this: {inside[2:]}'}")
    tokenizer_of(processor)


def open_model(kind: str, name_or_dir: str | Path, device: Any = None, dtype: Any = None) -> tuple[Any, Any]:
    """A model and its processor. Images go by PIL where the processor has that way, so that torchvision is not needed.

    Args:
        kind: class of transformers that loads it, such as `"AutoModel"`.
        name_or_dir: name on the hub or of an embedded model, or a directory.
        device: where it computes.
        dtype: of its weights; float32 if not given.

    Raises:
        OSError: it is not there, or not complete.
        ValueError: it is of another kind, or its processor needs torchvision.
    """
    import transformers

    where, exact = find(name_or_dir)
    try:
        # None for the code of a checkpoint would ask on the terminal
        options = {"dtype": dtype or torch.float32, "trust_remote_code": False, **exact}
        model = getattr(transformers, kind).from_pretrained(where, **options).eval()
        processor = transformers.AutoProcessor.from_pretrained(where, backend="pil", trust_remote_code=False, **exact)
    except ImportError as error:
        raise ValueError(
            f"{name_or_dir}: its processor needs a package that is missing ({_line(error)}); pip install "
            "'vlm-neurons[grounded]', or take a checkpoint whose processor works with PIL"
        ) from error
    except OSError as error:
        raise OSError(
            f"{name_or_dir}: no directory here, or not complete, and not to be had ({_line(error)})"
        ) from error
    return model if device is None else model.to(device), processor


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
