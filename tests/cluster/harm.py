"""Every fault the nemesis knows, by name.

Four families: the network between a daemon and the server (`NETWORK`, through the
proxies), processes (`PROCESSES`), what an operator or another program does to the
server (`SERVER`), and what loses data (`LOSSES`; the history says so). Faults that need
a replica or client processes are in families of their own.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from functools import partial
from time import sleep
from typing import Final

from coherenced.lab.flows import Selector
from coherenced.lab.proxy import everything, role
from tests.checkers.history import Kind
from tests.cluster.nemesis import LOG, META, Action, Arena, Undo, nothing
from tests.servers import Server, wait_until

ROLES: Final = ("bus", "control", "writes", "reads", "all")
ANSWERING: Final = ("control", "writes", "reads", "all")
HUGE_RECORD_KEYS: Final = 100_000

# -- the network -----------------------------------------------------------------------------


def _whom(arena: Arena, roles: tuple[str, ...]) -> Selector:
    chosen = arena.pick(*roles)
    return everything if chosen == "all" else role(chosen)


def cut(arena: Arena, roles: tuple[str, ...] = ROLES) -> Undo:
    """The connections are reset, once."""
    proxy = arena.a_proxy()
    proxy.cut(_whom(arena, roles))
    return nothing


def delay(arena: Arena, roles: tuple[str, ...] = ROLES) -> Undo:
    return delay_by(arena, float(arena.pick("5", "40", "200")), roles)


def delay_by(arena: Arena, ms: float, roles: tuple[str, ...] = ROLES) -> Undo:
    proxy = arena.a_proxy()
    return proxy.delay(ms, _whom(arena, roles)).undo


def partition(arena: Arena, roles: tuple[str, ...] = ROLES) -> Undo:
    proxy = arena.a_proxy()
    return proxy.partition(_whom(arena, roles)).undo


def black_hole(arena: Arena, roles: tuple[str, ...] = ROLES) -> Undo:
    proxy = arena.a_proxy()
    return proxy.black_hole(_whom(arena, roles)).undo


def half_open(arena: Arena, roles: tuple[str, ...] = ROLES) -> Undo:
    proxy = arena.a_proxy()
    return proxy.half_open(_whom(arena, roles), dead=arena.pick("up", "down")).undo


def lose_replies(arena: Arena) -> Undo:
    proxy = arena.a_proxy()
    every = int(arena.pick("1", "3", "7"))
    return proxy.lose_replies(_whom(arena, ANSWERING), every=every).undo


def refuse(arena: Arena) -> Undo:
    """Present connections are reset, new ones refused."""
    proxy = arena.a_proxy()
    proxy.refuse()
    proxy.cut()
    return proxy.accept


NETWORK: Final = (
    Action("cut", cut, (0.0, 0.1)),
    Action("delay", delay),
    Action("partition", partition),
    Action("black hole", black_hole),
    Action("half-open", half_open),
    Action("lost replies", lose_replies),
    Action("refused connections", refuse),
)
# Only the bus: what a daemon must notice without any error to tell it.
BUS: Final = (
    Action("bus cut", partial(cut, roles=("bus",)), (0.0, 0.1)),
    Action("bus delayed", partial(delay, roles=("bus",))),
    Action("bus partitioned", partial(partition, roles=("bus",))),
    Action("bus black-holed", partial(black_hole, roles=("bus",))),
    Action("bus half-open", partial(half_open, roles=("bus",))),
)

# -- processes -------------------------------------------------------------------------------


def pause_daemon(arena: Arena) -> Undo:
    daemon = arena.a_daemon()
    daemon.pause()
    return daemon.resume


def kill_daemon(arena: Arena) -> Undo:
    daemon = arena.a_daemon()
    daemon.kill()

    def restart() -> None:
        daemon.start()

    return restart


def restart_daemon(arena: Arena) -> Undo:
    """SIGTERM and start again: a clean exit."""
    daemon = arena.a_daemon()
    daemon.stop()

    def restart() -> None:
        daemon.start()

    return restart


def pause_server(arena: Arena) -> Undo:
    server = arena.cluster.primary
    server.pause()
    return server.resume


def kill_server(arena: Arena) -> Undo:
    """As a crash; with its append-only file nothing that was acknowledged is lost."""
    server = arena.cluster.primary
    server.kill()

    def restart() -> None:
        server.start()

    return restart


PROCESSES: Final = (
    Action("daemon paused", pause_daemon, (0.5, 3.0)),
    Action("daemon killed", kill_daemon, (0.2, 1.0)),
    Action("daemon restarted", restart_daemon, (0.0, 0.5)),
    Action("server paused", pause_server, (0.3, 2.5)),
)
DURABLE: Final = (Action("server killed", kill_server, (0.2, 1.0)),)
"""Only with `Cluster(durable=True)`: else it is a loss."""


def pause_clients(arena: Arena) -> Undo:
    client = arena.random.choice(arena.clients)
    arena.details.append(client.name)
    client.pause()
    return client.resume


def kill_clients(arena: Arena) -> Undo:
    client = arena.random.choice(arena.clients)
    arena.details.append(client.name)
    client.kill()

    def restart() -> None:
        client.start()

    return restart


CLIENTS: Final = (
    Action("clients paused", pause_clients),
    Action("clients killed", kill_clients, (0.1, 0.5)),
)

# -- what others do to the server ----------------------------------------------------------


def delete_metadata(arena: Arena) -> Undo:
    """A new epoch begins; what was stored with tags counts as gone, plain values stay."""
    names = [META, LOG] if arena.pick("metadata", "metadata and log").endswith("log") else [META]
    with arena.noting(Kind.EPOCH), arena.noting(Kind.FLUSH, tuple(arena.load.all_tagged)):
        arena.cluster.primary.command("DEL", *names)
    return nothing


def trim_log(arena: Arena) -> Undo:
    arena.cluster.primary.command("XTRIM", LOG, "MAXLEN", "0")
    return nothing


def forget_scripts(arena: Arena) -> Undo:
    arena.cluster.primary.commands(("SCRIPT", "FLUSH"), ("FUNCTION", "FLUSH"))
    return nothing


def kill_subscribers(arena: Arena) -> Undo:
    arena.cluster.primary.command("CLIENT", "KILL", "TYPE", "pubsub")
    return nothing


def kill_connections(arena: Arena) -> Undo:
    arena.cluster.primary.command("CLIENT", "KILL", "TYPE", "normal")
    return nothing


def client_pause(arena: Arena) -> Undo:
    ms = arena.pick("200", "1500")
    arena.cluster.primary.command("CLIENT", "PAUSE", ms, arena.pick("WRITE", "ALL"))
    return nothing


def tiny_output_buffer(arena: Arena) -> Undo:
    """A subscriber that is a little slow is cut off."""
    server = arena.cluster.primary
    before = server.command("CONFIG", "GET", "client-output-buffer-limit")[1]
    server.command("CONFIG", "SET", "client-output-buffer-limit", "pubsub 2048 1024 1")

    def restore() -> None:
        server.command("CONFIG", "SET", "client-output-buffer-limit", before)

    return restore


def full_memory(arena: Arena) -> Undo:
    server = arena.cluster.primary
    server.command("CONFIG", "SET", "maxmemory", "1mb")

    def restore() -> None:
        server.command("CONFIG", "SET", "maxmemory", "0")

    return restore


def foreign_writers(arena: Arena) -> Undo:
    """Another program writes, renames and expires keys that no client here looks at."""
    number = arena.random.randrange(10)
    arena.cluster.primary.commands(
        ("SET", f"foreign:{number}", "x"),
        ("RENAME", f"foreign:{number}", f"foreign:{number}:b"),
        ("PEXPIRE", f"foreign:{number}:b", "20"),
        ("SET", "foreign:list", "x"),
        ("DEL", "foreign:list"),
        ("RPUSH", "foreign:list", "wrong type"),
    )
    return nothing


def huge_invalidation(arena: Arena) -> Undo:
    """One invalidation of very many keys that nobody holds."""
    daemon = arena.a_daemon()
    keys = [f"huge:{number}" for number in range(HUGE_RECORD_KEYS)]
    daemon.command("COH.INVALIDATE", "KEYS", str(len(keys)), *keys, timeout_s=60.0)
    return nothing


SERVER: Final = (
    Action("metadata deleted", delete_metadata, (0.0, 0.1)),
    Action("log trimmed", trim_log, (0.0, 0.1)),
    Action("scripts forgotten", forget_scripts, (0.0, 0.1)),
    Action("subscribers killed", kill_subscribers, (0.0, 0.1)),
    Action("connections killed", kill_connections, (0.0, 0.1)),
    Action("CLIENT PAUSE", client_pause, (0.2, 1.5)),
    Action("tiny output buffers", tiny_output_buffer),
    Action("memory full", full_memory, (0.3, 1.0)),
    Action("foreign writers", foreign_writers, (0.0, 0.1)),
    Action("huge invalidation", huge_invalidation, (0.0, 0.1)),
)


def step_clock(arena: Arena) -> Undo:
    """The server's wall clock is set, as by NTP. Only with `Cluster(clock=True)`; and values
    must not expire, since they do by that clock."""
    clock = arena.cluster.clock
    assert clock is not None
    clock.step(int(arena.pick("-600000", "-900", "-400", "400", "900", "600000")))
    return nothing


CLOCKS: Final = (Action("clock stepped", step_clock, (0.0, 0.1)),)

# -- what loses data -------------------------------------------------------------------------


def flush_all(arena: Arena) -> Undo:
    with arena.noting(Kind.FLUSH):
        arena.cluster.primary.command("FLUSHALL")
    return nothing


def restart_empty(arena: Arena) -> Undo:
    server = arena.cluster.primary
    with arena.noting(Kind.FLUSH):
        server.kill()
        _forget_files(server)
        server.start()
    return nothing


def _until_turned(server: Server) -> None:
    """A fork that is noticed ends with a new epoch, and with it what was stored with tags: the
    loss is over only then. Where no write was missed there is no fork: not for long."""
    epoch = server.command("HGET", META, "e")
    with suppress(AssertionError):
        wait_until(lambda: server.command("HGET", META, "e") != epoch, 1.0)


def restart_old(arena: Arena) -> Undo:
    """The server dies, and comes back with what it had saved a moment before."""
    server = arena.cluster.primary
    server.save()
    old = (server.directory / "dump.rdb").read_bytes()
    sleep(arena.random.uniform(0.1, 0.6))
    with arena.noting(Kind.LOSS):
        server.kill()
        _forget_files(server)
        (server.directory / "dump.rdb").write_bytes(old)
        _start_from_dump(server)
        _until_turned(server)
    return nothing


LOSSES: Final = (
    Action("FLUSHALL", flush_all, (0.0, 0.1)),
    Action("server restarted empty", restart_empty, (0.0, 0.1)),
    Action("server restarted from an old file", restart_old, (0.0, 0.1)),
)

# -- with a replica --------------------------------------------------------------------------


def promote(arena: Arena) -> Undo:
    """A planned failover: no write is lost. The old primary follows the new one."""
    cluster = arena.cluster
    old, new = cluster.primary, cluster.replica
    assert new is not None
    old.command("CLIENT", "PAUSE", "5000", "WRITE")
    wait_until(partial(_caught_up, old, new), what="replica caught up")
    _swap(arena, old, new)
    old.command("CLIENT", "UNPAUSE")
    return nothing


def promote_behind(arena: Arena) -> Undo:
    """The replica had missed the last writes; the old primary is dead when it takes over.
    It issues the sequence numbers of the lost writes again."""
    cluster = arena.cluster
    old, new = cluster.primary, cluster.replica
    assert new is not None
    with arena.noting(Kind.LOSS):
        new.command("REPLICAOF", "NO", "ONE")
        sleep(arena.random.uniform(0.1, 0.5))  # writes that the replica misses
        old.kill()
        cluster.retarget(new)
        _until_turned(new)
    cluster.primary, cluster.replica = new, old
    old.start()
    follow(old, new)
    return nothing


def old_primary_answers(arena: Arena) -> Undo:
    """One node still reaches the old primary, which has no replica any more and therefore
    (`min-replicas-to-write`) may not accept writes: a fenced probe must not prove it current."""
    cluster = arena.cluster
    old, new = cluster.primary, cluster.replica
    assert new is not None
    left_behind = arena.random.choice(sorted(cluster.proxies))
    arena.details.append(left_behind)
    old.command("CONFIG", "SET", "min-replicas-to-write", "1")
    with arena.noting(Kind.LOSS):
        new.command("REPLICAOF", "NO", "ONE")
        wait_until(lambda: old.info_field("replication", "connected_slaves") == "0")
        cluster.retarget(new, [node for node in cluster.proxies if node != left_behind])
        _until_turned(new)
    cluster.primary, cluster.replica = new, old

    def rejoin() -> None:
        cluster.retarget(new, [left_behind])
        old.command("CONFIG", "SET", "min-replicas-to-write", "0")
        follow(old, new)

    return rejoin


FAILOVER: Final = (
    Action("replica promoted", promote, (0.0, 0.1)),
    Action("replica promoted that had missed writes", promote_behind, (0.0, 0.1)),
    Action("old primary still answers", old_primary_answers, (0.5, 3.0)),
)

EVERY: Final = (
    *NETWORK,
    *BUS,
    *PROCESSES,
    *DURABLE,
    *CLIENTS,
    *SERVER,
    *CLOCKS,
    *LOSSES,
    *FAILOVER,
)
"""All of them: needs a durable primary with a replica and a clock, and client processes."""


def _swap(arena: Arena, old: Server, new: Server) -> None:
    new.command("REPLICAOF", "NO", "ONE")
    arena.cluster.retarget(new)
    arena.cluster.primary, arena.cluster.replica = new, old
    follow(old, new)


def follow(old: Server, new: Server) -> None:
    """From now on `old` is a replica of `new`, and in sync with it."""
    old.replica_of, new.replica_of = new, None
    old.command("REPLICAOF", "127.0.0.1", str(new.port))
    wait_until(lambda: "master_link_status:up" in old.info("replication"), 15.0, "replica in sync")


def _caught_up(old: Server, new: Server) -> bool:
    ahead = old.info_field("replication", "master_repl_offset")
    return ahead == new.info_field("replication", "slave_repl_offset")


def _forget_files(server: Server) -> None:
    (server.directory / "dump.rdb").unlink(missing_ok=True)
    shutil.rmtree(server.directory / "appendonlydir", ignore_errors=True)


def _start_from_dump(server: Server) -> None:
    """With an append-only file configured, a server ignores its dump: switch it on afterwards."""
    args = server.args
    if "--appendonly" not in args:
        server.start()
        return
    try:
        server.args = [*args, "--appendonly", "no"]
        server.start()
        server.command("CONFIG", "SET", "appendonly", "yes")
    finally:
        server.args = args
