"""`demo`: the main job in one command, with real processes, told as a story.

Every line that is printed with a tick has been verified; a step that does not show
what it says ends the demo with exit code 1.
"""

from __future__ import annotations

import secrets
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final, NamedTuple, NoReturn

import click

from coherenced.cli.cluster import Cluster, Daemon, free_port
from coherenced.cli.options import duration as a_duration
from coherenced.cli.output import duration, number, print_json
from coherenced.client.replies import Version
from coherenced.errors import CoherencedError

KEY: Final = "product:1"
WRITES: Final = 300
"""Written in step 4 while the bus is cut after the first third."""
CUT_KEYS: Final = 25
FAULTS_S: Final = 75.0
"""How long `--faults` takes, about, when nothing else is said."""


class Storyteller:
    """Prints what happens as it happens, or keeps it for `--json`."""

    def __init__(self, as_json: bool) -> None:
        self.chapters: list[dict[str, Any]] = []
        self._silent = as_json
        self._began = time.perf_counter()

    def chapter(self, title: str) -> None:
        self.chapters.append({"title": title, "steps": []})
        self._say(f"\n{_bold(f'{len(self.chapters)}. {title}')}" if title else "")

    def done(self, text: str) -> None:
        """Something that was shown, and verified."""
        self.chapters[-1]["steps"].append(text)
        self._say(f"   {_green('✓')} {text}")

    def plain(self, text: str) -> None:
        self._say(text)

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self._began

    def _say(self, text: str) -> None:
        if not self._silent:
            print(text, flush=True)


@click.command("demo")
@click.option(
    "--nodes",
    type=click.IntRange(2, 16),
    default=3,
    show_default=True,
    metavar="N",
    help="Daemons.",
)
@click.option("--keep", is_flag=True, help="Leave it running, with a dashboard, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print steps and figures as JSON at the end.")
@click.option("--faults", is_flag=True, help="Instead: every fault there is, every read checked.")
@click.option("--seed", type=int, metavar="N", help="With --faults: what the clients choose.")
@click.option(
    "--duration",
    type=a_duration,
    metavar="TIME",
    help="With --faults: about how long, as 90s or 2m.  [default: 75s]",
)
def demo(
    nodes: int, keep: bool, as_json: bool, faults: bool, seed: int | None, duration: float | None
) -> int:
    """See it work: a server, some daemons, a story, figures.

    Starts a private Valkey and real daemons in a temporary directory, talks to them
    over their sockets, and removes everything at the end. Exit code 1 when a step does
    not show what it says.

    With --faults, clients read and write while daemons, servers and the network between
    them fail in every way of the protocol's table; each promise is checked over all that
    they saw, and exit code 1 says which was broken, and by which operations.
    """
    if faults:
        return _faults(as_json, secrets.randbelow(10**6) if seed is None else seed, duration)
    if seed is not None or duration is not None:
        raise click.UsageError("--seed and --duration belong to --faults")
    tell = Storyteller(as_json)
    address = f"127.0.0.1:{free_port()}" if keep else ""
    with _terminable(), Cluster(nodes, address) as cluster:
        tell.plain(f"coherenced demo, in {cluster.directory}")
        _start(cluster, tell)
        _a_write_is_a_hit(cluster, tell)
        _an_update_drops_it(cluster, tell)
        _tags(cluster, tell)
        _a_cut_connection(cluster, tell)
        figures = _figures(cluster, tell)
        if as_json:
            print_json({"ok": True, "chapters": tell.chapters, "figures": figures})
        tell.plain(f"\neverything held, in {tell.elapsed_s:.1f} s")
        if keep:
            _wait_for_the_end(cluster, address)
    return 0


def _faults(as_json: bool, seed: int, duration_s: float | None) -> int:
    from coherenced.cli.faults import report
    from coherenced.cli.faults.table import FAULTS
    from coherenced.cli.faults.world import World

    teller = report.Teller(as_json, len(FAULTS), _green)
    with _terminable(), World() as world:
        walk, levels = report.walk_through(
            world, FAULTS, teller, seed=seed, duration_s=duration_s or FAULTS_S
        )
    if as_json:
        report.print_document(walk, levels, seed)
    else:
        report.tell_levels(levels, walk)
    report.require_kept(levels)
    return 0


# -- the story ---------------------------------------------------------------------------


def _start(cluster: Cluster, tell: Storyteller) -> None:
    tell.chapter("One server, and a daemon for each host")
    began = time.perf_counter()
    url = cluster.start_server()
    took = duration((time.perf_counter() - began) * 1000)
    tell.done(f"a private Valkey answers on {url} after {took}")
    began = time.perf_counter()
    cluster.start_daemons()
    took = duration((time.perf_counter() - began) * 1000)
    who = ", ".join(f"{daemon.name} (pid {daemon.pid})" for daemon in cluster.daemons)
    tell.done(f"{who} have joined the bus after {took}")
    first = cluster.daemons[0]
    members = first.client.nodes()["nodes"]
    _expect(len(members) == len(cluster.daemons), f"{len(cluster.daemons)} nodes, got {members}")
    tell.done(f"each knows the others: {', '.join(member['name'] for member in members)}")
    began = time.perf_counter()
    first.client.set("demo:first", 1, ack="all")
    took = duration((time.perf_counter() - began) * 1000)
    tell.done(f"a first write, ack=all, took {took}: in a new log it waits out one staleness bound")


def _a_write_is_a_hit(cluster: Cluster, tell: Storyteller) -> None:
    tell.chapter("A write on one node is a hit on another")
    a, b = cluster.daemons[:2]
    product = {"name": "teapot", "price": 12}
    version = a.client.set(KEY, product, ttl=600)
    tell.done(f"{a.name}: set {KEY} = {product}, version {version}")
    _await_position(cluster, b, version)
    for source, where in (("l2", "Redis"), ("l1", f"{b.name}'s own memory")):
        began = time.perf_counter()
        entry = b.client.get_entry(KEY)
        took = duration((time.perf_counter() - began) * 1000)
        _expect(entry.value == product, f"{b.name} to read {product}, got {entry.value}")
        _expect(entry.source == source, f"{b.name} to read from {source}, got {entry.source}")
        tell.done(f"{b.name}: get {KEY} came from {source} ({where}) in {took}")
    stored = a.ask("PUT", "/v1/keys/page:1", b"<h1>teapots</h1>", content_type="text/html")
    _expect(stored.status == 200, f"HTTP 200 for a PUT, got {stored.status}")
    _await_position(cluster, b, stored.document()["version"])
    answer = b.ask("GET", "/v1/keys/page:1")
    again = b.ask("GET", "/v1/keys/page:1")
    sources = [one.headers.get("coherenced-source") for one in (answer, again)]
    _expect(again.body == b"<h1>teapots</h1>", f"the page over HTTP, got {again.body!r}")
    _expect(sources == ["l2", "l1"], f"l2, then l1 over HTTP, got {sources}")
    tell.done(
        f"HTTP: PUT on {a.name}; GET on {b.name} from l2, then from l1, as "
        f"{again.headers.get('content-type')}"
    )


def _an_update_drops_it(cluster: Cluster, tell: Storyteller) -> None:
    tell.chapter("An update on one node drops the old value on all others")
    a, *others = cluster.daemons
    for daemon in others:
        daemon.client.get(KEY)
        _expect(daemon.client.get_entry(KEY).source == "l1", f"{daemon.name} to hold the old value")
    names = " and ".join(daemon.name for daemon in others)
    tell.done(f"{names} hold the old value in memory")
    began = time.perf_counter()
    answer = a.ask("PUT", f"/v1/keys/{KEY}", b"sold out", coherenced_ack="all")
    took = duration((time.perf_counter() - began) * 1000)
    _expect(answer.status == 200, f"every node to acknowledge, got HTTP {answer.status}")
    acknowledged = answer.document()["acknowledged"]
    _expect(len(acknowledged) == len(cluster.daemons), f"all to acknowledge, got {acknowledged}")
    times = ", ".join(f"{name} after {duration(ms)}" for name, ms in acknowledged.items())
    tell.done(f"{a.name}: PUT {KEY}, ack=all: done in {took}; dropped by {times}")
    for daemon in others:
        entry = daemon.client.get_entry(KEY)
        _expect(entry.value == b"sold out", f"the new value on {daemon.name}, got {entry.value}")
        _expect(entry.source == "l2", f"{daemon.name} to have dropped the old value")
    tell.done(f"{names}: the next read brings the new value from Redis")


def _tags(cluster: Cluster, tell: Storyteller) -> None:
    tell.chapter("One invalidation by tag covers any number of keys")
    a, b = cluster.daemons[0], cluster.daemons[-1]
    keys = [f"teapot:{one}" for one in range(20)]
    version = a.client.set_many(dict.fromkeys(keys, "in stock"), ttl=600, tags=["teapots"])
    _await_position(cluster, b, version)
    b.client.get_many(keys)
    held = sum(b.client.get_entry(key).source == "l1" for key in keys)
    _expect(held == len(keys), f"{b.name} to hold {len(keys)} keys, got {held}")
    done = a.client.invalidate(tags=["teapots"], ack="all")
    _expect(not done.missing, f"all to acknowledge, missing {done.missing}")
    slowest = duration(max(done.acknowledged.values()))
    tell.done(f"{a.name}: invalidate tag teapots, ack=all: everywhere after {slowest}")
    held = sum(b.client.get_entry(key).source == "l1" for key in keys)
    _expect(held == 0, f"{b.name} to hold none of them, got {held}")
    tell.done(f"{b.name} held {len(keys)} such keys in memory, and now none")


def _a_cut_connection(cluster: Cluster, tell: Storyteller) -> None:
    tell.chapter("A cut connection is noticed, and caught up from the log")
    a, *others = cluster.daemons
    keys = [f"cut:{one}" for one in range(CUT_KEYS)]
    before = {daemon.name: _followed(daemon) for daemon in others}
    last: dict[str, int] = {}
    version = ""
    cuts = 0
    for count in range(WRITES):
        if count % (WRITES // 3) == WRITES // 6:
            killed = cluster.tell_server("CLIENT", "KILL", "TYPE", "pubsub").strip().lstrip(":")
            _expect(killed.isdigit(), f"connections to be killed, got {killed!r}")
            cuts += int(killed)
            last |= dict.fromkeys(keys, -count)  # at once: before anybody can be back
            version = a.client.set_many(last)
        key = keys[count % CUT_KEYS]
        version = a.client.set(key, count)
        last[key] = count
    _expect(cuts >= len(cluster.daemons), f"all bus connections to be cut, got {cuts}")
    tell.done(f"bus connections killed {cuts} times while {a.name} went on writing")
    for daemon in others:
        caught_up = cluster.wait(
            partial(_caught_up, daemon, Version(version).seq, before[daemon.name]),
            f"{daemon.name} to catch up from the log",
        )
        tell.done(f"{daemon.name}: lost the bus, came back, and {caught_up}")
    for daemon in cluster.daemons:
        found = daemon.client.get_many(keys)
        _expect(found == last, f"the last value of every key on {daemon.name}")
    drops = sum(daemon.stats()["lanes"][0]["drops"] for daemon in others)
    _expect(drops == 0, f"no cache to be thrown away, got {drops} drops")
    tell.done(f"all {len(cluster.daemons)} nodes answer the last value of all {CUT_KEYS} keys")


def _await_position(cluster: Cluster, daemon: Daemon, version: str) -> None:
    """Until it has applied that write: a value read sooner is right, but not always kept."""
    seq = Version(version).seq
    cluster.wait(lambda: _followed(daemon).applied >= seq, f"{daemon.name} to hear of {version}")


class _Followed(NamedTuple):
    """How a daemon has followed its log so far."""

    losses: int
    """How often it lost the bus."""
    is_connected: bool
    from_log: int
    """Records it read from the log, since the bus had not brought them."""
    applied: int


def _followed(daemon: Daemon) -> _Followed:
    events = [event["event"] for event in daemon.client.nodes()["events"]]
    lane = daemon.stats()["lanes"][0]
    return _Followed(
        events.count("bus_lost"), lane["subscribed"], lane["from_log"], lane["applied"]
    )


def _caught_up(daemon: Daemon, seq: int, before: _Followed) -> str:
    """How it came to be at `seq` again; empty until it is, or when it never lost the bus."""
    now = _followed(daemon)
    records = now.from_log - before.from_log
    if now.applied < seq or not now.is_connected or now.losses == before.losses or not records:
        return ""
    return f"read the {number(records)} records it had missed from the log"


def _figures(cluster: Cluster, tell: Storyteller) -> dict[str, float]:
    from coherenced.cli.figures import measure

    tell.chapter("Figures of this run, with all processes on this machine")
    figures = measure(cluster)
    for what, value, unit in figures:
        shown = f"{value:,.0f} {unit}" if unit != "ms" else duration(value)
        tell.plain(f"     {what:<56}{shown:>14}")
    return {f"{what} ({unit.strip('/')})": round(value, 3) for what, value, unit in figures}


def _wait_for_the_end(cluster: Cluster, address: str) -> None:
    a = cluster.daemons[0]
    print(f"\nthe dashboard of node {a.name} is at  http://{address}/")
    print(f"try it: coherenced --socket {a.socket} nodes")
    with suppress(KeyboardInterrupt):  # from the moment it is said that Ctrl-C ends it
        print("Ctrl-C ends it", flush=True)
        signal.pause()


# -- checking -----------------------------------------------------------------------------


def _expect(condition: bool, what: str) -> None:
    if not condition:
        raise CoherencedError(f"the demo failed: expected {what}")


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the demo as Ctrl-C does, and either leaves nothing behind."""

    def stop(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _bold(text: str) -> str:
    return click.style(text, bold=True) if sys.stdout.isatty() else text


def _green(text: str) -> str:
    return click.style(text, fg="green") if sys.stdout.isatty() else text
