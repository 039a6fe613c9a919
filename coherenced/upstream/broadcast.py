"""Invalidating without a daemon: a writer that is not on the roster and holds nothing.

    async with Broadcaster(settings) as writer:
        result = await writer.send((mutation,), Level.ALL, timeout_ms=2000)

It listens for acknowledgements before it writes, and counts as a node would: a node of
the roster has acknowledged, or is *fenced*: its own staleness bound has passed since the
commit, so that it serves nothing old (K3), or is missing.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any, Final, Self, TypeVar

import msgspec

from coherenced.core.acks import lacking_nodes
from coherenced.core.calls import (
    AckReceived,
    Answer,
    Call,
    Failed,
    Failure,
    Fetch,
    FetchedAll,
    Logged,
    Mutate,
    Mutated,
    Probe,
    Probed,
    ReadLog,
    ReadRoster,
    Resolve,
    RosterRead,
    Subscribe,
    Subscribed,
)
from coherenced.core.catchup import fence_after_ms
from coherenced.core.model import (
    Acknowledgement,
    Fetched,
    Lineage,
    Member,
    Mutation,
    Query,
    Reply,
    ReplyError,
    Version,
)
from coherenced.core.requests import Level
from coherenced.errors import CommandError, Indeterminate, RedisUnreachable
from coherenced.upstream.link import Link
from coherenced.upstream.settings import ServerSettings

UNKNOWN_BOUND_MS: Final = 1000
"""The bound assumed of nodes that nobody knows any more (K7)."""
CHAIN_PAGE: Final = 1_000
LINEAGE_CHANGED: Final = "(the lineage changed)"
"""Who is missing when the record is no longer part of the log: a failover lost it."""
ROSTER_UNKNOWN: Final = "(the roster could not be read)"


T = TypeVar("T")


def _kept_from(lacking: int) -> str:
    """What kept the level from being reached when no node did; in a daemon's words."""
    if lacking > 0:
        return lacking_nodes(lacking)
    return "(quarantine after a lineage change)"


class Broadcast(msgspec.Struct, frozen=True):
    """What became of it."""

    version: Version | None
    """Of the last record; None when there was nothing to record."""
    acknowledged: dict[str, float]
    """Node name -> milliseconds from the commit to its acknowledgement."""
    fenced: tuple[str, ...]
    missing: tuple[str, ...]
    satisfied: bool
    """Whether the asked level was reached in time."""
    replies: tuple[Reply, ...] = ()
    """Redis's, of each mutation."""


class Broadcaster:
    """A transient writer on lane 0 of one server."""

    def __init__(self, settings: ServerSettings, name: str = "broadcast") -> None:
        self._settings = settings
        self._name = name
        self._incarnation = _new_id()
        self._link: Link | None = None
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._subscribed: asyncio.Future[None] = self._loop.create_future()
        self._acks: dict[bytes, tuple[Acknowledgement, float]] = {}
        self._acked = asyncio.Event()
        self._chain: dict[int, bytes] = {}
        """Sequence -> tag, from our own record on."""
        self._known_epoch = b""
        self._epoch_age_ms = 0.0
        self._calls = 0

    async def __aenter__(self) -> Self:
        """Connect and listen. RedisUnreachable: one line that says why not."""
        self._link = Link(
            self._settings, self._name, self._incarnation, self._answered, self._changed
        )
        self._link.call(Subscribe(0, 1))
        try:
            await self._subscribed
        except BaseException:
            await self._link.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._link is not None
        await self._link.close()

    async def send(
        self, mutations: tuple[Mutation, ...], level: int, timeout_ms: float
    ) -> Broadcast:
        """Write `mutations` as one batch and wait until `level` is reached or time is up.

        `level` is a `Level` or a number of nodes; `timeout_ms` is for the acknowledgements.
        RedisUnreachable: nothing was done. Indeterminate: the reply was lost and the log
        cannot tell. CommandError: the server answered one of them with an error, or refuses the
        batch: memory is full, or a key is linearizable.
        """
        done, answer = await self._send(mutations, level, timeout_ms)
        return msgspec.structs.replace(done, replies=tuple(one.reply for one in answer.done))

    async def fetch(
        self, items: tuple[bytes | Query, ...]
    ) -> tuple[Lineage, tuple[Fetched | Reply, ...]]:
        """F1: read keys (`Fetched`) and ask queries (their replies), with the lineage."""
        found = await self._ask(lambda n: Fetch(n, 0, _new_id(), items), FetchedAll)
        return found.lineage, tuple(found.results)

    async def _send(
        self, mutations: tuple[Mutation, ...], level: int, timeout_ms: float
    ) -> tuple[Broadcast, Mutated]:
        wants_ack = level not in (Level.NONE, Level.REDIS)
        before = await self._ask(lambda n: ReadRoster(n, 0), RosterRead) if wants_ack else None
        answer = await self._write(mutations, wants_ack)
        committed_s = self._loop.time()
        for done in answer.done:
            if isinstance(done.reply, ReplyError):
                raise CommandError(done.reply.text)
        seq = max((done.seq for done in answer.done), default=0)
        version = Version(answer.lineage.epoch, seq) if seq else None
        if before is None or version is None:
            return Broadcast(version, {}, (), (), True), answer
        self._chain = {seq: answer.lineage.tag}
        members = {m.incarnation: m for m in before.members}
        if not before.is_whole or before.roster_version != answer.roster_version:
            # Who came in between may hold what it had read before the commit.
            try:
                after = await self._ask(lambda n: ReadRoster(n, 0), RosterRead)
            except RedisUnreachable:
                after = None
            if after is None or not after.is_whole:
                return Broadcast(version, {}, (), (ROSTER_UNKNOWN,), False), answer
            members |= {m.incarnation: m for m in after.members}
        # K7: after a change of lineage there may be holders that no roster names; whatever
        # they hold is too old to be served when one bound has passed.
        bounds = (member.bound_ms for member in members.values())
        unknown_ms = fence_after_ms(max([UNKNOWN_BOUND_MS, *bounds]))
        if version.epoch == self._known_epoch and before.is_whole:
            unknown_ms = max(0.0, unknown_ms - self._epoch_age_ms)
        times = (committed_s, unknown_ms, timeout_ms)
        return await self._gather(version, members, level, times), answer

    # -- the write ----------------------------------------------------------------------

    async def _write(self, mutations: tuple[Mutation, ...], wants_ack: bool) -> Mutated:
        new_epoch = _new_id()
        found = await self._ask(lambda n: Probe(n, 0, new_epoch, None), Probed)
        head = found.lineage
        self._known_epoch = b"" if head.epoch == new_epoch else head.epoch
        # Roster versions count from when their epoch began, by the server's clock.
        self._epoch_age_ms = max(0.0, found.server_ms - found.roster_version / 1000)
        tags = tuple(_new_id() for _ in mutations)
        call_id, answer = await self._call(
            lambda n: Mutate(
                n,
                0,
                new_epoch,
                self._incarnation,
                (wants_ack,) * len(mutations),
                mutations,
                tags,
            )
        )
        if isinstance(answer, Mutated):
            return answer
        if answer.failure == Failure.TWO_PHASES:
            raise CommandError(f"{answer.detail}: only a daemon can write there")
        if answer.failure == Failure.OUT_OF_MEMORY:
            raise CommandError(answer.detail)
        if answer.failure != Failure.LOST:
            raise RedisUnreachable(answer.detail)
        # W3: the log knows whether it was applied.
        log = await self._ask(lambda n: Resolve(n, 0, call_id, head.seq), Logged)
        same_lineage = log.lineage.epoch == head.epoch
        if not any(record.tag in tags for record in log.records):
            if same_lineage and log.severed:
                raise RedisUnreachable(f"nothing was done: {answer.detail}")
            raise Indeterminate(f"it may or may not have been done: {answer.detail}")
        raise Indeterminate(f"it was done, but who has seen it is not known: {answer.detail}")

    # -- acknowledgements ------------------------------------------------------------------

    async def _gather(
        self,
        version: Version,
        members: dict[bytes, Member],
        level: int,
        times: tuple[float, float, float],
    ) -> Broadcast:
        """`times`: the commit in s, until when unknown holders matter and the deadline in ms."""
        committed_s, unknown_ms, timeout_ms = times
        while True:
            self._acked.clear()
            if not await self._follow(version):
                return Broadcast(version, {}, (), (LINEAGE_CHANGED,), False)
            now_ms = (self._loop.time() - committed_s) * 1e3
            # By incarnation: two nodes may have one name (the host's, or that of a dead one).
            took_ms = {
                incarnation: max(0.0, (at_s - committed_s) * 1e3)
                for incarnation, member in members.items()
                if (at_s := self._acked_at_s(member, version)) is not None
            }
            silent = [m for incarnation, m in members.items() if incarnation not in took_ms]
            fences_ms = [(m.name, fence_after_ms(m.bound_ms)) for m in silent]
            fenced = tuple(name for name, at_ms in fences_ms if now_ms >= at_ms)
            missing = tuple(name for name, at_ms in fences_ms if now_ms < at_ms)
            needed = 0
            if level == Level.ALL:
                satisfied = not missing and now_ms >= unknown_ms
            else:
                needed = len(members) // 2 + 1 if level == Level.QUORUM else level
                satisfied = len(took_ms) >= needed
            if satisfied or now_ms >= timeout_ms:
                if not satisfied and not missing:
                    missing = (_kept_from(needed - len(took_ms)),)
                acked: dict[str, float] = {}
                for incarnation, ms in took_ms.items():
                    name = members[incarnation].name
                    acked[name] = max(ms, acked.get(name, 0.0))
                return Broadcast(version, acked, fenced, missing, satisfied)
            waits_ms = [at_ms for _, at_ms in fences_ms if now_ms < at_ms]
            waits_ms += [unknown_ms] if now_ms < unknown_ms else []
            next_ms = min([timeout_ms, *waits_ms])
            try:
                async with asyncio.timeout((next_ms - now_ms) / 1e3 + 0.0005):
                    await self._acked.wait()
            except TimeoutError:
                continue

    async def _follow(self, version: Version) -> bool:
        """Learn the tags of records that were acknowledged. False: our record is not there.

        An acknowledgement names the last record of a node; that it stands after ours in the
        same history, and not in one that has our numbers only (a failover), the chain tells.
        """
        news = [ack.seq for ack, _ in self._acks.values() if ack.epoch == version.epoch]
        while max(news, default=0) > (last := max(self._chain)):
            try:
                log = await self._ask(lambda n: ReadLog(n, 0, last, CHAIN_PAGE), Logged)
            except RedisUnreachable:
                break  # what cannot be told yet may be told by a later acknowledgement
            if (
                log.lineage.epoch != version.epoch
                or not log.records
                or log.records[0].tag != self._chain[last]
            ):
                return False
            if len(log.records) == 1:
                break  # nothing after it: whoever names a later one speaks of another history
            for record in log.records:
                self._chain[record.seq] = record.tag
        return True

    def _acked_at_s(self, member: Member, version: Version) -> float | None:
        found = self._acks.get(member.incarnation)
        if found is None:
            return None
        ack, at_s = found
        is_ours = ack.epoch == version.epoch and self._chain.get(ack.seq) == ack.tag
        return at_s if is_ours else None

    # -- the link -----------------------------------------------------------------------

    def _changed(self, connection: str, up: bool, detail: str) -> None:
        if not up and not self._subscribed.done():
            self._subscribed.set_exception(RedisUnreachable(detail))

    def _answered(self, answer: Answer) -> None:
        if isinstance(answer, AckReceived):
            known = self._acks.get(answer.ack.incarnation)
            if known is None or known[0].epoch != answer.ack.epoch or known[0].seq < answer.ack.seq:
                self._acks[answer.ack.incarnation] = (answer.ack, self._loop.time())
                self._acked.set()
        elif isinstance(answer, Subscribed):
            if not self._subscribed.done():
                self._subscribed.set_result(None)
        elif (call_id := getattr(answer, "call_id", None)) is not None:
            waiting = self._waiting.pop(call_id, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(answer)

    async def _call(self, make: Callable[[int], Call]) -> tuple[int, Any]:
        assert self._link is not None
        self._calls += 1
        call_id = self._calls
        waiting = self._loop.create_future()
        self._waiting[call_id] = waiting
        self._link.call(make(call_id))
        return call_id, await waiting

    async def _ask(self, make: Callable[[int], Call], kind: type[T]) -> T:
        _, answer = await self._call(make)
        if isinstance(answer, kind):
            return answer
        detail = answer.detail if isinstance(answer, Failed) else f"an unexpected {answer!r:.60}"
        raise RedisUnreachable(detail)


def _new_id() -> bytes:
    return secrets.token_hex(8).encode()


async def broadcast(
    settings: ServerSettings, mutations: tuple[Mutation, ...], level: int, timeout_ms: float
) -> Broadcast:
    """`Broadcaster.send` on connections of its own."""
    async with Broadcaster(settings) as writer:
        return await writer.send(mutations, level, timeout_ms)
