"""gRPC's unary calls over one HTTP/2 connection, for half of what grpc.aio takes of a processor.

A load generator that shares a machine with the service takes from it what it could answer with, and
past saturation most. So this is as much of HTTP/2 (RFC 9113) and of gRPC over it as one method
takes, without TLS, proxies, compression or a second connection:

    call ─ HEADERS, DATA … ─▶ server          Connection: frames, and who waits for which stream
    call ◀─ HEADERS, DATA …, trailers ─

Headers have no dynamic table (RFC 7541): each block says all, and those that come again are known.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import unquote

from hpack import Decoder, Encoder

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
PADDED_OR_PRIORITY = 0x28
HEADER_TABLE_SIZE, INITIAL_WINDOW_SIZE = 1, 4  # names of settings
CANCEL = 8
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_BYTES = 16_384  # what everybody takes
FIRST_WINDOW = 65_535
MOST_WINDOW = 2**31 - 1
CONNECT_TIMEOUT_S = 10.0


class Reply(NamedTuple):
    """How a call ended: gRPC's status, its message, all trailers, and the answer's bytes."""

    status: int
    message: str
    trailers: Sequence[tuple[str, str]]
    answer: bytes


class _Call(NamedTuple):
    done: asyncio.Future[Reply]
    parts: list[bytes]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")
    return head + payload


class Connection(asyncio.Protocol):
    """One connection to a server, for calls of one method. Belongs to one event loop."""

    @classmethod
    async def open(cls, address: str, method: str) -> Connection:
        """Connect to `host:port`.

        Raises:
            OSError: nobody listens there.
            TimeoutError: no HTTP/2 in `CONNECT_TIMEOUT_S`.
        """
        host, port = address.rsplit(":", 1)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, connection = await loop.create_connection(
                lambda: cls(address, method), host.strip("[]"), int(port)
            )
            await connection._spoken
        return connection

    def __init__(self, address: str, method: str) -> None:
        head = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", method),
            (":authority", address),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ]
        encoder = Encoder()
        encoder.header_table_size = 0
        self._head = encoder.encode(head)
        self._decoder = Decoder()
        self._known: dict[bytes, Sequence[tuple[str, str]]] = {}
        self._loop = asyncio.get_running_loop()
        self._spoken = self._loop.create_future()
        self._calls: dict[int, _Call] = {}
        self._next = 1
        self._buffer = bytearray()
        self._received = 0  # of the connection's window, since it was last opened again
        self._window = FIRST_WINDOW
        self._stream_window = FIRST_WINDOW
        self._waiting: deque[bytes] = deque()  # DATA frames, for the window to open
        self._lost: Exception | None = None

    async def call(self, request: bytes, timeout_s: float) -> Reply:
        """Ask with a message's bytes.

        Raises:
            TimeoutError: no answer in `timeout_s`, which the server is told as well.
            ConnectionError: the connection is lost.
            ValueError: the request is larger than what the server takes without being asked.
        """
        if self._lost is not None:
            raise self._lost
        body = b"\0" + len(request).to_bytes(4, "big") + request
        if len(body) > self._stream_window:
            raise ValueError(f"a request of {len(body)} bytes; at most {self._stream_window} here")
        stream = self._next
        self._next += 2
        done = self._loop.create_future()
        self._calls[stream] = _Call(done, [])
        self._send(stream, body, timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                return await done
        except TimeoutError:
            if self._calls.pop(stream, None) is not None:
                self._write(frame(RST_STREAM, 0, stream, CANCEL.to_bytes(4, "big")))
            raise

    def close(self) -> None:
        """End the connection; calls under way fail."""
        self._transport.close()

    def _send(self, stream: int, body: bytes, timeout_s: float) -> None:
        timeout = b"%dm" % min(99_999_999, max(1, round(timeout_s * 1e3)))
        block = self._head + b"\0\x0cgrpc-timeout" + bytes((len(timeout),)) + timeout
        out = [frame(HEADERS, END_HEADERS, stream, block)]
        for start in range(0, len(body), FRAME_BYTES):
            part = body[start : start + FRAME_BYTES]
            last = start + FRAME_BYTES >= len(body)
            data = frame(DATA, END_STREAM if last else 0, stream, part)
            if self._waiting or len(part) > self._window:
                self._waiting.append(data)
            else:
                self._window -= len(part)
                out.append(data)
        self._write(b"".join(out))

    def _write(self, data: bytes) -> None:
        if self._lost is None:
            self._transport.write(data)

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        settings = struct.pack(">HIHI", HEADER_TABLE_SIZE, 0, INITIAL_WINDOW_SIZE, MOST_WINDOW)
        self._write(PREFACE + frame(SETTINGS, 0, 0, settings) + _opened(MOST_WINDOW - FIRST_WINDOW))

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= 9:
            end = at + 9 + int.from_bytes(buffer[at : at + 3], "big")
            if end > len(buffer):
                break
            stream = int.from_bytes(buffer[at + 5 : at + 9], "big")
            self._frame(buffer[at + 3], buffer[at + 4], stream, bytes(buffer[at + 9 : end]))
            at = end
        del buffer[:at]

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(ConnectionError(f"the connection was lost: {error or 'the server ended it'}"))

    # What frames do.

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == HEADERS:
            self._headers(flags, stream, payload)
        elif kind == DATA:
            self._data(stream, payload)
        elif kind == WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload, "big")
            self._send_waiting()
        elif kind == SETTINGS and not flags & ACK:
            self._settings(payload)
        elif kind == PING and not flags & ACK:
            self._write(frame(PING, ACK, 0, payload))
        elif kind == RST_STREAM and (call := self._calls.pop(stream, None)):
            _end(call, ConnectionError(f"the server reset the stream ({payload.hex()})"))
        elif kind == GOAWAY:
            self._fail(ConnectionError("the server goes away"))

    def _headers(self, flags: int, stream: int, block: bytes) -> None:
        if not flags & END_HEADERS or flags & PADDED_OR_PRIORITY:
            self._fail(ConnectionError("headers in several frames, or padded: not spoken here"))
            return
        trailers = self._known.get(block)
        if trailers is None:  # also of calls that nobody waits for, since the first one is special
            trailers = self._known[block] = self._decoder.decode(block)
        if flags & END_STREAM and (call := self._calls.pop(stream, None)):
            told = dict(trailers)
            status, message = int(told.get("grpc-status", 2)), unquote(told.get("grpc-message", ""))
            _end(call, Reply(status, message, trailers, b"".join(call.parts)[5:]))

    def _data(self, stream: int, payload: bytes) -> None:
        self._received += len(payload)
        if self._received > MOST_WINDOW // 2:
            self._write(_opened(self._received))
            self._received = 0
        if call := self._calls.get(stream):
            call.parts.append(payload)

    def _send_waiting(self) -> None:
        while self._waiting and len(self._waiting[0]) - 9 <= self._window:
            data = self._waiting.popleft()
            self._window -= len(data) - 9
            self._write(data)

    def _settings(self, payload: bytes) -> None:
        for name, value in struct.iter_unpack(">HI", payload):
            if name == INITIAL_WINDOW_SIZE:
                self._stream_window = value
        self._write(frame(SETTINGS, ACK, 0))
        if not self._spoken.done():
            self._spoken.set_result(None)

    def _fail(self, error: Exception) -> None:
        self._lost = self._lost or error
        if not self._spoken.done():
            self._spoken.set_exception(error)
        calls, self._calls = self._calls, {}
        for call in calls.values():
            _end(call, error)


def _opened(count: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, 0, count.to_bytes(4, "big"))


def _end(call: _Call, came: Reply | Exception) -> None:
    if call.done.done():
        return
    if isinstance(came, Exception):
        call.done.set_exception(came)
    else:
        call.done.set_result(came)
