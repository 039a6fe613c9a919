"""The bounds and switches of the HTTP front end. Every queue, body and wait has one."""

from __future__ import annotations

import msgspec


class HttpLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes in bytes, times in milliseconds."""

    max_key_bytes: int = 16_384
    max_value_bytes: int = 67_108_864
    max_tags: int = 64
    max_keys: int = 10_000
    """Keys, tags or entries in one JSON body."""
    max_body_bytes: int = 100_663_296
    """Of one JSON body (a value of 64 MiB in base64 and its surroundings)."""
    max_buffered_bytes: int = 268_435_456
    """Request bodies that are being received, together: above it 503."""
    max_answer_bytes: int = 268_435_456
    """The values of one /v1/mget, together: above it 413."""
    max_waiting_answer_bytes: int = 536_870_912
    """Answers that wait for their clients to take them, together: above it 503, for all but one."""
    max_connections: int = 20_000
    body_timeout_ms: float = 60_000.0
    """A body that takes longer to arrive is refused with 408."""
    idle_timeout_ms: float = 75_000.0
    """A connection without a request for this long is closed."""
    max_listeners: int = 256
    """Open event streams."""
    listener_queue: int = 2_048
    """Records that wait for one slow listener: above it `event: overflow` and the end."""
    listener_bytes: int = 8_388_608
    """The same, in bytes of their events."""
    heartbeat_ms: float = 15_000.0
    """Silence on an event stream after which a comment is sent."""
    overflow_grace_ms: float = 5_000.0
    """How long a listener that overflowed has to take the notice before it is cut off."""
    password: str = ""
    """When set: required as `Authorization: Bearer` or as the password of `Basic`."""
    host_names: tuple[str, ...] = ("localhost",)
    """On TCP, the names in `Host` that are answered (addresses always are): a web page that
    points a name of its own at this address must not be able to read the cache."""
