"""`invalidate --via redis`: straight to the server, from a host that runs no daemon."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable

import click

from coherenced.cli.invalidate import Outcome, Tally, Targets, send_all
from coherenced.config import load
from coherenced.core.requests import Level
from coherenced.upstream.broadcast import Broadcaster
from coherenced.wire.extensions import invalidations
from coherenced.wire.options import check_lengths
from coherenced.wire.plan import Bounds, all_checked


def through_redis(
    messages: Iterable[Targets], url: str | None, ack: str | None, timeout_s: float | None
) -> Tally:
    """Send as a writer that is on no roster; the configuration says what the flags do not."""
    flags = {} if url is None else {"redis.url": url}
    config = load(flags, None, os.environ).config
    if not config.redis.url:
        raise click.UsageError("--via redis needs a server: give --redis URL, or set redis.url")
    bounds = Bounds(max_key_bytes=config.limits.max_key_bytes)
    level = config.coherence.ack_level if ack is None else Level.parse(ack)
    timeout_ms = config.coherence.ack_timeout_ms if timeout_s is None else timeout_s * 1000

    async def connect() -> Broadcaster:
        return await Broadcaster(config.redis).__aenter__()

    with asyncio.Runner() as runner:
        writer = runner.run(connect())
        try:

            def send(targets: Targets) -> Outcome:
                all_checked(targets.keys, bounds)
                check_lengths("tag", targets.tags, bounds)
                check_lengths("prefix", targets.prefixes, bounds)
                mutations = invalidations(
                    targets.keys, targets.tags, targets.prefixes, targets.everything
                )
                done = runner.run(writer.send(mutations, level, timeout_ms))
                version = "" if done.version is None else str(done.version)
                return Outcome(
                    version, done.acknowledged, done.missing, done.fenced, done.satisfied
                )

            return send_all(messages, send)
        finally:
            runner.run(writer.__aexit__())
