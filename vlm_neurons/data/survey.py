"""One look at every sample: what a scan has to know of all of them before it begins."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from tqdm import tqdm

from vlm_neurons._images import digest
from vlm_neurons.data.sample import ImageLike, Sample

THREADS = 4  # PIL and hashlib release the interpreter lock
AHEAD = 16  # samples whose pictures may wait, decoded or not
UNREADABLE = "unreadable:"


@dataclass(frozen=True)
class Facts:
    """A sample without its pictures.

    Attributes:
        name: what it is called.
        paths: path of every picture; None for one that is no file of its own.
        prompt: its own question, or None.
        response: its text, or None.
        digests: SHA-256 of every picture as a model is shown it; "unreadable:..." for one that cannot be read.
    """

    name: str
    paths: tuple[str | None, ...]
    prompt: str | None
    response: str | None
    digests: tuple[str, ...]

    @property
    def readable(self) -> bool:
        """Whether all pictures can be read."""
        return not any(one.startswith(UNREADABLE) for one in self.digests)

    def question(self, prompt: str) -> str:
        """See `Sample.question`."""
        return prompt if self.prompt is None else self.prompt


def survey(samples: Sequence[Sample]) -> list[Facts]:
    """The facts of all samples, in order; asks for every sample once, one by one, and decodes every picture."""
    facts: list[Facts] = []
    waiting: deque[tuple[Sample, Future[tuple[str, ...]]]] = deque()

    def take() -> None:
        sample, digests = waiting.popleft()
        paths = tuple(sample.image_paths)
        facts.append(Facts(sample.name, paths, sample.prompt, sample.response, digests.result()))

    n = len(samples)
    with (
        ThreadPoolExecutor(THREADS, thread_name_prefix="survey") as pool,
        tqdm(total=n, unit="sample", desc="look at pictures", delay=3, leave=False, disable=None) as bar,
    ):
        for i in range(n):
            sample = samples[i]
            waiting.append((sample, pool.submit(_digests, sample.images)))
            if len(waiting) > AHEAD:
                take()
            bar.update()
        while waiting:
            take()
    return facts


def _digests(images: tuple[ImageLike, ...]) -> tuple[str, ...]:
    def one(image: ImageLike) -> str:
        try:
            return digest(image)
        except OSError as error:  # the scan records it as a broken image
            return f"{UNREADABLE}{type(error.__cause__ or error).__name__}"

    return tuple(map(one, images))


class Answered(Sequence[Sample]):
    """Samples with other responses, made when they are asked for."""

    def __init__(self, samples: Sequence[Sample], responses: Sequence[str | None]) -> None:
        self.samples, self.responses = samples, responses

    def __len__(self) -> int:
        return len(self.responses)

    def __getitem__(self, index: Any) -> Any:
        return replace(self.samples[index], response=self.responses[index])

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))
