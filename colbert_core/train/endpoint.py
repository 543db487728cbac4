"""A language model behind an endpoint that speaks OpenAI's protocol: chat completions over HTTP.

    writer = EndpointWriter("http://127.0.0.1:8000/v1", "my-model", Sampling(), calls=8)

The API key is read from the environment (`TARTAN_LLM_API_KEY`), sent in a header, and shown
nowhere: what a server says is scrubbed of it before it becomes part of a message.
"""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from colbert_core.errors import (
    InvalidInput,
    ModelError,
    NotAuthenticated,
    Overloaded,
    TartanError,
    Unavailable,
)
from colbert_core.train.writers import Sampling

KEY_VARIABLE = "TARTAN_LLM_API_KEY"
TIMEOUT_S = 120.0
CHECK_TRIES, TRIES = 3, 6
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
LARGEST_ANSWER = 2**20
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class EndpointWriter:
    """A `Writer` that asks an endpoint, several prompts at a time.

    Args:
        url: its base, which ends before `/chat/completions`.
        model: the name that it knows the model by.
        calls: at a time.

    Raises:
        InvalidInput: the URL is none, a key would be sent in the clear, or a value is out of range.
    """

    def __init__(self, url: str, model: str, sampling: Sampling, *, calls: int) -> None:
        sampling.check()
        if calls < 1:
            raise InvalidInput(f"batch {calls}: at least 1 is needed")
        self._key = os.environ.get(KEY_VARIABLE, "").strip()
        self._url = f"{_checked_url(url, bool(self._key))}/chat/completions"
        self._model, self._sampling, self._calls = model, sampling, calls
        # Redirects are not followed: a key must not go where it was not meant for.
        self._opener = urllib.request.build_opener(_NoRedirects)
        self.identity: Mapping[str, object] = {
            "writer": f"{model} at {self._url}",
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
        }

    def check(self, prompt: str) -> None:
        """Ask once, so that a wrong key, model or URL is found before the work.

        Raises:
            NotAuthenticated, Overloaded, Unavailable, InvalidInput, ModelError: as `write`.
        """
        self._ask(prompt, 0, tries=CHECK_TRIES)

    def write(self, prompts: Sequence[str], seed: int) -> list[str]:
        """See `Writer`; the seed is sent along, and a server may heed it.

        Raises:
            NotAuthenticated: the key is missing or refused.
            Overloaded: it answered "too many requests" each time.
            Unavailable: it does not answer, or fails each time.
            InvalidInput: it refuses the request: the model's name, or what was asked.
            ModelError: its answer is no chat completion.
        """
        with ThreadPoolExecutor(self._calls) as pool:
            asked = [pool.submit(self._ask, prompt, seed + at) for at, prompt in enumerate(prompts)]
            try:
                return [one.result() for one in asked]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _ask(self, prompt: str, seed: int, *, tries: int = TRIES) -> str:
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": self._sampling.temperature,
            "max_tokens": self._sampling.max_tokens,
            "seed": seed % 2**31,
        }
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(
            self._url, json.dumps(body).encode(), headers, method="POST"
        )
        pause_s = FIRST_PAUSE_S
        for left in reversed(range(tries)):
            try:
                with self._opener.open(request, timeout=TIMEOUT_S) as response:
                    return self._answer(response.read(LARGEST_ANSWER))
            except urllib.error.HTTPError as error:
                if error.code != 429 and error.code < 500:
                    raise self._refused(error) from None
                failure, asked_s = self._busy(error), _retry_after(error.headers)
            except (OSError, http.client.HTTPException) as error:  # URLError, time-outs among them
                failure, asked_s = self._away(error), None
            if not left:
                raise failure
            time.sleep(min(asked_s if asked_s is not None else pause_s, LONGEST_PAUSE_S))
            pause_s *= 2
        raise AssertionError("at least one try")

    def _answer(self, data: bytes) -> str:
        try:
            message = json.loads(data)["choices"][0]["message"]
            content = message["content"]
        except (ValueError, LookupError, TypeError):
            content = message = None
        # Null is what a model answers that refuses: no query, and no error of the protocol.
        if not isinstance(content, str) and not (isinstance(message, dict) and content is None):
            raise ModelError(
                f"{self._url} answered with what is no chat completion: {self._said(data)!r}; give "
                "the base URL of a server that speaks OpenAI's protocol, such as http://host/v1"
            )
        return content or ""

    def _refused(self, error: urllib.error.HTTPError) -> TartanError:
        said = self._said(error.read(LARGEST_ANSWER))
        if error.code in (401, 403):
            wrong = "it does not take the key in" if self._key else "there is no key in"
            return NotAuthenticated(
                f"{self._url} answered {error.code}: {said}; {wrong} {KEY_VARIABLE}: set that to a "
                "key of the service"
            )
        return InvalidInput(
            f"{self._url} refuses the request for model {self._model!r} with {error.code}: {said}; "
            "check --endpoint and --endpoint-model"
        )

    def _busy(self, error: urllib.error.HTTPError) -> TartanError:
        said = self._said(error.read(LARGEST_ANSWER))
        message = (
            f"{self._url} answered {error.code} each time: {said}; the same command goes on later"
        )
        if error.code == 429:
            return Overloaded(f"{message}, or with fewer calls at a time (--batch)")
        return Unavailable(message)

    def _away(self, error: Exception) -> TartanError:
        reason = self._said(str(getattr(error, "reason", error) or type(error).__name__).encode())
        return Unavailable(
            f"{self._url} does not answer ({reason}; a call may take {TIMEOUT_S:.0f} s): check "
            "that the server is up; the same command goes on"
        )

    def _said(self, data: bytes) -> str:
        """The beginning of what a server said, on one line, without the key."""
        text = " ".join(data.decode("utf-8", "replace").split())
        return (text.replace(self._key, "***") if self._key else text)[:200] or "nothing"


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """None makes urllib raise what it got: a redirect is an error of the URL."""


def _checked_url(url: str, has_key: bool) -> str:
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits or parts.query or parts.fragment or parts.username or parts.password:
        raise InvalidInput(
            f"endpoint {url.rpartition('@')[2]!r}: give the base URL of the service, such as "
            f"https://host/v1; the key goes into {KEY_VARIABLE}"
        )
    if has_key and parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise InvalidInput(
            f"endpoint {url!r}: the key in {KEY_VARIABLE} would be sent in the clear; give an "
            f"https URL, or unset {KEY_VARIABLE} if the service needs none"
        )
    return url.rstrip("/").removesuffix("/chat/completions")


def _retry_after(headers: Any) -> float | None:
    value = str(headers.get("Retry-After", "")) if headers else ""
    return float(value) if value.isdecimal() else None
