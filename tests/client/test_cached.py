"""`@cached`: keys from templates, checked when the function is defined."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from coherenced import AsyncClient, Client
from coherenced.errors import UsageError
from tests.client.fake_daemon import FakeDaemon


@pytest.fixture
def cache(daemon: FakeDaemon) -> Any:
    with Client(daemon.path) as client:
        yield client


def test_a_function(daemon: FakeDaemon, cache: Client) -> None:
    calls: list[int] = []

    @cache.cached(ttl=60, key="user:{id}", tags=["user:{id}", "team:{team}"])
    def user(id: int, team: str = "none") -> dict[str, Any]:
        """Of the users."""
        calls.append(id)
        return {"id": id}

    assert [user(1), user(1), user(id=1), user(1, "none")] == [{"id": 1}] * 4
    assert calls == [1]
    assert daemon.tags[b"user:1"] == [b"user:1", b"team:none"]
    assert (user.__name__, user.__doc__) == ("user", "Of the users.")
    described: Any = user
    assert described.key_of(7) == "user:7"
    assert described.tags_of(7, team="x") == ["user:7", "team:x"]
    assert described.uncached(2) == {"id": 2}
    described.invalidate(1)
    user(1)
    assert calls == [1, 2, 1]


def test_an_async_function(daemon: FakeDaemon) -> None:
    calls = 0

    async def run() -> None:
        nonlocal calls
        async with AsyncClient(daemon.path) as cache:

            @cache.cached(ttl=60, key="n:{n}")
            async def square(n: int) -> int:
                nonlocal calls
                calls += 1
                await asyncio.sleep(0)
                return n * n

            assert await asyncio.gather(*(square(3) for _ in range(5))) == [9] * 5
            await square.invalidate(3)  # type: ignore[attr-defined]
            assert await square(3) == 9

    asyncio.run(run())
    assert calls == 2


def test_methods(daemon: FakeDaemon, cache: Client) -> None:
    class Shop:
        def __init__(self, name: str) -> None:
            self.name = name
            self.calls = 0

        @cache.cached(key="price:{self.name}:{item}")
        def price(self, item: str) -> str:
            self.calls += 1
            return f"{self.name}/{item}"

        @cache.cached()
        def plain(self, item: str) -> str:
            return item.upper()

        @classmethod
        @cache.cached(key="kind:{cls.__name__}")
        def kind(cls) -> str:
            return cls.__name__

        @staticmethod
        @cache.cached(key="static:{n}")
        def static(n: int) -> int:
            return -n

    one, two = Shop("one"), Shop("two")
    assert [one.price("a"), one.price("a"), two.price("a")] == ["one/a", "one/a", "two/a"]
    assert (one.calls, two.calls) == (1, 1)
    assert (Shop.kind(), Shop.static(4)) == ("Shop", -4)
    assert (one.plain("x"), two.plain("x")) == ("X", "X")
    names = {name.decode() for name in daemon.values}
    assert {"price:one:a", "price:two:a", "kind:Shop", "static:4"} < names
    assert any(name.endswith("Shop.plain('x')") for name in names)


def test_defaults_keywords_and_formats(cache: Client) -> None:
    @cache.cached(key="{a}-{b}-{c:03d}-{kind!r}")
    def function(a: int, b: int = 2, /, *more: int, c: int = 3, kind: str = "x") -> None: ...

    key_of = function.key_of  # type: ignore[attr-defined]
    assert key_of(1) == "1-2-003-'x'"
    assert key_of(1, 5, c=42, kind="y") == "1-5-042-'y'"

    @cache.cached(key="{a}-{c}")
    def plain(a: int, *, c: int = 3) -> None: ...

    assert plain.key_of(1) == "1-3"  # type: ignore[attr-defined]
    assert plain.key_of(a=1, c=4) == "1-4"  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="missing a required argument: 'a'"):
        plain.key_of(c=4)  # type: ignore[attr-defined]


def test_a_key_made_by_a_function(cache: Client) -> None:
    @cache.cached(key=lambda a, b: f"{b}/{a}")
    def function(a: int, b: int) -> int:
        return a

    assert function.key_of(1, 2) == "2/1"  # type: ignore[attr-defined]
    assert function(1, 2) == 1


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("user:{uid}", r"names 'uid', which is no parameter of .*function \(it has: id, other\)"),
        ("user:{", "is no template"),
        ("user:{}", "name the parameter"),
        ("user:{0}", "name the parameter"),
        ("user:{id:{other}}", "not supported"),
        ("user:{more}", "names 'more'"),
    ],
)
def test_a_wrong_template_is_an_error_at_once(cache: Client, template: str, says: str) -> None:
    def function(id: int, other: int, *more: int) -> None: ...

    with pytest.raises(UsageError, match=says):
        cache.cached(key=template)(function)
    with pytest.raises(UsageError, match=says):
        cache.cached(key="{id}", tags=[template])(function)


def test_what_cannot_be_cached(cache: Client, daemon: FakeDaemon) -> None:
    async def coroutine() -> None: ...

    def generator() -> Any:
        yield 1

    with pytest.raises(UsageError, match="by an AsyncClient"):
        cache.cached()(coroutine)
    with pytest.raises(UsageError, match="yields"):
        cache.cached()(generator)
    with pytest.raises(UsageError, match="below @classmethod"):
        cache.cached()(staticmethod(generator))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="by a Client"):
        AsyncClient(daemon.path).cached()(lambda: 1)
    with pytest.raises(UsageError, match="list of tags"):
        cache.cached(tags="users")
    with pytest.raises(UsageError, match="ttl"):
        cache.cached(ttl=-1)
