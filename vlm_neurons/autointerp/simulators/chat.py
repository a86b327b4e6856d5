"""Simulators that ask a model: behind a server, or in process."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Any

from vlm_neurons._checks import whole
from vlm_neurons.autointerp.client.asking import Ask, Reply
from vlm_neurons.autointerp.client.client import ChatClient, Server
from vlm_neurons.autointerp.client.local import LocalChat, check_chat, open_model
from vlm_neurons.autointerp.client.prices import NOTHING, Plan
from vlm_neurons.autointerp.client.prompting import prompt_id
from vlm_neurons.autointerp.protocols import SIDES, Job, Prediction, Resolution, Side, Simulator
from vlm_neurons.autointerp.simulators.open_jobs import OpenJobs
from vlm_neurons.autointerp.simulators.questions import PACKAGE, VERSION, Purse, Wording
from vlm_neurons.models.fingerprint import fingerprint

PORTION = 256  # jobs whose pictures are in memory at once
Stream = Callable[[Sequence[Ask]], Iterator[Reply]]


@dataclass(frozen=True, kw_only=True)
class Showing(Simulator):
    """How samples are shown to a model that predicts.

    Attributes:
        grid: rows, and columns, of the cells that get a value each; never more than there are patches.
        coarse: the same of a first question; cells above 0 are asked about again in the finer grid, the others keep
            their value. 0, or not less than `grid`, asks in the finer grid at once.
        logprobs: take the mean of every value under the answer's own probabilities: True, False, or None where the
            server gives them.
        detail: of pictures: `"low"`, `"high"` or `"auto"`.
        prompt_logprobs: read the values of all tokens of a response off one answer that is given, not written: the
            model's own probabilities of the digits in it, among so many likeliest tokens of each place (Bills et al.
            2023). A server has to give log probabilities of prompts, as vLLM does (20, unless it is started with
            another `--max-logprobs`). 0 lets the model write the answer.
        attempt: another number asks again where the cache has an answer.
        max_tokens: of every answer. None allows what the answer itself takes; a model that thinks first needs more.
    """

    grid: int = 8
    coarse: int = 4
    logprobs: bool | None = None
    detail: str = "auto"
    prompt_logprobs: int = 0
    attempt: int = 0
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.max_tokens is not None:
            whole(1, max_tokens=self.max_tokens)
        if self.prompt_logprobs < 0:
            raise ValueError(f"prompt_logprobs={self.prompt_logprobs}: a number of tokens, 0 for none")
        if self.grid < 1 or self.coarse < 0:
            raise ValueError(f"grid={self.grid}, coarse={self.coarse}: at least 1, and 0 for no coarse question")

    @property
    def resolution(self) -> Resolution:  # type: ignore[override]
        """Whole numbers, unless probabilities may come; the finer grid."""
        return Resolution(11 if self.logprobs is False and not self.prompt_logprobs else None, (self.grid, self.grid))

    def shown(self) -> list[Any]:
        """What decides the questions."""
        return [prompt_id(PACKAGE, VERSION), self.grid, self.coarse, self.logprobs, self.detail, self.attempt,
                self.prompt_logprobs, self.max_tokens]  # fmt: skip

    def opened(self, jobs: Sequence[Job], start: int = 0) -> OpenJobs:
        """The questions of some jobs."""
        wording = Wording(self.attempt, self.logprobs is not False, self.detail, self.prompt_logprobs, self.max_tokens)
        return OpenJobs(jobs, self.grid, self.coarse if self.coarse < self.grid else 0, wording, start)

    def answers(self, jobs: Sequence[Job], stream: Stream) -> Iterator[tuple[int, Prediction]]:
        """(place in jobs, prediction) of every job, as they come."""
        for start in range(0, len(jobs), PORTION):
            waiting = self.opened(jobs[start : start + PORTION], start)
            for asks in (waiting.first, waiting.second):
                yield from waiting.ready()
                for reply in stream(asks()):
                    waiting.take(reply)
                    yield from waiting.ready()


@dataclass(frozen=True)
class ApiSimulator(Showing, Server):
    """Asks a model behind OpenAI, or behind any server that speaks chat completions: a value from 0 to 10 for every
    cell of a numbered grid over the picture, and for every token of the response.

    See `Server` for where it is and what it may cost, `Showing` for how samples are shown. Answers that lack a cell,
    or have other tokens than the question, are failures. Equal questions are asked once.

    The prompt that a server makes of the messages is its own: it may lack the BOS token that `LocalSimulator`, and the
    model in training, begin with. vLLM adds none where the chat template has none; there,
    `extra_body={"add_special_tokens": True}` switches it on (with a template that has one it would be the second).

    >>> ApiSimulator("gpt-4o", max_cost=2.0, grid=4).resolution
    Resolution(levels=None, grid=(4, 4))
    """

    purse: Purse | None = field(default=None, repr=False, compare=False)  # of runs that share `max_cost`

    paid = True

    def __post_init__(self) -> None:
        Showing.__post_init__(self)
        Server.__post_init__(self)

    @property
    def name(self) -> str:  # type: ignore[override]
        """`"api:MODEL"`."""
        return f"api:{self.model}"

    @property
    def sides(self) -> frozenset[Side]:  # type: ignore[override]
        """Both; text alone where the model is declared to take no pictures."""
        return frozenset({"text"}) if self.images is False else frozenset(SIDES)

    def client(self) -> ChatClient:
        """The client that it asks through."""
        return replace(super().client(), logprobs=self.logprobs)

    def settings(self) -> str:
        """All that decides its answers, as one string."""
        return json.dumps([self.name, self.client().base_url, *self.shown(), self.extra_body])

    def plan(self, jobs: Sequence[Job]) -> Plan:
        """What `run` would send and cost at most; sends nothing. Where the first answer about a picture is not in the
        cache, all its cells are taken to be asked about again."""
        from tqdm import tqdm

        client, total = self.client(), NOTHING
        for start in tqdm(range(0, len(jobs), PORTION), "counting calls", delay=2, leave=False):
            waiting = self.opened(jobs[start : start + PORTION])
            first = waiting.first()
            for ask, reply in zip(first, client.known(first), strict=True):
                waiting.suppose(ask) if reply is None else waiting.take(reply)
            total += client.plan([*first, *waiting.second()])
        return total

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Prediction]]:
        """(place in jobs, prediction) of every job, failures included, as they come.

        Leaving the loop, or Ctrl-C, cancels what is under way; what has come is in the cache.
        """
        purse = self.purse or Purse()
        with kept_in(self.cache) as cache:
            client = replace(self.client(), cache=cache)
            yield from self.answers(jobs, lambda asks: purse.stream(client, asks))

    def with_cache(self, file: Path) -> ApiSimulator:
        """The same with a file of replies, if it has none."""
        return self if self.cache is not None else replace(self, cache=file)

    def on_one_purse(self) -> ApiSimulator:
        """The same, all of whose runs together keep to `max_cost`."""
        return replace(self, purse=Purse())


@dataclass(frozen=True, eq=False)
class LocalSimulator(Showing):
    """Asks an image-text-to-text model of transformers in process, with the same questions.

    Attributes:
        model: any `AutoModelForImageTextToText`.
        processor: its processor, with a chat template.

    >>> simulator = vn.simulators.LocalSimulator.from_pretrained("tiny-llava-scenes", grid=4)
    >>> simulator.resolution, sorted(simulator.sides)
    (Resolution(levels=None, grid=(4, 4)), ['picture', 'text'])
    """

    model: Any = field(repr=False)
    processor: Any = field(repr=False)
    _: KW_ONLY
    name: str = "local"

    paid = True  # in time

    def __post_init__(self) -> None:
        super().__post_init__()
        check_chat(self.model, self.processor)

    @classmethod
    def from_pretrained(cls, name_or_dir: str | Path, *, device: Any = None, **options: Any) -> LocalSimulator:
        """By name on the hub or of an embedded model, or from a directory.

        Args:
            name_or_dir: an image-text-to-text checkpoint.
            device: where it computes.
            options: those of `Showing`.

        Raises:
            OSError: it is not there.
        """
        return cls(*open_model("AutoModelForImageTextToText", name_or_dir, device), **options)

    def settings(self) -> str:
        """All that decides its answers, as one string."""
        return json.dumps([self.name, fingerprint(self.model, self.model.config, self.processor), *self.shown()])

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Prediction]]:
        """(place in jobs, prediction) of every job, failures included, as they come."""
        yield from self.answers(jobs, LocalChat(self.model, self.processor).stream)


@contextmanager
def kept_in(cache: str | Path | None) -> Iterator[str | Path]:
    """The cache; without one, a file for this run alone, so that what was answered or found out once is known in all
    steps of it."""
    if cache is not None:
        yield cache
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "cache.sqlite"
