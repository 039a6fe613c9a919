"""Many requests over many connections, and how they went.

`redis-benchmark` or `valkey-benchmark` where one is on the PATH: a client in C that both
sides are equally served by. Else the generator of this package, which is slower: where the
client is what limits, the row says so.
"""

from __future__ import annotations

import csv
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Final, Literal, NamedTuple

import msgspec

from coherenced.bench.generator import Task
from coherenced.bench.model import Row, Target
from coherenced.bench.processes import Program, cpu_s
from coherenced.bench.rounds import Duel, Sample, Wanted, duel
from coherenced.bench.talk import Talk, pack
from coherenced.errors import CommandError

CHUNK: Final = 500
"""Keys that one MSET or MGET of ours names."""
FIRST_GUESS: Final = 20_000.0
"""Requests a second, before a target was seen."""
PATIENCE_S: Final = 120.0
BUSY: Final = 0.97
"""A client that used more of its core than this was the one that limited."""
GENERATOR: Final = "our own load generator"


class Place(NamedTuple):
    """Who is loaded: where it listens, and the process whose CPU time that costs."""

    socket: Path
    pid: int


class Sides(NamedTuple):
    """Who is compared."""

    ours: Place
    peer: str
    theirs: Place

    def duel(self, rounds: int, turn: Callable[[Place], Sample]) -> Duel:
        """The same `turn` at each, in turns."""
        return duel(rounds, lambda: turn(self.ours), self.peer, lambda: turn(self.theirs))


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """GET or SET of keys `key:000000000000` and so on, at random, over a Unix socket."""

    verb: Literal["GET", "SET"] = "GET"
    connections: int = 50
    pipeline: int = 1
    keys: int = 1000
    value_bytes: int = 100
    dialect: Literal["RESP", "memcached"] = "RESP"
    """memcached: only GET, and only by our own generator."""
    rate: float = 0.0
    """Requests a second of all connections together, only by our own generator; 0: as many as
    there are, each connection sending again when it was answered."""


def exchanges(load: Load) -> tuple[list[bytes], bytes]:
    """A request for each key, mixed, and how long and alike a reply is."""
    value = b"x" * load.value_bytes
    names = [key(number) for number in shuffled(load.keys)]
    if load.dialect == "memcached":
        reply = b"VALUE %b 0 %d\r\n%b\r\nEND\r\n" % (key(0), len(value), value)
        return [b"get %b\r\n" % name for name in names], reply
    if load.verb == "SET":
        return [pack((b"SET", name, value)) for name in names], b"+OK\r\n"
    return [pack((b"GET", name)) for name in names], b"$%d\r\n%b\r\n" % (len(value), value)


def key(number: int) -> bytes:
    """The name of a key, as redis-benchmark writes it."""
    return b"key:%012d" % number


def fill(talk: Talk, keys: int, value_bytes: int) -> None:
    """Store the keys 0 to `keys` - 1."""
    value = b"x" * value_bytes
    for numbers in _chunks(keys):
        talk.ask("MSET", *(word for number in numbers for word in (key(number), value)))


def warm(talk: Talk, keys: int) -> None:
    """Read them all, so that whoever `talk` speaks to holds them."""
    for numbers in _chunks(keys):
        if None in talk.ask("MGET", *map(key, numbers)):
            raise CommandError("a key that was stored is not there")


def _chunks(keys: int) -> list[range]:
    return [range(first, min(first + CHUNK, keys)) for first in range(0, keys, CHUNK)]


class Loader:
    """Whichever load generator there is. Its files go to `directory`."""

    def __init__(self, directory: Path, executable: str | None = None) -> None:
        """`executable`: a redis-benchmark; "" for our own generator; None: what is there."""
        self._directory = directory
        if executable is None:
            executable = shutil.which("valkey-benchmark") or shutil.which("redis-benchmark") or ""
        self._executable = executable
        self._rates: dict[tuple[Path, Load], float] = {}

    @property
    def name(self) -> str:
        return Path(self._executable).name if self._executable else GENERATOR

    def run(self, place: Place, load: Load, seconds: float) -> Sample:
        """About `seconds` of load. `rate` a second; `p50`, `p99` (and `p99.9`) in ms of a batch;
        `server` CPU in µs a request; `busy`, the share of a core that the client used."""
        if not self._executable:
            return self._generate(place, load, seconds)
        known = (place.socket, load)
        if known not in self._rates:
            self._rates[known] = FIRST_GUESS
            self._benchmark(place, load, min(seconds, 0.1))
        return self._benchmark(place, load, seconds)

    def task(self, place: Place, task: Task) -> Sample:
        """The same for anything that our own generator can send."""
        with tempfile.NamedTemporaryFile(dir=self._directory, suffix=".task") as file:
            file.write(msgspec.msgpack.encode(task))
            file.flush()
            before_s = cpu_s(place.pid)
            with Program("generator", {"task": file.name}, self._directory / "load.log") as program:
                told = program.hear()
            spent_s = cpu_s(place.pid) - before_s
        return {
            "rate": told["requests"] / told["seconds"],
            "server": spent_s / told["requests"] * 1e6,
            "busy": told["cpu_s"] / told["seconds"],
            **{name: told[name] for name in ("p50", "p99", "p99.9")},
        }

    def _generate(self, place: Place, load: Load, seconds: float) -> Sample:
        requests, reply = exchanges(load)
        task = Task(
            socket=str(place.socket),
            connections=load.connections,
            batches=batches(requests, load.pipeline),
            pipeline=load.pipeline,
            begins=reply[:1],
            reply_bytes=len(reply) * load.pipeline,
            rate=load.rate,
            seconds=seconds,
        )
        return self.task(place, task)

    def _benchmark(self, place: Place, load: Load, seconds: float) -> Sample:
        least = 2 * load.connections * load.pipeline
        count = max(least, int(self._rates[place.socket, load] * seconds))
        options = {
            "-s": place.socket,
            "-t": load.verb.lower(),
            "-c": load.connections,
            "-P": load.pipeline,
            "-r": load.keys,
            "-d": load.value_bytes,
            "-n": count,
        }
        words = [str(word) for pair in options.items() for word in pair]
        before_s, children_s = cpu_s(place.pid), _children_cpu_s()
        done = subprocess.run(
            [self._executable, *words, "--csv"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        spent_s, children_s = cpu_s(place.pid) - before_s, _children_cpu_s() - children_s
        lines = list(csv.DictReader(done.stdout.splitlines()))
        if done.returncode or not lines:
            raise CommandError(f"{self.name} failed: {(done.stderr or done.stdout).strip()[:200]}")
        rate = float(lines[0]["rps"])
        self._rates[place.socket, load] = rate
        return {
            "rate": rate,
            "server": spent_s / count * 1e6,
            "busy": children_s * rate / count,
            "p50": float(lines[0]["p50_latency_ms"]),
            "p99": float(lines[0]["p99_latency_ms"]),
        }


def rows_of(
    found: Duel, name: str, load_by: str, rate: Target | None, p999: Target | None = None
) -> list[Row]:
    """The rows of one load: rate, latencies, CPU; with a remark where the client limited."""
    note = f"loaded by {load_by}"
    limited = [
        who
        for who, turns in (("ours", found.ours), (found.peer, found.theirs))
        if any(turn["busy"] > BUSY for turn in turns)
    ]
    if limited:
        note += f", which was at its own limit ({' and '.join(limited)})"
    wanted = (
        Wanted("rate", "", "/s", rate),
        Wanted("p50", "p50", "ms"),
        Wanted("p99", "p99", "ms"),
        Wanted("p99.9", "p99.9", "ms", p999),
        Wanted("server", "CPU each", "µs"),
    )
    return found.rows(name, wanted, note)


def batches(requests: Sequence[bytes], pipeline: int) -> list[bytes]:
    """The requests, so many to a batch; the first ones again where the last batch is short."""
    whole = [*requests, *islice(cycle(requests), -len(requests) % pipeline)]
    return [b"".join(whole[at : at + pipeline]) for at in range(0, len(whole), pipeline)]


def shuffled(count: int) -> list[int]:
    """0 to `count` - 1, mixed, always alike."""
    numbers = list(range(count))
    Random(count).shuffle(numbers)
    return numbers


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
