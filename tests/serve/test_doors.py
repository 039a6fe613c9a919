"""doors.py: who is let in, and what is told of those who are not."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from coherenced import spells
from coherenced.observe.events import WORDS
from coherenced.serve.doors import Door, Room
from coherenced.serve.http import serve_http
from coherenced.serve.listeners import unix_socket
from coherenced.serve.resp import serve_resp
from tests.serve.fake_port import FakePort
from tests.serve.resp_rig import RespPort


class Told(list[tuple[str, Mapping[str, Any]]]):
    """What was reported."""

    def __call__(self, name: str, fields: Mapping[str, Any]) -> None:
        assert name in WORDS
        self.append((name, fields))

    async def until(self, name: str) -> Mapping[str, Any]:
        async with asyncio.timeout(20):
            while True:
                if self and self[-1][0] == name:
                    return self[-1][1]
                await asyncio.sleep(0.005)


async def test_a_change_of_state_is_told_and_not_each_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spells, "LOOK_S", 0.05)
    monkeypatch.setattr(spells, "AGAIN_S", 0.1)
    told = Told()
    door = Door("resp", Room(), told)
    assert door.admits(1, 2)
    assert told == []
    for _ in range(50):
        assert not door.admits(2, 2)
    begun = ("clients_turned_away", {"front": "resp", "because": "listen.max_connections is 2"})
    assert told == [begun]
    async with asyncio.timeout(20):
        while len(told) < 2:
            door.admits(2, 2)
            await asyncio.sleep(0.005)
    name, fields = told[1]
    assert name == "clients_turned_away"
    assert 50 < fields["so_far"] <= door.turned_away
    assert await told.until("clients_let_in") == {"front": "resp", "turned_away": door.turned_away}
    before = door.turned_away
    assert not door.admits(2, 2)
    assert told[-1] == begun, "another time of it"
    assert await told.until("clients_let_in") == {"front": "resp", "turned_away": 1}
    assert door.turned_away == before + 1
    door.close()


async def test_all_fronts_share_the_files_of_the_process() -> None:
    told = Told()
    room = Room(40)  # of which half are not for clients
    resp, http = Door("resp", room, told), Door("http", room, told, for_operators=True)
    assert all(resp.admits(number, 1000) for number in range(20))
    while not resp.is_crowded:
        assert not resp.admits(20, 1000)
    assert room.taken == 26
    resp.left()
    (begun,) = told
    assert begun[1] == {
        "front": "resp",
        "because": "this process may open 40 files: raise LimitNOFILE",
    }
    assert [http.admits(number, 1000) for number in range(6)] == [True] * 5 + [False], "some, still"
    assert not http.is_crowded
    while not http.is_crowded:
        assert not http.admits(3, 1000)
    assert room.taken == 33, "what is left is for the daemon itself"
    for _ in range(10):
        resp.left()
    assert http.admits(3, 1000)
    resp.close()
    http.close()


async def test_clients_for_whom_there_is_no_file_are_told_so(tmp_path: Path) -> None:
    """The kernel would have cut them off, and nobody would have counted them."""
    room, told = Room(18), Told()
    resp = await serve_resp(
        RespPort(),  # type: ignore[arg-type]
        [unix_socket(tmp_path / "resp", 0o600)],
        door=Door("resp", room, told),
    )
    http = await serve_http(
        FakePort(), [unix_socket(tmp_path / "http", 0o600)], door=Door("http", room, told)
    )
    inside = []
    for _ in range(9):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "resp")
        writer.write(b"PING\r\n")
        assert await asyncio.wait_for(reader.readline(), 10) == b"+PONG\r\n"
        inside.append(writer)
    reader, writer = await asyncio.open_unix_connection(tmp_path / "resp")
    assert await asyncio.wait_for(reader.read(), 10) == b"-ERR max number of clients reached\r\n"
    writer.close()
    reader, writer = await asyncio.open_unix_connection(tmp_path / "http")
    assert b"503 Service Unavailable" in await asyncio.wait_for(reader.read(), 10)
    writer.close()
    assert [fields["front"] for _, fields in told] == ["resp", "http"]
    assert (resp.stats()["rejected"], http.stats()["rejected"]) == (1, 1)
    for writer in inside:
        writer.close()
    await http.close()
    await resp.close(1.0)
    assert room.taken == 0
