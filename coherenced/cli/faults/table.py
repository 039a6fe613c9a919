"""The faults of the table in core/PROTOCOL.md, in the order in which the walk comes to them.

Each is a context: what happens on entering is the fault, leaving undoes it (after an error
nothing is undone: then the world ends). The clients work all the while. Node b is the one that
suffers, unless it does not matter who.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final, NamedTuple

from coherenced.cli.faults.world import BOUND_MS, LOG, META, NODES, World, until_caught_up
from coherenced.lab.flows import Flow
from coherenced.lab.proxy import role
from coherenced.lab.server import wait_until

Strike = Callable[[World], AbstractContextManager[None]]
OTHERS: Final = tuple(name for name in NODES if name != "b")


class Fault(NamedTuple):
    """One line of the table."""

    name: str
    strike: Strike
    lasts: float = 1.0
    """Its share of the time: 0 for what is over at once."""


FAULTS: list[Fault] = []


def fault(name: str, lasts: float = 1.0) -> Callable[[Callable[[World], Iterator[None]]], Strike]:
    """Puts a generator into the table, as the fault of that name."""

    def add(strike: Callable[[World], Iterator[None]]) -> Strike:
        made = contextmanager(strike)
        FAULTS.append(Fault(name, made, lasts))
        return made

    return add


# -- the network -------------------------------------------------------------------------------


@fault("b's bus goes silent, half-open: nobody is told")
def silent_bus(world: World) -> Iterator[None]:
    with world.proxies["b"].half_open(role("bus")):
        yield


@fault("b's bus is late, and so are its probes and what it reads of the log")
def late_bus(world: World) -> Iterator[None]:
    with world.proxies["b"].delay(BOUND_MS * 0.2, role("bus", "control")):
        yield


@fault("what b fetches is late, so that invalidations overtake it")
def late_fetches(world: World) -> Iterator[None]:
    late = Flow(delay_ms=BOUND_MS * 0.3)
    with world.proxies["b"].rule(role("reads"), down=late):
        yield


@fault("everything b hears from Redis is late, and then it is cut off", 1.2)
def late_answers(world: World) -> Iterator[None]:
    proxy = world.proxies["b"]
    with proxy.rule(down=Flow(delay_ms=BOUND_MS * 0.84)):
        yield
        proxy.refuse()
        proxy.cut()
        time.sleep(2 * BOUND_MS / 1e3)
    proxy.accept()


@fault("the way to Redis is slow for b, and its bus is silent")
def slow_and_silent(world: World) -> Iterator[None]:
    proxy = world.proxies["b"]
    with proxy.delay(BOUND_MS * 0.42, role("control")), proxy.half_open(role("bus")):
        yield


@fault("b's bus loses messages and breaks off, again and again, and its log is slow")
def lossy_bus(world: World) -> Iterator[None]:
    proxy = world.proxies["b"]
    with proxy.delay(BOUND_MS * 0.3, role("control")), proxy.lose_replies(role("bus"), every=6):
        yield


@fault("all of b's connections are cut", 0.2)
def cut(world: World) -> Iterator[None]:
    world.proxies["b"].cut()
    yield


@fault("b is cut off: its connections are reset, new ones refused", 1.2)
def refused(world: World) -> Iterator[None]:
    proxy = world.proxies["b"]
    proxy.refuse()
    proxy.cut()
    yield
    proxy.accept()


@fault("b is black-holed: connections stay, nothing arrives")
def black_hole(world: World) -> Iterator[None]:
    with world.proxies["b"].black_hole():
        yield


@fault("b is partitioned, and what was on its way arrives later")
def partition(world: World) -> Iterator[None]:
    with world.proxies["b"].partition():
        yield


@fault("replies to writes are lost: requests arrive, every third answer does not")
def lost_replies(world: World) -> Iterator[None]:
    rules = [world.proxies[name].lose_replies(role("writes"), every=3) for name in NODES]
    yield
    for rule in rules:
        rule.undo()


# -- processes ---------------------------------------------------------------------------------


@fault("daemon b is stopped (SIGSTOP), and goes on")
def stopped_daemon(world: World) -> Iterator[None]:
    daemon = world.daemon("b")
    daemon.pause()
    yield
    daemon.resume()


@fault("daemon b is killed (SIGKILL), and started again")
def killed_daemon(world: World) -> Iterator[None]:
    daemon = world.daemon("b")
    daemon.kill()
    yield
    daemon.restart()
    daemon.wait_ready()


@fault("Redis is stopped (SIGSTOP), and goes on")
def stopped_server(world: World) -> Iterator[None]:
    world.primary.pause()
    yield
    world.primary.resume()


@fault("Redis is killed, and comes back with all its data", 0.4)
def killed_server(world: World) -> Iterator[None]:
    world.primary.kill()
    yield
    world.primary.start()


# -- what an operator or another program does to the server ------------------------------------


@fault("CLIENT KILL TYPE pubsub", 0.2)
def killed_subscribers(world: World) -> Iterator[None]:
    world.primary.ask("CLIENT", "KILL", "TYPE", "pubsub")
    yield


@fault("CLIENT PAUSE, for all commands", 0.6)
def client_pause(world: World) -> Iterator[None]:
    world.primary.ask("CLIENT", "PAUSE", 700, "ALL")  # its end would have to wait, too
    yield


@fault("SCRIPT FLUSH and FUNCTION FLUSH", 0.2)
def forgotten_scripts(world: World) -> Iterator[None]:
    world.primary.ask("SCRIPT", "FLUSH")
    world.primary.ask("FUNCTION", "FLUSH")
    yield


@fault("client-output-buffer-limit pubsub of 2 kB")
def tiny_buffers(world: World) -> Iterator[None]:
    name = "client-output-buffer-limit"
    before = world.primary.ask("CONFIG", "GET", name)[1]
    world.primary.ask("CONFIG", "SET", name, "pubsub 2048 1024 1")
    many = [f"some:key:{number:06}" for number in range(150)]  # a message of 3 kB
    world.daemon("a").client.invalidate(many)
    yield
    world.daemon("a").client.invalidate(many)
    world.primary.ask("CONFIG", "SET", name, before)


@fault("memory is full: maxmemory is reached")
def full_memory(world: World) -> Iterator[None]:
    world.primary.ask("CONFIG", "SET", "maxmemory", "1mb")
    yield
    world.primary.ask("CONFIG", "SET", "maxmemory", "0")


@fault("the log is trimmed to nothing while b is cut off")
def trimmed_log(world: World) -> Iterator[None]:
    with world.proxies["b"].black_hole():
        yield
        world.primary.ask("XTRIM", LOG, "MAXLEN", 0)


@fault("another program writes, renames and expires keys of its own", 0.2)
def foreign_writers(world: World) -> Iterator[None]:
    world.primary.ask("SET", "foreign", "x")
    world.primary.ask("RENAME", "foreign", "foreign:b")
    world.primary.ask("PEXPIRE", "foreign:b", 20)
    yield


@fault("one invalidation of 100,000 keys", 0.2)
def huge_invalidation(world: World) -> Iterator[None]:
    world.daemon("a").client.invalidate([f"huge:{number}" for number in range(100_000)])
    yield


# -- what loses data ---------------------------------------------------------------------------


@fault("our metadata is deleted", 0.2)
def deleted_metadata(world: World) -> Iterator[None]:
    with world.losing():  # values with tags count as gone; plain ones stay
        world.primary.ask("DEL", META)
    yield


@fault("FLUSHALL while b is cut off")
def flush_all(world: World) -> Iterator[None]:
    with world.proxies["b"].partition():
        with world.losing():
            world.primary.ask("FLUSHALL")
        yield


@fault("Redis restarts empty", 0.2)
def restarted_empty(world: World) -> Iterator[None]:
    with world.losing():
        world.primary.restart_empty()
    yield


@fault("Redis restarts from an old file")
def restarted_old(world: World) -> Iterator[None]:
    saved = world.primary.save()
    yield
    with world.losing():
        world.primary.restart_from(saved)


# -- failover ----------------------------------------------------------------------------------


@fault("the replica is promoted, and no write is lost", 0.2)
def promoted(world: World) -> Iterator[None]:
    old, new = world.primary, world.replica
    old.ask("CLIENT", "PAUSE", 600_000, "WRITE")
    until_caught_up(old, new)
    new.ask("REPLICAOF", "NO", "ONE")
    world.lead_to(new)
    world.swap()
    old.follow(new)
    old.ask("CLIENT", "UNPAUSE")
    yield


@fault("the replica is promoted, and had missed writes: their numbers are given out again")
def promoted_behind(world: World) -> Iterator[None]:
    old, new = world.primary, world.replica
    new.ask("REPLICAOF", "NO", "ONE")
    yield
    with world.losing():
        old.kill()
        world.lead_to(new)
    world.swap()
    old.start()
    old.follow(new)


@fault("an old primary that may not write any more still answers b")
def old_primary(world: World) -> Iterator[None]:
    old, new = world.primary, world.replica
    old.ask("CONFIG", "SET", "min-replicas-to-write", 1)
    with world.losing():
        new.ask("REPLICAOF", "NO", "ONE")
        wait_until(lambda: old.info("connected_slaves") == "0", "the old primary to be alone")
        world.lead_to(new, OTHERS)
    world.swap()
    yield
    world.lead_to(new, ["b"])
    old.ask("CONFIG", "SET", "min-replicas-to-write", 0)
    old.follow(new)
