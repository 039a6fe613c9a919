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

from coherenced.core.calls import BusLost
from coherenced.core.laws import Laws
from coherenced.core.model import Version
from tests.sim.history import Violation
from tests.sim.loaders import Loaders
from tests.sim.redis_model import ServerLaws
from tests.sim.stage import Broken
from tests.sim.users import text_of

SEPARATOR: Final = "----"
KNOWN_TO_BREAK: Final[dict[str, str]] = {}
"""Stories of faults that are not mended yet: name -> why. Each must break until it is."""


class Paragraph(msgspec.Struct):
    comments: list[str]
    commands: list[str]
    output: list[str]


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


class Story(Loaders):
    """Runs the commands of one file."""

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

    def block(self, name: str, role: str) -> None:
        """This connection breaks, and no other one for it is to be had."""
        self._host(name).blocked.add(role)
        self.cut("", name, role)

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

    def fail_over_for_new_ones(self, name: str) -> None:
        """A failover after which `name` keeps its old connections, and makes new ones anew."""
        self.fail_over(name)
        self._host(name).sees = None

    def subscribe_again(self, name: str) -> None:
        """The bus connection is taken for lost, though it still delivers."""
        host = self._host(name)
        host.feed(BusLost(0, host.connections["bus"].number, "no pong"))

    def wait_for(self, name: str) -> None:
        """Until every write that `name` has begun is answered."""
        if not self._await(lambda: not self._writing.get(name)):
            self.say(f"{name} is still writing")

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
            f"{key.decode()}={text_of(entry.value)}@{entry.as_of}"
            for key, entry in sorted(node.l1.entries.items())
            if not node.l1.is_ended(entry)
        ]
        self.say(f"{name}: at {where}, verified {age}, holds {' '.join(held) or 'nothing'}")

    def show_redis(self, key: str) -> None:
        value = self.world.truth.timeline(key.encode()).now(self.world.now_ms)
        self.say(f"redis: {key} = {text_of(value)}")


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
        (rf"(start )?write {NODE} ([\w:+]+) ([\w:+]+)((?: \w+=[\w,]+)*)", Story.write),
        (rf"(start )?delete {NODE} ([\w:]+)((?: \w+=[\w,]+)*)", Story.delete),
        (rf"(start )?increment {NODE} ([\w:]+)", Story.increment),
        (
            rf"invalidate {NODE} (key|tag|prefix|everything)(?: ([\w:,]+))??((?: \w+=[\w,]+)*)",
            Story.invalidate,
        ),
        (rf"(start )?lease {NODE} ([\w:]+)((?: \w+=\d+)*)", Story.lease),
        (rf"fill {NODE} ([\w:]+) (\w+)((?: \w+=[\w,]+)*)", Story.fill),
        (rf"give back {NODE} ([\w:]+)(?: as absent for {MS})?", Story.give_back),
        (rf"drop next (?:(\d+) )?bus messages? to {NODE}", Story.drop),
        (rf"(cut|drain|half-open) {NODE} {ROLE}", Story.cut),
        (rf"hold {NODE} {ROLE}", Story.hold),
        (rf"block {NODE} {ROLE}", Story.block),
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
        (rf"add {NODE}( without namespaces)?", Story.add),
        (rf"leave {NODE}", Story.leave),
        (
            rf"redis fails over, with {NODE} still connected to both",
            Story.fail_over_for_new_ones,
        ),
        (rf"subscribe {NODE} again", Story.subscribe_again),
        (rf"wait for {NODE}", Story.wait_for),
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
