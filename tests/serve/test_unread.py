"""unread.py: what is kept for those who do not read, all together."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from coherenced.serve.resp_flow import MOST_TOGETHER
from coherenced.serve.resp_settings import RespSettings
from coherenced.serve.unread import Unread
from tests.serve.resp_rig import packed
from tests.serve.running import Running
from tests.servers import wait_until


class Slow:
    """A connection that does not read."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.is_cut_off = False

    def unread_bytes(self) -> int:
        return self.size

    def cut_off(self) -> None:
        self.is_cut_off = True


def test_who_has_the_most_is_cut_off_but_never_the_last() -> None:
    unread, clients = Unread(), [Slow(30), Slow(50), Slow(20), Slow(10)]
    for one in clients[:3]:
        unread.note(one, 100)
    assert not any(one.is_cut_off for one in clients)
    unread.note(clients[3], 100)
    assert [one.is_cut_off for one in clients] == [False, True, False, False]
    assert unread.total_bytes == 60
    for one in clients:
        unread.forget(one)
    assert unread.total_bytes == 0
    unread.note(clients[0], 5)
    assert not clients[0].is_cut_off, "alone it has its own bound"


def test_what_has_been_read_since_is_seen_before_anybody_is_cut_off() -> None:
    unread, clients = Unread(), [Slow(60), Slow(30), Slow(30)]
    for one in clients[:2]:
        unread.note(one, 100)
    clients[0].size = 5
    unread.note(clients[2], 100)
    assert not any(one.is_cut_off for one in clients)
    assert unread.total_bytes == 65
    unread.note(clients[2], 100)  # again: it is counted once
    assert unread.total_bytes == 65


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """Each may have 2 MB, all together sixteen."""
    few = RespSettings(output_buffer_bytes=2_000_000, pause_bytes=100_000)
    server = Running(tmp_path / "s.sock", few)
    server.start()
    yield server
    server.stop()


def test_clients_that_do_not_read_hold_no_more_than_the_bound_together(running: Running) -> None:
    value = b"x" * 1_900_000
    front = running.front
    with ExitStack() as stack:
        first = stack.enter_context(running.connect())
        first.sendall(packed(("SET", "k", value)))
        assert first.recv(100) == b"+OK\r\n"
        hogs: list[socket.socket] = []
        for _ in range(20):
            hogs.append(stack.enter_context(running.connect()))
            hogs[-1].sendall(packed("GET k"))
        wait_until(lambda: front.overflows >= 8)
        assert front.unread.total_bytes <= MOST_TOGETHER * 2_000_000
        first.sendall(packed("GET k"))  # who reads is served
        read = 0
        while read < len(value):
            read += len(first.recv(1 << 20))
    wait_until(lambda: front.unread.total_bytes == 0)
