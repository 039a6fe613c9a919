from __future__ import annotations

from tests.client.nodes import leases, nodes

__all__ = ["leases", "nodes"]
