"""A small site whose responses are cached whole: an ASGI application and one line around it.

    GET  /products/7    one product; ended by a PUT to its address
    GET  /products      all of them; has the tag `products`, which each PUT ends too
    PUT  /products/7    {"price": 120}

`site(database, cache)` is what an ASGI server would serve.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from coherenced import AsyncClient
from coherenced.client.contrib.asgi import ResponseCache


def site(database: Path, cache: AsyncClient) -> ResponseCache:
    """The application behind its cache."""
    return ResponseCache(
        Site(database, cache),
        cache,
        tags=lambda scope, response: ["products"] if scope["path"] == "/products" else [],
        ack="all",  # a PUT is answered when no host serves the old response any more
    )


class Site:
    """The application itself, which knows nothing of stored responses but a tag's name."""

    def __init__(self, database: Path, cache: AsyncClient) -> None:
        self._database = database
        self._cache = cache

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
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

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path, method = scope["path"], scope["method"]
        if path == "/products" and method == "GET":
            await _respond(send, 200, self._all())
        elif path.startswith("/products/") and path[10:].isdigit() and method in ("GET", "PUT"):
            number = int(path[10:])
            if method == "PUT":
                changed = self._set_price(number, json.loads(await _body(receive))["price"])
                # The address itself is ended by the cache: it is where the PUT went to.
                await self._cache.invalidate(tags=["products"], ack="all")
                await _respond(send, 200, changed, cached=False)
            else:
                await _respond(send, 200, self._one(number))
        else:
            await _respond(send, 404, {"error": "no such page"}, cached=False)

    def _one(self, number: int) -> dict[str, Any]:
        with self._connect() as database:
            row = database.execute("SELECT * FROM product WHERE number = ?", (number,)).fetchone()
        return dict(row or {})

    def _all(self) -> list[dict[str, Any]]:
        with self._connect() as database:
            return [dict(row) for row in database.execute("SELECT * FROM product ORDER BY number")]

    def _set_price(self, number: int, price: int) -> dict[str, Any]:
        with self._connect() as database:
            row = database.execute(
                "UPDATE product SET price = ?, changes = changes + 1 WHERE number = ? RETURNING *",
                (price, number),
            ).fetchone()
        return dict(row or {})


async def _body(receive: Any) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


async def _respond(send: Any, status: int, document: Any, *, cached: bool = True) -> None:
    body = json.dumps(document).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"max-age=60" if cached else b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
