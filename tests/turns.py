"""Whether others have their turn while something long is going on in the same event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def counted_turns() -> AsyncIterator[list[int]]:
    """In its one element, the turns that another task has had."""
    turns = [0]

    async def others() -> None:
        while True:
            turns[0] += 1
            await asyncio.sleep(0)

    beside = asyncio.ensure_future(others())
    try:
        yield turns
    finally:
        beside.cancel()
