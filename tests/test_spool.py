"""The journal: durable before it is accepted, bounded, and never silently short."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import redis

from coherenced.core.model import Mutation, Op
from coherenced.spool import MAGIC, Spool, Spooled, SpoolError
from tests.cluster.daemons import Daemon, DaemonError
from tests.servers import Server, wait_until


def entry(name: bytes) -> Spooled:
    return Spooled((name,), (b"t",), (b"p",), False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def test_what_was_appended_is_there_after_reopening_in_order(path: Path) -> None:
    spool = Spool(path, 10_000)
    spool.append([entry(b"a"), entry(b"b")])
    spool.append([entry(b"c")])
    spool.close()
    again = Spool(path, 10_000)
    assert [e.keys[0] for e in again.pending()] == [b"a", b"b", b"c"]
    again.sent(2)
    assert [e.keys[0] for e in again.pending()] == [b"c"]
    again.close()
    last = Spool(path, 10_000)
    assert [e.keys[0] for e in last.pending()] == [b"c"]
    last.close()


def test_an_entry_is_the_invalidation_it_came_from() -> None:
    mutation = Mutation((), op=Op.INVALIDATE, keys=(b"k",), tags=(b"t",), prefixes=(b"p",))
    back = Spooled.of(mutation).mutation()
    assert (back.keys, back.tags, back.prefixes, back.everything, back.argv) == (
        (b"k",), (b"t",), (b"p",), False, (),
    )  # fmt: skip


def test_a_torn_last_record_is_cut_off_at_every_length(path: Path) -> None:
    spool = Spool(path, 10_000)
    spool.append([entry(b"kept")])
    whole = path.stat().st_size
    spool.append([entry(b"torn")])
    spool.close()
    data = path.read_bytes()
    for size in range(whole + 1, len(data)):
        path.write_bytes(data[:size])
        again = Spool(path, 10_000)
        assert [e.keys[0] for e in again.pending()] == [b"kept"]
        assert again.cut_bytes == size - whole
        again.append([entry(b"after")])
        again.close()
        final = Spool(path, 10_000)
        assert [e.keys[0] for e in final.pending()] == [b"kept", b"after"]
        final.close()


def test_damage_before_the_end_is_an_error_that_says_what_to_do(path: Path) -> None:
    spool = Spool(path, 10_000)
    spool.append([entry(b"one"), entry(b"two")])
    spool.close()
    data = bytearray(path.read_bytes())
    data[len(MAGIC) + 12] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(SpoolError, match=r"damaged at byte 8.*invalidate --all"):
        Spool(path, 10_000)
    assert path.read_bytes() == bytes(data)


def test_a_foreign_file_is_left_alone(path: Path) -> None:
    path.write_bytes(b"something else entirely")
    with pytest.raises(SpoolError, match="not a journal"):
        Spool(path, 10_000)
    assert path.read_bytes() == b"something else entirely"


def test_a_full_journal_accepts_nothing_and_loses_nothing(path: Path) -> None:
    spool = Spool(path, 200)
    spool.append([entry(b"fits")])
    with pytest.raises(SpoolError, match="is full"):
        spool.append([entry(b"x" * 300)])
    assert [e.keys[0] for e in spool.pending()] == [b"fits"]
    spool.close()


def test_a_full_disk_accepts_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(path, 10_000)

    def no_space(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", no_space)
    with pytest.raises(SpoolError, match="No space left"):
        spool.append([entry(b"a")])
    monkeypatch.undo()
    spool.append([entry(b"b")])
    assert [e.keys[0] for e in spool.pending()] == [b"b"]
    spool.close()


@pytest.mark.parametrize("written", ["nothing", "a part"])
def test_a_full_disk_keeps_nothing_from_being_sent(
    path: Path, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    """What is left cannot be written anew: the file stays as it is, and nothing is left open."""
    spool = Spool(path, 10_000)
    spool.append([entry(b"%d" % number) for number in range(4)])
    pwrite, fds = os.pwrite, len(list(Path("/proc/self/fd").iterdir()))

    def no_space(fd: int, data: bytes, at: int) -> int:
        if written == "nothing":
            raise OSError(28, "No space left on device")
        return pwrite(fd, data[:20], at)

    monkeypatch.setattr(os, "pwrite", no_space)
    with pytest.raises(OSError, match="No space left"):
        spool.sent(2)
    monkeypatch.undo()
    assert [e.keys[0] for e in spool.pending()] == [b"2", b"3"]
    assert len(list(Path("/proc/self/fd").iterdir())) == fds
    assert list(path.parent.iterdir()) == [path]
    spool.append([entry(b"4")])
    again = Spool(path, 10_000)  # as after kill -9
    assert [e.keys[0] for e in again.pending()] == [b"0", b"1", b"2", b"3", b"4"]
    again.close()
    spool.sent(1)
    again = Spool(path, 10_000)
    assert [e.keys[0] for e in again.pending()] == [b"3", b"4"]
    again.close()
    spool.sent(2)
    assert spool.bytes_used == path.stat().st_size == 8
    spool.close()


def test_a_daemon_journals_survives_kill_9_and_sends_in_order() -> None:
    settings = {"coherence.on_unavailable": "spool"}
    with Server("valkey") as server:
        other = Daemon("other", server.unix_url).start()
        daemon = Daemon("one", server.unix_url, settings).start()
        try:
            other.command("SET", "k", "v")
            other.command("COH.SET", "tagged", "v", "TAGS", "1", "t")
            server.kill()
            wait_until(lambda: _is_spooled(daemon), 10)
            assert daemon.command("COH.INVALIDATE", "TAGS", "1", "t")[2] == [b"(spooled)"]
            # A journal cannot speak for other nodes: who asks for them is told that none answered.
            told = daemon.command("COH.INVALIDATE", "TAGS", "1", "t", "ACK", "all")
            assert str(told) == "NOACK journaled missing=(spooled)"
            assert isinstance(daemon.command("SET", "k", "w"), redis.ResponseError | Exception)
            before = daemon.stats()["spool"]["waiting"]
            assert before >= 2
            # Who does not wait at all is answered first, and journaled when it turns out so.
            told = daemon.command("COH.INVALIDATE", "PREFIXES", "1", "ta", "ACK", "none")
            assert told == [None, [], [], []]
            wait_until(lambda: daemon.stats()["spool"]["waiting"] == before + 1, 10)
            assert "could not be carried out" not in daemon.log_text()
            waiting = before + 1
            daemon.kill()
            daemon.spawn()
            wait_until(lambda: daemon.http_socket.exists(), 10)
            server.restart("empty")
            daemon.wait_ready()
            wait_until(lambda: daemon.stats()["spool"]["waiting"] == 0, 10)
            assert daemon.stats()["spool"]["sent"] == waiting
            records = server.command("XRANGE", "coh:{0}:log", "-", "+")
            assert len(records) == waiting
        finally:
            daemon.stop()
            other.stop()


def _is_spooled(daemon: Daemon) -> bool:
    answer = daemon.command("COH.INVALIDATE", "KEYS", "1", "k")
    return isinstance(answer, list) and answer[2] == [b"(spooled)"]


def test_a_torn_journal_is_told_and_what_was_accepted_is_sent() -> None:
    """As a power cut leaves it: half of a last record, which was never acknowledged."""
    with Server("valkey") as server:
        daemon = Daemon("one", server.unix_url, {"coherence.on_unavailable": "spool"})
        journal = daemon.directory / "spool.journal"
        spool = Spool(journal, 10_000)
        spool.append([entry(b"kept")])
        whole = journal.read_bytes()
        spool.append([entry(b"torn")])
        spool.close()
        journal.write_bytes(journal.read_bytes()[: len(whole) + 11])
        try:
            daemon.start()
            wait_until(lambda: daemon.stats()["spool"]["sent"] == 1, 10)
            assert "the journal's last record was torn and never accepted" in daemon.log_text()
            (record,) = server.command("XRANGE", "coh:{0}:log", "-", "+")
            assert b"kept" in record[1][record[1].index(b"b") + 1]
        finally:
            daemon.stop()
            daemon.remove()


def test_a_damaged_journal_stops_the_daemon_with_one_clear_line() -> None:
    daemon = Daemon("one", "redis://127.0.0.1:1", {"coherence.on_unavailable": "spool"})
    journal = daemon.directory / "spool.journal"
    spool = Spool(journal, 10_000)
    spool.append([entry(b"one"), entry(b"two")])
    spool.close()
    data = bytearray(journal.read_bytes())
    data[len(MAGIC) + 12] ^= 0xFF
    journal.write_bytes(data)
    with pytest.raises(DaemonError, match="ended with 1 before it was ready") as raised:
        daemon.start()
    assert "is damaged at byte 8" in str(raised.value)
    assert "coherenced invalidate --all" in str(raised.value)
    assert "Traceback" not in daemon.log_text()
    assert journal.read_bytes() == bytes(data)
    daemon.remove()


def test_a_full_journal_refuses_and_says_so_everywhere() -> None:
    settings = {"coherence.on_unavailable": "spool", "spool.max_bytes": 4096}
    with Server("valkey") as server:
        daemon = Daemon("one", server.unix_url, settings).start()
        try:
            server.kill()
            wait_until(lambda: _is_spooled(daemon), 10)
            keys = [f"key:{number:060}" for number in range(100)]
            answer = daemon.command("COH.INVALIDATE", "KEYS", str(len(keys)), *keys)
            assert isinstance(answer, Exception)
            assert "the journal" in str(answer)
            assert "is full" in str(answer)
            told = daemon.stats()["spool"]
            assert told["refused"] == 1
            assert 0 < told["bytes"] <= told["max_bytes"] == 4096
            metrics = daemon.http("/metrics")[1].decode()
            assert "coherenced_spool_refused_total 1.0" in metrics
            assert "the journal of invalidations could not be written" in daemon.log_text()
            waiting = told["waiting"]
            server.start()
            wait_until(lambda: daemon.stats()["spool"]["sent"] == waiting, 15)
        finally:
            daemon.stop()
            daemon.remove()
