"""The users of a story who load what is missing, under a lease (L1)."""

from __future__ import annotations

from coherenced.core.requests import (
    Fault,
    Fill,
    Lease,
    LeaseResult,
    Outcome,
    ReadResult,
    Release,
    WriteResult,
)
from tests.sim.history import WriteOp
from tests.sim.stage import PATIENCE_MS
from tests.sim.users import Users, text_of


class Loaders(Users):
    def lease(self, later: str, name: str, key: str, options: str) -> None:
        """Ask for the right to load `key`; `wait=`, `for=` and `due=` are in ms."""
        host = self._host(name)
        words = dict(word.split("=", 1) for word in options.split())
        op = self._read_op(host, (key.encode(),), None)
        request = Lease(
            key.encode(),
            lease_ms=int(words.get("for", "10000")),
            wait_ms=float(words.get("wait", "0")),
            refresh_ms=float(words["due"]) if "due" in words else None,
        )
        answered: list[Outcome] = []

        def done(outcome: Outcome) -> None:
            answered.append(outcome)
            assert isinstance(outcome, LeaseResult | Fault)
            told = self._tell_lease(name, outcome)
            if isinstance(outcome, LeaseResult) and outcome.value is not None:
                self.world.history.end_read(op, ReadResult((outcome.value,)), self.world.now_ms)
            else:
                self.world.history.unanswered -= 1
            self._last_read = (name, told)
            self.say(f"{name}: lease {key}: {told}, {self.world.now_ms - op.start_ms:.0f} ms")

        host.submit(request, done)
        if not later and not self._await(lambda: bool(answered)):
            self.say(f"{name}: lease {key}: no answer within {PATIENCE_MS:.0f} ms")

    def _tell_lease(self, name: str, outcome: LeaseResult | Fault) -> str:
        if isinstance(outcome, Fault):
            return outcome.kind
        if outcome.token:
            self._tokens[name] = outcome.token
            return "token" if outcome.value is None else "token-beside-a-value"
        return "waiting" if outcome.value is None else text_of(outcome.value.value)

    def fill(self, name: str, key: str, value: str, options: str) -> None:
        """Store what was loaded under the last token that this node's user was given."""
        words = dict(word.split("=", 1) for word in options.split())
        tags = tuple(tag.encode() for tag in words.get("tags", "").split(",") if tag)
        ttl_ms = int(words["ttl"]) if "ttl" in words else None
        keys, mark = (key.encode(),), value.encode()
        world, host = self.world, self._host(name)
        op = WriteOp(
            f"user of {name}", name, host.incarnation, keys, mark, f"fill {key}", 0, world.now_ms
        )
        world.history.unanswered += 1
        answered: list[Outcome] = []

        def done(outcome: Outcome) -> None:
            answered.append(outcome)
            assert isinstance(outcome, WriteResult | Fault)
            world.history.end_write(op, outcome, world.now_ms)
            told = outcome.kind if isinstance(outcome, Fault) else "done"
            self._last_read = (name, told)
            self.say(f"{name}: fill {key}: {self._outcome(outcome)}")

        token = self._tokens.get(name, b"")
        host.submit(Fill(keys[0], token, value.encode(), ttl_ms, tags), done)
        if not self._await(lambda: bool(answered)):
            self.say(f"{name}: fill {key}: no answer within {PATIENCE_MS:.0f} ms")

    def give_back(self, name: str, key: str, absent_ms: str) -> None:
        answered: list[Outcome] = []
        token = self._tokens.get(name, b"")

        def done(outcome: Outcome) -> None:
            answered.append(outcome)
            assert isinstance(outcome, WriteResult | Fault)
            self.say(f"{name}: give back {key}: {self._outcome(outcome)}")

        absent = int(absent_ms) if absent_ms else None
        self._host(name).submit(Release(key.encode(), token, absent), done)
        if not self._await(lambda: bool(answered)):
            self.say(f"{name}: give back {key}: no answer within {PATIENCE_MS:.0f} ms")
