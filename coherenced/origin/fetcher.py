"""One origin over HTTP: its connections, and every bound on asking it.

A request waits for one of `max_requests` places, passes the breaker, is repeated on
failure with back-off and jitter, and ends, all of that counted, after `hard_timeout_ms`.
GET, PUT and DELETE may be repeated: HTTP says they do the same twice.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import aiohttp
import msgspec
import tenacity
from yarl import URL

from coherenced.origin.breaker import Breaker
from coherenced.origin.rules import Rules

MOST_WAITING: Final = 10_000
"""Requests of one origin that may wait for a place."""
FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 1.0
CHUNK_BYTES: Final = 1 << 16
ABSENT: Final = frozenset({404, 410})
_AWAY: Final = frozenset({408, 429, 502, 503, 504})
"""Statuses that say nothing of the request: overloaded, or nobody there behind a proxy."""
_FOUND: Final = frozenset({200, 203, 204})
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


class OriginFault(Exception):
    """The origin gave no answer that can be used. Its text is one line."""

    def __init__(
        self,
        text: str,
        *,
        again: bool = False,
        timed_out: bool = False,
        refused: bool = False,
    ) -> None:
        super().__init__(text)
        self.again = again
        """Trying again may help."""
        self.timed_out = timed_out
        self.refused = refused
        """The origin has judged the request and said no: it is not merely away or overloaded."""


class Answer(msgspec.Struct, frozen=True):
    """What the origin said."""

    value: bytes | None
    """None: there is no such thing (404, 410), or (304) it is still what it was."""
    headers: Mapping[str, str]
    took_ms: float
    unchanged: bool = False


class Origin:
    """The origin of one namespace. Counters are plain integers."""

    def __init__(self, rules: Rules, now_ms: Callable[[], float], agent: str) -> None:
        self.rules = rules
        self.breaker = Breaker(rules.breaker_failures, rules.breaker_open_ms)
        self.loaded = self.absent = self.unchanged = self.errors = self.timeouts = 0
        self.late = self.early = self.stale_served = self.coalesced = 0
        """Answers after the soft timeout; loads ahead of the end; stale answers; waits shared."""
        self.puts = self.deletes = self.write_errors = 0
        self.in_flight = 0
        self.took: Callable[[float], None] = lambda took_ms: None
        """Told how long each answered GET took."""
        self._now_ms = now_ms
        self._agent = agent
        self._places = asyncio.Semaphore(rules.max_requests)
        self._waiting = 0
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    # -- what may be asked -----------------------------------------------------------------

    async def get(self, key: bytes, conditions: Mapping[str, str] = _NOTHING) -> Answer:
        """Load `key`, or (304) find that it is unchanged. OriginFault when that fails."""
        began_ms = self._now_ms()
        try:
            answer = await self._insist("GET", key, conditions, None, began_ms)
        except OriginFault as fault:
            self.errors += 1
            self.timeouts += fault.timed_out
            raise
        self.took(answer.took_ms)
        if answer.unchanged:
            self.unchanged += 1
        elif answer.value is None:
            self.absent += 1
        else:
            self.loaded += 1
        return answer

    async def put(self, key: bytes, value: bytes, headers: Mapping[str, str]) -> Answer:
        """Write `key`. OriginFault when the origin did not accept it."""
        self.puts += 1
        return await self._write("PUT", key, headers, value)

    async def delete(self, key: bytes, headers: Mapping[str, str]) -> Answer:
        """Delete `key`; `value` of the answer is None when nothing was there."""
        self.deletes += 1
        return await self._write("DELETE", key, headers, None)

    async def _write(
        self, method: str, key: bytes, headers: Mapping[str, str], value: bytes | None
    ) -> Answer:
        try:
            return await self._insist(method, key, headers, value, self._now_ms())
        except OriginFault:
            self.write_errors += 1
            raise

    # -- asking ------------------------------------------------------------------------------

    async def _insist(
        self,
        method: str,
        key: bytes,
        headers: Mapping[str, str],
        body: bytes | None,
        began_ms: float,
    ) -> Answer:
        rules = self.rules
        patience_s = rules.hard_timeout_ms / 1e3
        deadline_s = asyncio.get_running_loop().time() + patience_s
        async for attempt in tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(rules.retries + 1)
            | tenacity.stop_before_delay(patience_s),
            wait=tenacity.wait_exponential(multiplier=FIRST_PAUSE_S, max=LONGEST_PAUSE_S)
            + tenacity.wait_random(0, FIRST_PAUSE_S),
            retry=tenacity.retry_if_exception(lambda e: isinstance(e, OriginFault) and e.again),
            reraise=True,
        ):
            with attempt:
                status, found, value = await self._once(method, key, headers, body, deadline_s)
        took_ms = self._now_ms() - began_ms
        if status == 304:
            return Answer(None, found, took_ms, unchanged=True)
        return Answer(None if status in ABSENT else value, found, took_ms)

    async def _once(
        self,
        method: str,
        key: bytes,
        headers: Mapping[str, str],
        body: bytes | None,
        deadline_s: float,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """One request, in a place of its own, past the breaker."""
        if self._waiting >= MOST_WAITING:
            raise OriginFault(f"{self._waiting} requests wait for the origin already")
        self._waiting += 1
        try:
            async with asyncio.timeout_at(deadline_s):
                await self._places.acquire()
        except TimeoutError:
            raise OriginFault(
                "the origin is too busy with earlier requests", timed_out=True
            ) from None
        finally:
            self._waiting -= 1
        try:
            return await self._guarded(method, key, headers, body, deadline_s)
        finally:
            self._places.release()

    async def _guarded(
        self,
        method: str,
        key: bytes,
        headers: Mapping[str, str],
        body: bytes | None,
        deadline_s: float,
    ) -> tuple[int, Mapping[str, str], bytes]:
        breaker = self.breaker
        if not breaker.admits(self._now_ms()):
            left_ms = breaker.opens_in_ms(self._now_ms())
            raise OriginFault(f"the origin failed too often, it is tried again in {left_ms:.0f} ms")
        self.in_flight += 1
        try:
            async with asyncio.timeout_at(deadline_s):
                answer = await self._exchange(method, key, headers, body)
        except OriginFault as fault:
            if fault.refused and not fault.again:
                breaker.succeeded()  # it works, though it did not like this request
            else:
                breaker.failed(self._now_ms())
            raise
        except TimeoutError:
            breaker.failed(self._now_ms())
            text = f"the origin gave no answer within {self.rules.hard_timeout_ms:.0f} ms"
            raise OriginFault(text, timed_out=True) from None
        except BaseException:
            breaker.abandoned()
            raise
        finally:
            self.in_flight -= 1
        breaker.succeeded()
        return answer

    async def _exchange(
        self, method: str, key: bytes, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        url = URL(self.rules.address(key), encoded=True)
        sent = {"Accept-Encoding": "identity", **headers}
        if body is not None:
            sent.setdefault("Content-Type", "application/octet-stream")
        try:
            async with self._open().request(
                method, url, headers=sent, data=body, allow_redirects=False
            ) as response:
                status = response.status
                _judge(method, status, "If-None-Match" in sent or "If-Modified-Since" in sent)
                value = b""
                if method == "GET" and status in _FOUND:
                    value = await _body(response, self.rules.max_value_bytes)
                return status, response.headers, value
        except aiohttp.ClientConnectorError as error:
            raise OriginFault(f"the origin cannot be reached: {_why(error)}", again=True) from None
        except aiohttp.ConnectionTimeoutError:
            wait_ms = self.rules.connect_timeout_ms
            text = f"no connection to the origin within {wait_ms:.0f} ms"
            raise OriginFault(text, again=True, timed_out=True) from None
        except aiohttp.ClientError as error:
            text = f"the exchange with the origin broke: {_why(error)}"
            raise OriginFault(text, again=True) from None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            rules = self.rules
            connector: aiohttp.BaseConnector
            if rules.unix_path:
                connector = aiohttp.UnixConnector(rules.unix_path, limit=0)
            else:
                # The places are the bound.
                trusted = authorities() if rules.url.startswith("https:") else True
                connector = aiohttp.TCPConnector(limit=0, ssl=trusted)
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=rules.connect_timeout_ms / 1e3
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": self._agent},
            )
        return self._session


@functools.cache
def authorities() -> ssl.SSLContext:
    """Who is trusted over TLS: this host's certificate authorities. 20 ms, the first time."""
    return ssl.create_default_context()


def _judge(method: str, status: int, conditional: bool) -> None:
    """OriginFault unless this status can be worked with."""
    if method == "GET":
        fine = status in _FOUND or (status == 304 and conditional) or status in ABSENT
    else:
        fine = 200 <= status < 300 or (method == "DELETE" and status in ABSENT)
    if not fine:
        away = status in _AWAY
        raise OriginFault(
            f"the origin answered {status}", again=away or status >= 500, refused=not away
        )


async def _body(response: aiohttp.ClientResponse, most: int) -> bytes:
    parts: list[bytes] = []
    held = 0
    async for part in response.content.iter_chunked(CHUNK_BYTES):
        held += len(part)
        if held > most:
            text = f"the origin's answer has more than limits.max_value_bytes ({most}) bytes"
            raise OriginFault(text, refused=True)
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _why(error: Any) -> str:
    """One line, without the URL: it may hold a password."""
    cause = getattr(error, "os_error", None) or error.__cause__
    # aiohttp writes what its parser says as "400, message: …": no status of the origin's.
    told = getattr(cause, "strerror", None) or getattr(cause, "message", None)
    text = told or str(cause or "") or type(error).__name__
    return " ".join(str(text).split())[:200]
