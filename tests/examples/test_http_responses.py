from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from coherenced import AsyncClient
from tests.cluster.daemons import Cluster
from tests.examples.http_responses import Site, site
from tests.examples.watching import Watcher

PRODUCTS = 4


@pytest.fixture
async def sites(nodes: Cluster, tmp_path: Path) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Browsers of the same site on two hosts, two processes each."""
    caches = [AsyncClient(daemon.socket) for daemon in nodes.daemons for _ in range(2)]
    await caches[0].invalidate(prefixes=["http:"], ack="all")
    database = tmp_path / "site.sqlite"
    Site(database, caches[0]).create(PRODUCTS)
    made = [
        httpx.AsyncClient(transport=httpx.ASGITransport(site(database, cache)), base_url="http://s")
        for cache in caches
    ]
    yield made
    for browser, cache in zip(made, caches, strict=True):
        await browser.aclose()
        await cache.close()


async def test_after_a_put_nobody_gets_an_older_response(sites: list[httpx.AsyncClient]) -> None:
    watcher = Watcher(PRODUCTS)
    end = asyncio.get_running_loop().time() + 2
    hits = 0

    async def browse(worker: int) -> None:
        nonlocal hits
        turn = 0
        while asyncio.get_running_loop().time() < end:
            turn += 1
            for number in range(PRODUCTS):
                at_least = watcher.acknowledged(number)
                response = await sites[worker].get(f"/products/{number}")
                watcher.read(number, response.json()["changes"], at_least)
                hits += "hit" in response.headers["cache-status"]
            least = [watcher.acknowledged(number) for number in range(PRODUCTS)]
            listed = await sites[worker].get("/products")
            for number, row in enumerate(listed.json()):
                watcher.read(number, row["changes"], least[number])
            if turn % 4 == 0:
                number = (turn // 4 + worker) % PRODUCTS
                done = await sites[worker].put(f"/products/{number}", json={"price": turn})
                watcher.updated(number, done.json()["changes"])

    await asyncio.gather(*(browse(worker) for worker in range(4)))
    seen = watcher.seen()
    assert seen.older == []
    assert seen.updates > 10
    assert hits > 50


async def test_a_page_that_is_not_there(sites: list[httpx.AsyncClient]) -> None:
    response = await sites[0].get("/nothing")
    assert response.status_code == 404
    assert response.headers["cache-status"] == "coherenced; fwd=uri-miss"
