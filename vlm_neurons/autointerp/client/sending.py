"""One request over the wire: a completion, or a fault with the server's own words."""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any

from vlm_neurons.autointerp.client.answers import code_in, error_in, words_of
from vlm_neurons.autointerp.client.asking import Ask, body_of
from vlm_neurons.autointerp.client.cache import address_of
from vlm_neurons.autointerp.client.connection import Connection
from vlm_neurons.autointerp.client.replies import message_of, reduced

LONGEST_PAUSE = 60  # seconds; a server that asks for more is not waited for


@dataclass(frozen=True)
class Fault:
    """Why there is no completion.

    Attributes:
        kind: as in `vlm_neurons.autointerp.explanation.Failure`.
        detail: for the user.
        words: the server's own.
        code: the status, or the one that the words mean; None where there is none.
        unbilled: whether it may have cost what nobody counted.
    """

    kind: str
    detail: str
    words: str = ""
    code: int | None = None
    unbilled: bool = False


async def once(client: Connection, api: Any, ask: Ask, able: dict[str, bool]) -> dict[str, Any] | Fault:
    """Send a question to a server with these capabilities, with all tries that the client allows."""
    where = address_of(str(client.base_url))
    body = body_of(ask, client.model, able, client.extra_body)
    try:
        async with asyncio.timeout(client.deadline):
            for tried in range(client.max_retries + 1):
                found, tries, headers = await _try(api, body, where)
                if tried >= min(tries, client.max_retries):
                    break
                pause = _pause(headers, tried)
                if pause > LONGEST_PAUSE and isinstance(found, Fault):
                    found = replace(found, detail=f"{found.detail}; it asks to come again in {pause:,.0f} s")
                    break
                await asyncio.sleep(pause)
    except TimeoutError:
        return Fault("network", f"no answer from {where} within {client.deadline:g} s", unbilled=True)
    return reduced(found, ask.prefill) if ask.prefill and not isinstance(found, Fault) else found


async def _try(api: Any, body: dict[str, Any], where: str) -> tuple[dict[str, Any] | Fault, float, Mapping[str, str]]:
    """What one request brings, after how many tries more there is no hope, and headers that say when to come again."""
    import openai

    try:
        answer = await api.chat.completions.with_raw_response.create(**body)
    except openai.APIConnectionError as error:
        return Fault("network", _unreached(error, where), unbilled=True), 1 if _nobody(error) else math.inf, {}
    except openai.APIStatusError as error:  # what a server refuses costs nothing
        told = {"true": math.inf, "false": 0}.get(error.response.headers.get("x-should-retry", ""))
        hope = math.inf if _will_pass(error.status_code) else 0
        found = refused(error.status_code, words_of(error.response.text), where)
        return found, hope if told is None else told, error.response.headers
    except (openai.OpenAIError, ValueError, AttributeError, TypeError, LookupError) as error:  # no reply
        return Fault("server", f"{type(error).__name__} from {where}: {error}", unbilled=True), 0, {}
    made = completion_of(answer.http_response, where)
    again = isinstance(made, Fault) and _will_pass(made.code)
    return made, math.inf if again else 0, answer.http_response.headers


def completion_of(response: Any, where: str) -> dict[str, Any] | Fault:
    """What came with 200, if it is a completion."""
    text = response.text
    kind = response.headers.get("content-type", "").partition(";")[0].strip()
    named = {"text/html": "a web page", "text/event-stream": "a stream of events, which was not asked for"}
    try:
        made = json.loads(text)
    except (ValueError, RecursionError):
        made = None
    if not isinstance(made, dict):
        said = f"{named.get(kind, 'no chat completion')} from {where}: {words_of(text)}{_path(where)}"
        return Fault("server", said, unbilled=True)
    if (words := error_in(made)) is not None:
        code = code_in(made, words) or 400
        return Fault(_kind(code), f"an error inside an answer of {where}: {words}", words, code, unbilled=True)
    if not message_of(made):
        return Fault("server", f"a reply without choices: {str(made)[:200]}", unbilled=True)
    return made


def refused(code: int, words: str, where: str) -> Fault:
    """A server's refusal, in its own words."""
    told = f"Error code: {code} - {words}"
    if code in (404, 405):
        told += f" (asked: {where}/chat/completions{_path(where)})"
    return Fault(_kind(code), told, words, code)


def _path(where: str) -> str:
    return "" if where.endswith("/v1") else "; base_url= of most servers ends in /v1"


def _kind(code: int) -> str:
    return "server" if _will_pass(code) else "request"


def _will_pass(code: int | None) -> bool:
    return code is not None and (code >= 500 or code in (408, 409, 429))


def _unreached(error: Exception, where: str) -> str:
    """Why no connection came about, or what became of it."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    what = f"{type(cause).__name__}: {cause}".removesuffix(": ")
    nobody = isinstance(cause, OSError) or _nobody(error)
    return f"nobody answers at {where} ({what})" if nobody else f"{type(error).__name__} at {where} ({what})"


def _nobody(error: Exception) -> bool:
    """Whether no connection came about: nobody listens there, or there is no such place."""
    return type(error.__cause__).__name__ == "ConnectError"


def _until(date: str) -> float:
    """Seconds from now to a date of HTTP; NaN for what is none."""
    try:
        return max(0.0, parsedate_to_datetime(date).timestamp() - time.time())
    except (ValueError, OverflowError):
        return math.nan


def _pause(headers: Mapping[str, str], tried: int) -> float:
    """Seconds until the next try: what the server says (a number, or a date), or half a second, doubled each time."""
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            seconds = float(headers[name]) / unit
        except KeyError:
            continue
        except ValueError:
            seconds = _until(headers[name])
        if seconds >= 0:  # not so of NaN
            return seconds
    return float(min(0.5 * 2**tried, 8) * random.uniform(0.75, 1))
