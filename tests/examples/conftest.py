from __future__ import annotations

from tests.client.nodes import nodes

__all__ = ["nodes"]
