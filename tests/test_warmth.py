"""The names of the hottest keys: in a file, and read again by a daemon that restarts."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from coherenced import Client
from coherenced.core.bulk import bulk_of
from coherenced.core.entry import Entry
from coherenced.core.l1 import L1
from coherenced.core.lane import Lane
from coherenced.core.requests import Outcome, Read, ReadResult
from coherenced.warmth import (
    ENTRIES_PER_SLICE,
    MAGIC,
    NAMES_PER_PART,
    Damaged,
    Warmth,
    packed,
    unpacked,
)
from tests.cluster.daemons import Cluster
from tests.servers import wait_until
from tests.turns import counted_turns

KEYS = [b"a", b"", b"\x00\xff\n", b"k" * 5000]


def test_names_come_back() -> None:
    assert unpacked(packed(KEYS)) == KEYS
    assert unpacked(packed([])) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: data + b"x",
        lambda data: data[:30] + b"\x01" + data[31:],
        lambda data: b"somebody else's file",
    ],
)
def test_a_damaged_file_is_noticed(damage: Any) -> None:
    with pytest.raises(Damaged):
        unpacked(damage(packed(KEYS)))


class Node:
    """Answers reads by putting the keys into the L1, as the node does."""

    def __init__(self, l1: L1) -> None:
        self.l1 = l1
        self.asked: list[bytes] = []

    def submit(self, request: Read, done: Any) -> None:
        self.asked += request.keys
        for key in request.keys:
            self.l1.put(entry(key))
        outcome: Outcome = ReadResult(())
        done(outcome)


def entry(key: bytes, value: bytes | None = b"v") -> Entry:
    return Entry(key, bulk_of(value), Lane(0), 1, 1e12, 1e12)


def warmth(path: Path, l1: L1, *, most: int = 100, pace: int = 0) -> tuple[Warmth, list[str]]:
    told: list[str] = []
    return Warmth(path, l1, most, pace, lambda name, fields: told.append(name)), told


async def test_the_hottest_are_saved_first_and_what_is_absent_is_not(tmp_path: Path) -> None:
    l1 = L1(1 << 20, 1 << 16)
    for number in range(300):
        l1.put(entry(b"k%d" % number))
    l1.put(entry(b"absent", None))
    for key in (b"k7", b"k200"):
        l1.entries[key].frequency = 3
    one, told = warmth(tmp_path / "warm", l1)
    one.save()
    names = unpacked((tmp_path / "warm").read_bytes())
    assert len(names) == 100
    assert set(names[:2]) == {b"k7", b"k200"}
    assert b"absent" not in names
    assert names == await one.hottest()
    fresh = L1(1 << 20, 1 << 16)
    fresh.put(entry(b"k7"))
    node = Node(fresh)
    again, told = warmth(tmp_path / "warm", fresh)
    await again.reload(node)
    assert node.asked == [name for name in names if name != b"k7"]
    assert told == ["warmed"]


async def test_what_a_prefix_has_ended_is_not_saved_and_others_have_their_turn(
    tmp_path: Path,
) -> None:
    l1 = L1(1 << 24, 1 << 16)
    for number in range(10_000):
        l1.put(entry(b"%d:%d" % (number % 2, number)))
    l1.end_prefix(b"1:", 2)
    one, _ = warmth(tmp_path / "warm", l1, most=20_000)
    async with counted_turns() as turns:
        names = await one.hottest()
    assert len(names) == 5_000 and all(name.startswith(b"0:") for name in names)
    assert turns[0] >= 10_000 // ENTRIES_PER_SLICE
    assert len(list(one._writing(names))) == 1 + -(-5_000 // NAMES_PER_PART) + 1
    assert unpacked((tmp_path / "warm").read_bytes()) == names


def test_the_file_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    l1 = L1(1 << 20, 1 << 16)
    for number in range(10):
        l1.put(entry(b"k%d" % number))
    monkeypatch.setattr("coherenced.warmth.MAX_FILE_BYTES", len(MAGIC) + 3 * (4 + 2) + 32)
    one, _ = warmth(tmp_path / "warm", l1)
    one.save()
    assert unpacked((tmp_path / "warm").read_bytes()) == [b"k9", b"k8", b"k7"]


async def test_it_reloads_at_its_pace_and_not_into_a_full_cache(tmp_path: Path) -> None:
    (tmp_path / "warm").write_bytes(packed([b"k%d" % n for n in range(500)]))
    l1 = L1(1 << 20, 1 << 16)
    one, _ = warmth(tmp_path / "warm", l1, most=500, pace=2000)
    began = time.monotonic()
    await one.reload(Node(l1))
    assert time.monotonic() - began >= 0.2
    small = L1(60_000, 1 << 16)
    node = Node(small)
    one, _ = warmth(tmp_path / "warm", small, most=500)
    await one.reload(node)
    assert 100 <= len(node.asked) < 500


async def test_no_file_a_damaged_one_and_one_that_cannot_be_written(tmp_path: Path) -> None:
    l1 = L1(1 << 20, 1 << 16)
    one, told = warmth(tmp_path / "warm", l1)
    await one.reload(Node(l1))
    assert told == []
    (tmp_path / "warm").write_bytes(b"nonsense")
    await one.reload(Node(l1))
    assert told == ["warm_file_damaged"]
    nowhere, told = warmth(tmp_path / "missing" / "warm", l1)
    nowhere.save()
    assert told == ["warm_not_saved"]


def test_a_daemon_that_restarts_is_warm_and_serves_nothing_old() -> None:
    with Cluster(2) as cluster:
        daemon, other = cluster.daemons
        with Client(daemon.socket, l0=False) as cache, Client(other.socket, l0=False) as there:
            keys = [f"k{n}" for n in range(500)]
            cache.set_many(dict.fromkeys(keys, "old"))
            for _ in range(3):
                cache.get_many(keys[:200])
            daemon.stop()
            assert len(unpacked((daemon.directory / "warm.keys").read_bytes())) == 500
            there.set("k3", "new")
            there.delete("k4")
            daemon.start()
            wait_until(lambda: "warmed" in events(daemon), 20, "reloaded")
            held = daemon.stats()["l1"]
            assert 490 <= held["entries"] <= 510
            entries = {key: cache.get_entry(key) for key in ("k1", "k3", "k4")}
            assert [one.value for one in entries.values()] == ["old", "new", None]
            asked = daemon.stats()["l1"]
            assert (asked["hits"], asked["misses"]) == (3, 0), "reloading is nobody's miss"
            assert entries["k1"].source == "l1"


def test_a_damaged_file_does_not_keep_a_daemon_from_starting() -> None:
    with Cluster(1, settings={"l1.warm_keys": 10}) as cluster:
        daemon = cluster.daemons[0]
        daemon.command("SET", "k", "v")
        daemon.stop()
        (daemon.directory / "warm.keys").write_bytes(b"coherenced warm 1\nnonsense")
        daemon.start()
        wait_until(lambda: "warm_file_damaged" in events(daemon), 20, "said so")
        (line,) = [one for one in events(daemon).splitlines() if "warm_file_damaged" in one]
        told = json.loads(line)
        assert told["level"] == "warning" and "starts cold" in told["message"]
        assert told["path"].endswith("warm.keys") and "no such file" in told["reason"]
        assert daemon.command("GET", "k") == b"v"


def events(daemon: Any) -> str:
    return str(daemon.log_text())
