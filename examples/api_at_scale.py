"""20,000 explanations through a server on this machine that misbehaves, 64 at a time, killed once on the way.

    python examples/api_at_scale.py runs/api                     # some 20 minutes
    python examples/api_at_scale.py runs/api --neurons 500       # for a look

The server is a process of its own. It answers after `--delay` seconds; of a hundred requests two are told to slow down
(429), one is refused by a fault (500), one is cut off in the middle, one gets JSON that ends too early. It counts what it
answered well: what an account would be charged for. What it can give is measured first, by a client that does nothing
but send. Prints a table; fails if an explanation is missing, or one was paid for twice that was not under way at the kill.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

AT_ONCE = 64
FAULTS = {"429": 2, "500": 1, "cut": 1, "torn": 1}  # of a hundred
ANSWER = {"phrase": "red things", "description": "They are red.", "confidence": 0.8, "clear_pattern": True}
SAMPLES = 24


def completion() -> bytes:
    """What a good answer is."""
    message = {"role": "assistant", "content": json.dumps(ANSWER), "refusal": None}
    usage = {"prompt_tokens": 900, "completion_tokens": 40, "total_tokens": 940}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    said = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    return json.dumps(said).encode()


def reply(status: str, body: bytes, more: str = "", length: int | None = None) -> bytes:
    """A response of HTTP."""
    size = len(body) if length is None else length
    return (
        f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {size}\r\n{more}\r\n".encode() + body
    )


async def answer(reader: Any, writer: Any, told: dict[str, Any]) -> None:
    """One connection."""
    good = completion()
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if b"content-length" in line)
            body = await reader.readexactly(length)
            fault = told["rng"].choices([*FAULTS, ""], [*FAULTS.values(), 100 - sum(FAULTS.values())])[0]
            await asyncio.sleep(told["delay"])
            if fault == "429":
                writer.write(reply("429 Slow Down", b'{"error": {"message": "slow down"}}', "retry-after-ms: 100\r\n"))
            elif fault == "500":
                writer.write(reply("500 Fault", b'{"error": {"message": "oops"}}', "retry-after-ms: 100\r\n"))
            elif fault == "cut":
                writer.write(reply("200 OK", good[:40], length=len(good)))
                break
            elif fault == "torn":
                writer.write(reply("200 OK", good[:-9]))
            else:
                told["log"].write(hashlib.sha256(body).hexdigest() + "\n")
                writer.write(reply("200 OK", good))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def serve(log: str, delay: float) -> None:
    """Until it is killed; the port is its first line."""
    with open(log, "a", buffering=1) as paid:
        told = {"rng": random.Random(0), "delay": delay, "log": paid}
        server = await asyncio.start_server(lambda r, w: answer(r, w, told), "127.0.0.1", 0, limit=2**24)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


async def capacity(port: int, n: int) -> float:
    """Good answers a second to clients that do nothing else, `AT_ONCE` of them."""
    left, request = iter(range(n)), b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 3000\r\n\r\n" + b"x" * 3000

    async def one() -> None:
        link = None
        for _ in left:
            while True:
                link = link or await asyncio.open_connection("127.0.0.1", port)
                link[1].write(request)
                try:
                    head = await link[0].readuntil(b"\r\n\r\n")
                    size = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                    body = await link[0].readexactly(size)
                except (asyncio.IncompleteReadError, ConnectionError):
                    link = None
                    continue
                if b"429" in head or b"500" in head:
                    await asyncio.sleep(0.1)
                elif body.endswith(b"}"):
                    break

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(AT_ONCE)))
    return n / (time.perf_counter() - began)


def evidence(folder: Path, n: int) -> None:
    """Evidence of n neurons of texts, each with samples and values of its own."""
    import numpy as np

    import vlm_neurons as vn

    rng = np.random.default_rng(0)
    words = [" red", " cat", " sat", " on", " the", " blue", " mat", " and", " saw", " two", " small", " dogs"]
    for first in range(0, n, 500):
        every = {}
        for k in range(first, min(first + 500, n)):
            tokens = [[str(words[i]) for i in rng.integers(len(words), size=12)] for _ in range(SAMPLES)]
            every[f"L0N{k}"] = vn.Evidence.from_arrays(
                f"L0N{k}", tokens=tokens, token_acts=list(rng.random((SAMPLES, 12))), label="text", n_top=8
            )
        vn.evidence.save(every, folder / "evidence")


def explain(folder: Path, port: int) -> None:
    """What is killed: explains all of the evidence, and notes its memory beside how many are explained."""
    import vlm_neurons as vn

    def watch() -> None:
        with (folder / "memory.jsonl").open("a", buffering=1) as out:
            while True:
                told = Path("/proc/self/status").read_text().splitlines()
                # its own: pages of mapped evidence are the system's, which takes them back when it needs memory
                own = next(int(line.split()[1]) / 1024 for line in told if line.startswith("RssAnon"))
                out.write(json.dumps([time.time(), explained(folder), own, time.process_time()]) + "\n")
                time.sleep(2)

    threading.Thread(target=watch, daemon=True).start()
    explainer = vn.explainers.OpenAIExplainer(
        "m", base_url=f"http://127.0.0.1:{port}/v1", api_key="none", price=(0.15, 0.6), concurrency=AT_ONCE
    )
    vn.explain(vn.evidence.load(folder), explainer, out=folder)


def explained(folder: Path) -> int:
    """Lines that are there."""
    file = folder / "explanations.jsonl"
    return file.read_bytes().count(b"\n") if file.is_file() else 0


def child(*words: object, **more: Any) -> subprocess.Popen[str]:
    """This script as another process."""
    return subprocess.Popen([sys.executable, __file__, *map(str, words)], text=True, **more)


def measured(folder: Path, n: int, delay: float) -> None:
    """All of it."""
    from vlm_neurons.autointerp.store import read_explanations

    folder.mkdir(parents=True)
    evidence(folder, n)
    paid, failed, ends = folder / "paid.txt", dict[str, Counter[str]](), list[float]()
    server = child("--serve", folder, "--delay", delay, stdout=subprocess.PIPE)
    assert server.stdout is not None
    port = int(server.stdout.readline())
    try:
        own = asyncio.run(capacity(port, min(n, 20 * AT_ONCE)))
        paid.write_text("")
        with (folder / "said.txt").open("w") as said:
            first = child("--explain", folder, "--port", port, stderr=said)
            while explained(folder) < 0.3 * n:
                if first.poll() is not None:
                    raise SystemExit((folder / "said.txt").read_text()[-2000:])
                time.sleep(0.05)
            first.kill()
            first.wait()
            there = explained(folder)
            for name in ("second", "third"):  # the third asks again for what failed
                if child("--explain", folder, "--port", port, stderr=said).wait():
                    raise SystemExit((folder / "said.txt").read_text()[-2000:])
                found = read_explanations(folder)
                failed[name] = Counter(e.failure.kind for e in found.values() if e.failure)
                ends.append(time.time())
    finally:
        server.kill()
    counts = Counter(paid.read_text().split())
    rows = [json.loads(line) for line in (folder / "memory.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row[1] > there and row[0] < ends[0]]
    twice = sum(count > 1 for count in counts.values())
    speed = (rows[-1][1] - rows[0][1]) / (rows[-1][0] - rows[0][0])
    line("explanations", f"{n - sum(failed['third'].values()):,} of {n:,}")
    line("failed before they were asked for again", str(dict(failed["second"])))
    line("the server's own, answers a second", f"{own:.1f}")
    line("explanations a second, after the kill", f"{speed:.1f} ({speed / own:.0%})")
    line("CPU ms of the client each", f"{1000 * (rows[-1][3] - rows[0][3]) / (rows[-1][1] - rows[0][1]):.1f}")
    for share in (0.4, 0.6, 0.8, 1.0):
        _, own_mb = min((abs(row[1] - share * n), row[2]) for row in rows)
        line(f"MB at {share:.0%} of them, mapped pages of the evidence left out", f"{own_mb:.0f}")
    line("paid for", f"{sum(counts.values()):,} answers")
    line(f"paid for twice (at most {AT_ONCE} were under way at the kill)", str(twice))
    words = (folder / "said.txt").read_text(errors="replace").replace("\r", "\n").splitlines()
    line("said before", next(word for word in words if " calls (" in word))
    line("said last", [word for word in words if "$" in word and "neuron" in word][-1].strip())
    missing = n - len(found)
    if missing or twice > AT_ONCE or max(counts.values()) > 2:
        raise SystemExit(f"{missing} are missing, {twice} were paid for twice")


def line(name: str, value: str) -> None:
    """A row of the table."""
    print(f"| {name} | {value} |", flush=True)


def main() -> None:
    """Do what was asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="new folder for the run")
    parser.add_argument("--neurons", type=int, default=20_000)
    parser.add_argument("--delay", type=float, default=2.0, help="seconds until the server answers")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--explain", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if args.serve:
        asyncio.run(serve(str(args.serve / "paid.txt"), args.delay))
    elif args.explain:
        explain(args.explain, args.port)
    else:
        measured(args.folder, args.neurons, args.delay)


if __name__ == "__main__":
    main()
