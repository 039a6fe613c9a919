"""The parts of a daemon that its configuration may ask for, each opened in its own way.

The server (given, or a private one), the shared page, the names of the hottest keys, the journal
of invalidations, the origins. What must be closed again is left with `opened`, which closes in
reverse order. Which comes first is for `daemon` to say.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import msgspec

import coherenced
from coherenced.config import Config, Redis
from coherenced.core.inputs import Forget
from coherenced.embedded import EmbeddedServer
from coherenced.errors import StartError
from coherenced.host import Host
from coherenced.locks import claim
from coherenced.observe import logs
from coherenced.origin import layer
from coherenced.origin.rules import BEHIND, all_rules
from coherenced.outbound import Outbound
from coherenced.page.writer import PageWriter, retire
from coherenced.paths import Paths
from coherenced.spool import Spool
from coherenced.upstream.queue import BehindQueue, enqueuing
from coherenced.warmth import Warmth

SPOOL_NAME: Final = "spool.journal"
WARM_NAME: Final = "warm.keys"


def open_server(
    opened: AsyncExitStack, settings: Redis, paths: Paths
) -> tuple[Redis, EmbeddedServer | None]:
    """The configured server's settings, or those of a private server, and that."""
    if settings.url:
        return settings, None
    embedded = EmbeddedServer(paths.runtime_dir)
    url = embedded.start()
    opened.callback(embedded.stop)
    verb = "started a private server" if embedded.owned else "joined the private server"
    logs.get("daemon").info(f"no redis.url is configured: {verb} in {paths.runtime_dir}")
    return msgspec.structs.replace(settings, url=url), embedded


def open_page(
    opened: AsyncExitStack, config: Config, largest_bound_ms: float, incarnation: bytes
) -> tuple[PageWriter | None, str]:
    """The shared page, or None and why there is none.

    Without one everything works, and clients ask for each read.
    """
    path = config.paths(os.environ, os.getuid()).page
    slots, mode = config.page.slots, config.listen.socket_mode_bits
    why_not, clients = "page.slots is 0", "clients on this host keep no copies of their own"
    try:
        opened.callback(claim(path, "the shared page", "give each its own node.runtime_dir"))
    except StartError as error:
        if slots:
            logs.get("daemon").warning(f"{error}; {clients} of what they ask this one for")
        return None, str(error) if slots else why_not
    if slots:
        try:
            page = PageWriter(path, incarnation, slots, largest_bound_ms, mode)
        except StartError as error:
            why_not = str(error)
            logs.get("daemon").warning(f"{error}; {clients}")
        else:
            opened.callback(page.close)
            return page, ""
    retire(path)
    return None, why_not


def open_warmth(config: Config, host: Host) -> Warmth | None:
    """The names of the hottest keys, from the last run and for the next."""
    section = config.l1
    if not section.warm_keys:
        return None
    directory = config.paths(os.environ, os.getuid()).runtime_dir
    path = Path(section.warm_file or directory / WARM_NAME)
    pace, l1 = section.refill_keys_per_s, host.node.l1
    return Warmth(path, l1, section.warm_keys, pace, host.report)


def open_spool(opened: AsyncExitStack, config: Config, host: Host) -> None:
    """The journal of invalidations, if some namespace wants one."""
    if not any(policy.spool for policy in host.node.namespaces.all()):
        return
    section = config.spool
    directory = config.paths(os.environ, os.getuid()).runtime_dir
    path = Path(section.path or directory / SPOOL_NAME)
    opened.callback(claim(path, "the journal", "give each its own spool.path or node.runtime_dir"))
    spool = Spool(path, section.max_bytes)
    opened.callback(spool.close)
    if spool.cut_bytes:
        logs.get("daemon").warning(
            "the journal's last record was torn and never accepted: cut off",
            journal=str(spool.path),
            bytes=spool.cut_bytes,
        )
    host.outbound = Outbound(
        spool,
        host.node.namespaces,
        host.submit,
        lambda mutations: host.give(Forget(mutations)),
        host.report,
    )


def open_origins(
    opened: AsyncExitStack,
    config: Config,
    host: Host,
    settings: Redis,
    changed: Callable[[str, bool, str], None],
) -> None:
    """What loads from, and writes to, the origins of namespaces that have one."""
    rules = list(all_rules(config).values())
    if not rules:
        return
    origins = layer.open_origins(
        rules,
        host.node.namespaces,
        host.submit_past_origins,
        host.now_ms,
        f"coherenced/{coherenced.__version__}",
        host.origin_latency.observe,
        host.version,
    )
    if any(one.mode == BEHIND for one in rules):
        node = host.node.settings
        queue = BehindQueue(settings, node.name, node.incarnation, changed)
        opened.push_async_callback(queue.close)
        origins.write_behind(queue, enqueuing)
    opened.push_async_callback(origins.close)
    host.origins = origins
