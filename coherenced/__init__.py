"""coherenced: one L1 cache per host, kept coherent over Redis.

`Client` and `AsyncClient` talk to the local daemon; importing them loads no server code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coherenced.client.aio import AsyncClient
    from coherenced.client.freshness import Loaded, LoadPolicy
    from coherenced.client.sync import Client

__version__ = "0.1.0"
__all__ = ["AsyncClient", "Client", "LoadPolicy", "Loaded", "__version__"]


def __getattr__(name: str) -> Any:
    # Lazy, so that the command line does not pay for the client nor the client for the daemon.
    if name == "Client":
        from coherenced.client.sync import Client

        return Client
    if name == "AsyncClient":
        from coherenced.client.aio import AsyncClient

        return AsyncClient
    if name in ("LoadPolicy", "Loaded"):
        from coherenced.client import freshness

        return getattr(freshness, name)
    raise AttributeError(f"module 'coherenced' has no attribute {name!r}")
