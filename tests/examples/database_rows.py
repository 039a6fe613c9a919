"""Rows of a database, read through the cache; an update is over when no host serves the old row.

The rule for every update: first commit to the database, then invalidate, with `ack="all"`.
A reader that has loaded the old row meanwhile cannot put it back: its fill is refused. (A
program that dies between the two leaves the old row for at most the ttl.)
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from coherenced import Client


class Shop:
    """Products in SQLite. One object a process; threads share it."""

    def __init__(self, database: Path, cache: Client) -> None:
        self._database = database
        self._cache = cache
        # Decorated here, since each shop has a cache of its own; a module with one cache
        # writes @cache.cached(…) above the function.
        cached = cache.cached(ttl=60, key="product:{number}", tags=["shelf:{shelf}"])
        self.product = cached(self._product)

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        """A transaction: committed at the end, rolled back after an error."""
        with closing(sqlite3.connect(self._database, timeout=20)) as connection, connection:
            connection.row_factory = sqlite3.Row
            yield connection

    def create(self, products: int) -> None:
        with self._connect() as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute(
                "CREATE TABLE product (number INTEGER PRIMARY KEY, price INTEGER, changes INTEGER)"
            )
            rows = [(number, 100, 0) for number in range(products)]
            database.executemany("INSERT INTO product VALUES (?, ?, ?)", rows)

    def _product(self, number: int, shelf: str = "main") -> dict[str, Any] | None:
        with self._connect() as database:
            row = database.execute("SELECT * FROM product WHERE number = ?", (number,)).fetchone()
        return None if row is None else dict(row)

    def set_price(self, number: int, price: int) -> int:
        """Returns the row's number of changes. After it nobody reads an older row, anywhere."""
        with self._connect() as database:
            (changes,) = database.execute(
                "UPDATE product SET price = ?, changes = changes + 1 WHERE number = ? "
                "RETURNING changes",
                (price, number),
            ).fetchone()
        self._cache.invalidate([f"product:{number}"], ack="all")
        return int(changes)

    def sale(self, percent: int) -> None:
        """Every price of the shelf, in one transaction and one invalidation."""
        with self._connect() as database:
            database.execute(
                "UPDATE product SET price = price * ? / 100, changes = changes + 1",
                (100 - percent,),
            )
        self._cache.invalidate(tags=["shelf:main"], ack="all")
