"""A node that follows several lanes, as far as the code knows of such a thing: a program.

A daemon follows one lane. What another one would cost it is the same once more: a core, the
four connections, its probes. So the spec: `socket` of the server, `lanes`: so many of them, each in
a database of its own; it says when all are current, and goes on until it is stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import uvloop

from coherenced.bench.bare import new_id
from coherenced.bench.processes import give_up, given_spec, tell
from coherenced.config_tree import Redis
from coherenced.core.node import Node, Settings
from coherenced.core.policy import Namespaces, Policy
from coherenced.host import Host
from coherenced.upstream.link import Link

PATIENCE_S: Final = 20.0


class QuietHost(Host):
    """Standard output is for what this program tells."""

    def report(self, name: str, fields: Mapping[str, Any]) -> None:
        pass


async def follow(path: str, lanes: int) -> None:
    """See the module."""
    hosts = []
    for number in range(lanes):
        namespaces = Namespaces(Policy())
        settings = Settings(name="lanes", incarnation=new_id(), namespaces=namespaces, gathers=True)
        host = QuietHost(Node(settings, new_id), dict)
        upstream = Redis(url=f"unix://{path}?db={number}")
        link = Link(upstream, "lanes", settings.incarnation, host.answer)
        host.attach(link)
        host.start()
        hosts.append(host)
    try:
        async with asyncio.timeout(PATIENCE_S):
            for host in hosts:
                await host.wait_ready()
    except TimeoutError:
        give_up(f"{lanes} lanes were not current within {PATIENCE_S:g} s")
    tell(lanes)
    await asyncio.Event().wait()


def main() -> None:
    """The program: see the module."""
    spec: dict[str, Any] = given_spec()
    uvloop.run(follow(spec["socket"], spec["lanes"]))


if __name__ == "__main__":
    main()
