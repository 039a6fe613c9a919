"""A TLS port in front of a server: the servers that tests can install speak no TLS."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.servers import Server


class Authority(NamedTuple):
    """A certificate for 127.0.0.1 and localhost, and the authority that vouches for it."""

    ca: Path
    cert: Path
    key: Path


@functools.cache
def authority() -> Authority:
    """Made once a test run, with the openssl command; the test is skipped where there is none."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl command here")
    folder = Path(tempfile.mkdtemp(prefix="coh-tls-"))

    def run(*words: str) -> None:
        subprocess.run([openssl, *words], check=True, capture_output=True, cwd=folder)

    ec = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    own = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")  # Python 3.13 asks for it
    run(
        *("req", "-x509", *ec, "-keyout", "ca.key", "-out", "ca.pem"),
        *("-days", "2", "-subj", "/CN=ca", *own),
    )
    run("req", *ec, "-keyout", "s.key", "-out", "s.csr", "-subj", "/CN=localhost")
    (folder / "ext").write_text(
        "subjectAltName=IP:127.0.0.1,DNS:localhost\nauthorityKeyIdentifier=keyid\n"
    )
    signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "ext")
    run("x509", "-req", "-in", "s.csr", *signing, "-out", "s.pem", "-days", "2")
    return Authority(folder / "ca.pem", folder / "s.pem", folder / "s.key")


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, ssl.SSLError):
        while data := await reader.read(1 << 18):
            writer.write(data)
            await writer.drain()
    writer.close()
    with contextlib.suppress(OSError, ssl.SSLError):
        await writer.wait_closed()


@contextlib.asynccontextmanager
async def tls_port(server: Server, *, client_cert: bool = False) -> AsyncIterator[int]:
    """A port that speaks TLS and passes everything on; with `client_cert` it asks for one."""
    keys = authority()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys.cert, keys.key)
    if client_cert:
        context.load_verify_locations(keys.ca)
        context.verify_mode = ssl.CERT_REQUIRED
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(str(server.socket))
        for pair in ((reader, inner_writer), (inner_reader, writer)):
            task = asyncio.create_task(_copy(*pair))
            tasks.add(task)

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        await asyncio.gather(*tasks, return_exceptions=True)
