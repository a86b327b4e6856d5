"""Give every reader of data odd inputs: each has to be used rightly, or refused by name; nothing may be lost.

    python examples/fuzz_readers.py --n 2000 --seed 0

Pictures, folders with captions, JSONL, LLaVA's conversations, COCO's captions, tar shards, DataFrames, dicts in
memory, datasets of Hugging Face, captions as a model is given them, and replies of servers. The same seed makes the
same inputs. An input is at fault that raises anything but ValueError or OSError, whose error does not say where, that
takes more than ten seconds, or of which a part is neither in the samples nor in what was said. At the end the memory
that was taken has to be below 2 GiB more than at the beginning.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import resource
import signal
import struct
import sys
import tarfile
import tempfile
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pandas as pd
from PIL import Image
from pydantic import BaseModel

import vlm_neurons as vn
from vlm_neurons._images import digest, read_image
from vlm_neurons.autointerp.client.answers import words_of
from vlm_neurons.autointerp.client.asking import Ask, read
from vlm_neurons.autointerp.client.replies import logprobs_of
from vlm_neurons.autointerp.client.sending import Fault as Refusal
from vlm_neurons.autointerp.client.sending import completion_of, refused
from vlm_neurons.models import RowError

SECONDS, GIB = 10, 2**30
WORDS = [
    "a dog", "", " ", "x" * 5000, "é\u0301 café", "\u202eright to left", "\x00", "a\nb\r\nc", "{{ 7 * 7 }}", "<image>", "</s>",
    "<|im_start|>", "half \ud83d", "👩‍👩‍👧", "\u2028", "'\"\\", "%s %d {}", "</think> yes", "١٢٣", "null", "NaN",
]  # fmt: skip
NAMES = [
    "a.png",
    "b.jpg",
    "é.png",
    "e\u0301.png",
    "../a.png",
    "A.PNG",
    "",
    "a b.png",
    "/no/such.png",
    "x.heic",
    "\ud800.png",
]
ODD = [None, 3, -1.5, True, [], {}, [None], {"a": 1}, float("nan"), 10**40, "text", ["a.png", "a.png"]]
FIELDS = [
    "image",
    "response",
    "prompt",
    "caption",
    "text",
    "Response",
    "conversations",
    "name",
    "id",
    "question",
    "images",
]


class Fault(Exception):
    """What a reader must not do."""


def picture(rng: random.Random) -> bytes:
    """A picture of some mode, size and format; perhaps torn, changed, or a bomb."""
    kind = rng.randrange(12)
    if kind == 0:
        return rng.randbytes(rng.randrange(2000))
    if kind == 1:  # says that it is very large
        side = rng.choice([0, 1, 2**31 - 1, 60_000])
        head = struct.pack(">IIBBBBB", side, side, rng.choice([1, 8, 16]), rng.choice([0, 2, 3, 6]), 0, 0, 0)
        chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * rng.randrange(10_000))), (b"IEND", b"")]
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks
        )
    size = (rng.choice([1, 2, 17, 300]), rng.choice([1, 3, 64]))
    mode = rng.choice(["RGB", "L", "P", "RGBA", "LA", "1", "CMYK", "I;16", "I", "F"])
    dtype = {"I;16": np.uint16, "I": np.int32, "F": np.float32}.get(mode)
    noise = np.frombuffer(rng.randbytes(size[0] * size[1] * 8), np.uint16).astype(np.int64) >> rng.choice([0, 4, 6])
    if dtype is not None:
        image = Image.fromarray(noise[: size[0] * size[1]].reshape(size[::-1]).astype(dtype))
    else:
        image = Image.fromarray(noise[: size[0] * size[1] * 3].reshape(*size[::-1], 3).astype(np.uint8)).convert(mode)
    exif = image.getexif()
    if rng.random() < 0.5:
        exif[0x0112] = rng.choice([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 99])
    out = io.BytesIO()
    for form in rng.sample(["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"], 6):
        try:
            image.save(out, form, exif=exif)
            break
        except (OSError, KeyError, ValueError, TypeError):  # not in this form
            out = io.BytesIO()
    whole = bytearray(out.getvalue() or rng.randbytes(9))
    if kind == 2:
        return bytes(whole[: rng.randrange(len(whole) + 1)])
    if kind in (3, 4):
        for _ in range(rng.choice([1, 3, 30])):
            whole[rng.randrange(len(whole))] = rng.randrange(256)
    return bytes(whole)


def see_picture(rng: random.Random, folder: Path) -> str:
    """A picture by path, bytes, and opened: the same each time, upright and in RGB."""
    content, path = picture(rng), folder / rng.choice(["a.png", "é.jpg"])
    path.write_bytes(content)
    found = set()
    for way in (path, content, "opened"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                source: Any = Image.open(io.BytesIO(content)) if way == "opened" else way
            image = read_image(source, "the picture")
            if image.mode != "RGB" or digest(image) != digest(source):
                raise Fault(f"{image.mode}, or read another time it is another")
            found.add(digest(source))
        except OSError as error:
            if way != "opened" and "the picture" not in str(error):
                raise Fault(f"an error without its name: {error}") from error
            found.add("refused")
        except (ValueError, SyntaxError, Image.DecompressionBombError):
            if way != "opened":  # PIL's own, where the fuzz opens it
                raise
            found.add("refused")
    if len(found) != 1:
        raise Fault(f"the ways differ: {found}")
    return "named" if found == {"refused"} else "used"


def record(rng: random.Random) -> dict[str, Any]:
    """A record of our own form, more or less."""
    made: dict[str, Any] = {"image": rng.choice([rng.choice(NAMES), "a.png", None])}
    if rng.random() < 0.8:
        made["response"] = rng.choice(WORDS)
    if rng.random() < 0.3:
        made[rng.choice(FIELDS)] = rng.choice([*WORDS, *ODD])
    if rng.random() < 0.05:
        made.pop("image", None)
    return made


def spoil(rng: random.Random, text: str) -> bytes:
    """Text as bytes; perhaps torn, with other bytes, or in another encoding."""
    content = text.encode("utf-8", "surrogatepass")
    kind = rng.randrange(10)
    if kind == 0:
        return content[: rng.randrange(len(content) + 1)]
    if kind == 1 and content:
        return content[: len(content) // 2] + rng.randbytes(3) + content[len(content) // 2 :]
    if kind == 2:
        return text.encode("utf-16", "surrogatepass")
    return rng.choice([b"", b"\xef\xbb\xbf"]) + content if kind == 3 else content


def answers(data: vn.ImageTextData) -> Counter[str | None]:
    """The responses of all samples, each asked for once more than need be: pictures and digests too."""
    assert len(data.fingerprint()) == 64
    return Counter(sample.response for sample in data)


def see_jsonl(rng: random.Random, folder: Path) -> str:
    """A JSONL: every line is a sample."""
    records = [record(rng) for _ in range(rng.randrange(4))]
    lines = [json.dumps(one, ensure_ascii=rng.random() < 0.5) for one in records]
    (folder / "d.jsonl").write_bytes(spoil(rng, rng.choice(["\n", "\r\n", "\n\n"]).join(lines)))
    data = vn.ImageTextData.from_jsonl(folder / "d.jsonl")
    n = sum(1 for line in (folder / "d.jsonl").read_bytes().split(b"\n") if line.strip().strip(b"\xef\xbb\xbf"))
    if len(data) != n or sum(answers(data).values()) != n:
        raise Fault(f"{len(data)} samples of {n} lines")
    return "used"


def see_folder(rng: random.Random, folder: Path) -> str:
    """Pictures with captions: every picture and every caption is in a sample."""
    (folder / "in").mkdir()
    names = [name for name in rng.sample(NAMES, 4) if name and "/" not in name and "\ud800" not in name]
    for name in names:
        (folder / "in" / name).write_bytes(picture(rng))
    said = [{**record(rng), "image": rng.choice([*(names or ["a.png"]), *NAMES])} for _ in range(rng.randrange(4))]
    if said:
        (folder / "in" / "captions.jsonl").write_bytes(spoil(rng, "\n".join(map(json.dumps, said))))
    data = vn.ImageTextData.from_folder(folder / "in")
    read = [name for name in names if not name.endswith(".heic")]
    shown = {Path(str(image)).name for sample in data for image in sample.images}  # a record may name its sample itself
    if not shown >= {*read}:
        raise Fault(f"{names} gave {shown}")
    answers(data)
    return "used"


def see_llava(rng: random.Random, folder: Path) -> str:
    """Conversations: every answer to a question is a sample."""
    records: list[Any] = []
    for _ in range(rng.randrange(4)):
        turns: list[Any] = [
            {"from": rng.choice(["human", "gpt"] * 9 + ["system", "cat"]), "value": rng.choice(WORDS)}
            for _ in range(rng.randrange(5))
        ]
        if rng.random() < 0.1:
            turns.append(rng.choice(ODD))
        records.append({"id": "1", "image": rng.choice(["a.png", None] * 20 + [*NAMES, *ODD]), "conversations": turns})
    whole = rng.choice([records] * 60 + [*ODD])
    (folder / "d.json").write_bytes(spoil(rng, json.dumps(whole)))
    data = vn.ImageTextData.from_llava(folder / "d.json")
    wanted: Counter[str | None] = Counter()
    for one in json.loads((folder / "d.json").read_bytes()):
        asked = False
        for turn in one["conversations"]:
            if turn["from"] == "gpt" and asked:
                wanted[turn["value"]] += 1
            asked = turn["from"] == "human" or (asked and turn["from"] == "system")
    if wanted - answers(data):
        raise Fault(f"lost: {wanted - answers(data)}")
    return "used"


def see_coco(rng: random.Random, folder: Path) -> str:
    """Captions: each is in a sample, or counted."""
    images = [
        {"id": rng.choice([i, i, i, 0, "x", None]), "file_name": rng.choice(NAMES)} for i in range(rng.randrange(4))
    ]
    said = [
        {"image_id": rng.choice([0, 1, 2, "x", 99, None]), "caption": rng.choice([*WORDS, *ODD] if rng.random() < 0.1 else WORDS)}
        for _ in range(rng.randrange(5))
    ]  # fmt: skip
    (folder / "d.json").write_bytes(spoil(rng, json.dumps({"images": images, "annotations": said})))
    data = vn.ImageTextData.from_coco(folder / "d.json")
    assert data.found is not None
    stray = next((int(note.split()[0]) for note in data.found.notes), 0)
    if sum(n for text, n in answers(data).items() if text is not None) + stray != len(said):
        raise Fault(f"{len(said)} captions gave {answers(data)}, and {stray} were counted")
    return "used"


def see_shards(rng: random.Random, folder: Path) -> str:
    """A tar: every picture and every text is in a sample."""
    members: list[tuple[str, bytes]] = []
    for key in range(rng.randrange(4)):
        for suffix in rng.sample(["png", "jpg", "txt", "json", "cls", "0.png"], rng.randrange(1, 4)):
            text = json.dumps({"response": rng.choice(WORDS)} if rng.random() < 0.8 else rng.choice(ODD))
            content = picture(rng) if suffix.endswith(("png", "jpg")) else spoil(rng, text)
            members.append((f"{rng.choice(['', 'x/', 'é.d/'])}{key}.{suffix}", content))
    if rng.random() < 0.3:  # as a folder lists them
        rng.shuffle(members)
    with tarfile.open(folder / "s.tar", "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    whole = (folder / "s.tar").read_bytes()
    if rng.random() < 0.2:
        (folder / "s.tar").write_bytes(whole[: rng.randrange(len(whole))])
    data = vn.ImageTextData.from_webdataset(folder / "s.tar")
    pictures = sum(name.endswith(("png", "jpg")) for name, _ in members)
    if whole == (folder / "s.tar").read_bytes() and sum(len(sample.images) for sample in data) != pictures:
        raise Fault(f"{pictures} pictures, {[len(sample.images) for sample in data]} in samples")
    answers(data)
    return "used"


def see_frame(rng: random.Random, folder: Path) -> str:
    """A DataFrame: every row is a sample."""
    n = rng.randrange(4)
    columns = {name: [rng.choice([*WORDS, *ODD, pd.NA]) for _ in range(n)] for name in rng.sample(FIELDS, 3)}
    columns["image"] = [
        rng.choice([*NAMES, None, picture(rng), {"bytes": picture(rng), "path": None}]) for _ in range(n)
    ]
    if rng.random() < 0.8:
        columns["response"] = [rng.choice(WORDS) for _ in range(n)]
        columns.pop("prompt", None)
    data = vn.ImageTextData.from_frame(pd.DataFrame(columns))
    if len(data) != n or sum(answers(data).values()) != n:
        raise Fault(f"{len(data)} samples of {n} rows")
    return "used"


def see_samples(rng: random.Random, folder: Path) -> str:
    """Dicts in memory: each is a sample."""
    records = [record(rng) for _ in range(rng.randrange(4))]
    for one in records:
        if rng.random() < 0.5:
            one["image"] = rng.choice([picture(rng), Image.new(rng.choice(["RGB", "LA", "1"]), (9, 5)), [], [None], 3])
    if rng.random() < 0.1:
        records.append(rng.choice([*ODD, "a.png"]))
    data = vn.ImageTextData.from_samples(records)
    if answers(data) != Counter(one.get("response") for one in records):
        raise Fault(f"{answers(data)} of {records}")
    return "used"


def see_dataset(rng: random.Random, folder: Path) -> str:
    """A dataset of Hugging Face, with a length or streaming: every row is a sample, and both give the same."""
    n, said = rng.randrange(1, 4), rng.choice(FIELDS)
    shown = [rng.choice([None, {"bytes": picture(rng), "path": rng.choice(NAMES[:4])}]) for _ in range(n)]
    texts = [rng.choice([*WORDS, None]) if rng.random() < 0.9 else rng.choice([3, ["a", "b"]]) for _ in range(n)]
    try:
        made = datasets.Dataset.from_dict({"image": shown, said: texts}).cast_column("image", datasets.Image())
    except Exception:  # not a table that anybody could have
        return "named"
    found = []
    for one in (made, made.to_iterable_dataset()):
        try:
            data = vn.ImageTextData.from_dataset(one, response_column=said)
            found.append((len(data), answers(data), data.fingerprint()))
        except (ValueError, OSError) as error:
            found.append(str(error))
    if found[0] != found[1]:
        raise Fault(f"with a length {found[0]!s:.120}, streaming {found[1]!s:.120}")
    if isinstance(found[0], str):
        raise ValueError(found[0])
    if found[0][:2] != (n, Counter(texts)):
        raise Fault(f"{found[0]!s:.200} of {texts!s:.100}")
    return "used"


def see_caption(rng: random.Random, folder: Path) -> str:
    """Texts as the embedded model is given them: a response is TEXT, every character of it, or its row is refused."""
    texts = ["".join(rng.choices(WORDS, k=rng.randrange(1, 4)))[:3000] for _ in range(2)]
    try:
        batch = MODEL.prepare([None, None], [rng.choice(["What?", *WORDS])] * 2, texts)
    except RowError as error:
        return "named" if 0 <= error.row < 2 else "?"
    for row, text in enumerate(texts):
        shown = batch.texts[row]
        if text.strip() and (text not in shown or not batch.mask("text")[row].any()):
            raise Fault(f"{text!r} is not what is seen as text")
    return "used"


class Told(BaseModel):
    """An answer."""

    phrase: str


def see_reply(rng: random.Random, folder: Path) -> str:
    """What a server sends: the answer that is in it, or what is wrong with it, in its own words."""
    said = rng.choice(WORDS)
    answer = json.dumps({"phrase": said}, ensure_ascii=rng.random() < 0.5)
    thought = rng.choice(WORDS).replace("</think>", "")
    wrapped: list[Any] = [answer, f"<think>{thought}</think>\n{answer}", f"```json\n{answer}\n```", f"Here it is:\n{answer}",
                          [{"type": "text", "text": answer}]]  # fmt: skip
    spoilt: list[Any] = [answer[: rng.randrange(len(answer))], answer * 2, rng.choice(WORDS), rng.choice(ODD), f"[{answer}]",
                         [{"type": "image"}, rng.choice(ODD)], f"<think>{answer}"]  # fmt: skip
    good = rng.random() < 0.5
    message: dict[str, Any] = {"role": "assistant", "content": rng.choice(wrapped if good else spoilt)}
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "message": message}
    whole: Any = {"id": "1", "choices": [choice], "usage": rng.choice([{"prompt_tokens": 3}, *ODD])}
    words, status = "", 200
    if not good and rng.random() < 0.6:
        where = rng.choice([message, choice, whole])
        names = ["content", "reasoning_content", "refusal", "finish_reason", "message", "logprobs", "choices", "detail"]
        where[rng.choice(names)] = rng.choice([*WORDS, *ODD, "length", "content_filter"])
    if not good and rng.random() < 0.3:
        words, status = rng.choice(["too many cats", *WORDS]), rng.choice([200, 400, 404, 422, 429, 500, 503])
        whole = rng.choice(
            [{"error": words}, {"error": {"message": words}}, {"detail": words}, {"message": words}, words]
        )
    content = json.dumps(whole).encode() if good else spoil(rng, json.dumps(whole))
    kind = "application/json" if good else rng.choice(["text/html", "", "application/json; charset=utf-8"])
    reply = SimpleNamespace(text=content.decode(errors="replace"), headers={"content-type": kind})
    url = "http://localhost:1/v1"
    got = completion_of(reply, url) if status == 200 else refused(status, words_of(reply.text), url)
    if isinstance(got, Refusal):
        if good or not got.detail or len(got.detail) > 2000:
            raise Fault(f"of {content[:200]!r}: {got.detail[:200]!r}")
        if words == "too many cats" and words in reply.text and words not in got.detail:
            raise Fault(f"the words are lost: {got.detail!r}")
        return "named"
    found, wrong = read(Ask("a", [], Told), got)
    logprobs_of(got)
    if (found is None) == (wrong is None) or (wrong and not (wrong[1] and len(wrong[1]) < 2000)):
        raise Fault(f"{found!r} and {wrong!r}")
    if good and said.isprintable() and (found is None or found.phrase != said):
        raise Fault(f"{message['content']!r}: {found!r} {wrong!r}")
    return "used" if found is not None else "named"


READERS: dict[str, Callable[[random.Random, Path], str]] = {
    "pictures": see_picture, "folders": see_folder, "jsonl": see_jsonl, "llava": see_llava, "coco": see_coco,
    "shards": see_shards, "frames": see_frame, "samples": see_samples, "datasets": see_dataset,
    "captions": see_caption, "replies": see_reply,
}  # fmt: skip
MODEL: Any = None


def give(reader: str, seed: int) -> str:
    """One input: "used", "named", or what is wrong with it."""
    rng = random.Random(f"{reader} {seed}")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        signal.alarm(SECONDS)
        try:
            return READERS[reader](rng, Path(folder))
        except (ValueError, OSError) as error:
            said = str(error)
            return "named" if said and len(said) < 2000 else f"an error of {len(said)} characters"
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        finally:
            signal.alarm(0)


def late(*_: object) -> None:
    """For inputs that take too long."""
    raise Fault(f"more than {SECONDS} s")


def main() -> int:
    """Run all; 1 if an input is at fault."""
    global MODEL
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=2000, help="inputs per reader (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", choices=[*READERS], help="one alone")
    args = parser.parse_args()
    MODEL = vn.HookedVLM.from_pretrained("tiny-llava-scenes", device="cpu")
    signal.signal(signal.SIGALRM, late)
    before, faults = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    for reader in [args.reader] if args.reader else READERS:
        found: Counter[str] = Counter()
        for i in range(args.seed * 1_000_000, args.seed * 1_000_000 + args.n):
            outcome = give(reader, i)
            if outcome not in ("used", "named"):
                sys.stdout.write(f"  {reader} {i}: {outcome[:300]!a}\n")
                outcome = "at fault"
            found[outcome] += 1
        faults += found["at fault"]
        sys.stdout.write(f"{reader}: {', '.join(f'{n:,} {what}' for what, n in sorted(found.items()))}\n")
    taken = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    sys.stdout.write(f"memory: {taken / GIB:.2f} GiB more than at the beginning\n")
    return int(faults > 0 or taken > 2 * GIB)


if __name__ == "__main__":
    sys.exit(main())
