"""A lane's way to its standalone server: the core's calls in, its answers out.

Four connections, so that a big value never delays a probe:

    bus       the subscription
    control   probes, log, roster, acknowledgements, and the end of a lost connection
    writes    Mutate, one at a time, in order
    reads     Fetch, many in flight

and a bounded pool for WATCH and WAIT. `call` never raises and never blocks; every call
that has an answer gets exactly one, `Failed` if need be, possibly before `call` returns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import hiredis

from coherenced import memory
from coherenced.core.calls import (
    Answer,
    Call,
    Claim,
    Failed,
    Failure,
    Fetch,
    Leave,
    Left,
    Logged,
    Mutate,
    Mutated,
    Probe,
    ReadLog,
    ReadRoster,
    Reap,
    ReplicasReached,
    Resolve,
    SendAck,
    Subscribe,
    WaitReplicas,
)
from coherenced.core.model import Lineage, Record, Reply
from coherenced.core.requests import Fault
from coherenced.errors import ProtocolError
from coherenced.upstream import codec
from coherenced.upstream.bus import Bus, Own
from coherenced.upstream.connection import Callback, Pipe, pack
from coherenced.upstream.faults import Lost, Unsent, failure_of, plain
from coherenced.upstream.line import Changed, Line
from coherenced.upstream.names import lane_names
from coherenced.upstream.scripts import CLAIM, FETCH, LANE_SCRIPTS, LOG, PART, PROBE, ROSTER, Script
from coherenced.upstream.settings import ServerSettings
from coherenced.upstream.watches import Watches
from coherenced.wire.message import encode_ack

LOG_PAGE: Final = 500
"""Records read at once while a lost write is being resolved."""
NO_METADATA: Final = "the lane has no metadata on the server: it was flushed or deleted"
"""Why there is no log: the next probe or write starts a new epoch."""
MOST_LOST_CALLS: Final = 1_000
"""Lost writes whose connection is remembered until they are resolved."""


class Link:
    """One lane on one standalone server.

    `node` names the connections in CLIENT LIST; `incarnation` is where acknowledgements of
    this node's own records arrive. Must be made inside a running event loop, which it
    belongs to; it starts to connect at once.
    """

    def __init__(
        self,
        settings: ServerSettings,
        node: str,
        incarnation: bytes,
        answer: Callable[[Answer], None],
        changed: Changed = lambda name, up, detail: None,
        lane: int = 0,
        own: Own | None = None,
    ) -> None:
        self._settings = settings
        self._names = lane_names(lane, settings.endpoint().db)
        self._answer = answer
        self._changed = changed
        told = self._on_change
        self._bus = Bus(settings, lane, self._names, node, incarnation, answer, told, own)
        self._control = Line(settings, "control", node, told, self._load_scripts)
        self._writes = Line(settings, "writes", node, told)
        self._reads = Line(settings, "reads", node, told)
        self._watches = Watches(settings, node)
        self._lost: dict[int, Lost] = {}
        self._carry_out: dict[type[Any], Callable[[Any], None]] = {
            Subscribe: lambda call: self._bus.open(call.connection),
            Probe: self._probe,
            Fetch: self._fetch,
            Claim: self._claim,
            Mutate: self._mutate,
            Resolve: self._resolve,
            ReadLog: self._read_log,
            ReadRoster: self._read_roster,
            Reap: self._reap,
            Leave: self._leave,
            SendAck: self._send_ack,
            WaitReplicas: self._wait_replicas,
        }

    def _on_change(self, name: str, up: bool, detail: str) -> None:
        if up:  # the server is back: the others need not sit out their pauses
            for connection in (self._bus, self._control, self._writes, self._reads):
                connection.hurry()
        self._changed(name, up, detail)

    # -- what the shell uses ---------------------------------------------------------

    def call(self, call: Call) -> None:
        """Carry out one call of the core. Never raises, never blocks."""
        try:
            self._carry_out[type(call)](call)
        except (MemoryError, RuntimeError) as error:
            call_id = getattr(call, "call_id", 0)
            if not memory.is_short(error) or not call_id:
                raise
            text = "out of memory: a request to Redis could not be put together"
            self._answer(Failed(call_id, Failure.UNREACHABLE, text))

    def watch(
        self, watch_id: int, keys: tuple[bytes, ...], done: Callable[[int | Fault], None]
    ) -> None:
        """WATCH `keys` on a connection of its own; `watch_id` 0 opens one. `done` gets its id."""
        self._watches.watch(watch_id, keys, done)

    def unwatch(self, watch_id: int) -> None:
        """Give the connection back. A `Mutate` with this `watch_id` does it by itself."""
        self._watches.unwatch(watch_id)

    @property
    def malformed(self) -> int:
        """Messages on the bus that were not ones, since the start."""
        return self._bus.malformed

    def reconnects(self) -> dict[str, int]:
        """Connection name -> how often it was made anew."""
        return {
            "bus": self._bus.reconnects,
            "control": self._control.reconnects,
            "writes": self._writes.reconnects,
            "reads": self._reads.reconnects,
        }

    async def close(self) -> None:
        """End every connection; calls that wait are answered `Failed`."""
        await self._bus.close()
        for line in (self._writes, self._reads, self._control):
            await line.close()
        await self._watches.close()

    # -- scripts -----------------------------------------------------------------------

    def _load_scripts(self, pipe: Pipe) -> None:
        """Loaded ones are not forgotten like those that EVAL leaves behind."""
        for script in LANE_SCRIPTS:
            pipe.send(pack((b"SCRIPT", b"LOAD", script.text)), lambda reply: None)

    def _run(self, line: Line, script: Script, args: codec.Words, done: Callback) -> None:
        """EVALSHA; with the whole script if the server does not know it (then nothing was done)."""

        def answered(reply: Any) -> None:
            if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT"):
                line.send(codec.eval_command(script, self._names, args, whole=True), done)
            else:
                done(reply)

        line.send(codec.eval_command(script, self._names, args), answered)

    def _ask(
        self,
        line: Line,
        script: Script,
        args: codec.Words,
        call_id: int,
        read: Callable[[Any], Answer | None],
    ) -> None:
        """Run a script that changes nothing the caller would have to know about."""

        def done(reply: Any) -> None:
            failed = _failed(call_id, reply)
            if failed is None:
                try:
                    found = read(reply)
                except (ProtocolError, ValueError, TypeError, LookupError) as error:
                    text = f"Redis gave a reply that is not one of {script.name}: {error}"
                    failed = Failed(call_id, Failure.UNREACHABLE, text)
                else:
                    if found is not None:
                        self._answer(found)
                    return
            self._answer(failed)

        self._run(line, script, args, done)

    # -- the calls ----------------------------------------------------------------------

    def _probe(self, call: Probe) -> None:
        self._ask(
            self._control,
            PROBE,
            codec.words(codec.probe_args(call)),
            call.call_id,
            lambda reply: codec.probed(call, reply, self._control.server_id),
        )

    def _fetch(self, call: Fetch) -> None:
        self._ask(
            self._reads,
            FETCH,
            codec.fetch_words(call),
            call.call_id,
            lambda reply: codec.fetched(call, reply),
        )

    def _claim(self, call: Claim) -> None:
        self._ask(
            self._reads,
            CLAIM,
            codec.words(codec.claim_args(call)),
            call.call_id,
            lambda reply: codec.claimed(call, reply),
        )

    def _read_log(self, call: ReadLog) -> None:
        def read(reply: Any) -> Logged | Failed:
            head, records, replies = codec.log_page(reply)
            if not head.epoch:
                return Failed(call.call_id, Failure.UNREACHABLE, NO_METADATA)
            return Logged(call.call_id, head, tuple(records), tuple(replies))

        args = codec.words((call.start_seq, call.limit))
        self._ask(self._control, LOG, args, call.call_id, read)

    def _read_roster(self, call: ReadRoster) -> None:
        self._ask(
            self._control,
            ROSTER,
            codec.words(()),
            call.call_id,
            lambda reply: codec.roster_read(call.call_id, reply),
        )

    def _reap(self, call: Reap) -> None:
        self._run(
            self._control, PART, codec.words((call.incarnation, call.beat)), lambda reply: None
        )

    def _leave(self, call: Leave) -> None:
        args = codec.words((call.incarnation,))
        self._ask(self._control, PART, args, call.call_id, lambda _: Left(call.call_id))

    def _send_ack(self, call: SendAck) -> None:
        channel = self._names.ack(call.writer)
        self._control.send(pack((b"PUBLISH", channel, encode_ack(call.ack))), lambda reply: None)

    def _wait_replicas(self, call: WaitReplicas) -> None:
        def lent(pipe: Pipe | Fault) -> None:
            if isinstance(pipe, Fault):
                self._answer(Failed(call.call_id, Failure.UNREACHABLE, pipe.detail))
                return

            def waited(reply: Any) -> None:
                self._watches.give_back(pipe, reply)
                failed = _failed(call.call_id, reply)
                self._answer(failed or ReplicasReached(call.call_id, reply))

            # WAIT speaks of what this connection wrote last: a publication to nobody stands
            # in the replication stream behind the write it is asked for.
            mark = pack((b"PUBLISH", self._names.ack_prefix + b"wait", b""))
            wait = pack((b"WAIT", call.replicas, call.timeout_ms))
            pipe.extra_ms = call.timeout_ms
            pipe.send(mark + wait, lambda reply: None, waited)

        self._watches.lend(lent)

    # -- Mutate, and what became of a lost one --------------------------------------------

    def _mutate(self, call: Mutate) -> None:
        if len(call.tags) > codec.MOST_MUTATIONS:
            text = f"more than {codec.MOST_MUTATIONS} mutations in one batch"
            self._answer(Failed(call.call_id, Failure.UNREACHABLE, text))
            return
        script, args = codec.mutate_words(call, self._names, self._settings.log_length)
        if call.watch_id:
            self._mutate_watched(call, script, args)
        else:
            self._run(
                self._writes,
                script,
                args,
                lambda reply: self._mutated(call, reply, self._writes.server_id),
            )

    def _mutated(self, call: Mutate, reply: Any, server_id: bytes) -> None:
        failed = _failed(call.call_id, reply)
        if failed is None:
            try:
                self._answer(codec.mutated(call, reply, server_id))
                return
            except (ValueError, TypeError, LookupError) as error:
                text = f"Redis gave a reply that is not one of {call!r:.80}: {error}"
                failed = Failed(call.call_id, Failure.LOST, text)
        if failed.failure == Failure.LOST:
            if len(self._lost) >= MOST_LOST_CALLS:
                self._lost.pop(next(iter(self._lost)))
            # A reply did come if it is not a Lost: that connection has nothing left to do.
            self._lost[call.call_id] = reply if isinstance(reply, Lost) else Lost("", -1, b"")
        self._answer(failed)

    def _mutate_watched(self, call: Mutate, script: Script, args: codec.Words) -> None:
        pipe = self._watches.take(call.watch_id)
        if pipe is None:
            text = "the WATCH connection to Redis was lost"
            self._answer(Failed(call.call_id, Failure.UNREACHABLE, text))
            return
        queued: list[Any] = []

        def executed(reply: Any) -> None:
            self._watches.give_back(pipe, reply)
            if reply is None:
                head = Lineage(b"", 0, b"")
                self._answer(Mutated(call.call_id, head, 0, (), aborted=True))
            elif isinstance(reply, hiredis.ReplyError) and isinstance(
                queued[1], hiredis.ReplyError
            ):
                self._mutated(call, queued[1], pipe.run_id)  # why EXEC had nothing to do
            else:
                self._mutated(call, reply[0] if isinstance(reply, list) else reply, pipe.run_id)

        # The whole script: a hash could be unknown, which EXEC would find out too late.
        whole = codec.eval_command(script, self._names, args, whole=True)
        data = pack((b"MULTI",)) + whole + pack((b"EXEC",))
        pipe.send(data, queued.append, queued.append, executed)

    def _resolve(self, call: Resolve) -> None:
        """W3: end the connection that may still execute the call, then read the log."""
        lost = self._lost.pop(call.failed_call_id, None)

        def connected(reply: Any) -> None:
            failed = _failed(call.call_id, reply)
            pipe = self._control.pipe
            if failed is not None or pipe is None:
                if lost is not None:
                    self._lost[call.failed_call_id] = lost
                text = "the connection to Redis was lost"
                self._answer(failed or Failed(call.call_id, Failure.UNREACHABLE, text))
            elif lost is not None and lost.client_id < 0:
                self._read_rest(call, True, [], [], call.start_seq)
            elif lost is None or not lost.client_id or not lost.run_id or not pipe.run_id:
                self._read_rest(call, False, [], [], call.start_seq)
            elif lost.run_id != pipe.run_id:
                # Another process: the one that might execute the call is no longer the server.
                self._read_rest(call, True, [], [], call.start_seq)
            else:
                pipe.send(pack((b"CLIENT", b"KILL", b"ID", lost.client_id)), killed)

        def killed(reply: Any) -> None:
            if isinstance(reply, Lost | Unsent) and lost is not None:
                self._lost[call.failed_call_id] = lost
                self._answer(Failed(call.call_id, Failure.UNREACHABLE, reply.reason))
            else:
                severed = not isinstance(reply, hiredis.ReplyError)
                self._read_rest(call, severed, [], [], call.start_seq)

        self._control.send(pack((b"PING",)), connected)

    def _read_rest(
        self, call: Resolve, severed: bool, records: list[Record], replies: list[Reply], start: int
    ) -> None:
        """Read the log from `start` to its end, page by page, after what was read before."""

        def read(reply: Any) -> Logged | Failed | None:
            head, page, page_replies = codec.log_page(reply)
            if not head.epoch:
                return Failed(call.call_id, Failure.UNREACHABLE, NO_METADATA)
            records.extend(page)
            replies.extend(page_replies)
            most = 2 * self._settings.log_length + LOG_PAGE
            if len(page) < LOG_PAGE or page[-1].seq >= head.seq:
                return Logged(
                    call.call_id,
                    head,
                    tuple(records),
                    tuple(replies),
                    severed,
                    self._control.server_id,
                )
            if len(records) > most:
                raise ProtocolError("the log grows faster than it can be read")
            self._read_rest(call, severed, records, replies, page[-1].seq + 1)
            return None

        self._ask(self._control, LOG, codec.words((start, LOG_PAGE)), call.call_id, read)


def _failed(call_id: int, reply: Any) -> Failed | None:
    """What a failed request means for its call; None when `reply` is an answer."""
    if reply.__class__ is list:
        return None  # as nearly always
    if isinstance(reply, Unsent):
        return Failed(call_id, Failure.UNREACHABLE, reply.reason)
    if isinstance(reply, Lost):
        return Failed(call_id, Failure.LOST, reply.reason)
    if isinstance(reply, hiredis.ReplyError):
        text = str(reply)
        return Failed(call_id, failure_of(text), plain(text))
    return None
