"""Who reads and writes while the faults happen: one thread and one connection each.

A writer belongs to a node and owns its keys; a reader belongs to a node; a wanderer goes from
node to node and carries its token along. Nobody repeats anything: what has no answer is
written down as such.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from random import Random
from typing import Any, Final

from coherenced.bench.talk import Talk, Word
from coherenced.cli.faults.ledger import FOREVER, LINEARIZABLE, Fate, Ledger, Read, Write
from coherenced.errors import CommandError, DaemonUnreachable, StartError

PATIENCE_S: Final = 2.0
"""How long a client waits for an answer before it gives up and connects again."""
IMPATIENCE_S: Final = 0.12
"""The same of a reader that looks elsewhere meanwhile: it finds what is served at once."""
ACK_TIMEOUT_MS: Final = 1500
SNAPSHOTS: Final = 0.15
"""Share of a reader's steps that look at a whole group."""
RECONNECT_S: Final = 0.05
STOP_S: Final = 30.0
TTL_MS: Final = 300
HOT: Final = 6
"""Plain keys of each writer."""
MEMBERS: Final = 3
"""Keys that one transaction sets together."""
NOT_APPLIED: Final = frozenset(
    {"UNAVAILABLE", "CONFLICT", "TRYAGAIN", "OOM", "OVERLOADED", "STOPPING", "LOADING", "READONLY"}
)
"""First words of error replies which promise that nothing was done."""


class Clock:
    """Seconds since the run began."""

    def __init__(self) -> None:
        self._zero_s = time.monotonic()

    def __call__(self) -> float:
        return time.monotonic() - self._zero_s


class Tally:
    """Increments of one counter."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.acknowledged = self.unknown = self.under_way = 0
        self._lock = threading.Lock()

    def begin(self) -> None:
        with self._lock:
            self.under_way += 1

    def end(self, fate: str) -> None:
        with self._lock:
            self.under_way -= 1
            self.acknowledged += fate == Fate.OK
            self.unknown += fate == Fate.UNKNOWN


class Client:
    """One client, a thread; what it does is its subclass's `step`."""

    def __init__(
        self, name: str, sockets: Mapping[str, Path], home: str, ledger: Ledger, seed: str
    ) -> None:
        self.name = name
        self.node = home
        self.errors: Counter[str] = Counter()
        """What it was told instead of an answer."""
        self.random = Random(f"{seed}/{name}")
        self.failure: BaseException | None = None
        self._sockets = sockets
        self._ledger = ledger
        self._talk: Talk | None = None
        self._patience_s = PATIENCE_S
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.clock: Clock
        self.think_s = 0.004

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._done.is_set():
                if self._open():
                    self.step()
                    self._done.wait(self.random.expovariate(1 / self.think_s))
                else:
                    self._done.wait(RECONNECT_S)
        except BaseException as failure:
            self.failure = failure
        finally:
            self.hang_up()

    def step(self) -> None:
        raise NotImplementedError

    def begin_stop(self) -> None:
        self._done.set()

    def join(self) -> None:
        """Wait for the end of its last step. Raises what went wrong, or `StartError`."""
        self._thread.join(STOP_S)
        if self._thread.is_alive():
            raise StartError(f"client {self.name} does not end within {STOP_S:g} s")
        if self.failure is not None:
            raise self.failure

    def hang_up(self) -> None:
        if self._talk is not None:
            self._talk.close()
            self._talk = None

    def _open(self) -> bool:
        if self._talk is None:
            with contextlib.suppress(DaemonUnreachable):
                self._talk = Talk(self._sockets[self.node], self._patience_s)
        return self._talk is not None

    def ask(self, *words: Word) -> tuple[Any, str]:
        """(reply, fate): the reply is an error's text when it is not OK."""
        assert self._talk is not None
        try:
            return self._talk.ask(*words), Fate.OK
        except CommandError as error:
            text = str(error)
            word = text.partition(" ")[0]
            self.errors[word] += 1
            return text, Fate.FAILED if word in NOT_APPLIED else Fate.UNKNOWN
        except (OSError, DaemonUnreachable) as error:
            self.errors["no answer"] += 1
            self.hang_up()
            return str(error), Fate.UNKNOWN


class Writer(Client):
    """Writes its own keys, and reads back what it wrote."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.think_s = 0.014
        self._numbers: Counter[str] = Counter()
        me = self.name
        self._hot = [f"k:{me}:{number}" for number in range(HOT)]
        self._linearizable = f"{LINEARIZABLE}{me}"
        self._tagged, self._tag = f"t:{me}", f"tag:{me}"
        self._expiring, self._expires_s = f"x:{me}", 0.0
        self._group = [f"g:{me}:{number}" for number in range(MEMBERS)]
        self.tally = Tally("count")
        """The counter that it increments: another one from fault to fault."""
        steps: list[tuple[int, Callable[[], None]]] = [
            (40, self._set),
            (5, self._delete),
            (9, self._set_linearizable),
            (8, self._set_or_untag),
            (8, self._set_expiring),
            (8, self._set_group),
            (10, self._increment),
        ]
        self._steps = [step for _, step in steps]
        self._weights = list(itertools.accumulate(weight for weight, _ in steps))

    @property
    def keys(self) -> list[str]:
        """All keys of this writer that a reader may look at."""
        return [*self._hot, self._linearizable, self._tagged, self._expiring, *self._group]

    @property
    def groups(self) -> list[list[str]]:
        return [self._group]

    def step(self) -> None:
        self.random.choices(self._steps, cum_weights=self._weights)[0]()

    def _level(self) -> list[Word]:
        if self.random.random() < 0.65:
            return []
        return ["ACK", "all", "TIMEOUT", ACK_TIMEOUT_MS]

    def _write(
        self,
        keys: Iterable[str],
        command: Callable[[int], list[Word]],
        *,
        absent: bool = False,
        ttl_s: float = FOREVER,
        ack: list[Word] | None = None,
    ) -> Write:
        number = max(self._numbers[key] for key in keys) + 1
        ack = ack or []
        began_s = self.clock()
        writes = [Write(self.name, key, number, absent, began_s, ttl_s) for key in keys]
        for write in writes:
            self._numbers[write.key] = number
            self._ledger.operations.append(write)
        reply, fate = self.ask(*command(number), *ack)
        ended_s = self.clock()
        acknowledged = bool(ack) and fate == Fate.OK
        if fate == Fate.UNKNOWN and str(reply).startswith("NOACK committed"):
            fate = Fate.OK
        for write in writes:
            write.fate = fate
            write.by_all = acknowledged
            if fate == Fate.OK:
                write.ended_s = ended_s
        if fate == Fate.OK and self.random.random() < 0.5 and self._talk is not None:
            look(self, self._ledger, writes[0].key)
        return writes[0]

    def _set(self) -> None:
        key = self.random.choice(self._hot)
        self._write([key], lambda n: ["COH.SET", key, n], ack=self._level())

    def _delete(self) -> None:
        key = self.random.choice(self._hot)
        self._write([key], lambda n: ["COH.DEL", key], absent=True, ack=self._level())

    def _set_linearizable(self) -> None:
        key = self._linearizable
        self._write([key], lambda n: ["SET", key, n])

    def _set_or_untag(self) -> None:
        if self.random.random() < 0.6:
            key, tag = self._tagged, self._tag
            self._write([key], lambda n: ["COH.SET", key, n, "TAGS", 1, tag], ack=self._level())
        else:
            words: list[Word] = ["COH.INVALIDATE", "TAGS", 1, self._tag]
            if self.random.random() < 0.3:
                words = ["COH.INVALIDATE", "PREFIXES", 1, self._tagged]
            self._write([self._tagged], lambda n: words, absent=True, ack=self._level())

    def _set_expiring(self) -> None:
        """Now and then, so that others can see it after its end."""
        if self.clock() > self._expires_s:
            self._expires_s = self.clock() + 3 * TTL_MS / 1e3
            key = self._expiring
            self._write([key], lambda n: ["SET", key, n, "PX", TTL_MS], ttl_s=TTL_MS / 1e3)

    def _set_group(self) -> None:
        self._write(
            self._group, lambda n: ["MSET", *(word for key in self._group for word in (key, n))]
        )

    def _increment(self) -> None:
        tally = self.tally
        tally.begin()
        fate = Fate.UNKNOWN
        try:
            _, fate = self.ask("INCR", tally.name)
        finally:
            tally.end(fate)


class Reader(Client):
    """Reads everybody's keys on its own node; a wanderer on any, with its token."""

    def __init__(
        self,
        *given: Any,
        keys: list[str],
        groups: list[list[str]],
        wanders: bool = False,
        impatient: bool = False,
    ) -> None:
        super().__init__(*given)
        if impatient:
            self._patience_s = IMPATIENCE_S
        self.keys = keys
        self.groups = groups
        self._wanders = wanders
        self._token = ""

    def step(self) -> None:
        if self._wanders and self.random.random() < 0.2:
            self.hang_up()
            self.node = self.random.choice(sorted(self._sockets))
            return
        if self.random.random() < SNAPSHOTS:
            self._look_at_once(self.random.choice(self.groups))
            return
        key = self.random.choice(self.keys)
        if not self._wanders:
            look(self, self._ledger, key, current=self.random.random() < 0.15)
            return
        version = look(self, self._ledger, key, token=self._token)
        if version is None:
            self._token = ""  # perhaps of a lineage that is no more
            self.name = f"{self.name.partition('#')[0]}#{self.clock():.3f}"
        else:
            self._token = newer(version, self._token)

    def _look_at_once(self, group: list[str]) -> None:
        """A snapshot of keys that are only ever set together."""
        began_s = self.clock()
        values, fate = self.ask("COH.MGET", *group, "SNAPSHOT")
        if fate == Fate.OK:
            told = [None if value is None else value.decode() for value in values]
            self._ledger.groups.append((self.name, dict(zip(group, told, strict=True)), began_s))


def look(
    client: Client, ledger: Ledger, key: str, *, current: bool = False, token: str | None = None
) -> str | None:
    """Read a key and write down what came; its version, None when there was no answer."""
    words: list[Word] = ["COH.GET", key]
    if current:
        words += ["MAXSTALE", 0]
    if token:
        words += ["MINVER", token]
    plain = len(words) == 2 and client.random.random() < 0.5  # a hit by the shortest way
    began_s = client.clock()
    reply, fate = client.ask(*(["GET", key] if plain else [*words, "META"]))
    if fate != Fate.OK:
        return None
    value, version, source = (reply, b"", b"") if plain else reply[:3]
    read = Read(client.name, client.node, key, None, began_s, client.clock(), current)
    read.number = None if value is None else int(value)
    read.source = source.decode()
    ledger.operations.append(read)
    return (version or b"").decode()


def newer(version: str, token: str) -> str:
    """The later of two versions; the first when they are of different lineages."""
    if not version:
        return token
    epoch, _, seq = version.rpartition(":")
    held_epoch, _, held_seq = token.rpartition(":")
    return token if epoch == held_epoch and int(seq) <= int(held_seq) else version
