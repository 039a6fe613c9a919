"""Stories: scenario files that drive a world and keep what it said.

A story is a text file of paragraphs. Lines above `----` are commands, the
lines below are what happened, kept as golden output:

    drop next bus message to b
    write a k v2
    ----
    b loses v2's message
    a: done, e1:2

`# …` is for the reader. `expect …` must hold whatever the golden text says.
Every read and write is also checked against the truth, as in a seeded run.
Messages travel 1 ms each way, so times are easy to follow.

Rewrite the golden output with COHERENCED_REWRITE=1.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from coherenced.core.laws import Laws
from coherenced.core.model import Mutation, Op, ReplyError, Version
from coherenced.core.outbox import Event
from coherenced.core.policy import Policy
from coherenced.core.requests import Fault, Level, Outcome, Read, ReadResult, Write, WriteResult
from tests.sim.clients import set_mutation
from tests.sim.history import ReadOp, Violation, WriteOp
from tests.sim.host import Host
from tests.sim.network import Connection
from tests.sim.redis_model import Server, ServerLaws
from tests.sim.world import World

SEPARATOR: Final = "----"
PATIENCE_MS: Final = 8_000.0
"""A command that has no outcome after so long says so."""
OFFSETS: Final = {"a": 0.0, "b": 50_000.0, "c": 1_000_000.0}
"""No two hosts' clocks agree (A7)."""
TOLD: Final = frozenset(
    {
        "gap_found",
        "gap_repaired",
        "lane_dropped",
        "node_fenced",
        "node_reaped",
        "pause_suspected",
        "lost_write_was_applied",
        "lost_write_not_applied",
        "write_indeterminate",
        "redis_unreachable",
        "redis_reachable",
        "left",
    }
)
"""Events that are part of a story; others are not news."""


class Paragraph(msgspec.Struct):
    comments: list[str]
    commands: list[str]
    output: list[str]


class Broken(AssertionError):
    """An `expect` that does not hold, or a promise that was broken."""


def parse(text: str) -> list[Paragraph]:
    paragraphs = []
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        lines = block.split("\n")
        comments = [line for line in lines if line.startswith("#")]
        rest = [line for line in lines if not line.startswith("#")]
        place = rest.index(SEPARATOR) if SEPARATOR in rest else len(rest)
        paragraphs.append(Paragraph(comments, rest[:place], rest[place + 1 :]))
    return paragraphs


def write_out(paragraphs: list[Paragraph]) -> str:
    blocks = []
    for p in paragraphs:
        lines = [*p.comments, *p.commands]
        if p.commands:
            lines += [SEPARATOR, *p.output]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


class Story:
    """Runs the commands of one file."""

    def __init__(self, laws: Laws | None = None, server_laws: ServerLaws | None = None) -> None:
        self.laws = laws or Laws()
        self.server_laws = server_laws or ServerLaws()
        self.lines: list[str] = []
        self._world: World | None = None
        self._epochs: dict[bytes, str] = {}
        self._file: Server | None = None
        self._replica: Server | None = None
        self._started = 0
        self._writes = 0
        self._last_read: tuple[str, str] = ("", "")
        self._versions: dict[str, Version] = {}
        self._held: dict[tuple[str, str], Connection] = {}

    @property
    def world(self) -> World:
        if self._world is None:
            raise Broken("a story begins with: nodes a b c")
        return self._world

    def run(self, commands: list[str]) -> list[str]:
        """Carry out one paragraph; what it says."""
        self.lines = []
        for command in commands:
            try:
                self._one(command)
            except Violation as violation:
                raise Broken(f"{command}: {violation}") from violation
        return self.lines

    def _one(self, command: str) -> None:
        for pattern, action in COMMANDS:
            match = pattern.fullmatch(command.strip())
            if match is not None:
                action(self, *[group or "" for group in match.groups()])
                return
        raise Broken(f"no such command: {command!r}")

    # -- saying ------------------------------------------------------------------------

    def say(self, line: str) -> None:
        self.lines.append(line)

    def _name_epoch(self, epoch: bytes) -> str:
        return self._epochs.setdefault(epoch, f"e{len(self._epochs) + 1}")

    def _name(self, version: Version | None) -> str:
        return "-" if version is None else f"{self._name_epoch(version.epoch)}:{version.seq}"

    def _told(self, host: Host, event: Event) -> None:
        if event.name not in TOLD:
            return
        fields = {k: v for k, v in event.fields.items() if k not in ("lane", "detail")}
        words = [f"{key}={self._plain(value)}" for key, value in fields.items()]
        self.say(" ".join([f"{self.world.now_ms:.0f} ms  {host.name}:", event.name, *words]))

    def _plain(self, value: object) -> str:
        def name(match: re.Match[str]) -> str:
            return self._name_epoch(match[1].encode()) + match[2]

        return re.sub(r"\b([0-9a-f]{16})(:\d+)", name, str(value))

    # -- the cast ------------------------------------------------------------------------

    def nodes(self, names: str, bound: str, more: str) -> None:
        policy = Policy(
            max_staleness_ms=float(bound or 200),
            ack_timeout_ms=3_000.0,
            max_age_ms=60_000.0,
            stale_if_error_ms=5_000.0 if "stale-if-error" in more else 0.0,
        )
        rules = (("l:*", msgspec.structs.replace(policy, linearizable=True)),)
        self._world = World(
            1,
            policy=policy,
            rules=rules,
            laws=self.laws,
            server_laws=self.server_laws,
            least_delay_ms=1.0,
            most_delay_ms=1.0,
        )
        self._world.on_event = self._told
        for name in names.split():
            self._world.add_host(name, offset_ms=OFFSETS.get(name, 7_000.0))
        self.advance("300")
        self.say(f"at {self.world.now_ms:.0f} ms: {self._who_is_ready()}")

    def add(self, name: str) -> None:
        self.world.add_host(name, offset_ms=OFFSETS.get(name, 7_000.0))

    def _who_is_ready(self) -> str:
        ready = [h.name for h in self.world.hosts.values() if h.node and h.node.ready]
        return f"ready: {' '.join(ready) or 'nobody'}"

    def _host(self, name: str) -> Host:
        host = self.world.hosts.get(name)
        if host is None:
            raise Broken(f"no node {name!r} in this story")
        return host

    # -- time ----------------------------------------------------------------------------

    def advance(self, ms: str) -> None:
        self.world.run_until(self.world.now_ms + float(ms))

    def _await(self, done: Callable[[], bool]) -> bool:
        world = self.world
        end_ms = world.now_ms + PATIENCE_MS
        while not done() and world.next_event_ms <= end_ms:
            world.run_next()
        return done()

    # -- reading ----------------------------------------------------------------------------

    def read(self, name: str, keys: str, bound: str, token: str, snapshot: str) -> None:
        host = self._host(name)
        bound_ms = float(bound) if bound else None
        wanted = tuple(key.encode() for key in keys.split(","))
        op = self._read_op(host, wanted, bound_ms)
        op.snapshot = bool(snapshot)
        version = self._versions[token] if token else None
        if token:
            op.token_ms = self.world.truth.committed[token.encode()][-1]
        plain = bound_ms is None and not token and not snapshot and len(wanted) == 1
        if plain and not host.paused:
            entry = host.hit(wanted[0])
            if entry is not None:
                self.world.history.end_hit(op, entry.value, self.world.now_ms)
                self._said(f"{name}: {keys} = {_text(entry.value)} (hit)", name, entry.value)
                return
        answered: list[Outcome] = []
        request = Read(wanted, bound_ms, version, snapshot=bool(snapshot))

        def done(outcome: Outcome) -> None:
            answered.append(outcome)
            assert isinstance(outcome, ReadResult | Fault)
            self.world.history.end_read(op, outcome, self.world.now_ms)
            self._tell_read(name, keys, outcome)

        host.submit(request, done)
        if host.paused or host.node is None:
            if not answered:
                self.say(f"{name}: no answer (it is stopped)")
            return
        if not self._await(lambda: bool(answered)):
            self.say(f"{name}: {keys}: no answer within {PATIENCE_MS:.0f} ms")

    def _read_op(self, host: Host, keys: tuple[bytes, ...], bound_ms: float | None) -> ReadOp:
        world = self.world
        bounds = [world.namespaces.for_key(key).max_staleness_ms for key in keys]
        effective_ms = max(bounds) if bound_ms is None else bound_ms
        op = ReadOp(
            f"user of {host.name}", host.name, host.incarnation, keys, effective_ms, world.now_ms
        )
        op.stale_ms = world.namespaces.longest_stale_ms
        world.history.unanswered += 1
        return op

    def start_read(self, name: str, key: str, bound: str) -> None:
        """A read whose answer the story does not wait for."""
        host = self._host(name)
        bound_ms = float(bound) if bound else None
        op = self._read_op(host, (key.encode(),), bound_ms)

        def done(outcome: Outcome) -> None:
            assert isinstance(outcome, ReadResult | Fault)
            self.world.history.end_read(op, outcome, self.world.now_ms)
            self._tell_read(name, key, outcome)

        host.submit(Read((key.encode(),), bound_ms), done)

    def _tell_read(self, name: str, keys: str, outcome: ReadResult | Fault) -> None:
        if isinstance(outcome, Fault):
            self._said(f"{name}: {keys}: {outcome.kind}", name, None)
            self._last_read = (name, outcome.kind)
            return
        parts = []
        for key, value in zip(keys.split(","), outcome.values, strict=True):
            stale = ", stale" if value.stale else ""
            parts.append(f"{key} = {_text(value.value)} ({value.source}{stale})")
        self._said(f"{name}: {', '.join(parts)}", name, outcome.values[0].value)

    def _said(self, line: str, name: str, value: bytes | None) -> None:
        self._last_read = (name, _text(value))
        self.say(line)

    def expect(self, name: str, value: str) -> None:
        """The last read was of this node and gave this."""
        if self._last_read != (name, value):
            raise Broken(f"expected {name} to read {value}, but it was {self._last_read}")

    # -- writing ---------------------------------------------------------------------------

    def write(self, later: str, name: str, key: str, value: str, options: str) -> None:
        words = dict(word.split("=", 1) for word in options.split())
        ttl = words.get("ttl")
        mutation = set_mutation(key.encode(), value.encode(), int(ttl) if ttl else None)
        if "tags" in words:
            tags = tuple(tag.encode() for tag in words["tags"].split(","))
            mutation = msgspec.structs.replace(mutation, label=tags)
        self._mutate(name, mutation, value, words.get("ack", "redis"), later, f"write {key}")

    def delete(self, later: str, name: str, key: str, options: str) -> None:
        words = dict(word.split("=", 1) for word in options.split())
        mutation = Mutation(
            (b"DEL", key.encode()), Op.DELETE, (key.encode(),), unchanged=b"z", frees_memory=True
        )
        self._mutate(name, mutation, "", words.get("ack", "redis"), later, f"delete {key}")

    def increment(self, later: str, name: str, key: str) -> None:
        mutation = Mutation((b"INCR", key.encode()), keys=(key.encode(),), exact_integer=True)
        self._mutate(name, mutation, "", "redis", later, f"increment {key}")

    def invalidate(self, name: str, what: str, which: str, options: str) -> None:
        words = dict(word.split("=", 1) for word in options.split())
        names = tuple(word.encode() for word in which.split(",") if word)
        mutation = Mutation(
            (),
            Op.INVALIDATE,
            names if what == "key" else (),
            names if what == "tag" else (),
            names if what == "prefix" else (),
            everything=what == "everything",
            frees_memory=True,
        )
        self._mutate(name, mutation, "", words.get("ack", "redis"), "", f"invalidate {what}")

    def _mutate(
        self, name: str, mutation: Mutation, value: str, ack: str, later: str, what: str
    ) -> None:
        host, world = self._host(name), self.world
        self._writes += 1
        mark = value.encode() or b"write %d" % self._writes
        op = WriteOp(
            f"user of {name}", name, host.incarnation, mutation.keys, mark, what,
            Level.parse(ack), world.now_ms,
        )  # fmt: skip
        if not mutation.keys or not mutation.keys[0].startswith(world.history.linearizable):
            world.mark(mutation, mark)
        world.history.unanswered += 1
        answered: list[Outcome] = []

        def done(outcome: Outcome) -> None:
            answered.append(outcome)
            assert isinstance(outcome, WriteResult | Fault)
            world.history.end_write(op, outcome, world.now_ms)
            took_ms = world.now_ms - op.start_ms
            self.say(f"{name}: {what}: {self._outcome(outcome)}, {took_ms:.0f} ms")
            if isinstance(outcome, WriteResult) and outcome.version is not None:
                self._versions[value] = outcome.version

        host.submit(Write((mutation,), ack=Level.parse(ack)), done)
        if not later and not self._await(lambda: bool(answered)):
            self.say(f"{name}: {what}: no answer within {PATIENCE_MS:.0f} ms")

    def _outcome(self, outcome: WriteResult | Fault) -> str:
        if isinstance(outcome, Fault):
            version = f" at {self._name(outcome.version)}" if outcome.version else ""
            return outcome.kind + version
        reply = outcome.replies[0]
        parts = [f"done {self._name(outcome.version)}"]
        if isinstance(reply, ReplyError):
            parts = [reply.text]
        elif isinstance(reply, int):
            parts.append(f"reply {reply}")
        for title, who in (
            ("acknowledged", sorted(outcome.acknowledged)),
            ("fenced", sorted(outcome.fenced)),
            ("missing", sorted(outcome.missing)),
        ):
            if who:
                parts.append(f"{title} {' '.join(who)}")
        return ", ".join(parts)

    # -- what goes wrong ---------------------------------------------------------------------

    def drop(self, count: str, name: str) -> None:
        self.world.drops[self._host(name).name] = int(count or 1)

    def cut(self, how: str, name: str, role: str) -> None:
        connection = self._host(name).connections.get(role)
        if connection is not None:
            self.world.cut(connection, drain=how == "drain", notice=how != "half-open")

    def hold(self, name: str, role: str) -> None:
        """Nothing moves on this connection any more."""
        connection = self._host(name).connections.get(role)
        if connection is None:
            raise Broken(f"{name} has no {role} connection")
        connection.stuck = True
        self._held[name, role] = connection

    def release(self, name: str, role: str) -> None:
        self._held.pop((name, role)).unstick()

    def slow(self, name: str, role: str, ms: str) -> None:
        connection = self._host(name).connections.get(role)
        if connection is None:
            raise Broken(f"{name} has no {role} connection")
        connection.extra_ms = float(ms)

    def lose_replies(self, name: str) -> None:
        """What it sends is executed; the answers never arrive, and it learns that soon."""
        connection = self._host(name).connections.get("writes")
        if connection is None:
            raise Broken(f"{name} has no writes connection: let it write first")
        connection.mute = True

    def partition(self, name: str) -> None:
        host = self._host(name)
        host.reachable = False
        for role, connection in host.connections.items():
            connection.stuck = True
            self._held[name, role] = connection

    def heal(self, name: str) -> None:
        self._host(name).reachable = True
        for held in [pair for pair in self._held if pair[0] == name]:
            self._held.pop(held).unstick()

    def pause(self, name: str) -> None:
        self._host(name).pause()

    def resume(self, name: str) -> None:
        self._host(name).resume()

    def freeze(self, name: str, ms: str) -> None:
        self._host(name).freeze(float(ms))
        self.advance(ms)

    def crash(self, name: str) -> None:
        self._host(name).crash()

    def start(self, name: str) -> None:
        self._host(name).start()

    def leave(self, name: str) -> None:
        self._host(name).stop_cleanly()

    # -- the server ------------------------------------------------------------------------

    def redis(self, what: str) -> None:
        world, server = self.world, self.world.primary.server
        if what == "flushes everything":
            world.flush_all()
        elif what == "loses its metadata":
            server.lose_metadata()
        elif what == "loses the roster":
            server.lose_roster()
        elif what == "saves a file":
            self._file = server.copy()
        elif what == "replicates":
            self._replica = server.copy()
        elif what == "is cut off":
            server.fenced = True
        elif what == "may write again":
            server.fenced = False
        elif what == "is full":
            server.out_of_memory = True
        elif what == "has room again":
            server.out_of_memory = False
        elif what == "dies":
            world.take_down(world.primary)
        elif what == "starts again":
            world.promote(server.copy())
        elif what == "starts from the file":
            assert self._file is not None, "let it save a file first"
            world.promote(self._file.copy())
        else:
            raise Broken(f"Redis cannot do that: {what!r}")

    def fail_over(self, old: str) -> None:
        """Promote what was replicated last; the old primary is fenced, and still answers."""
        assert self._replica is not None, "let redis replicate first"
        world = self.world
        before = world.primary
        before.server.fenced = True
        kept = {name.strip() for name in old.split(",") if name.strip()}
        for host in world.hosts.values():
            host.sees = before if host.name in kept else None
        world.promote(self._replica)
        for host in world.hosts.values():
            if host.sees is None:
                world.redirect(host, before)

    def learn(self, name: str) -> None:
        host = self._host(name)
        old, host.sees = host.sees, None
        if old is not None:
            host.sees = old
            self.world.redirect(host, old)

    def trim(self, keep: str) -> None:
        self.world.primary.server.trim(int(keep))

    def foreign(self, key: str, value: str) -> None:
        """Somebody writes past coherenced: no record tells of it."""
        self.world.primary.server.foreign(b"SET", key.encode(), value.encode())
        self.world.truth.observe(self.world.primary.server, [key.encode()], self.world.now_ms)

    # -- looking ------------------------------------------------------------------------------

    def show(self, name: str) -> None:
        host = self._host(name)
        node = host.node
        if node is None:
            self.say(f"{name}: not running")
            return
        lane = node.lane
        age_ms = host.local_ms() - lane.verified_at_ms
        age = "never" if age_ms == float("inf") else f"{age_ms:.0f} ms ago"
        lineage = lane.lineage
        where = "nowhere" if lineage is None else self._name(Version(lineage.epoch, lineage.seq))
        held = [
            f"{key.decode()}={_text(entry.value)}@{entry.as_of}"
            for key, entry in sorted(node.l1.entries.items())
            if not entry.covered()
        ]
        self.say(f"{name}: at {where}, verified {age}, holds {' '.join(held) or 'nothing'}")

    def show_redis(self, key: str) -> None:
        value = self.world.truth.timeline(key.encode()).now(self.world.now_ms)
        self.say(f"redis: {key} = {_text(value)}")


def _text(value: bytes | None) -> str:
    return "nil" if value is None else value.decode()


NODE = r"(\w+)"
ROLE = r"(bus|control|reads|writes)"
MS = r"(\d+) ?ms"
COMMANDS: Final[list[tuple[re.Pattern[str], Callable[..., None]]]] = [
    (re.compile(pattern), action)
    for pattern, action in (
        (rf"nodes ([\w ]+?)(?: with bound {MS})?( and stale-if-error)?", Story.nodes),
        (rf"advance {MS}", Story.advance),
        (
            rf"read {NODE} ([\w:,]+)(?: bound (\d+))?(?: not older than (\w+))?( as a snapshot)?",
            Story.read,
        ),
        (rf"start reading {NODE} ([\w:]+)(?: bound (\d+))?", Story.start_read),
        (rf"expect {NODE} to read ([\w-]+)", Story.expect),
        (rf"(start )?write {NODE} ([\w:]+) ([\w:]+)((?: \w+=[\w,]+)*)", Story.write),
        (rf"(start )?delete {NODE} ([\w:]+)((?: \w+=[\w,]+)*)", Story.delete),
        (rf"(start )?increment {NODE} ([\w:]+)", Story.increment),
        (
            rf"invalidate {NODE} (key|tag|prefix|everything)(?: ([\w:,]+))??((?: \w+=[\w,]+)*)",
            Story.invalidate,
        ),
        (rf"drop next (?:(\d+) )?bus messages? to {NODE}", Story.drop),
        (rf"(cut|drain|half-open) {NODE} {ROLE}", Story.cut),
        (rf"hold {NODE} {ROLE}", Story.hold),
        (rf"release {NODE} {ROLE}", Story.release),
        (rf"slow {NODE} {ROLE} by {MS}", Story.slow),
        (rf"lose the replies to {NODE}", Story.lose_replies),
        (rf"partition {NODE}", Story.partition),
        (rf"heal {NODE}", Story.heal),
        (rf"pause {NODE}", Story.pause),
        (rf"resume {NODE}", Story.resume),
        (rf"freeze {NODE} for {MS}", Story.freeze),
        (rf"crash {NODE}", Story.crash),
        (rf"start {NODE}", Story.start),
        (rf"add {NODE}", Story.add),
        (rf"leave {NODE}", Story.leave),
        (r"redis fails over(?:, unnoticed by ([\w, ]+))?", Story.fail_over),
        (rf"{NODE} learns of the new primary", Story.learn),
        (r"redis trims its log to (\d+)", Story.trim),
        (r"somebody sets ([\w:]+) (\w+) past us", Story.foreign),
        (r"redis ([a-z ]+)", Story.redis),
        (rf"show {NODE}", Story.show),
        (r"what does redis hold under ([\w:]+)\?", Story.show_redis),
    )
]


def tell(
    text: str, laws: Laws | None = None, server_laws: ServerLaws | None = None
) -> list[Paragraph]:
    """Run a whole story; its paragraphs with the output they gave now."""
    story = Story(laws, server_laws)
    told = []
    for paragraph in parse(text):
        output = story.run(paragraph.commands) if paragraph.commands else []
        told.append(Paragraph(paragraph.comments, paragraph.commands, output))
    if story._world is not None:
        story.world.history.check_claims_again()
    return told


def stories() -> list[Path]:
    return sorted((Path(__file__).parent / "scenarios").glob("*.txt"))
