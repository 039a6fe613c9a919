from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from coherenced import Client
from tests.cluster.daemons import Cluster
from tests.examples.database_rows import Shop
from tests.examples.watching import watch

PRODUCTS = 4


@pytest.fixture
def shops(nodes: Cluster, tmp_path: Path) -> Iterator[list[Shop]]:
    """The same shop on two hosts, two processes each."""
    clients = [Client(daemon.socket) for daemon in nodes.daemons for _ in range(2)]
    clients[0].invalidate(prefixes=["product:"], ack="all")
    made = [Shop(tmp_path / "shop.sqlite", client) for client in clients]
    made[0].create(PRODUCTS)
    yield made
    for client in clients:
        client.close()


def test_after_an_update_nobody_reads_an_older_row(shops: list[Shop]) -> None:
    draw = Random(7)

    def read(worker: int, number: int) -> int:
        row = shops[worker].product(number)
        assert row is not None
        return int(row["changes"])

    def update(worker: int, number: int) -> int:
        return shops[worker].set_price(number, draw.randrange(1000))

    seen = watch(read, update, workers=4, rows=PRODUCTS, seconds=2)
    assert seen.older == []
    assert seen.updates > 20
    assert seen.reads > 200


def test_a_sale_changes_all_prices_on_all_hosts(shops: list[Shop]) -> None:
    for shop in shops:
        assert [shop.product(number)["price"] for number in range(PRODUCTS)] == [100] * PRODUCTS
    shops[0].sale(percent=20)
    for shop in shops:
        assert [shop.product(number)["price"] for number in range(PRODUCTS)] == [80] * PRODUCTS


def test_the_judge_notices_an_update_that_forgets_the_cache(shops: list[Shop]) -> None:
    def read(worker: int, number: int) -> int:
        return int(shops[worker].product(number)["changes"])  # type: ignore[index]

    def update(worker: int, number: int) -> int:
        with shops[worker]._connect() as database:
            database.execute("UPDATE product SET changes = changes + 1 WHERE number = ?", (number,))
            row = database.execute("SELECT changes FROM product WHERE number = ?", (number,))
            return int(row.fetchone()[0])

    assert watch(read, update, workers=2, rows=1, seconds=0.5).older
