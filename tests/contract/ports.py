"""Two implementations of the server's side of `core.calls`, behind one face.

`ModelPort` is the simulator's modelled Redis, `RealPort` a `Link` to a real
server. Both answer the same calls, and both tell what was published.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Protocol

import msgspec

from coherenced.config_tree import Redis
from coherenced.core.calls import (
    AckReceived,
    Answer,
    Call,
    Delivered,
    Heard,
    Reap,
    SendAck,
    Subscribe,
    Subscribed,
)
from coherenced.core.model import Acknowledgement, Message, Reply, ReplyError
from coherenced.upstream.link import Link
from coherenced.upstream.names import lane_names
from tests.servers import Server as RealServer
from tests.servers import ServerError
from tests.sim.redis_model import Server as Model

INCARNATION = b"1nc0000000000001"
NAMES = lane_names(0, 0)
NODES = b"coh:{0}:nodes"
Published = Message | Acknowledgement


class Port(Protocol):
    async def ask(self, call: Call) -> Answer | None:
        """Carry out one call; None for those that want no answer."""

    async def published(self) -> list[Published]:
        """What was published since this was last asked: messages, and acknowledgements for us."""

    async def foreign(self, *argv: bytes) -> Reply:
        """A command of somebody else."""

    async def flush_all(self) -> None: ...
    async def lose_metadata(self) -> None: ...
    async def lose_roster(self, keep: int = 0) -> None: ...
    async def trim(self, keep: int) -> None: ...
    async def fence(self, on: bool) -> None:
        """Whether the server may accept writes."""

    async def fill_memory(self, on: bool) -> None: ...
    async def close(self) -> None: ...


class ModelPort:
    def __init__(self) -> None:
        self.server = Model()
        self._published: list[Published] = []

    async def ask(self, call: Call) -> Answer | None:
        done = self.server.execute(call, time.time() * 1000.0)
        self._published.extend(done.messages)
        self._published.extend(ack for writer, ack in done.acks if writer == INCARNATION)
        return done.answer

    async def published(self) -> list[Published]:
        found, self._published = self._published, []
        return found

    async def foreign(self, *argv: bytes) -> Reply:
        return self.server.foreign(*argv)

    async def flush_all(self) -> None:
        self.server.flush_all()

    async def lose_metadata(self) -> None:
        self.server.lose_metadata()

    async def lose_roster(self, keep: int = 0) -> None:
        self.server.lose_roster(keep)

    async def trim(self, keep: int) -> None:
        self.server.trim(keep)

    async def fence(self, on: bool) -> None:
        self.server.fenced = on

    async def fill_memory(self, on: bool) -> None:
        self.server.out_of_memory = on

    async def close(self) -> None:
        """Nothing to close."""


class RealPort:
    """A `Link` to `server`, which is emptied first."""

    def __init__(self, server: RealServer) -> None:
        self._server = server
        self._session = server.session()
        self._session.commands(["FLUSHALL"], ["SCRIPT", "FLUSH"])
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._published: list[Published] = []
        self._heard = asyncio.Event()
        self._marks = 0
        self._subscribed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        settings = Redis(url=server.unix_url)
        self._link = Link(settings, "contract", INCARNATION, self._answer)

    async def open(self) -> RealPort:
        self._link.call(Subscribe(0, 1))
        await asyncio.wait_for(self._subscribed, 10)
        return self

    def _answer(self, answer: Answer) -> None:
        if isinstance(answer, Subscribed):
            self._subscribed.set_result(None)
        elif isinstance(answer, Delivered):
            self._published.append(answer.message)
            self._heard.set()
        elif isinstance(answer, Heard):
            self._published += answer.messages
            self._heard.set()
        elif isinstance(answer, AckReceived):
            self._published.append(answer.ack)
            self._heard.set()
        else:
            self._waiting.pop(answer.call_id).set_result(answer)  # type: ignore[union-attr]

    async def ask(self, call: Call) -> Answer | None:
        if isinstance(call, SendAck | Reap):
            self._link.call(call)
            return None
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[call.call_id] = future  # type: ignore[union-attr]
        self._link.call(call)
        return await asyncio.wait_for(future, 10)

    async def published(self) -> list[Published]:
        """All that were published before now: up to an acknowledgement that we send ourselves."""
        self._marks += 1
        mark = Acknowledgement(b"mark", "mark", 0, b"", self._marks, b"")
        self._link.call(SendAck(0, INCARNATION, mark))
        while mark not in self._published:
            self._heard.clear()
            await asyncio.wait_for(self._heard.wait(), 10)
        found, self._published = self._published, []
        found.remove(mark)
        return found

    async def foreign(self, *argv: bytes) -> Reply:
        try:
            return self._session.command(*argv)  # type: ignore[no-any-return]
        except ServerError as error:
            return ReplyError(str(error))

    async def flush_all(self) -> None:
        self._session.command("FLUSHALL")

    async def lose_metadata(self) -> None:
        self._session.command("DEL", NAMES.meta)

    async def lose_roster(self, keep: int = 0) -> None:
        lost = sorted(self._session.command("HKEYS", NODES))[keep:]
        if lost:
            self._session.command("HDEL", NODES, *lost)

    async def trim(self, keep: int) -> None:
        self._session.command("XTRIM", NAMES.log, "MAXLEN", "=", keep)

    async def fence(self, on: bool) -> None:
        self._session.command("CONFIG", "SET", "min-replicas-to-write", 1 if on else 0)

    async def fill_memory(self, on: bool) -> None:
        self._session.command("CONFIG", "SET", "maxmemory", 1 if on else 0)

    async def close(self) -> None:
        self._session.commands(
            ["CONFIG", "SET", "min-replicas-to-write", 0], ["CONFIG", "SET", "maxmemory", 0]
        )
        self._session.close()
        await self._link.close()
        await asyncio.sleep(0)  # closed transports say goodbye in the loop's next turn


def comparable(answer: Any) -> Any:
    """An answer without what may differ: clocks, texts for people, the roster's first version."""
    changes: dict[str, Any] = {}
    fields = getattr(answer, "__struct_fields__", ())
    if "server_ms" in fields:
        changes["server_ms"] = 0
    if "roster_version" in fields:
        changes["roster_version"] = answer.roster_version % 1000
    if "detail" in fields:
        changes["detail"] = ""
    if "server_id" in fields:
        changes["server_id"] = b""
    if "severed" in fields:
        changes["severed"] = True  # no connection was ever lost here
    if "members" in fields:
        members = [msgspec.structs.replace(member, seen_ms=0) for member in answer.members]
        changes["members"] = tuple(sorted(members, key=lambda member: member.incarnation))
    if "declared" in fields:
        changes["declared"] = tuple(sorted(answer.declared))
    if "left_ms" in fields:
        changes["left_ms"] = round(answer.left_ms / 10_000)
        changes["found"] = _coarse(answer.found)
    if "results" in fields:
        changes["results"] = tuple(_coarse(result) for result in answer.results)
    return msgspec.structs.replace(answer, **changes) if changes else answer


def _coarse(result: Any) -> Any:
    """Times to live are compared to the next ten seconds: the two are not asked at once."""
    ttl_ms = getattr(result, "ttl_ms", -1)
    if ttl_ms > 0:
        return msgspec.structs.replace(result, ttl_ms=round(ttl_ms / 10_000))
    if isinstance(result, int) and result > 10_000:
        return round(result / 10_000)
    return result


def difference(found: Any, expected: Any, path: str = "") -> str:
    """Where two answers differ first, for people; '' when they do not."""
    if type(found) is not type(expected):
        return f"{path}: {found!r} is not {expected!r}"
    if hasattr(found, "__struct_fields__"):
        names = found.__struct_fields__
        parts = [(f".{name}", getattr(found, name), getattr(expected, name)) for name in names]
    elif isinstance(found, list | tuple) and len(found) == len(expected):
        parts = [(f"[{i}]", f, e) for i, (f, e) in enumerate(zip(found, expected, strict=True))]
    else:
        return "" if found == expected else f"{path}: {found!r} is not {expected!r}"
    return next((d for where, f, e in parts if (d := difference(f, e, path + where))), "")
