"""Loads, by our own generator and by redis-benchmark where there is one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from coherenced.bench.load import (
    GENERATOR,
    Load,
    Loader,
    Place,
    Sides,
    batches,
    fill,
    key,
    rows_of,
    shuffled,
    warm,
)
from coherenced.bench.rounds import Duel
from coherenced.bench.talk import Talk
from coherenced.errors import CommandError
from tests.servers import Server

BENCHMARK = shutil.which("redis-benchmark") or ""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("valkey") as server:
        yield server


@pytest.mark.parametrize(
    "executable",
    [
        "",
        pytest.param(
            BENCHMARK, marks=pytest.mark.skipif(not BENCHMARK, reason="no redis-benchmark")
        ),
    ],
)
@pytest.mark.parametrize("verb", ["GET", "SET"])
def test_a_load_is_what_was_asked_for(
    server: Server, tmp_path: Path, executable: str, verb: str
) -> None:
    load = Load(verb=verb, connections=3, pipeline=4, keys=20, value_bytes=50)  # type: ignore[arg-type]
    with Talk(server.socket) as talk:
        talk.ask("FLUSHALL")
        fill(talk, load.keys, load.value_bytes)
    server.command("CONFIG", "RESETSTAT")
    told = Loader(tmp_path, executable).run(Place(server.socket, server.pid), load, 0.05)
    assert told["rate"] > 0 and told["server"] > 0
    assert 0 < told["p50"] <= told["p99"]
    with Talk(server.socket) as talk:
        stats = talk.info("commandstats")
        assert f"cmdstat_{verb.lower()}" in stats
        assert talk.info("stats")["keyspace_misses"] == "0"
        assert talk.ask("DBSIZE") == load.keys
        assert talk.ask("STRLEN", key(7)) == load.value_bytes


def test_a_benchmark_that_fails_says_so(server: Server, tmp_path: Path) -> None:
    script = tmp_path / "redis-benchmark"
    script.write_text("#!/bin/sh\necho 'it broke' >&2\nexit 1\n")
    script.chmod(0o755)
    loader = Loader(tmp_path, str(script))
    assert loader.name == "redis-benchmark"
    with pytest.raises(CommandError, match="redis-benchmark failed: it broke"):
        loader.run(Place(server.socket, os.getpid()), Load(), 0.1)


def test_what_is_warmed_must_be_there(server: Server) -> None:
    with Talk(server.socket) as talk:
        talk.ask("FLUSHALL")
        fill(talk, 600, 10)
        warm(talk, 600)
        with pytest.raises(CommandError, match="not there"):
            warm(talk, 601)


def test_the_same_turn_at_each_side() -> None:
    ours, theirs = Place(Path("a"), 1), Place(Path("b"), 2)
    found = Sides(ours, "Valkey", theirs).duel(2, lambda place: {"rate": float(place.pid)})
    assert found == Duel("Valkey", [{"rate": 1.0}] * 2, [{"rate": 2.0}] * 2)


def test_a_client_at_its_limit_is_named() -> None:
    turn = {"rate": 1.0, "p50": 1.0, "p99": 1.0, "server": 1.0}
    found = Duel("Valkey", [turn | {"busy": 0.5}], [turn | {"busy": 0.99}])
    first, *others = rows_of(found, "GET", GENERATOR, None)
    assert first.note.endswith("at its own limit (Valkey)")
    assert [row.name for row in others] == ["GET: p50", "GET: p99", "GET: CPU each"]
    assert not any(row.note for row in others)


def test_a_short_last_batch_is_filled_up() -> None:
    assert batches([b"a", b"b", b"c"], 2) == [b"ab", b"ca"]
    assert batches([b"a", b"b"], 2) == [b"ab"]
    assert batches([b"a"], 1) == [b"a"]
    assert batches([b"a"], 3) == [b"aaa"]


def test_shuffled_is_every_number_once_and_always_alike() -> None:
    assert sorted(shuffled(100)) == list(range(100))
    assert shuffled(100) == shuffled(100) != list(range(100))
