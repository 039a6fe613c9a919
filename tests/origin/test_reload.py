"""New rules while a daemon runs: what stays keeps its counts, what goes is closed."""

from __future__ import annotations

import asyncio

from coherenced.core.policy import Namespaces, Policy
from coherenced.origin.layer import Origins
from coherenced.origin.rules import Rules
from tests.origin.fake_node import Clock, FakeRedis


async def test_origins_are_replaced_one_by_one() -> None:
    clock = Clock()
    redis = FakeRedis(clock)
    rules = [
        Rules(name=name, match=f"{name}:*", url="http://127.0.0.1:9/{key}") for name in ("a", "b")
    ]
    layer = Origins(rules, Namespaces(Policy()), redis.submit, clock, "test", lambda took_ms: None)
    a, b = layer.origins["a"], layer.origins["b"]
    a.loaded = 7
    session = b._open()
    changed = Rules(name="b", match="b:*", url="http://127.0.0.1:9/{key}", ttl_ms=5.0)
    layer.replace([rules[0], changed])
    assert layer.origins["a"] is a and layer.origins["a"].loaded == 7
    assert layer.origins["b"].rules.ttl_ms == 5.0
    await asyncio.gather(*layer._closing)
    assert session.closed
    layer.replace([])
    await layer.close()
    assert layer.origins == {}
