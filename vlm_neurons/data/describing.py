"""Responses that the model writes itself (Xu, Lan, Lu 2025, section 3.1: greedy, one prompt for all images)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from vlm_neurons._files import append_lines
from vlm_neurons._text import to_json
from vlm_neurons.data.sample import Sample
from vlm_neurons.data.samples import ImageTextData
from vlm_neurons.data.sources import read_records

if TYPE_CHECKING:
    from vlm_neurons.models import HookedVLM

DEFAULT_PROMPT = "Could you describe the image?"


def describe(
    model: HookedVLM,
    data: ImageTextData,
    out: str | Path,
    prompt: str = DEFAULT_PROMPT,
    batch_size: int = 8,
    max_new_tokens: int = 256,
    progress: bool = True,
) -> ImageTextData:
    """Let the model write the responses that are missing, greedily, and store all of them.

    `out` is a JSONL with one line for every sample, in order, that `ImageTextData.from_jsonl` reads again where the
    images are files. It grows batch by batch; a call that finds it continues after its last whole line. A sample that
    the model cannot be asked about (a broken image, a prompt with special tokens) gets `"response": null` and the
    reason under `"error"`.

    Args:
        model: what writes.
        data: samples; those with a response keep it.
        out: the JSONL to write or to continue.
        prompt: question for the samples that have none of their own.
        batch_size: samples per call of `generate`.
        max_new_tokens: upper limit of a response.
        progress: show a bar on stderr.

    Returns:
        The same samples with their responses (None where the model could not be asked).

    Raises:
        ValueError: `out` exists and belongs to other samples or to another model; or every sample has a prompt of its
            own, and `prompt` is another.

    >>> unsaid = vn.scenes(1, seed=0, responses=False)
    >>> said = vn.describe(model, unsaid, "captions.jsonl", progress=False)
    >>> unsaid[0].response, said[0].response.split(".")[0]
    (None, 'a large purple cross and a small pink cross')
    """
    from vlm_neurons.models import is_dated, on_day
    from vlm_neurons.models.fused import hooked

    out = Path(out)
    if prompt != DEFAULT_PROMPT and all(one.prompt is not None for one in data.__dict__.get("facts") or data):
        raise ValueError(
            f"prompt={prompt!r}: every sample has a question of its own, so none is asked this one: leave prompt out, "
            'or take the prompts out of the data ("prompt": null)'
        )
    writer: dict[str, Any] = {"model": f"{model.name} {model.fingerprint()[:16]}", "max_new_tokens": max_new_tokens}
    if is_dated(model.processor):
        writer["day"] = _day_of(out) or model.day
    if told := hooked(model.bridge):
        writer["hooked"] = told
    done = _finished_lines(out, data, prompt, writer)
    bar = tqdm(total=len(data), initial=len(done), unit="sample", desc="describe", disable=not progress)
    with bar, on_day(model, writer.get("day", model.day)):
        for start in range(len(done), len(data), batch_size):
            chunk = [data[i] for i in range(start, min(start + batch_size, len(data)))]
            records = _describe_chunk(model, chunk, prompt, writer)
            _append(out, [_line(s, prompt, r, out.parent) for s, r in zip(chunk, records, strict=True)])
            done += [record["response"] for record in records]
            bar.update(len(chunk))
    return data.with_responses(done)


def _describe_chunk(
    model: HookedVLM, chunk: Sequence[Sample], prompt: str, writer: dict[str, Any]
) -> list[dict[str, Any]]:
    """What each line says beyond the sample itself: a response that was given, generated, or the error."""
    from vlm_neurons.models import RowError

    records: list[dict[str, Any]] = [{"response": sample.response} for sample in chunk]
    images, places = [], []
    for place, sample in enumerate(chunk):
        if sample.response is not None:
            continue
        try:
            images.append(sample.load_images())
            places.append(place)
        except OSError as error:
            records[place]["error"] = str(error)
    while places:
        prompts = [chunk[place].question(prompt) for place in places]
        try:
            texts = model.generate(images, prompts, max_new_tokens=writer["max_new_tokens"])
        except RowError as error:
            records[places.pop(error.row)]["error"] = error.reason
            images.pop(error.row)
            continue
        for place, text in zip(places, texts, strict=True):
            records[place] = {"response": text.strip(), "generated_by": writer}
        break
    return records


def _line(sample: Sample, prompt: str, record: dict[str, Any], base: Path) -> dict[str, Any]:
    """One line of the JSONL; without `image` if it lives in memory, so that nobody reads it as text-only."""
    line: dict[str, Any] = {"name": sample.name}
    paths = [_relative(path, base) for path in sample.image_paths if path is not None]
    if len(paths) == len(sample.images):
        line["image"] = None if not paths else paths[0] if len(paths) == 1 else paths
    return {**line, "prompt": sample.question(prompt), **record}


def _day_of(out: Path) -> str | None:
    """The day that the chat template was told when the file was begun."""
    whole = out.read_bytes() if out.is_file() else b""
    records = (record for _, record in read_records(out, whole[: whole.rfind(b"\n") + 1]))
    return next((r["generated_by"].get("day") for r in records if isinstance(r.get("generated_by"), dict)), None)


def _relative(path: str, base: Path) -> str:
    try:
        return str(Path(path).relative_to(base.absolute()))
    except ValueError:
        return path


def _append(out: Path, lines: list[dict[str, Any]]) -> None:
    """All lines in one write, on disk before the next batch starts."""
    append_lines(out, "".join(to_json(line) + "\n" for line in lines), sync=True)


def _finished_lines(out: Path, data: ImageTextData, prompt: str, writer: dict[str, Any]) -> list[str | None]:
    """Responses that `out` holds already; a line that was torn by a kill is cut off."""
    if not out.is_file():
        return []
    whole = out.read_bytes()
    kept = whole[: whole.rfind(b"\n") + 1]
    done: list[str | None] = []
    for number, record in read_records(out, kept):
        if len(done) == len(data):
            raise ValueError(f"{out}, line {number}: the data has only {len(data)} samples; choose another file")
        sample = data[len(done)]
        mine = {"name": sample.name, "prompt": sample.question(prompt)}
        if "generated_by" in record:
            mine["generated_by"] = writer
        elif "error" not in record:
            mine["response"] = sample.response
        for field, value in mine.items():
            if record.get(field) != value:
                raise ValueError(
                    f"{out}, line {number}: {field} is {record.get(field)!r}, here it is {value!r}; "
                    "the file was made from other data or by another model: choose another file, or delete this one"
                )
        done.append(record.get("response"))
    if kept != whole:  # only now that the file is known to be ours
        with out.open("r+b") as file:
            file.truncate(len(kept))
    return done
