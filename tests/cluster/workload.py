"""Client sessions that work and record what they did and saw.

A session is one client: a thread with one connection to its node's Unix socket,
through redis-py with every retry switched off. *Wanderers* change nodes between
steps and carry their token with them. Sessions can also run in a process of their
own (`ClientProcess`, `python -m tests.cluster.workload`), which may be killed: what
it had begun is in its journal.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Final, Self

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.connection import UnixDomainSocketConnection
from redis.retry import Retry

from coherenced import Client
from coherenced.errors import CoherencedError, CommandError, DaemonUnreachable
from tests.checkers.history import Kind, Operation, Outcome, Recorder, read_journal
from tests.cluster.daemons import REPOSITORY
from tests.cluster.own_client import OwnConnection
from tests.cluster.steps import Chooser, Load, Step
from tests.servers import _die_with_parent

RECONNECT_PAUSE_S: Final = 0.05
STOP_TIMEOUT_S: Final = 30.0
NOT_APPLIED: Final = frozenset(
    {
        "UNAVAILABLE",
        "CONFLICT",
        "TRYAGAIN",
        "OOM",
        "OVERLOADED",
        "STOPPING",
        "LOADING",
        "READONLY",
        "NOREPLICAS",
    }
)
"""First words of error replies that promise that nothing was done."""
STRIPPED: Final[Mapping[type[Exception], str]] = {
    redis.exceptions.OutOfMemoryError: "OOM ",
    redis.exceptions.ReadOnlyError: "READONLY ",
    redis.exceptions.TryAgainError: "TRYAGAIN ",
}
_NOACK = re.compile(r"NOACK committed ([0-9a-f]{16}:\d+)")


def open_connection(path: Path, timeout_s: float, protocol: int = 2) -> Any:
    """A connected redis-py connection that never repeats anything by itself."""
    make: Any = UnixDomainSocketConnection  # untyped, and not abstract in fact
    connection = make(
        path=str(path),
        socket_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        retry_on_error=[],
        protocol=protocol,
    )
    connection.connect()
    return connection


def _opener(number: int) -> Callable[[Path, float, int], Any]:
    """How our own client connects: every other one with L0."""

    def connect(path: Path, timeout_s: float, _: int) -> Any:
        return OwnConnection(path, timeout_s, l0=number % 2 == 0)

    return connect


class Session:
    """One client."""

    def __init__(
        self,
        name: str,
        sockets: Mapping[str, Path],
        load: Load,
        recorder: Recorder,
        random: Random,
        *,
        home: str,
        wanders: bool = False,
        connect: Callable[[Path, float, int], Any] = open_connection,
    ) -> None:
        self.name = name
        self.node = home
        self.errors: collections.Counter[str] = collections.Counter()
        """Error replies by their first word, and what happened to connections."""
        self._sockets = sockets
        self._load = load
        self._recorder = recorder
        self._random = random
        self._wanders = wanders
        self._chooser = Chooser(load, random, name)
        self._connect = connect
        self._protocol = random.choice([2, 3])
        self._connection: Any = None
        self._token = ""

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set."""
        try:
            while not stop.is_set():
                if self._wanders and self._random.random() < 0.3:
                    self._close()
                    self.node = self._random.choice(sorted(self._sockets))
                step = self._chooser.next(self._token if self._wanders else "")
                pause_s = self._random.expovariate(1000 / self._load.think_ms)
                if not self._open():
                    pause_s += RECONNECT_PAUSE_S
                else:
                    self.perform(step)
                stop.wait(pause_s)
        finally:
            self._close()

    def perform(self, step: Step) -> Operation:
        """Send one step and record what came of it. The connection must be open."""
        op = self._recorder.begin(
            self.name, self.node, step.kind, step.keys, step.values, **step.details
        )
        try:
            reply = self._exchange(step)
        except redis.ResponseError as error:
            # The library takes the first word off the errors that it knows.
            self._refused(op, f"{STRIPPED.get(type(error), '')}{error}")
        except (redis.RedisError, OSError) as error:
            # Sent, perhaps: whatever it was may have been done, or be done yet.
            self._recorder.end(op, Outcome.UNKNOWN, detail=f"{type(error).__name__}: {error}")
            self.errors[type(error).__name__] += 1
            self._close()
        else:
            self._recorder.end(op, Outcome.OK, **step.understand(reply))
            self._remember(op)
        return op

    def _exchange(self, step: Step) -> Any:
        """The raw reply to one step."""
        self._connection.send_command(*step.argv)
        return self._connection.read_response()

    def _refused(self, op: Operation, text: str) -> None:
        word = text.split(" ", 1)[0]
        self.errors[word if word.isupper() else text[:80]] += 1
        committed = _NOACK.match(text)
        if committed:
            self._recorder.end(op, Outcome.OK, satisfied=False, version=committed[1], detail=text)
        elif op.is_read or word in NOT_APPLIED:
            self._recorder.end(op, Outcome.FAIL, detail=text)
            if op.min_version:
                self._token = ""  # perhaps of a lineage that is no more
        else:
            self._recorder.end(op, Outcome.UNKNOWN, detail=text)

    def _remember(self, op: Operation) -> None:
        """The newest version seen is the token of what follows."""
        epoch, colon, seq = op.version.rpartition(":")
        if colon:
            known, _, known_seq = self._token.rpartition(":")
            if known != epoch or int(seq) > int(known_seq):
                self._token = op.version

    def _open(self) -> bool:
        if self._connection is None:
            try:
                self._connection = self._connect(
                    self._sockets[self.node], self._load.timeout_s, self._protocol
                )
            except (redis.RedisError, OSError) as error:
                self.errors[f"connect: {type(error).__name__}"] += 1
        return self._connection is not None

    def _close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(redis.RedisError, OSError):
                self._connection.disconnect()
            self._connection = None


class HoldingSession(Session):
    """One that reads through our own client, which keeps copies; it writes as the others do."""

    _client: Client | None = None

    def _exchange(self, step: Step) -> Any:
        if step.kind not in (Kind.READ, Kind.MGET):
            return super()._exchange(step)
        assert self._client is not None
        try:
            return self._read(self._client, step)
        except DaemonUnreachable as error:
            raise ConnectionError(str(error)) from error
        except CoherencedError as error:
            known = "" if type(error) is CommandError else f"{error.wire_code} "
            raise redis.ResponseError(f"{known}{error}") from error

    def _read(self, client: Client, step: Step) -> Any:
        if step.kind == Kind.MGET:
            found = client.get_many(step.keys, snapshot=step.details.get("snapshot", False))
            return [found.get(key) for key in step.keys]
        if step.argv[0] == "GET":
            return client.get(step.keys[0])
        details = step.details
        entry = client.get_entry(
            step.keys[0],
            max_staleness_ms=details.get("max_staleness_ms"),
            min_version=details.get("min_version"),
        )
        return [entry.value, str(entry.version), entry.source, entry.age_ms, entry.stale]

    def _open(self) -> bool:
        opened = super()._open()
        if opened and self._client is None:
            path, timeout_s = self._sockets[self.node], self._load.timeout_s
            self._client = Client(path, timeout=timeout_s, serializer=None)
        return opened

    def _close(self) -> None:
        super()._close()
        if self._client is not None:
            self._client.close()
            self._client = None


class Workload:
    """Some sessions as threads of this process, spread over the nodes."""

    def __init__(
        self,
        sockets: Mapping[str, Path],
        recorder: Recorder,
        load: Load,
        *,
        sessions: int,
        wanderers: int = 0,
        own_clients: int = 0,
        seed: int | str,
        prefix: str = "s",
    ) -> None:
        """`own_clients`: so many of the first sessions use our client, every other with L0."""
        self.recorder = recorder
        nodes = sorted(sockets)
        plain = replace(load, counters=0)  # our client has no increments
        self.sessions = [
            (HoldingSession if load.l0 and number % 2 else Session)(
                f"{prefix}{number}",
                sockets,
                plain if number < own_clients else load,
                recorder,
                Random(f"{seed}/{prefix}{number}"),
                home=nodes[number % len(nodes)],
                wanders=number >= sessions - wanderers,
                connect=_opener(number) if number < own_clients else open_connection,
            )
            for number in range(sessions)
        ]
        self._stop = threading.Event()
        self._failures: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._run, args=(session,), name=session.name, daemon=True)
            for session in self.sessions
        ]

    def start(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        """Let each session finish its step. Raises what went wrong in one of them."""
        self._stop.set()
        for thread in self._threads:
            thread.join(STOP_TIMEOUT_S)
            assert not thread.is_alive(), f"session {thread.name} does not end"
        if self._failures:
            raise self._failures[0]

    def _run(self, session: Session) -> None:
        try:
            session.run(self._stop)
        except BaseException as failure:
            self._failures.append(failure)

    @property
    def errors(self) -> collections.Counter[str]:
        """What the sessions were told instead of an answer."""
        return sum((session.errors for session in self.sessions), collections.Counter())


@dataclass(frozen=True)
class _Order:
    """What a client process is told to do, as JSON."""

    sockets: dict[str, str]
    load: Load
    sessions: int
    wanderers: int
    seed: str
    prefix: str
    journal: str
    first_id: int


class ClientProcess:
    """Some sessions as a process of their own: may be paused, resumed and killed.

    Each start is a new set of clients with names of their own.
    """

    _ids = 1_000_000_000

    def __init__(
        self,
        name: str,
        sockets: Mapping[str, Path],
        load: Load,
        directory: Path,
        *,
        sessions: int = 2,
        wanderers: int = 0,
        seed: int | str = 0,
    ) -> None:
        self.name = name
        self.journals: list[Path] = []
        self._sockets = {node: str(path) for node, path in sockets.items()}
        self._load = load
        self._directory = directory
        self._sessions = sessions
        self._wanderers = wanderers
        self._seed = seed
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        incarnation = f"{self.name}.{len(self.journals)}"
        journal = self._directory / f"{incarnation}.jsonl"
        ClientProcess._ids += 100_000_000
        order = _Order(
            self._sockets,
            self._load,
            self._sessions,
            self._wanderers,
            f"{self._seed}/{incarnation}",
            f"{incarnation}.",
            str(journal),
            ClientProcess._ids,
        )
        self.journals.append(journal)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.workload", msgspec.json.encode(order).decode()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd=REPOSITORY,
            preexec_fn=_die_with_parent,
        )
        return self

    def kill(self) -> None:
        """SIGKILL: what it had begun stays unanswered."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM; it finishes its steps."""
        code = self._end(signal.SIGTERM)
        assert code == 0, f"client process {self.name} exited with {code}"

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def operations(self) -> list[Operation]:
        """What all its incarnations have recorded."""
        found: list[Operation] = []
        for journal in self.journals:
            if journal.exists():
                with journal.open("rb") as lines:
                    found += read_journal(lines)
        return found

    def _end(self, number: int) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(number)
        return process.wait(STOP_TIMEOUT_S)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sessions of one client process until SIGTERM."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("order", help="what to do, as JSON")
    order = msgspec.json.decode(parser.parse_args(arguments).order, type=_Order)
    recorder = Recorder(Path(order.journal), order.first_id)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    workload = Workload(
        {node: Path(path) for node, path in order.sockets.items()},
        recorder,
        order.load,
        sessions=order.sessions,
        wanderers=order.wanderers,
        seed=order.seed,
        prefix=order.prefix,
    ).start()
    while not stop.is_set():
        time.sleep(0.05)
    workload.stop()
    recorder.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
