"""A load generator: one process, raw sockets, epoll; replies are counted, not parsed.

Each connection sends a batch of requests, waits until as many bytes have come as their
replies have, and sends the next. It knows nothing of the protocol but how long a reply is
and how it begins (or, where its length varies, how it ends), which is what makes Python
fast enough: some 100,000 exchanges a second on one core. Where it goes on for a given time,
every connection has been answered once before the clock starts.
"""

from __future__ import annotations

import array
import resource
import select
import socket
import time
from typing import Any, Final

import msgspec

from coherenced.bench.processes import give_up, given_spec, tell
from coherenced.bench.rounds import quantile

CHUNK: Final = 1 << 18
STALLED_S: Final = 10.0
MOST_SAMPLES: Final = 2_000_000


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be sent, how often, and what comes back."""

    socket: str
    connections: int
    batches: list[bytes]
    """Packed requests, sent by all connections together in turn, again from the first after
    the last one."""
    pipeline: int
    """Requests in each batch."""
    begins: bytes
    """How every reply begins."""
    reply_bytes: int = 0
    """How long the replies to a batch are together; 0: they vary, and `ends` tells."""
    ends: bytes = b""
    """How the reply to a batch ends, and nothing before its end."""
    seconds: float = 0.0
    """How long to go on; 0: until every batch was sent once."""
    rate: float = 0.0
    """Batches a second, by all connections together and evenly spaced. What then counts is the
    time from when a batch was *due*: who is slow for a moment is not excused from what would have
    been asked meanwhile. 0: each connection sends again as soon as it was answered."""


class Connection:
    """One connection: what it still waits for, and since when."""

    __slots__ = ("link", "missing", "sent_s", "tail")

    def __init__(self, path: str) -> None:
        self.link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.link.connect(path)
        self.missing = 0
        self.sent_s = 0.0
        self.tail = b""


def drive(task: Task) -> dict[str, float]:
    """Carry it out. `CommandError` when a reply is not what it should be."""
    connections = {
        c.link.fileno(): c for c in (Connection(task.socket) for _ in range(task.connections))
    }
    poller = select.epoll()
    for number in connections:
        poller.register(number, select.EPOLLIN)
    try:
        if task.seconds:
            _greet(task, list(connections.values()))
        cpu_s = _own_cpu_s()
        if task.rate:
            count, seconds, took_s = _exchange_paced(task, list(connections.values()))
        else:
            count, seconds, took_s = _exchange(task, connections, poller)
        cpu_s = _own_cpu_s() - cpu_s
    finally:
        poller.close()
        for connection in connections.values():
            connection.link.close()
    ordered = sorted(took_s)
    return {
        "requests": count * task.pipeline,
        "seconds": seconds,
        "cpu_s": cpu_s,
        **{
            name: quantile(ordered, share) * 1e3
            for name, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0))
        },
    }


def _greet(task: Task, connections: list[Connection]) -> None:
    """One batch on each connection before the clock starts: what is measured is how long requests
    take, not how long it takes to let in all clients at once."""
    for connection in connections:
        connection.missing = task.reply_bytes
        connection.link.sendall(task.batches[0])
    for connection in connections:
        connection.link.settimeout(STALLED_S)
        try:
            while not _complete(task, connection, connection.link.recv(CHUNK)):
                pass
        except TimeoutError:
            give_up(f"no reply for {STALLED_S:g} s")
        connection.link.settimeout(None)


def _exchange(
    task: Task, connections: dict[int, Connection], poller: select.epoll
) -> tuple[int, float, array.array[float]]:
    """How many batches were answered, in how many seconds, and how long each took."""
    batches, reply_bytes = task.batches, task.reply_bytes
    clock = time.perf_counter
    took_s: array.array[float] = array.array("d")
    answered = sent = 0
    last = len(batches) if not task.seconds else 1 << 62
    started_s = now_s = clock()
    until_s = started_s + (task.seconds or 1e9)
    open_ones = len(connections)
    for connection in connections.values():
        if sent == last:
            open_ones -= 1
            continue
        connection.missing, connection.sent_s = reply_bytes, clock()
        connection.link.sendall(batches[sent % len(batches)])
        sent += 1
    while open_ones:
        ready = poller.poll(STALLED_S)
        if not ready:
            give_up(f"no reply for {STALLED_S:g} s")
        for number, _ in ready:
            connection = connections[number]
            data = connection.link.recv(CHUNK)
            if not _complete(task, connection, data):
                continue
            now_s = clock()
            answered += 1
            if answered <= MOST_SAMPLES:
                took_s.append(now_s - connection.sent_s)
            if now_s >= until_s or sent == last:
                open_ones -= 1
                continue
            connection.missing, connection.sent_s = reply_bytes, now_s
            connection.link.sendall(batches[sent % len(batches)])
            sent += 1
    return answered, now_s - started_s, took_s


def _exchange_paced(
    task: Task, connections: list[Connection]
) -> tuple[int, float, array.array[float]]:
    """The same at `task.rate`. `select` waits for microseconds, where epoll knows milliseconds."""
    batches, clock = task.batches, time.perf_counter
    took_s: array.array[float] = array.array("d")
    idle, busy = list(connections), dict[socket.socket, Connection]()
    started_s = now_s = heard_s = clock()
    count = max(1, int(task.rate * task.seconds)) if task.seconds else len(batches)
    sent = answered = 0
    while answered < count:
        while idle and sent < count and started_s + sent / task.rate <= now_s:
            connection = idle.pop()
            connection.missing = task.reply_bytes
            connection.sent_s = started_s + sent / task.rate  # when it was due
            connection.link.sendall(batches[sent % len(batches)])
            busy[connection.link] = connection
            sent += 1
        wait_s = STALLED_S
        if idle and sent < count:
            wait_s = max(0.0, started_s + sent / task.rate - clock())
        ready, _, _ = select.select(list(busy), (), (), wait_s)
        now_s = clock()
        if not ready and busy and now_s - heard_s > STALLED_S:
            give_up(f"no reply for {STALLED_S:g} s")
        for link in ready:
            heard_s = now_s
            connection = busy[link]
            if not _complete(task, connection, link.recv(CHUNK)):
                continue
            answered += 1
            if answered <= MOST_SAMPLES:
                took_s.append(now_s - connection.sent_s)
            del busy[link]
            idle.append(connection)
    return answered, now_s - started_s, took_s


def _complete(task: Task, connection: Connection, data: bytes) -> bool:
    """Whether with these bytes all replies to its batch have come."""
    if not data:
        give_up("the connection was closed")
    if task.reply_bytes:
        if connection.missing == task.reply_bytes and not data.startswith(task.begins):
            give_up(f"an unexpected reply: {data[:100]!r}")
        connection.missing -= len(data)
        if connection.missing < 0:
            give_up(f"more bytes than the replies have: …{data[-100:]!r}")
        return not connection.missing
    if not connection.tail and not data.startswith(task.begins):
        give_up(f"an unexpected reply: {data[:100]!r}")
    if data.endswith(task.ends) or (connection.tail + data).endswith(task.ends):
        connection.tail = b""
        return True
    connection.tail = (connection.tail + data)[-len(task.ends) :]
    return False


def _own_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """The program: a spec that holds where a packed `Task` is; the answer is its outcome."""
    spec: dict[str, Any] = given_spec()
    with open(spec["task"], "rb") as file:  # noqa: PTH123
        task = msgspec.msgpack.decode(file.read(), type=Task)
    tell(drive(task))


if __name__ == "__main__":
    main()
