"""What `doctor` looks at: each check is a function that finds something, and advises if it is bad.

A check never raises: what it cannot find out is a finding, too.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from msgspec import convert, structs

import coherenced
from coherenced import memory
from coherenced.cli.output import size
from coherenced.errors import CoherencedError, Unreachable
from coherenced.serve.doors import SPARE_FILES

if TYPE_CHECKING:
    from coherenced.client.address import Address
    from coherenced.config import Config, Redis

FILES_ENOUGH: Final = 1024
"""Open files that serve a host well, whatever the configured bound."""


class Finding(NamedTuple):
    """One line of the report."""

    what: str
    found: str
    advice: str = ""
    """Empty: nothing is wrong."""
    unreachable: bool = False
    """The daemon or Redis cannot be reached (exit code 4)."""


# -- this host ----------------------------------------------------------------------


def versions() -> Iterator[Finding]:
    """The interpreter and the libraries with parts in C."""
    from importlib.metadata import PackageNotFoundError, version

    from coherenced.client import hits
    from coherenced.serve import quiet

    yield Finding("coherenced", coherenced.__version__)
    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding("python", f"{python} on {sys.platform}")
    for package in ("uvloop", "hiredis", "redis", "msgspec", "aiohttp"):
        try:
            yield Finding(package, version(package))
        except PackageNotFoundError:
            yield Finding(package, "missing", f"pip install {package}")
    yield Finding("hits in clients", *_form(hits.NATIVE, "coherenced.client._hits"))
    yield Finding("quiet connections", *_form(quiet.NATIVE, "coherenced.serve._quiet"))


def _form(is_compiled: bool, module: str) -> tuple[str, str]:
    """How it is done, and what is to be done about it: a checkout may have moved on since."""
    if not is_compiled:
        return "in Python", ""
    with suppress(ImportError, OSError):  # an installation has no sources
        from coherenced import native

        sources = {source.stem: source for source in native.SOURCES}
        source = sources[module.rpartition(".")[2]]
        if native.source_number(source) != import_module(module).SOURCE:
            return f"compiled of another {source.name}", "run: python -m coherenced.native"
    return "compiled", ""


def clock() -> Finding:
    """Staleness is measured on a clock that goes on while the host is suspended."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return Finding(
            "clock", f"CLOCK_BOOTTIME, up {time.clock_gettime(time.CLOCK_BOOTTIME):.0f} s"
        )
    return Finding(
        "clock",
        "no CLOCK_BOOTTIME",
        "the clock stands still while this host is suspended: give reads max_staleness_ms = 0 "
        "on hosts that are suspended",
    )


def file_limit(max_connections: int) -> Finding:
    """Each connection is a file descriptor."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= max_connections + SPARE_FILES:
        return Finding("open files", f"up to {soft}")
    if soft >= FILES_ENOUGH:
        return Finding(
            "open files",
            f"up to {soft}, which bounds the connections before "
            f"listen.max_connections ({max_connections}) does",
        )
    wanted = max_connections + SPARE_FILES
    raise_it = f"LimitNOFILE={wanted} in the unit, or ulimit -n {min(wanted, hard)}"
    return Finding(
        "open files",
        f"up to {soft}, and listen.max_connections is {max_connections}",
        f"raise the limit ({raise_it}) or lower listen.max_connections",
    )


def memory_limit(l1_bytes: int, pid: int | str = "self", root: Path = Path("/")) -> Finding:
    """Whether a full L1 fits into what the daemon (`pid`, where it is known) may take."""
    most, name = memory.bound(pid, root)
    if not most:
        return Finding("memory", "no limit of its own")
    found = f"up to {size(most)} ({name}); L1 may hold {size(l1_bytes)}"
    fits = most - memory.BESIDE_L1_BYTES
    if l1_bytes <= fits:
        return Finding("memory", found)
    then = "refused what it asks for" if name.startswith("ulimit") else "killed by the kernel"
    lower = f"set l1.max_bytes to at most {fits >> 20} MiB, or " if fits > 1 << 20 else ""
    return Finding(
        "memory",
        found,
        f"a daemon takes about {size(memory.BESIDE_L1_BYTES)} beside L1, and is {then} beyond the "
        f"limit: {lower}raise the limit to {(l1_bytes + memory.BESIDE_L1_BYTES) >> 20} MiB",
    )


def runtime_directory(path: Path) -> Finding:
    what = "runtime directory"
    try:
        status = path.stat()
    except OSError as error:
        return Finding(what, f"{path}: {error.strerror}; 'coherenced serve' makes it")
    mode = stat.S_IMODE(status.st_mode)
    found = f"{path}, mode {mode:04o}, owner uid {status.st_uid}"
    if not stat.S_ISDIR(status.st_mode):
        return Finding(what, found, "it is no directory: set node.runtime_dir")
    if not os.access(path, os.X_OK):
        return Finding(what, found, "this user may not enter it: add it to the directory's group")
    if mode & stat.S_IWOTH:
        return Finding(what, found, f"anyone may replace the sockets in it: chmod o-w {path}")
    return Finding(what, found)


# -- the daemon -----------------------------------------------------------------------


def socket_file(what: str, path: Path) -> Finding:
    try:
        status = path.stat()
    except OSError as error:
        return Finding(
            what, f"{path}: {error.strerror}", "start the daemon: coherenced serve", True
        )
    found = f"{path}, mode {stat.S_IMODE(status.st_mode):04o}"
    if not stat.S_ISSOCK(status.st_mode):
        return Finding(what, f"{found}: no socket", f"remove {path} and start the daemon")
    if not os.access(path, os.R_OK | os.W_OK):
        return Finding(what, found, "this user may not connect: add it to the socket's group", True)
    return Finding(what, found)


def daemon(address: Address, timeout_s: float = 2.0) -> Iterator[Finding]:
    """Whether it answers, and what it says of itself."""
    from coherenced.client.sync import Client

    try:
        with Client(_written(address), timeout=timeout_s, serializer=None, l0=False) as cache:
            began = time.perf_counter()
            told = cache.stats()
            took_ms = (time.perf_counter() - began) * 1000
            listed: list[dict[str, Any]] = []
            with suppress(CoherencedError):  # without Redis it may take longer
                listed = cache.nodes().get("nodes", [])
    except CoherencedError as error:
        if str(error).startswith(("NOAUTH", "WRONGPASS")):
            advice = "give its password: COHERENCED_SOCKET=unix://:PASSWORD@/path, or --config"
            yield Finding("daemon", str(error), advice)
            return
        yield Finding("daemon", _said(error), _revival(address), isinstance(error, Unreachable))
        return
    node = told.get("node", {})
    version = node.get("version", "?")
    yield Finding(
        "daemon",
        f"{node.get('name', '?')} answers in {took_ms:.1f} ms, version {version}",
        ""
        if version == coherenced.__version__
        else f"this command is {coherenced.__version__}: restart the daemon after an upgrade",
    )
    yield from _state(told, node)
    if l1_bytes := told.get("l1", {}).get("max_bytes"):
        yield memory_limit(l1_bytes, who_listens(address) or "self")
    names = Counter(one["name"] for one in listed if one.get("live"))
    for name in (name for name, count in names.items() if count > 1):
        yield Finding(
            "node names",
            f"{names[name]} live nodes are called {name}",
            "give each its own node.name (one that was killed is on the roster a few seconds more)",
        )


def _revival(address: Address) -> str:
    """What brings a daemon back that does not answer."""
    look = "look at its log (journalctl -u coherenced)"
    pid = who_listens(address)
    if not pid:
        return f"start it (coherenced serve), or {look}"
    with suppress(OSError, IndexError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state in "Tt":
            return f"process {pid} is stopped (SIGSTOP, Ctrl-Z or a debugger): kill -CONT {pid}"
    return f"process {pid} listens there and does not answer: {look}, then restart it"


def who_listens(address: Address) -> int:
    """The process that opened the socket; 0 where that is not known, or is systemd itself."""
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.setblocking(False)
        link.connect(address.path)
        told = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid: int = struct.unpack("3i", told)[0]
        return pid if pid > 1 else 0
    return 0


def _state(told: dict[str, Any], node: dict[str, Any]) -> Iterator[Finding]:
    if node.get("ready"):
        yield Finding("coherence", f"ready, nodes live: {node.get('nodes_live', '?')}")
    else:
        reason = node.get("reason") or "no reason given"
        yield Finding("coherence", f"not ready: {reason}", "see what is said of Redis", True)
    if silent := node.get("nodes_silent"):
        yield Finding(
            "other nodes",
            f"{silent} silent",
            "'coherenced nodes' names them; they are taken off the roster after a while",
        )
    if waiting := (told.get("spool") or {}).get("waiting"):
        yield Finding(
            "journal",
            f"invalidations wait for Redis: {waiting}",
            "they are sent when Redis is back: see what is said of it",
        )
    files = told.get("process", {})
    if files.get("open_files", 0) > 0.8 * files.get("max_files", float("inf")):
        yield Finding(
            "daemon's files",
            f"{files['open_files']} of {files['max_files']} open",
            "raise LimitNOFILE of the daemon",
        )


def http(path: Path, daemon_answers: bool = True, timeout_s: float = 2.0) -> Finding:
    from coherenced.cli.http import ask

    try:
        told = ask(str(path), "/healthz", timeout_s)
    except CoherencedError as error:
        unreachable = isinstance(error, Unreachable)
        advice = "restart the daemon" if daemon_answers else "see what is said of the daemon"
        return Finding("HTTP", _said(error), advice, unreachable)
    mode = stat.S_IMODE(path.stat().st_mode)
    return Finding("HTTP", f"{path}, mode {mode:04o}, answers {told.get('status', '?')}")


def _said(error: CoherencedError) -> str:
    """What it says, without the advice to ask the doctor."""
    return str(error).partition("'coherenced doctor'")[0].rstrip("; :")


def _written(address: Address) -> str:
    """The address with its password, as a client takes it."""
    from urllib.parse import quote

    credentials = f":{quote(address.password, safe='')}@" if address.password else ""
    if address.path:
        return f"unix://{credentials}{address.path}" if credentials else address.path
    return f"tcp://{credentials}{address.host}:{address.port}"


# -- Redis ------------------------------------------------------------------------------


def redis(
    config: Config, directory: Path, http_socket: Address | None, is_ready: bool = True
) -> Iterator[Finding]:
    """The server that holds the values and the log: the daemon's, or what it would take."""
    from coherenced.embedded import SOCKET_NAME

    settings = config.redis
    private = directory / SOCKET_NAME
    untold = ""
    if not settings.url and http_socket is not None:
        told = _settings_of_daemon(http_socket)
        if isinstance(told, str):
            untold = told
        else:
            settings = told
    if not settings.url and private.exists():
        settings = structs.replace(settings, url=f"unix://{private}")
    if settings.url:
        yield from _server(settings)
    elif untold:
        look = "name it by --config or in redis.url"
        if is_ready:
            yield Finding("redis", f"not looked at: {untold}; {look}")
        else:
            advice = f"{look}; the daemon's log says what it meets with (journalctl -u coherenced)"
            yield Finding("redis", f"not looked at: {untold}", advice)
    else:
        yield _embedded()


def _settings_of_daemon(http_socket: Address) -> Redis | str:
    """Its `[redis]`, or why that is not known here."""
    from coherenced.cli.http import ask
    from coherenced.config_tree import Redis
    from coherenced.config_values import MASK

    try:
        told = convert(ask(http_socket, "/v1/config", 2.0)["redis"], Redis)
    except (CoherencedError, KeyError, TypeError, ValueError):
        return "the daemon does not tell which one it uses"
    if MASK in told.url or MASK in told.password:
        return "the daemon gives it a password, which it does not tell"
    return told


def _embedded() -> Finding:
    from coherenced.embedded import server_executable

    try:
        executable = server_executable()
    except CoherencedError as error:
        found, _, advice = str(error).partition(": ")
        return Finding("redis", found, advice)
    return Finding("redis", f"no redis.url: the daemon will start {executable}")


def _server(settings: Redis) -> Iterator[Finding]:
    import asyncio

    from coherenced.upstream.check import inspect

    try:
        facts = asyncio.run(inspect(settings))
    except CoherencedError as error:
        unreachable = isinstance(error, Unreachable)
        yield Finding("redis", str(error), "see redis.url and the server's log", unreachable)
        return
    limit = f"{facts.maxmemory_bytes} bytes" if facts.maxmemory_bytes > 0 else "no limit"
    yield Finding(
        "redis",
        f"{facts.server} {facts.version} ({facts.role}) at {facts.place} "
        f"answers in {facts.latency_ms:.2f} ms",
    )
    yield Finding("redis memory", f"{limit}, policy {facts.maxmemory_policy}")
    for line in (*facts.blockers, *facts.warnings):
        found, _, advice = line.rpartition(": ")
        yield Finding("redis", found, advice)


def settings(path: Path | None) -> tuple[Config | None, Finding]:
    """The configuration that a daemon would start with here."""
    from coherenced.config import load

    try:
        loaded = load({}, path, os.environ)
    except CoherencedError as error:
        return None, Finding("configuration", str(error), "'coherenced config check' says it again")
    return loaded.config, Finding("configuration", str(loaded.file or "defaults, no file"))
