"""The node on this host: the pure core, a clock, one timer, and the way to the server.

The only caller of `Node.step`. Inputs queue up and are taken one at a time, so no
effect of one step can start another in its middle; there is no `await` between
reading and writing core state: races are removed by shape. What people ask about
the node is answered by `explain`, what is counted by `census`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from coherenced import explain, memory
from coherenced.census import take_stats
from coherenced.core.calls import (
    AckReceived,
    Answer,
    Call,
    Delivered,
    Fetch,
    FetchedAll,
    Heard,
    Mutated,
    Probed,
)
from coherenced.core.inputs import Drain, Flush, Input, Start, Stop, Submit, Tick
from coherenced.core.model import FOREVER, Record, Set, Version
from coherenced.core.node import Node
from coherenced.core.outbox import Applied, Event, Settled, SettledAll
from coherenced.core.requests import Fault, Get, Outcome, Request, Write
from coherenced.observe.events import EventRing, log_event
from coherenced.observe.histogram import Histogram
from coherenced.observe.logs import get as get_log
from coherenced.observe.stats import NodeStats, report
from coherenced.origin import letters
from coherenced.origin.layer import Origins
from coherenced.outbound import Outbound
from coherenced.page.writer import PageWriter
from coherenced.serve.quiet import boottime_ms, hit_of

if TYPE_CHECKING:
    from coherenced.observe.metrics import Metrics

T = TypeVar("T")

LAG_WATCHED: Final = 256
"""Own records whose way back over the bus is being timed."""


class Server(Protocol):
    """The way to the lane's server: `upstream.link.Link`, or a test's."""

    def call(self, call: Call) -> None: ...

    def watch(
        self, watch_id: int, keys: tuple[bytes, ...], done: Callable[[int | Fault], None]
    ) -> None: ...

    def unwatch(self, watch_id: int) -> None: ...

    def reconnects(self) -> dict[str, int]: ...


class Host:
    """Drives one `Node`; what the front ends talk to (`serve.port.NodePort`)."""

    def __init__(self, node: Node, settings: Callable[[], dict[str, Any]]) -> None:
        self.node = node
        self.events = EventRing()
        self._log = get_log("node")
        self.fetch_latency = Histogram()
        self.origin_latency = Histogram()
        self.ack_latency = Histogram()
        self.bus_lag = Histogram()
        self.hit_latency = Histogram()
        self.fronts: Callable[[NodeStats], None] = lambda stats: None
        """Fills in the front ends' own counters."""
        self.give_up: Callable[[], None] = lambda: None
        """A step could not be taken to its end for want of memory: end this process."""
        self.messages = 0
        self.bus_bytes = 0
        self.started_ms = boottime_ms()
        self.started_unix_s = time.time()
        self.settings = settings
        self.now_ms = boottime_ms
        self.hit = hit_of(node)
        self.hits: Callable[[Sequence[bytes], float], list[bytes]] = node.hits
        self.page_file: PageWriter | None = None
        self.no_page = "page.slots is 0"
        """Why there is none."""
        self.outbound: Outbound | None = None
        """The journal of invalidations, where one is kept."""
        self.origins: Origins | None = None
        """Where some namespace has an origin."""
        self._server: Server | None = None
        self._inbox: deque[Input] = deque()
        self._busy = False
        self._flushing = False
        self._submitted: list[Submit] = []
        """This turn's requests: the node takes them all in one step."""
        self._keys: list[bytes] = []
        self._askers: list[Callable[[Outcome], None]] = []
        """And its GETs: of what, and for whom."""
        self._waiting: dict[int, Callable[[Outcome], None]] = {}
        self._next_request = 1
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ms = FOREVER
        self._listeners: list[Callable[[Record, str], None]] = []
        self._event_listeners: list[Callable[[dict[str, Any]], None]] = []
        self._fetch_sent: dict[int, float] = {}
        self._own_commits: dict[bytes, float] = {}
        """The last tag of a batch of this node's own -> when its reply came (ms), until the bus
        brings it back."""
        self.own_applied: set[bytes] = set()
        """Those of them up to which the reply has moved the lane (A6): what the bus brings of them
        is known. The others came before a record of another node, and are applied from the bus."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._left = asyncio.Event()
        self._ready = asyncio.Event()
        self._is_ready = False
        self._drained: asyncio.Event | None = None
        self._metrics: Metrics | None = None

    # -- lifecycle ------------------------------------------------------------------

    def attach(self, server: Server) -> None:
        self._server = server

    def start(self) -> None:
        self.give(Start())

    async def wait_ready(self) -> None:
        await self._ready.wait()

    async def drain(self, patience_ms: float) -> None:
        """Wait until every accepted request is answered, at most `patience_ms`."""
        if self.origins is not None:
            await self.origins.finish(patience_ms)
        self._drained = asyncio.Event()
        self.give(Drain())
        self._check_drained()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._drained.wait(), patience_ms / 1e3)

    def _check_drained(self) -> None:
        if self._drained is None or self._waiting or self._keys:
            return
        if self.node.writes.idle:
            self._drained.set()

    async def leave(self, patience_ms: float) -> None:
        """Leave the roster: from now on this node serves nothing."""
        self.give(Stop())
        try:
            await asyncio.wait_for(self._left.wait(), patience_ms / 1e3)
        except TimeoutError:
            self.report("left", {"clean": False})
        if self._timer is not None:
            self._timer.cancel()

    # -- the core's inputs and effects ------------------------------------------------

    def give(self, given: Input) -> None:
        """Take one input, now or after the one that is being taken."""
        self._inbox.append(given)
        if self._busy:
            return
        self._busy = True
        try:
            inbox, step = self._inbox, self.node.step
            while inbox:
                for effect in step(inbox.popleft(), boottime_ms()):
                    if effect.__class__ is Settled:
                        done = self._waiting.pop(effect.request_id, None)
                        if done is not None:
                            try:
                                done(effect.outcome)
                            except MemoryError as error:
                                self._unanswered(done, error)
                    elif isinstance(effect, SettledAll):
                        askers = map(self._waiting.pop, effect.request_ids)
                        for done, outcome in zip(askers, effect.outcomes, strict=True):
                            try:
                                done(outcome)
                            except MemoryError as error:
                                self._unanswered(done, error)
                    else:
                        self._carry_out(effect)
        except MemoryError:
            self.give_up()
            raise
        finally:
            self._busy = False
        if not self._flushing and self.node.has_gathered:
            self._flushing = True
            self._loop.call_soon(self._flush)
        if self._drained is not None:
            self._check_drained()
        self._arm()

    def _unanswered(self, done: Any, error: MemoryError) -> None:
        """An answer could not be given for want of memory; those of others must be. A connection
        that was to have it hangs up: its client may have half, and would wait for the rest."""
        memory.tell(self._loop, "an answer", error)
        if (hang_up := getattr(done, "abort", None)) is not None:
            hang_up()

    def _flush(self) -> None:
        """Once a turn of the loop: what its requests asked for leaves together."""
        self._flushing = False
        submitted, self._submitted = self._submitted, []
        keys = self._keys
        if not keys:
            self.give(Flush(submitted))
            return
        first = self._next_request
        self._next_request += len(keys)
        ids = range(first, self._next_request)
        self._waiting.update(zip(ids, self._askers, strict=True))
        self._keys, self._askers = [], []
        self.give(Flush(submitted, keys, ids))

    def answer(self, answer: Answer) -> None:
        """What the server said."""
        if answer.__class__ is Delivered:
            self._time_bus(answer.message.tag)
        elif answer.__class__ is Mutated:
            self._note_commit(answer)
        elif answer.__class__ is FetchedAll:
            self._time_fetch(answer)
        elif answer.__class__ is Heard:
            self.messages += len(answer.messages)
            if self._own_commits:
                for message in answer.messages:
                    self._time_way(message.tag)
        elif answer.__class__ is Probed and self.outbound is not None:
            # The server answers: whatever waits in the journal can be sent, also when its
            # absence was too short for a probe to fail.
            self._loop.call_soon(self.outbound.replay)
        self.give(answer)
        if answer.__class__ is Mutated:
            self._note_applied(answer)
        elif answer.__class__ is AckReceived:
            for took_ms in self.node.acks.latencies_ms:
                self.ack_latency.observe(took_ms)
            self.node.acks.latencies_ms.clear()
        if not self._is_ready and self.node.ready:
            self._is_ready = True
            self._ready.set()

    def _carry_out(self, effect: Any) -> None:
        if isinstance(effect, Event):
            outbound = self.outbound
            if (
                effect.write is not None
                and outbound is not None
                and outbound.keeps_accepted(effect.write, effect.fields["kind"])
            ):
                return
            self.report(effect.name, effect.fields)
            if effect.name == "left":
                self._left.set()
        elif isinstance(effect, Applied):
            version = str(Version(effect.epoch, effect.record.seq))
            for listener in tuple(self._listeners):
                listener(effect.record, version)
        elif self._server is not None:
            if isinstance(effect, Fetch):
                self._fetch_sent[effect.call_id] = boottime_ms()
            self._server.call(effect)

    def _arm(self) -> None:
        """Exactly one timer, at the core's next deadline. Waking early is harmless."""
        due_ms = self.node.next_deadline_ms()
        if due_ms >= self._timer_ms or due_ms == FOREVER:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_ms = due_ms
        delay_s = max(0.0, due_ms - boottime_ms()) / 1e3
        self._timer = self._loop.call_later(delay_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._timer_ms = FOREVER
        self.give(Tick())

    def report(self, name: str, fields: Mapping[str, Any]) -> None:
        """Keep an event for `nodes --events`, log it once, and tell those who listen."""
        at = datetime.now().astimezone().isoformat(timespec="milliseconds")
        entry = self.events.add(at, name, fields)
        log_event(self._log, entry)
        for listener in tuple(self._event_listeners):
            listener(entry.as_json())

    # -- measuring --------------------------------------------------------------------

    def _time_fetch(self, answer: FetchedAll) -> None:
        sent_ms = self._fetch_sent.pop(answer.call_id, None)
        if sent_ms is not None:
            self.fetch_latency.observe(boottime_ms() - sent_ms)
        if len(self._fetch_sent) > 1000:  # of calls that failed
            self._fetch_sent.clear()

    def _note_commit(self, answer: Mutated) -> None:
        if answer.done and answer.done[-1].seq:
            if len(self._own_commits) >= LAG_WATCHED:
                self._own_commits.clear()
                self.own_applied.clear()
            self._own_commits[answer.done[-1].tag] = boottime_ms()

    def _note_applied(self, answer: Mutated) -> None:
        if answer.done:
            last = answer.done[-1]
            if last.seq and self.node.lane.recent.get(last.seq) == last.tag:
                self.own_applied.add(last.tag)

    def _time_bus(self, tag: bytes) -> None:
        self.messages += 1
        self._time_way(tag)

    def _time_way(self, tag: bytes) -> None:
        if tag in self._own_commits:
            committed_ms = self._own_commits.pop(tag)
            self.bus_lag.observe(boottime_ms() - committed_ms)

    def heard(self, octets: int) -> None:
        """So many bytes came on the bus."""
        self.bus_bytes += octets

    def own_came(self, tag: bytes) -> None:
        """A message on the bus tells this tag of `own_applied`."""
        self.own_applied.discard(tag)
        self._time_bus(tag)

    # -- what the front ends ask (serve.port.NodePort) ---------------------------------

    def has_origin(self, key: bytes) -> bool:
        return self.origins is not None and self.origins.origin_of(key) is not None

    def submit_past_origins(self, request: Request, done: Callable[[Outcome], None]) -> None:
        """What the node itself says, of Redis and L1."""
        self.submit(request, done, past_origins=True)

    def get(self, key: bytes, done: Callable[[Outcome], None]) -> None:
        """`submit` of a `Get`. Of these there are many in a turn."""
        if self.origins is not None:
            self.submit(Get(key), done)
            return
        self._keys.append(key)
        self._askers.append(done)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def submit(
        self, request: Request, done: Callable[[Outcome], None], *, past_origins: bool = False
    ) -> None:
        if self.origins is not None or self.outbound is not None:
            if request.__class__ is Set:
                request = Write.of(request)
            if self.origins is not None and not past_origins:
                told = self.origins.guard(request, done)
                if told is None:
                    return
                done = told
            if self.outbound is not None and isinstance(request, Write):
                done = self.outbound.guarding(request, done)
        request_id = self._next_request
        self._next_request = request_id + 1
        self._waiting[request_id] = done
        self._submitted.append(Submit(request_id, request))
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def watch(
        self, watch_id: int, keys: tuple[bytes, ...], done: Callable[[int | Fault], None]
    ) -> None:
        assert self._server is not None
        self._server.watch(watch_id, keys, done)

    def unwatch(self, watch_id: int) -> None:
        assert self._server is not None
        self._server.unwatch(watch_id)

    def version(self) -> Version | None:
        """Where the lane's log stands, as far as this node has applied it."""
        lane = self.node.lane
        return None if lane.epoch is None else Version(lane.epoch, lane.applied)

    def nodes(self, done: Callable[[dict[str, Any] | Fault], None]) -> None:
        explain.list_nodes(self, done)

    def audit(
        self, keys: Sequence[bytes] | int, done: Callable[[dict[str, Any] | Fault], None]
    ) -> None:
        if isinstance(keys, int):
            chosen = explain.some_keys(self.node.l1, keys)
            self._in_background(chosen, lambda some: explain.audit(self, some, done))
        else:
            explain.audit(self, keys, done)

    def node_names(self) -> dict[str, str]:
        """Of the nodes on the roster, and this one: incarnation -> name."""
        node = self.node
        names = {one.incarnation.decode(): one.name for one in node.roster.members.values()}
        return names | {node.settings.incarnation.decode(): node.settings.name}

    def write_behind(self, done: Callable[[dict[str, Any] | Fault], None]) -> None:
        behind = None if self.origins is None else self.origins.behind
        self._in_background(letters.describe(behind, self.node_names()), done)

    def settle_letters(
        self,
        namespace: str,
        ids: Sequence[str] | None,
        replay: bool,
        done: Callable[[dict[str, Any] | Fault | None], None],
    ) -> None:
        behind = None if self.origins is None else self.origins.behind
        self._in_background(letters.settle(behind, namespace, ids, replay=replay), done)

    def _in_background(self, work: Coroutine[Any, Any, T], done: Callable[[T], None]) -> None:
        async def run() -> None:
            done(await work)

        task = self._loop.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def take_stats(self) -> NodeStats:
        stats = take_stats(self)
        self.fronts(stats)
        return stats

    def stats(self) -> dict[str, Any]:
        return report(self.take_stats())

    def metrics(self) -> bytes:
        if self._metrics is None:
            from coherenced.observe.metrics import Metrics  # 20 ms, not of each start

            self._metrics = Metrics(self.take_stats)
        return self._metrics.exposition()

    def page(self) -> dict[str, Any]:
        return explain.describe_page(self)

    def explain(self, key: bytes) -> dict[str, Any]:
        return explain.explain(self, key)

    def ready(self) -> tuple[bool, str]:
        return explain.readiness(self)

    def stream(self, listener: Callable[[Record, str], None]) -> Callable[[], None]:
        self._listeners.append(listener)
        self.node.stream(True)

        def stop() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)
            if not self._listeners:
                self.node.stream(False)

        return stop

    def stream_events(self, listener: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
        self._event_listeners.append(listener)
        return lambda: self._event_listeners.remove(listener)

    @property
    def listeners(self) -> int:
        return len(self._listeners)

    @property
    def reconnects(self) -> dict[str, int]:
        return self._server.reconnects() if self._server is not None else {}
