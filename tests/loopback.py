"""A server on this machine that behaves as the API does, and misbehaves on order. Standard library."""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FAULTS = ("429", "500", "timeout", "drip", "cut", "invalid_json", "refusal", "length", "wrong_schema", "filter")
PAID = ("good", "refusal", "length", "wrong_schema", "filter")
"""What an account is charged for."""


@dataclass(frozen=True)
class Says:
    """An answer as it goes over the wire: JSON, or bytes or text as they are."""

    status: int
    content: Any
    kind: str = "application/json"
    later: tuple[str, str] = ("retry-after-ms", "10")  # when to come again


@dataclass
class Server:
    """What the server is told, and what it saw.

    Attributes:
        fault: of the number of a request and its body, the fault to show, or what to say; "" for none.
        delay: seconds before each answer.
        usage: whether it tells the tokens of an answer.
        refusal: what it says where it refuses.
        answer: what it answers, as JSON; or a function from the request to it, or to {"text": ..., "logprobs": ...},
            or to {"text": ..., "prompt_logprobs": ...} as vLLM has it.
        change: makes another reply out of a good one, given the number of the request.
        paid: digests of bodies whose answers were delivered and cost money, in order.
        requests: bodies that came.
        authorization: the headers that came with them.
    """

    fault: Callable[[int, dict[str, Any]], str | Says] = lambda number, body: ""
    delay: float = 0.0
    usage: bool = True
    refusal: str = "I cannot help with that."
    answer: dict[str, Any] | Callable[[dict[str, Any]], Any] = field(default_factory=lambda: {
        "phrase": "red things", "description": "They are red.", "confidence": 0.8, "clear_pattern": True})  # fmt: skip
    change: Callable[[int, dict[str, Any]], dict[str, Any]] = lambda number, made: made
    paid: list[str] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    authorization: set[str] = field(default_factory=set)
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)


def digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def completion(body: dict[str, Any], message: dict[str, Any], finish: str = "stop") -> dict[str, Any]:
    return {
        "id": "x", "object": "chat.completion", "created": 1, "model": f"{body['model']}-2099-01-01",
        "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", **message}}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
    }  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        told: Server = self.server.told
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with told.lock:
            number = len(told.requests)
            told.requests.append(body)
            told.authorization.add(self.headers.get("authorization", ""))
        time.sleep(told.delay)
        fault = told.fault(number, body)
        try:
            self._answer(told, body, fault, number)
        except (BrokenPipeError, ConnectionResetError):
            return
        if isinstance(fault, str) and (fault or "good") in PAID:
            with told.lock:
                told.paid.append(digest(body))

    def _answer(self, told: Server, body: dict[str, Any], fault: str | Says, number: int) -> None:
        if isinstance(fault, Says):
            text = fault.content.encode() if isinstance(fault.content, str) else fault.content
            return self._send(fault.status, text, {"content-type": fault.kind, fault.later[0]: fault.later[1]})
        content = told.answer(body) if callable(told.answer) else told.answer
        logprobs = content.pop("logprobs", None) if isinstance(content, dict) else None
        prompt = content.pop("prompt_logprobs", None) if isinstance(content, dict) else None
        text = content["text"] if isinstance(content, dict) and set(content) == {"text"} else json.dumps(content)
        good = {"content": text, "refusal": None}
        if fault == "429":
            return self._send(429, {"error": {"message": "slow down"}}, {"retry-after-ms": "20"})
        if fault == "500":
            return self._send(500, {"error": {"message": "oops"}}, {"retry-after-ms": "20"})
        if fault == "401":
            key = self.headers.get("authorization", "")
            return self._send(401, {"error": {"message": f"bad key {key} ({key.removeprefix('Bearer ')})"}})
        if fault in ("no_schema", "no_images", "no_logprobs"):
            name = {"no_schema": "response_format", "no_images": "image_url", "no_logprobs": "logprobs"}[fault]
            return self._send(400, {"error": {"message": f"Unsupported: {name}"}})
        if fault == "no_images_500":
            return self._send(500, {"error": {"message": "image input is not supported"}}, {"retry-after-ms": "20"})
        if fault == "bad_image":
            return self._send(400, {"error": {"message": "Invalid image: too large"}})
        if fault == "timeout":
            time.sleep(1.2)
            return self._send(200, completion(body, good))
        if fault == "cut":
            self.close_connection = True
            self.wfile.write(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{"id"')
            return None
        if fault == "drip":
            self.close_connection = True
            self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n")
            for _ in range(60):
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.1)
            return None
        if fault == "invalid_json":
            return self._send(200, b'{"id": "x", "choices": [')
        if fault == "refusal":
            return self._send(200, completion(body, {"content": None, "refusal": told.refusal}))
        if fault == "length":
            return self._send(200, completion(body, {"content": '{"phrase": "red'}, "length"))
        if fault == "filter":
            return self._send(200, completion(body, {"content": ""}, "content_filter"))
        if fault == "wrong_schema":
            return self._send(200, completion(body, {"content": '{"phrase": "red", "mood": 1}'}))
        made = completion(body, good)
        made["choices"][0]["logprobs"] = logprobs
        if not told.usage:
            del made["usage"]
        made |= {"prompt_logprobs": prompt} if prompt else {}
        return self._send(200, told.change(number, made))

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"content-type": "application/json", "content-length": len(data), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(data)


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *args: Any) -> None:
        pass  # clients that are killed


@contextmanager
def running(**told: Any) -> Iterator[Server]:
    server = _Quiet(("127.0.0.1", 0), _Handler)
    server.told = Server(**told)  # type: ignore[attr-defined]
    server.told.url = f"http://127.0.0.1:{server.server_address[1]}/v1"  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.told  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def faulty(share: float, seed: int, faults: Sequence[str] = FAULTS) -> Callable[[int, dict[str, Any]], str]:
    """Shows each fault equally often, in a share of all requests."""
    rng = random.Random(seed)
    return lambda number, body: rng.choice(faults) if rng.random() < share else ""
