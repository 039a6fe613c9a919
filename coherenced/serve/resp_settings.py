"""The bounds and names of the RESP front end. Every queue, buffer and wait has one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from coherenced.wire.framing import FrameLimits
from coherenced.wire.plan import Bounds

if TYPE_CHECKING:
    from coherenced.config import Config

PAUSE_BYTES: Final = 1024 * 1024
COMPATIBLE_WITH: Final = "7.2.4"
"""The Redis version that clients are told, since they choose what they send by it."""


class RespSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes in bytes, times in milliseconds."""

    node: str = ""
    version: str = ""
    """Of coherenced."""
    password: str = ""
    """When set, every connection must AUTH first."""
    database: int = 0
    """The one that Redis is used with; SELECT of it (and of 0) is accepted."""
    max_connections: int = 20_000
    output_buffer_bytes: int = 64 * 1024 * 1024
    """Replies a client has not read yet: above it, and if it reads none of them for `stalled_ms`,
    the connection is cut off."""
    stalled_ms: float = 10_000.0
    pause_bytes: int = PAUSE_BYTES
    """Replies a client has not read yet: above it nothing more of its requests is taken."""
    max_pending: int = 10_000
    """Requests of one connection that wait for Redis at once."""
    max_transaction_commands: int = 10_000
    max_watched_keys: int = 10_000
    """Of one connection."""
    linger_ms: float = 2_000.0
    """How long a connection that sent nonsense may take to read why it is closed."""
    bounds: Bounds = Bounds()
    frame: FrameLimits = FrameLimits()

    @classmethod
    def of(
        cls, config: Config, *, node: str, version: str, database: int, page: bytes
    ) -> RespSettings:
        """What the configuration says."""
        listen, limits = config.listen, config.limits
        return cls(
            node=node,
            version=version,
            password=listen.password,
            database=database,
            max_connections=listen.max_connections,
            output_buffer_bytes=listen.output_buffer_bytes,
            pause_bytes=min(listen.output_buffer_bytes // 2, PAUSE_BYTES),
            max_transaction_commands=limits.max_transaction_commands,
            bounds=Bounds(
                max_key_bytes=limits.max_key_bytes,
                max_value_bytes=limits.max_value_bytes,
                max_tags=limits.max_tags,
                page=page,
            ),
            frame=FrameLimits(
                max_bulk_bytes=limits.max_value_bytes, max_query_bytes=listen.max_query_bytes
            ),
        )
