"""Login sessions, kept in a database and answered from memory on every host.

What matters here: most requests only read; a session that does not exist (a forged or old
cookie) must not cost a database query each time; and after a logout no host lets it in.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from coherenced import Client


class Sessions:
    """Sessions in SQLite. One object a process; threads share it."""

    def __init__(self, database: Path, cache: Client) -> None:
        self._database = database
        self._cache = cache
        self.queries = 0

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._database, timeout=20)) as connection, connection:
            yield connection

    def create(self) -> None:
        with self._connect() as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("CREATE TABLE session (id TEXT PRIMARY KEY, user TEXT, data TEXT)")

    def login(self, user: str) -> str:
        """A new session's id, for the cookie."""
        session = secrets.token_urlsafe(16)
        with self._connect() as database:
            database.execute("INSERT INTO session VALUES (?, ?, '{}')", (session, user))
        # Somebody may have asked for it before it existed, and its absence be remembered.
        self._end(session)
        return session

    def get(self, session: str) -> dict[str, Any] | None:
        """{"user": …, "data": …}, or None for a session that does not exist (any more)."""
        found: dict[str, Any] | None = self._cache.get_or_load(
            f"session:{session}",
            lambda: self._load(session),
            ttl=1800,
            negative_ttl=10,
            tags=lambda found: [f"sessions-of:{found['user']}"] if found else [],
        )
        return found

    def put(self, session: str, name: str, value: Any) -> None:
        """Change one field. KeyError when the session does not exist."""
        with self._connect() as database:
            database.execute("BEGIN IMMEDIATE")  # nobody changes it between reading and writing
            row = database.execute("SELECT data FROM session WHERE id = ?", (session,))
            found = row.fetchone()
            if found is None:
                raise KeyError(session)
            changed = json.dumps({**json.loads(found[0]), name: value})
            database.execute("UPDATE session SET data = ? WHERE id = ?", (changed, session))
        self._end(session)

    def logout(self, session: str) -> None:
        """After it no host knows the session."""
        with self._connect() as database:
            database.execute("DELETE FROM session WHERE id = ?", (session,))
        self._end(session)

    def logout_everywhere(self, user: str) -> None:
        """All sessions of a user, in one transaction and one invalidation."""
        with self._connect() as database:
            database.execute("DELETE FROM session WHERE user = ?", (user,))
        self._cache.invalidate(tags=[f"sessions-of:{user}"], ack="all")

    def _load(self, session: str) -> dict[str, Any] | None:
        self.queries += 1
        with self._connect() as database:
            row = database.execute("SELECT user, data FROM session WHERE id = ?", (session,))
            found = row.fetchone()
        return None if found is None else {"user": found[0], "data": json.loads(found[1])}

    def _end(self, session: str) -> None:
        self._cache.invalidate([f"session:{session}"], ack="all")
