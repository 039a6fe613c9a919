"""The composition root: what a daemon is made of, opened in order and closed in reverse.

    runtime directory -> server (embedded or given) -> node joins the bus -> sockets -> ready

A node serves its sockets only after it has joined (K2); systemd and `/readyz` are
told then. On SIGTERM it stops accepting, finishes what is in flight (bounded),
leaves the roster, and exits 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import secrets
import signal
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgspec
import uvloop

import coherenced
from coherenced import memory
from coherenced.config import Config, Diff, Loaded, Redis, describe, diff
from coherenced.core.node import Node, Settings
from coherenced.core.policy import Namespaces
from coherenced.embedded import EmbeddedServer
from coherenced.errors import CoherencedError, ConfigError, RedisUnreachable, StartError
from coherenced.host import Host
from coherenced.notify import Notifier
from coherenced.observe import logs
from coherenced.observe.stats import FrontSection, NodeStats
from coherenced.origin.rules import BEHIND, all_rules
from coherenced.parts import open_origins, open_page, open_server, open_spool, open_warmth
from coherenced.paths import Paths, prepare_runtime_dir
from coherenced.policies import hold_bounds, policies
from coherenced.serve.doors import Door, Room
from coherenced.serve.http import HttpFront, serve_http
from coherenced.serve.http_limits import HttpLimits
from coherenced.serve.listeners import open_sockets, raise_file_limit
from coherenced.serve.resp import RespFront, serve_resp
from coherenced.serve.resp_settings import RespSettings
from coherenced.spells import Spell
from coherenced.upstream.bus import Own
from coherenced.upstream.check import inspect
from coherenced.upstream.link import Link
from coherenced.warmth import Warmth

JOIN_PATIENCE_S: Final = 2.0
"""How long clients wait in the socket's backlog for the node to join, before they are told."""
DRAIN_MS: Final = 5_000.0
"""How long a stopping daemon waits for what is in flight."""
LEAVE_MS: Final = 1_000.0
KEEP_EVERY_S: Final = 1.0
KEEP_SELDOM_S: Final = 30.0
CLOSE_S: Final = 1.0
"""How long a client may take to fetch its last answer, or to finish a request that can only be
refused: everything accepted was answered before the node left."""


class Ids:
    """16 random hex digits at a time: epochs, tags, incarnations. The kernel is asked rarely."""

    def __init__(self) -> None:
        self._left: list[bytes] = []

    def __call__(self) -> bytes:
        if not self._left:
            digits = secrets.token_bytes(8 * 512).hex().encode()
            self._left = [digits[at : at + 16] for at in range(0, len(digits), 16)]
        return self._left.pop()


new_id: Final = Ids()


class Daemon:
    """One daemon process, from its first file to its last."""

    def __init__(self, loaded: Loaded, reload: Callable[[], Loaded] | None = None) -> None:
        self.config = loaded.config
        self._read_from = str(loaded.file or "no file")
        self._reload = reload
        self._log = logs.get("daemon")
        self._notify = Notifier(os.environ, os.getpid())
        self._stopping = asyncio.Event()
        self._namespaces = Namespaces(*policies(self.config))
        self._host: Host | None = None
        self._warmth: Warmth | None = None
        self._connected: set[str] = set()
        """The connections to the server that were up before."""
        self._serving = ""
        """What systemd is told once the node has joined; empty before."""
        self._hunger: Spell | None = None
        """A time in which memory does not suffice."""
        self._rebound: Callable[[], None] | None = None
        """Has the sockets' servers take over the limits of the configuration."""

    async def serve(self) -> int:
        """Open everything, run until told to stop, close everything. Returns the exit code."""
        self._handle_signals()
        asyncio.get_running_loop().set_exception_handler(self._on_exception)
        config = self.config
        self._log.info("starting", version=coherenced.__version__, configuration=self._read_from)
        paths = config.paths(os.environ, os.getuid())
        prepare_runtime_dir(paths.runtime_dir, os.getuid())
        check_memory(config)
        async with contextlib.AsyncExitStack() as opened:
            sockets = open_sockets(config.listen, paths, os.environ)
            opened.callback(sockets.close)
            settings, embedded = open_server(opened, config.redis, paths)
            await self._check_server(settings)
            host = self._open_node(opened, settings)
            room = Room(raise_file_limit())
            http_door = Door("http", room, host.report, for_operators=True)
            http = await serve_http(host, sockets.http, http_limits(config), http_door)
            opened.push_async_callback(http.close, CLOSE_S)
            await self._join(host)
            resp = await serve_resp(
                host,
                sockets.resp,
                self._resp_settings(host, settings),
                host.hit_latency.observe,
                Door("resp", room, host.report),
            )
            opened.push_async_callback(resp.close, CLOSE_S)
            host.fronts = partial(_fill_fronts, resp, http)
            self._rebound = partial(self._bound_fronts, host, settings, resp, http)
            await self._live(host, paths, embedded)
            self._notify.stopping()
            await resp.stop_accepting()
            await host.drain(DRAIN_MS)
            if self._warmth is not None:
                self._warmth.save()
            await host.leave(LEAVE_MS)
        self._log.info("stopped")
        return 0

    # -- opening ----------------------------------------------------------------------

    async def _check_server(self, settings: Redis) -> None:
        """Too old a server is refused at once; one that is not there yet is waited for."""
        try:
            facts = await inspect(settings)
        except RedisUnreachable as error:
            self._log.error(f"{error}; retrying until it can be reached")
            return
        if facts.is_of_the_wrong_kind:
            raise StartError(facts.blockers[0])
        for blocker in facts.blockers:
            self._log.error(f"{blocker}; retrying until it works")
        for advice in facts.warnings:
            self._log.warning(advice)

    def _open_node(self, opened: contextlib.AsyncExitStack, settings: Redis) -> Host:
        config = self.config
        name = config.node.name or socket.gethostname()
        incarnation = new_id()
        page, no_page = open_page(opened, config, self._namespaces.largest_bound_ms, incarnation)
        node = Node(
            Settings(
                name=name,
                incarnation=incarnation,
                namespaces=self._namespaces,
                version=coherenced.__version__,
                l1_max_bytes=config.l1.max_bytes,
                l1_max_value_bytes=config.l1.max_value_bytes,
                refill_keys_per_s=config.l1.refill_keys_per_s,
                max_waiting=config.limits.max_waiting_requests,
                gathers=True,
            ),
            new_id,
            page=page,
        )
        host = Host(node, lambda: describe(self.config))
        host.page_file, host.no_page = page, no_page
        host.give_up = self._give_up
        self._hunger = Spell("out_of_memory", "memory_suffices", "refused", host.report)
        opened.callback(self._hunger.close)
        logging.getLogger("aiohttp.server").filters[:] = [self._is_news]
        own = Own(host.own_applied, host.own_came, host.heard)
        link = Link(settings, name, incarnation, host.answer, self._changed, own=own)
        opened.push_async_callback(link.close)
        host.attach(link)
        open_spool(opened, config, host)
        self._warmth = open_warmth(config, host)
        open_origins(opened, config, host, settings, self._changed)
        host.start()
        self._host = host
        return host

    def _changed(self, connection: str, up: bool, detail: str) -> None:
        """One line per change of a connection's state."""
        if up:
            self._connected.add(connection)
            self._log.info("connected", connection=connection, detail=detail)
        else:
            had_it = connection in self._connected
            text = "connection lost" if had_it else "not connected yet"
            self._log.warning(text, connection=connection, detail=detail)

    async def _join(self, host: Host) -> None:
        """Wait until the node is on the roster and current, but not for ever."""
        joined = asyncio.ensure_future(host.wait_ready())
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait(
                (joined, stopping), timeout=JOIN_PATIENCE_S, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            joined.cancel()
            stopping.cancel()

    def _resp_settings(self, host: Host, settings: Redis) -> RespSettings:
        return RespSettings.of(
            self.config,
            node=host.node.settings.name,
            version=coherenced.__version__,
            database=settings.endpoint().db,
            page=b"" if host.page_file is None else host.page_file.incarnation,
        )

    # -- running ----------------------------------------------------------------------

    async def _live(self, host: Host, paths: Paths, embedded: EmbeddedServer | None) -> None:
        """Tell systemd when the node has joined; keep its watchdog fed; until told to stop."""
        tasks = [
            asyncio.ensure_future(self._announce(host, paths)),
        ]
        if self._notify.watchdog_interval_ms is not None:
            tasks.append(asyncio.ensure_future(self._feed_watchdog()))
        if embedded is not None:
            tasks.append(asyncio.ensure_future(self._keep_server(embedded)))
        try:
            await self._stopping.wait()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _announce(self, host: Host, paths: Paths) -> None:
        await host.wait_ready()
        if host.outbound is not None:
            host.outbound.replay()
        host.report("ready", {"socket": str(paths.socket), "http": str(paths.http_socket)})
        self._serving = f"serving on {paths.socket}"
        self._notify.ready(self._serving)
        if self._warmth is not None:
            await self._warmth.run(host)

    async def _feed_watchdog(self) -> None:
        every_ms = self._notify.watchdog_interval_ms or 0.0
        while True:
            self._notify.alive()
            await asyncio.sleep(every_ms / 1e3)

    async def _keep_server(self, embedded: EmbeddedServer) -> None:
        """A private server that has ended is started again; less often if that does not help."""
        pause_s = KEEP_EVERY_S
        while True:
            await asyncio.sleep(pause_s)
            try:
                ended = embedded.keep()
            except StartError as error:
                ended = True
                self._log.error(str(error))
            else:
                if ended:
                    self._log.warning("the private server had ended: started an empty one")
            pause_s = min(2 * pause_s, KEEP_SELDOM_S) if ended else KEEP_EVERY_S

    # -- want of memory ----------------------------------------------------------------

    def _on_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What nobody has caught: an error of this program, or there is no memory for something."""
        error = context.get("exception")
        if self._hunger is None or error is None or not memory.is_short(error):
            loop.default_exception_handler(context)
        else:
            self._hunger.once_more({"because": memory.advice()})

    def _is_news(self, record: logging.LogRecord) -> bool:
        """A line of the HTTP library: of a request that finds no memory it would be one each."""
        error = record.exc_info[1] if record.exc_info else None
        if self._hunger is None or error is None or not memory.is_short(error):
            return True
        self._hunger.once_more({"because": memory.advice()})
        return False

    def _give_up(self) -> None:
        """A step of the protocol could not be taken to its end, and what this node holds is not to
        be trusted: end as a crash does, for which all others are prepared (K3)."""
        with contextlib.suppress(MemoryError):
            text = "out of memory in the middle of a step: this daemon must be started anew"
            self._log.error(text, detail=memory.advice())
        os._exit(1)

    # -- signals ----------------------------------------------------------------------

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)

    def _on_hangup(self) -> None:
        """Reload what can be reloaded; say what cannot."""
        if self._reload is None or self._host is None:
            return
        if self._serving:
            self._notify.reloading()
        refused = ""
        try:
            self._apply(diff(self.config, self._reload().config))
        except ConfigError as error:
            self._log.error("not reloaded: the configuration is wrong", detail=str(error))
            refused = "; not reloaded: the configuration is wrong"
        if self._serving:  # else it has not joined yet, and will say so when it has
            self._notify.ready(self._serving + refused)

    def _apply(self, change: Diff) -> None:
        host, namespaces = self._host, self._namespaces
        assert host is not None
        fresh, held = hold_bounds(self.config, change.config, namespaces.largest_bound_ms)
        stays = [c.key for c in change.restart] + held
        default, rules = policies(fresh)
        namespaces.replace(default, rules)
        if host.page_file is not None:
            host.page_file.bound(namespaces.largest_bound_ms)
        if host.outbound is None and any(policy.spool for policy in namespaces.all()):
            stays.append("on_unavailable = spool (the first one)")
        origins = list(all_rules(fresh).values())
        if host.origins is not None:
            host.origins.replace(origins)
            behind = host.origins.behind is not None
            if not behind and any(one.mode == BEHIND for one in origins):
                stays.append("origin_mode = write-behind (the first one)")
        elif origins:
            stays.append("namespace.*.origin (the first one)")
        host.node.let_go()  # entries carry the rules they were stored under
        host.node.bound_waiting(fresh.limits.max_waiting_requests)
        logs.configure(fresh.log.level, fresh.log.format)
        self.config = fresh
        if self._rebound is not None:
            self._rebound()
        changed = [c.key for c in change.reloaded if c.key not in held]
        host.report("reloaded", {"changed": changed, "needs_restart": stays})

    def _bound_fronts(self, host: Host, settings: Redis, resp: RespFront, http: HttpFront) -> None:
        resp.reconfigure(self._resp_settings(host, settings))
        http.reconfigure(http_limits(self.config))


def check_memory(config: Config) -> None:
    """A full L1 must not be what ends this process."""
    most, name = memory.bound()
    if most and config.l1.max_bytes > most - memory.BESIDE_L1_BYTES:
        logs.get("daemon").warning(
            "a full L1 does not fit into what this process may take: lower l1.max_bytes, or raise "
            "the limit",
            l1_max_bytes=config.l1.max_bytes,
            limit_bytes=most,
            limit=name,
        )


def http_limits(config: Config) -> HttpLimits:
    limits = config.limits
    return HttpLimits(
        max_key_bytes=limits.max_key_bytes,
        max_value_bytes=limits.max_value_bytes,
        max_tags=limits.max_tags,
        max_connections=config.listen.max_connections,
        password=config.listen.password,
    )


def _settle_collector() -> None:
    """Keep garbage collections short, whatever is cached.

    Entries and their index are not tracked by the collector; what is, apart from requests
    under way, are the modules and the connections. The modules, 30 ms to look through, are
    put out of its sight once, when all are loaded; it has never looked at them then, for
    there is no memory worth having in what they left behind. Connections must stay in
    sight: a dead one can be a cycle. (`serve` has switched the collector off while modules
    were loaded.)
    """
    gc.freeze()
    gc.set_threshold(5_000, 20, 100)
    gc.enable()


def _fill_fronts(resp: RespFront, http: HttpFront, stats: NodeStats) -> None:
    stats.fronts = {
        "resp": msgspec.convert(resp.stats(), FrontSection),
        "http": msgspec.convert(http.stats(), FrontSection),
    }


def run(loaded: Loaded, reload: Callable[[], Loaded] | None = None) -> int:
    """Run a daemon until it is told to stop; returns its exit code. Errors are told in one line."""
    config = loaded.config
    logs.configure(config.log.level, config.log.format)
    _settle_collector()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(Daemon(loaded, reload).serve())
    except CoherencedError as error:
        logs.get("daemon").error("cannot run", detail=str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return 0
