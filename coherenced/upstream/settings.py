"""What this folder must know of the configuration; `config`'s section [redis] has it all."""

from __future__ import annotations

from typing import Protocol

from coherenced.config_values import RedisEndpoint


class ServerSettings(Protocol):
    """Where the server is and how patient to be with it. All times in milliseconds."""

    @property
    def tls_ca_file(self) -> str: ...
    @property
    def tls_cert_file(self) -> str: ...
    @property
    def tls_key_file(self) -> str: ...
    @property
    def tls_check_hostname(self) -> bool: ...
    @property
    def connect_timeout_ms(self) -> int: ...
    @property
    def command_timeout_ms(self) -> int: ...
    @property
    def reconnect_min_ms(self) -> int: ...
    @property
    def reconnect_max_ms(self) -> int: ...
    @property
    def watch_connections(self) -> int:
        """How many connections WATCH and WAIT may use at once, together."""

    @property
    def log_length(self) -> int:
        """Records that the lane's log keeps, about."""

    def endpoint(self) -> RedisEndpoint:
        """Asked before each connection is made, so that a rotated password is found."""
