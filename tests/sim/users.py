"""The users of a story: what they read and write, and how it is told."""

from __future__ import annotations

import msgspec

from coherenced.core.model import Mutation, Op, ReplyError
from coherenced.core.requests import Fault, Level, Outcome, Read, ReadResult, Write, WriteResult
from tests.sim.history import ReadOp, WriteOp
from tests.sim.host import Host
from tests.sim.mix import set_mutation
from tests.sim.stage import PATIENCE_MS, Broken, Stage


class Users(Stage):
    """One user on each node."""

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
                self._said(f"{name}: {keys} = {text_of(entry.value)} (hit)", name, entry.value)
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
            parts.append(f"{key} = {text_of(value.value)} ({value.source}{stale})")
        self._said(f"{name}: {', '.join(parts)}", name, outcome.values[0].value)

    def _said(self, line: str, name: str, value: bytes | None) -> None:
        self._last_read = (name, text_of(value))
        self.say(line)

    def expect(self, name: str, value: str) -> None:
        """The last read was of this node and gave this."""
        if self._last_read != (name, value):
            raise Broken(f"expected {name} to read {value}, but it was {self._last_read}")

    # -- writing ---------------------------------------------------------------------------

    def write(self, later: str, name: str, key: str, value: str, options: str) -> None:
        words = dict(word.split("=", 1) for word in options.split())
        ttl = words.get("ttl")
        tags = tuple(tag.encode() for tag in words["tags"].split(",")) if "tags" in words else None
        mutations = [
            msgspec.structs.replace(set_mutation(one, given, int(ttl) if ttl else None), label=tags)
            for one, given in zip(key.encode().split(b"+"), value.encode().split(b"+"), strict=True)
        ]
        self._mutate(
            name, mutations, value.split("+")[0], words.get("ack", "redis"), later, f"write {key}"
        )

    def delete(self, later: str, name: str, key: str, options: str) -> None:
        words = dict(word.split("=", 1) for word in options.split())
        mutation = Mutation(
            (b"DEL", key.encode()), Op.DELETE, (key.encode(),), unchanged=b"z", frees_memory=True
        )
        self._mutate(name, [mutation], "", words.get("ack", "redis"), later, f"delete {key}")

    def increment(self, later: str, name: str, key: str) -> None:
        mutation = Mutation((b"INCR", key.encode()), keys=(key.encode(),), exact_integer=True)
        self._mutate(name, [mutation], "", "redis", later, f"increment {key}")

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
        self._mutate(name, [mutation], "", words.get("ack", "redis"), "", f"invalidate {what}")

    def _mutate(
        self, name: str, mutations: list[Mutation], value: str, ack: str, later: str, what: str
    ) -> None:
        host, world = self._host(name), self.world
        self._writes += 1
        mark = value.encode() or b"write %d" % self._writes
        keys = tuple(key for mutation in mutations for key in mutation.keys)
        op = WriteOp(
            f"user of {name}", name, host.incarnation, keys, mark, what,
            Level.parse(ack), world.now_ms,
        )  # fmt: skip
        if not any(key.startswith(world.history.linearizable) for key in keys):
            for mutation in mutations:
                world.mark(mutation, mark)
        world.history.unanswered += 1
        answered: list[Outcome] = []

        def done(outcome: Outcome) -> None:
            answered.append(outcome)
            self._writing[name] -= 1
            assert isinstance(outcome, WriteResult | Fault)
            world.history.end_write(op, outcome, world.now_ms)
            took_ms = world.now_ms - op.start_ms
            self.say(f"{name}: {what}: {self._outcome(outcome)}, {took_ms:.0f} ms")
            if isinstance(outcome, WriteResult) and outcome.version is not None:
                self._versions[value] = outcome.version

        self._writing[name] = self._writing.get(name, 0) + 1
        write = Write(tuple(mutations), atomic=len(mutations) > 1, ack=Level.parse(ack))
        host.submit(write, done)
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


def text_of(value: bytes | None) -> str:
    return "nil" if value is None else value.decode()
