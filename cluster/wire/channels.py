"""gRPC channels and servers: the options that every one of them is made with."""

from __future__ import annotations

# 1,024 query tokens of 1,024 dimensions are 4 MiB, gRPC's default limit, before anything else.
DEFAULT_MAX_MESSAGE_BYTES = 16 * 2**20
# Answers: 10,000 hits with text and explanations.
MAX_ANSWER_BYTES = 512 * 2**20

# TLS and the first frame of HTTP/2 take milliseconds; gRPC's default is two minutes.
HANDSHAKE_TIMEOUT_MS = 10_000

Options = list[tuple[str, int]]


def server_options(max_message_bytes: int) -> Options:
    """A request beyond `max_message_bytes` is refused before it is read.

    Port reuse is off: a taken port is then an error, and two servers never share one by accident.
    """
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", MAX_ANSWER_BYTES),
        ("grpc.so_reuseport", 0),
        # Calls at once on one connection; more of them wait in the client.
        ("grpc.max_concurrent_streams", 1_000),
        # Who connects and then says nothing, or one byte now and then, is hung up on.
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_TIMEOUT_MS),
        # Let clients ping every 10 s, busy or not, instead of closing on them for doing so.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


def may_use_proxy(target: str) -> bool:
    """Whether a target may be asked through the proxy of `http_proxy`: not one of this machine,
    which no proxy reaches, and which gRPC would send there all the same."""
    return not target.startswith(("localhost:", "127.", "[::1]:"))


def channel_options(*, proxy: bool) -> Options:
    """A peer that vanished without closing is noticed within about 20 s, a returned one in 1 s (3 s
    where its whole machine was away).

    Args:
        proxy: whether the proxy that the environment may name is used.
    """
    return [
        ("grpc.enable_http_proxy", int(proxy)),
        ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_time_ms", 15_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.http2.ping_timeout_ms", 5_000),  # else a minute, whatever keepalive_timeout says
        ("grpc.initial_reconnect_backoff_ms", 100),
        # In spite of its name the least that an attempt to connect may take: TLS over a slow link,
        # or a busy machine, needs some. One that is refused is over at once, and made again.
        ("grpc.min_reconnect_backoff_ms", 2_000),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        # Retries are decided by our own code, which knows replicas and deadlines.
        ("grpc.enable_retries", 0),
    ]
