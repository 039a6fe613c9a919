"""A program as users write them, who check their types strictly: `mypy` reads it with the package.

`assert_type` is checked by it, and by it alone; nobody runs this.
"""

from __future__ import annotations

import json
from typing import Any, assert_type

from coherenced import AsyncClient, Client, Loaded, LoadPolicy
from coherenced.client.replies import Invalidation


class Json:
    def dumps(self, value: object) -> bytes:
        return json.dumps(value).encode()

    def loads(self, stored: bytes) -> object:
        return json.loads(stored)


cache = Client(serializer=Json(), load_policy=LoadPolicy(ttl=5), l0_values="shared")
assert_type(cache.get("k"), Any)
assert_type(cache.get_many(["a", "b"]), dict[str, Any])
assert_type(cache.get_many([b"a"], snapshot=True), dict[bytes, Any])
version: str = cache.set("k", {"name": "Ada"}, ttl=60, tags=["team:7"], ack="all")
cache.get("k", max_staleness_ms=0, min_version=cache.get_entry("k").version)
cache.get_or_load("k", lambda: Loaded(1, ttl=5, tags=["t"]), stale_while_revalidate=3)
assert_type(cache.warm(["a"], lambda keys: dict.fromkeys(keys, 1)).loaded, int)


@cache.cached(ttl=60, key="team:{number}")
def team(number: int, *more: str, deep: bool = False) -> dict[str, int]:
    return {"number": number}


assert_type(team(7, "x", deep=True), dict[str, int])
assert_type(team.uncached(7), dict[str, int])
assert_type(team.key_of(7), str)
assert_type(team.tags_of(7), list[str])
assert_type(team.invalidate(7), Invalidation)
team("7")  # type: ignore[arg-type]


class Teams:
    @cache.cached(key="row:{number}")
    def row(self, number: int) -> str:
        return str(number)

    @staticmethod
    @cache.cached()
    def shared(number: int) -> str:
        return str(number)

    @classmethod
    @cache.cached(key="made:{number}")
    def made(cls, number: int) -> str:
        return str(number)


class MoreTeams(Teams):
    def use(self) -> None:
        assert_type(self.row(1), str)
        assert_type(self.shared(1), str)
        assert_type(self.made(1), str)
        assert_type(Teams.shared(1), str)
        assert_type(Teams.made(1), str)
        assert_type(Teams.row.invalidate(self, 1), Invalidation)


async def ask() -> None:
    async with AsyncClient() as other:
        assert_type(await other.get_many(["a"]), dict[str, Any])

        @other.cached(ttl=3)
        async def load(number: int) -> str:
            return str(number)

        assert_type(await load(3), str)
        assert_type(await load.invalidate(3), Invalidation)
        assert_type(load.key_of(3), str)
