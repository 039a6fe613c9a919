"""`warm`: in bulk, only what is missing, bounded, with progress."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from coherenced import Client, Loaded
from coherenced.client.warming import Warmed
from coherenced.errors import UsageError
from tests.client.fake_daemon import FakeDaemon, error

Connect = Callable[..., Any]


def squares(keys: list[str]) -> dict[str, int]:
    return {key: int(key[1:]) ** 2 for key in keys}


def test_only_what_is_missing_is_loaded(daemon: FakeDaemon, connect: Connect) -> None:
    cache, asked = connect(), []
    cache.set_many({"k1": 1, "k2": 4})

    def loader(keys: list[str]) -> dict[str, int]:
        asked.extend(keys)
        return squares(keys)

    keys = [f"k{n}" for n in range(10)]
    assert cache.warm(keys, loader, concurrency=1, ttl=30) == Warmed(10, 2, 8, 0, 0, 0)
    assert asked == ["k0", *keys[3:]]
    assert cache.get_many(keys) == squares(keys)
    assert all(c[4:6] == [b"PX", b"30000"] for c in daemon.commands if c[0] == b"COH.FILL")
    assert cache.warm(keys, loader) == Warmed(10, 10, 0, 0, 0, 0)


def test_nothing_to_warm(daemon: FakeDaemon, connect: Connect) -> None:
    assert connect().warm([], squares) == Warmed(0, 0, 0, 0, 0, 0)
    assert daemon.connections == 0


def test_many_keys_in_parts_with_progress(daemon: FakeDaemon, connect: Connect) -> None:
    told: list[tuple[int, int]] = []
    keys = [f"k{n}" for n in range(1001)]
    sizes: list[int] = []

    def loader(keys: list[str]) -> dict[str, int]:
        sizes.append(len(keys))
        return squares(keys)

    done = connect().warm(keys, loader, progress=lambda d, t: told.append((d, t)))
    assert done == Warmed(1001, 0, 1001, 0, 0, 0)
    assert max(sizes) == 200
    assert told[-1] == (1001, 1001)
    assert [d for d, _ in told] == sorted(d for d, _ in told)
    assert daemon.tokens == {}


def test_what_the_loader_does_not_bring_is_given_back(daemon: FakeDaemon, connect: Connect) -> None:
    def loader(keys: list[str]) -> dict[str, Any]:
        return {"k1": 1, "k2": Loaded(2, ttl=0)}

    assert connect().warm(["k1", "k2", "k3"], loader, concurrency=1) == Warmed(3, 0, 1, 2, 0, 0)
    assert daemon.tokens == {}


def test_what_others_are_loading_is_left_to_them(daemon: FakeDaemon, connect: Connect) -> None:
    daemon.tokens[b"k1"] = (b"other", time.monotonic() + 60)
    assert connect().warm(["k1", "k2"], squares) == Warmed(2, 0, 1, 0, 1, 0)


def test_what_was_invalidated_meanwhile_is_not_stored(daemon: FakeDaemon, connect: Connect) -> None:
    with Client(daemon.path) as other:

        def loader(keys: list[str]) -> dict[str, int]:
            other.invalidate(["k1"])
            return squares(keys)

        done = connect().warm(["k1", "k2"], loader, concurrency=1)
    assert done == Warmed(2, 0, 1, 0, 0, 1)
    assert set(daemon.values) == {b"k2"}


def test_a_loader_that_fails(daemon: FakeDaemon, connect: Connect) -> None:
    def loader(keys: list[str]) -> Any:
        raise OSError("down")

    with pytest.raises(OSError, match="down"):
        connect().warm([f"k{n}" for n in range(500)], loader)
    assert daemon.tokens == {}
    with pytest.raises(UsageError, match="mapping"):
        connect().warm(["k"], lambda keys: [1])
    with pytest.raises(UsageError, match="concurrency"):
        connect().warm(["k"], squares, concurrency=0)


def test_a_server_that_refuses(daemon: FakeDaemon, connect: Connect) -> None:
    daemon.script = lambda c: error("OOM no memory") if c[0] == b"COH.FILL" else None
    assert connect().warm(["k1"], squares) == Warmed(1, 0, 0, 0, 0, 1)
    assert not daemon.tokens, "the next in line need not wait until the lease ends"


def test_no_more_at_once_than_asked_for(daemon: FakeDaemon) -> None:
    running = peak = 0
    lock = threading.Lock()

    def loader(keys: list[str]) -> dict[str, int]:
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
        time.sleep(0.02)
        with lock:
            running -= 1
        return squares(keys)

    with Client(daemon.path) as cache:
        cache.warm([f"k{n}" for n in range(2000)], loader, concurrency=3)
    assert 2 <= peak <= 3
