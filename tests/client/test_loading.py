"""`get_or_load` over the fake daemon, from each kind of client."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import inf
from typing import Any

import pytest

from coherenced import AsyncClient, Client, Loaded, LoadPolicy
from coherenced.client.values import NOTHING
from coherenced.errors import DaemonUnreachable, RedisUnreachable, UsageError
from tests.client.fake_daemon import EPOCH, FakeDaemon, error
from tests.servers import wait_until

Connect = Callable[..., Any]


def verbs(daemon: FakeDaemon) -> list[str]:
    return [command[0].decode().removeprefix("COH.") for command in daemon.commands]


class Loader:
    """Counts its calls; returns `value`, or raises it."""

    def __init__(self, value: Any = "loaded", takes_s: float = 0.0) -> None:
        self.value = value
        self.takes_s = takes_s
        self.calls = 0

    def __call__(self) -> Any:
        self.calls += 1
        time.sleep(self.takes_s)
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value


def forbidden() -> Any:
    raise AssertionError("loaded although it was there")


# -- hit and miss ---------------------------------------------------------------------


def test_a_miss_is_loaded_and_stored_once(daemon: FakeDaemon, connect: Connect) -> None:
    cache, loader = connect(), Loader({"name": "Ada"})
    for _ in range(3):
        assert cache.get_or_load("user:1", loader, ttl=60, tags=["users"]) == {"name": "Ada"}
    assert loader.calls == 1
    assert verbs(daemon) == ["GET", "LEASE", "FILL", "GET", "GET"]
    assert daemon.commands[2][3:] == [
        *(cache_bytes({"name": "Ada"}), b"PX", b"60000", b"TAGS", b"1", b"users")
    ]
    origin = cache.stats()["origin"]
    assert (origin["loads"], origin["load_errors"], origin["load_latency_ms"]["count"]) == (1, 0, 1)


def cache_bytes(value: Any) -> bytes:
    from coherenced.client.values import MSGPACK

    return MSGPACK.dumps(value)


def test_the_entry_tells_where_it_came_from(daemon: FakeDaemon, connect: Connect) -> None:
    cache = connect()
    first = cache.get_entry_or_load("k", lambda: 1)
    second = cache.get_entry_or_load("k", forbidden)
    assert (first.value, first.source, first.stale) == (1, "origin", False)
    assert (second.value, second.source, second.stale) == (1, "l1", False)


def test_an_async_loader(daemon: FakeDaemon) -> None:
    async def run() -> Any:
        async with AsyncClient(daemon.path) as cache:

            async def loader() -> str:
                await asyncio.sleep(0)
                return "awaited"

            return [await cache.get_or_load("k", loader) for _ in range(2)]

    assert asyncio.run(run()) == ["awaited", "awaited"]
    assert verbs(daemon).count("FILL") == 1


def test_the_loader_decides_how_it_is_kept(daemon: FakeDaemon, connect: Connect) -> None:
    cache = connect()
    assert cache.get_or_load("a", lambda: Loaded(1, ttl=5, tags=["more"]), tags=["t"]) == 1
    assert daemon.commands[-1][4:] == [b"PX", b"5000", b"TAGS", b"2", b"t", b"more"]
    assert cache.get_or_load("b", lambda: Loaded(2, ttl=0)) == 2
    assert verbs(daemon)[-1] == "RELEASE"
    assert set(daemon.values) == {b"a"}


def test_tags_out_of_the_value(daemon: FakeDaemon, connect: Connect) -> None:
    connect().get_or_load("k", lambda: {"team": 7}, tags=lambda row: [f"team:{row['team']}"])
    assert daemon.commands[-1][-1] == b"team:7"


def test_jitter_only_shortens(daemon: FakeDaemon, connect: Connect) -> None:
    cache = connect(load_policy=LoadPolicy(ttl=100, jitter=0.5))
    for number in range(50):
        cache.get_or_load(f"k{number}", lambda: 1)
    times = [int(c[5]) for c in daemon.commands if c[0] == b"COH.FILL"]
    assert all(50_000 <= ms <= 100_000 for ms in times)
    assert len(set(times)) > 25


@pytest.mark.parametrize(
    "options",
    [
        {"ttl": 0},
        {"ttl": float("nan")},
        {"ttl": "x"},
        {"ttl": [1]},
        {"ttl": True},
        {"jitter": 1},
        {"stale_if_error": -1},
        {"stale_while_revalidate": "1"},
        {"early_refresh": {}},
        {"negative_ttl": "x"},
        {"lease": -1},
        {"soft_timeout": 0},
        {"soft_timeout": "1"},
        {"hard_timeout": -1},
        {"hard_timeout": 11},  # longer than the lease
    ],
    ids=repr,
)
def test_options_that_cannot_be(connect: Connect, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        connect().get_or_load("k", forbidden, **options)
    with pytest.raises(UsageError):
        connect(load_policy=LoadPolicy(**options))


def test_arguments_of_the_wrong_type_are_told_in_one_line(connect: Connect) -> None:
    cache = connect()
    wrong: list[tuple[Callable[[], Any], str]] = [
        (lambda: cache.get_or_load("k", forbidden, ttl="x"), "ttl is a number, not 'x'"),
        (lambda: cache.get_or_load("k", 5), "a loader is a function without arguments, not 5"),
        (lambda: cache.get_entry_or_load("k", None), "a loader is a function"),
        (lambda: cache.get_or_load(7, forbidden), "a key is str or bytes, not int"),
        (lambda: cache.get_or_load("k", lambda: Loaded(1, ttl="x")), "a loader's ttl is a number"),
        (lambda: cache.get_or_load("k", lambda: 1, tags=5), "give a list of names, not 5"),
        (lambda: cache.get_or_load("k", lambda: 1, tags=["coh:x"]), "tags that start with coh:"),
        (lambda: connect(load_policy=5), "load_policy is a LoadPolicy, not 5"),
        (lambda: cache.get("k", max_staleness_ms="x"), "max_staleness_ms is a number, not 'x'"),
        (lambda: cache.set("k", 1, ttl="x"), "ttl is a number, not 'x'"),
        (lambda: cache.set("k", 1, ttl=None, timeout="x"), "timeout is a number, not 'x'"),
        (lambda: cache.set("k", 1, tags=5), "give a list of names, not 5"),
        (lambda: connect(timeout="x"), "timeout is a number, not 'x'"),
        (lambda: connect(timeout=inf), "timeout is a number of seconds above 0, at most"),
        (lambda: connect(max_staleness_ms="x"), "max_staleness_ms is a number, not 'x'"),
        (lambda: connect(max_staleness_ms=inf), "max_staleness_ms is 0 (linearizable) or more"),
        (lambda: connect(serializer=5), "serializer= has dumps and loads, int has not"),
        (lambda: cache.set_many([("k", 1)]), "set_many takes a mapping from key to value, not"),
        (lambda: cache.execute("SET", "k", None), "a key is str or bytes, not NoneType"),
    ]
    for call, told in wrong:
        with pytest.raises(UsageError) as caught:
            call()
        assert str(caught.value).startswith(told) and "\n" not in str(caught.value)


def test_a_coroutine_function_is_no_loader_of_the_blocking_client(daemon: FakeDaemon) -> None:
    async def load() -> int:
        return 1

    with Client(daemon.path) as cache, warnings.catch_warnings(action="error"):
        for options in ({}, {"hard_timeout": 5}):
            with pytest.raises(UsageError, match="a coroutine function is for AsyncClient"):
                cache.get_or_load("k", load, **options)


def test_an_option_that_does_not_exist(connect: Connect) -> None:
    with pytest.raises(TypeError, match=r"no such option: tll \(there are: ttl, "):
        connect().get_or_load("k", forbidden, tll=1)


# -- what does not exist ----------------------------------------------------------------


@pytest.mark.parametrize("nothing", [None, KeyError("no such row")])
def test_what_does_not_exist_is_remembered(
    daemon: FakeDaemon, connect: Connect, nothing: Any
) -> None:
    cache, loader = connect(), Loader(nothing)
    for _ in range(3):
        assert cache.get_or_load("k", loader, ttl=60, negative_ttl=5) is None
    assert loader.calls == 1
    assert daemon.values[b"k"] == NOTHING == b"\xc1\xc1"
    assert daemon.commands[2][4:6] == [b"PX", b"5000"]
    entry = cache.get_entry_or_load("k", forbidden, negative_ttl=5)
    assert (entry.value, entry.found) == (None, False)
    # Who only reads finds nothing there.
    assert cache.get("k", "default") == "default"
    assert cache.get_entry("k", "default")[:2] == ("default", False)
    assert cache.get_many(["k", "other"]) == {}
    cache.set("k", None)
    assert cache.get("k", "default") is None, "None is a value, if it was stored as one"


def test_without_negative_ttl_a_key_error_is_an_error(connect: Connect) -> None:
    with pytest.raises(KeyError, match="no such row"):
        connect().get_or_load("k", Loader(KeyError("no such row")))


@pytest.mark.parametrize("serializer", [None, "json"])
def test_absence_with_other_serializers(
    daemon: FakeDaemon, connect: Connect, serializer: Any
) -> None:
    class Json:
        dumps = staticmethod(lambda value: json.dumps(value).encode())
        loads = staticmethod(json.loads)

    cache = connect(serializer=Json() if serializer else None)
    for _ in range(2):
        assert cache.get_or_load("k", lambda: None, negative_ttl=5) is None
    assert cache.get_entry_or_load("k", forbidden, stale_if_error=1).value is None
    assert cache.get("k", "default") == "default"


def test_none_is_a_value_like_another(daemon: FakeDaemon, connect: Connect) -> None:
    cache, loader = connect(), Loader(None)
    for _ in range(2):
        assert cache.get_or_load("k", loader, ttl=60) is None
    assert loader.calls == 1
    assert daemon.commands[2][4:6] == [b"PX", b"60000"]


# -- the loader fails -----------------------------------------------------------------


def test_the_loaders_own_error_at_once_and_the_token_given_back(
    daemon: FakeDaemon, connect: Connect
) -> None:
    cache, loader = connect(), Loader(LookupError("broken"))
    for _ in range(2):
        with pytest.raises(LookupError, match="broken"):
            cache.get_or_load("k", loader)
    assert loader.calls == 2  # nothing to serve meanwhile: each caller tries
    assert verbs(daemon) == ["GET", "LEASE", "RELEASE"] * 2
    assert daemon.tokens == {}


def test_stale_if_error_and_the_failing_loader_left_alone(
    daemon: FakeDaemon, connect: Connect
) -> None:
    cache = connect()
    cache.get_or_load("k", lambda: "old", ttl=0.05, stale_if_error=60)
    time.sleep(0.06)
    broken = Loader(OSError("down"))
    for _ in range(5):
        entry = cache.get_entry_or_load("k", broken, ttl=0.05, stale_if_error=60)
        assert (entry.value, entry.stale) == ("old", True)
    assert broken.calls == 1
    assert cache.get_or_load("k", lambda: "new", ttl=60, stale_if_error=60, retry_after=1) == "old"
    assert cache.stats()["origin"]["stale_answers"] == 6


def test_the_loader_is_tried_again_after_a_while(daemon: FakeDaemon, connect: Connect) -> None:
    cache = connect(load_policy=LoadPolicy(ttl=0.05, stale_if_error=60, retry_after=0.05))
    cache.get_or_load("k", lambda: "old")
    time.sleep(0.06)
    assert cache.get_or_load("k", Loader(OSError("down"))) == "old"
    time.sleep(0.06)
    assert cache.get_or_load("k", lambda: "new") == "new"


def test_past_its_grace_the_error_is_told(daemon: FakeDaemon, connect: Connect) -> None:
    """The grace is the longer of the two; stale_if_error is over before it."""
    cache = connect()
    how = {"ttl": 0.05, "stale_if_error": 0.05, "stale_while_revalidate": 0.001}
    cache.get_or_load("k", lambda: "old", ttl=0.05, stale_if_error=30)
    time.sleep(0.12)
    daemon.ends[b"k"] = time.monotonic() + 30  # as another language may have stored it
    assert cache.get_or_load("k", forbidden, **how) == "old"  # more left than ttl: fresh
    daemon.values.clear()
    daemon.ends.clear()
    with pytest.raises(OSError, match="down"):
        cache.get_or_load("k", Loader(OSError("down")), **how)


def test_a_value_that_cannot_be_stored(daemon: FakeDaemon, connect: Connect) -> None:
    with pytest.raises(UsageError, match="cannot be stored"):
        connect().get_or_load("k", object)
    assert daemon.tokens == {}


# -- an update during the load ----------------------------------------------------------


def test_what_was_invalidated_during_its_load_is_loaded_once_more(
    daemon: FakeDaemon, connect: Connect
) -> None:
    cache, other = connect(), Client(daemon.path)
    brought: list[str] = []

    def loader() -> str:
        brought.append("before" if not brought else "after")
        if len(brought) == 1:
            other.invalidate(["k"])
        return brought[-1]

    with other:
        assert cache.get_or_load("k", loader) == "after"
    assert daemon.values[b"k"] == cache_bytes("after")
    assert cache.stats()["origin"]["lost"] == 1


def test_what_is_invalidated_all_the_time_is_answered_and_not_stored(
    daemon: FakeDaemon, connect: Connect
) -> None:
    cache, other, loader = connect(), Client(daemon.path), Loader()

    def invalidated() -> Any:
        other.invalidate(["k"])
        return loader()

    with other:
        assert cache.get_or_load("k", invalidated) == "loaded"
    assert (loader.calls, daemon.values) == (2, {})


def test_a_load_that_outlives_its_lease_is_answered_and_not_stored(
    daemon: FakeDaemon, connect: Connect
) -> None:
    loader = Loader(takes_s=0.06)
    assert connect().get_or_load("k", loader, lease=0.02) == "loaded"
    assert (loader.calls, daemon.values) == (1, {})


@pytest.mark.parametrize(
    "told", ["OOM no memory", "TRYAGAIN not its turn", "ERR longer than limits.max_value_bytes"]
)
def test_a_fill_that_is_refused_does_not_cost_the_answer(
    daemon: FakeDaemon, connect: Connect, told: str
) -> None:
    """And the next in line need not wait until the lease ends."""
    daemon.script = lambda c: error(told) if c[0] == b"COH.FILL" else None
    cache = connect()
    assert cache.get_or_load("k", lambda: 1) == 1
    assert cache.stats()["origin"]["not_stored"] == 1
    assert not daemon.tokens


def test_a_fill_that_not_all_have_heard_of_is_stored(daemon: FakeDaemon, connect: Connect) -> None:
    late = error(f"NOACK committed {EPOCH}:7 missing=b")
    daemon.script = lambda c: late if c[0] == b"COH.FILL" else None
    cache = connect()
    assert cache.get_entry_or_load("k", lambda: 1).version == f"{EPOCH}:7"
    assert cache.stats()["origin"]["not_stored"] == 0


# -- many at once ---------------------------------------------------------------------


def test_a_hundred_threads_one_load(daemon: FakeDaemon) -> None:
    loader = Loader(takes_s=0.05)
    with Client(daemon.path) as cache, ThreadPoolExecutor(100) as threads:
        answers = list(threads.map(lambda _: cache.get_or_load("k", loader), range(100)))
        coalesced = cache.stats()["origin"]["shared"]
    assert set(answers) == {"loaded"}
    assert loader.calls == 1
    assert verbs(daemon).count("LEASE") < 20  # who looked just before the fill asks once more
    assert coalesced > 0


def test_those_who_waited_are_given_objects_of_their_own(daemon: FakeDaemon) -> None:
    entered, leave = threading.Event(), threading.Event()

    def loader() -> dict[str, Any]:
        entered.set()
        leave.wait(10)
        return {"names": ["Ada"], "pair": (1, 2)}

    with Client(daemon.path) as cache, ThreadPoolExecutor(5) as threads:
        answers = [threads.submit(cache.get_or_load, "k", loader)]
        assert entered.wait(10)
        answers += [threads.submit(cache.get_or_load, "k", forbidden) for _ in range(4)]
        wait_until(lambda: cache._patterns.stats({})["origin"]["shared"] == 4)
        leave.set()
        values = [answer.result(10) for answer in answers]
        for value in values:
            value["names"].append("Grace")
    assert [value["names"] for value in values] == [["Ada", "Grace"]] * 5
    assert [value["pair"] for value in values[1:]] == [[1, 2]] * 4  # as from a later read


async def test_a_hundred_tasks_one_load(daemon: FakeDaemon) -> None:
    calls = 0

    async def loader() -> str:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0.05)
        return "loaded"

    async with AsyncClient(daemon.path) as cache:
        answers = await asyncio.gather(*(cache.get_or_load("k", loader) for _ in range(100)))
    assert (set(answers), calls) == ({"loaded"}, 1)
    assert verbs(daemon).count("LEASE") < 20


def test_three_clients_one_load(daemon: FakeDaemon) -> None:
    """As three processes: they wait for each other at the daemon."""
    loader = Loader(takes_s=0.1)
    clients = [Client(daemon.path) for _ in range(3)]
    with ThreadPoolExecutor(30) as threads:
        answers = list(threads.map(lambda n: clients[n % 3].get_or_load("k", loader), range(30)))
    for client in clients:
        client.close()
    assert (set(answers), loader.calls) == ({"loaded"}, 1)


async def test_those_who_wait_for_others_have_a_bounded_number_of_connections(
    daemon: FakeDaemon,
) -> None:
    for number in range(8):
        daemon.tokens[b"k%d" % number] = (b"other", time.monotonic() + 60)
    async with AsyncClient(daemon.path, max_connections=2) as cache:
        waiting = [
            asyncio.ensure_future(cache.get_or_load(f"k{n}", forbidden, wait=30)) for n in range(8)
        ]
        # Each asks once without waiting, and then waits.
        await asyncio.to_thread(wait_until, lambda: verbs(daemon).count("LEASE") >= 8 + 2, 10)
        await asyncio.sleep(0.1)  # for more to come, if they would
        assert verbs(daemon).count("LEASE") == 8 + 2
        assert daemon.connections <= 2 + 2, "one for reads, one for writes"
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_waiting_for_others_holds_up_nobody(daemon: FakeDaemon) -> None:
    """40 keys are being loaded elsewhere; a plain read is answered all the same."""
    until = time.monotonic() + 60
    for number in range(40):
        daemon.tokens[b"k%d" % number] = (b"other", until)
    async with AsyncClient(daemon.path) as cache:
        waiting = [
            asyncio.ensure_future(cache.get_or_load(f"k{n}", forbidden, wait=30)) for n in range(40)
        ]
        await asyncio.sleep(0.1)
        async with asyncio.timeout(2):
            assert await cache.get("plain") is None
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def test_the_failure_of_a_load_is_told_to_those_who_waited_for_it(daemon: FakeDaemon) -> None:
    loader = Loader(OSError("down"), takes_s=0.2)
    with Client(daemon.path) as cache, ThreadPoolExecutor(10) as threads:
        futures = [threads.submit(cache.get_or_load, "k", loader) for _ in range(10)]
        assert all(isinstance(future.exception(), OSError) for future in futures)
    assert loader.calls == 1


def test_a_filler_that_fails_hands_over_to_the_next(daemon: FakeDaemon) -> None:
    entered = threading.Event()

    def failing() -> None:
        entered.set()
        wait_until(lambda: verbs(daemon).count("LEASE") >= 3, 10, "the other waits")
        raise OSError("down")

    with Client(daemon.path) as one, Client(daemon.path) as two, ThreadPoolExecutor(1) as threads:
        first = threads.submit(one.get_or_load, "k", failing)
        assert entered.wait(10)
        began = time.monotonic()
        assert two.get_or_load("k", lambda: "second", lease=30) == "second"
        assert time.monotonic() - began < 5
        assert isinstance(first.exception(), OSError)


def test_waiting_has_an_end(daemon: FakeDaemon, connect: Connect) -> None:
    daemon.tokens[b"k"] = (b"somebody", time.monotonic() + 60)
    began = time.monotonic()
    assert connect().get_or_load("k", lambda: "mine", wait=0.1) == "mine"
    assert 0.1 <= time.monotonic() - began < 5
    assert daemon.values == {}


async def test_a_cancelled_load_hands_over_at_once(daemon: FakeDaemon) -> None:
    async with AsyncClient(daemon.path) as cache:
        entered = asyncio.Event()

        async def never() -> None:
            entered.set()
            await asyncio.Event().wait()

        task = asyncio.ensure_future(cache.get_or_load("k", never))
        await entered.wait()
        waiting = asyncio.ensure_future(cache.get_or_load("k", lambda: "next"))
        await asyncio.sleep(0.01)
        task.cancel()
        assert await waiting == "next"
        with pytest.raises(asyncio.CancelledError):
            await task


def test_who_asks_after_the_fill_was_sent_reads_anew(daemon: FakeDaemon) -> None:
    """Another update may already have been acknowledged: the flight has departed."""
    sent, held = threading.Event(), threading.Event()

    def hold(command: list[bytes]) -> None:
        if command[0] == b"COH.FILL" and command[3] == cache_bytes("old"):
            sent.set()
            held.wait(10)

    daemon.script = hold
    with Client(daemon.path) as cache, ThreadPoolExecutor(1) as threads:
        first = threads.submit(cache.get_or_load, "k", lambda: "old")
        assert sent.wait(10)
        cache.invalidate(["k"])
        assert cache.get_or_load("k", lambda: "new") == "new"
        held.set()
        assert first.result(10) == "new"  # its fill was LOST: it looks once more, and finds this


async def test_a_lease_that_comes_too_late_is_given_back(daemon: FakeDaemon) -> None:
    asked, held = threading.Event(), threading.Event()

    def hold(command: list[bytes]) -> None:
        if command[0] == b"COH.LEASE":
            asked.set()
            held.wait(10)

    daemon.script = hold
    async with AsyncClient(daemon.path) as cache:
        task = asyncio.ensure_future(cache.get_or_load("k", forbidden))
        await asyncio.to_thread(asked.wait, 10)
        task.cancel()
        await asyncio.wait([task])
        held.set()
        await asyncio.to_thread(wait_until, lambda: "RELEASE" in verbs(daemon), 10)
    assert daemon.tokens == {}


# -- refreshing behind ------------------------------------------------------------------


def test_stale_while_revalidate(daemon: FakeDaemon, connect: Connect) -> None:
    cache = connect()
    how = {"ttl": 0.1, "stale_while_revalidate": 60}
    cache.get_or_load("k", lambda: "old", **how)
    assert cache.get_entry_or_load("k", forbidden, **how).stale is False
    time.sleep(0.11)
    loader = Loader("new", takes_s=0.05)
    entry = cache.get_entry_or_load("k", loader, **how)
    assert (entry.value, entry.stale) == ("old", True)

    def refreshed() -> bool:
        return bool(cache.get_or_load("k", loader, **how) == "new")

    wait_until(refreshed, 10, "the refresh")
    assert loader.calls <= 2  # 0.1 s of freshness may have passed again


def test_one_refreshes_for_all(daemon: FakeDaemon) -> None:
    how: Any = {"ttl": 0.05, "stale_while_revalidate": 60}
    loader = Loader("new", takes_s=0.1)
    with Client(daemon.path) as one, Client(daemon.path) as two:
        one.get_or_load("k", lambda: "old", **how)
        time.sleep(0.06)
        for _ in range(20):
            assert one.get_or_load("k", loader, **how) == "old"
            assert two.get_or_load("k", loader, **how) == "old"
    assert loader.calls == 1


def test_a_refresh_that_fails_harms_nobody(daemon: FakeDaemon, connect: Connect) -> None:
    cache, broken = connect(), Loader(OSError("down"))
    how = {"ttl": 0.05, "stale_while_revalidate": 60}
    cache.get_or_load("k", lambda: "old", **how)
    time.sleep(0.06)

    def failed() -> bool:
        assert cache.get_or_load("k", broken, **how) == "old"
        return bool(cache.stats()["origin"]["load_errors"])

    wait_until(failed, 10, "the refresh")
    for _ in range(10):
        assert cache.get_or_load("k", broken, **how) == "old"
    assert broken.calls == 1  # left alone


def test_early_refresh(daemon: FakeDaemon, connect: Connect) -> None:
    """XFetch: with a load that takes long, a fresh value is loaded anew before its end."""
    cache = connect()
    how = {"ttl": 1.0, "early_refresh": 50.0}
    cache.get_or_load("k", Loader("old", takes_s=0.05), **how)
    loader = Loader("new")

    def refreshed() -> bool:
        entry = cache.get_entry_or_load("k", loader, **how)
        assert not entry.stale
        return bool(entry.value == "new")

    wait_until(refreshed, 10, "an early refresh")
    assert loader.calls >= 1


def test_an_early_refresh_is_granted_though_answers_take_time(
    daemon: FakeDaemon, connect: Connect
) -> None:
    """What the reader knows of a value's end is earlier than what Redis knows, always."""
    daemon.answers_take_s = 0.02
    cache = connect()
    how = {"ttl": 60.0, "early_refresh": 1e6}
    cache.get_or_load("k", Loader("old", takes_s=0.01), **how)
    loader = Loader("new")
    wait_until(lambda: cache.get_or_load("k", loader, **how) == "new", 10, "an early refresh")
    assert loader.calls >= 1


# -- the cache cannot be reached ----------------------------------------------------------


def test_raise_is_the_default(daemon: FakeDaemon, connect: Connect) -> None:
    cache = connect()
    daemon.close()
    with pytest.raises(DaemonUnreachable):
        cache.get("k")
    with pytest.raises(DaemonUnreachable):
        cache.get_or_load("k", forbidden)


def test_load_when_the_daemon_is_gone(daemon: FakeDaemon, connect: Connect) -> None:
    cache = connect(on_unavailable="load")
    daemon.values[b"k"] = b"v"
    assert cache.get("k") == b"v"
    daemon.close()
    assert cache.get("k", "default") == "default"
    assert cache.get_entry("k").found is False
    assert cache.get_many(["k"]) == {}
    for policy in ({}, {"stale_if_error": 5}):
        assert cache.get_or_load("k", lambda: "loaded", **policy) == "loaded"
    with pytest.raises(DaemonUnreachable):
        cache.set("k", b"v")  # a write that is lost is not a miss
    with pytest.raises(DaemonUnreachable):
        cache.invalidate(["k"])


def test_load_when_redis_is_gone(daemon: FakeDaemon, connect: Connect) -> None:
    daemon.script = lambda command: error("UNAVAILABLE Redis does not answer")
    cache = connect(on_unavailable="load")
    assert cache.get_or_load("k", lambda: "loaded") == "loaded"
    with pytest.raises(OSError, match="the loader's"):
        cache.get_or_load("k", Loader(OSError("the loader's")))
    with pytest.raises(RedisUnreachable):
        connect().get_or_load("k", forbidden)


def test_a_loader_whose_own_service_is_unreachable_is_not_taken_for_the_cache(
    daemon: FakeDaemon, connect: Connect
) -> None:
    loader = Loader(RedisUnreachable("another cache of the loader's"))
    with pytest.raises(RedisUnreachable, match="another cache"):
        connect(on_unavailable="load").get_or_load("k", loader)
    assert loader.calls == 1


def test_a_mode_that_does_not_exist(connect: Connect) -> None:
    with pytest.raises(UsageError, match="raise, load, redis"):
        connect(on_unavailable="ignore")
