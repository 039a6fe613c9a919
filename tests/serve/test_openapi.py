"""/openapi.json is true: schemathesis asks a real server everything the document promises."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

import coherenced
from coherenced.serve.http import serve_http
from coherenced.serve.http_routes import ROUTES
from coherenced.serve.openapi import document
from coherenced.serve.problem import KINDS
from tests.serve.fake_port import FakePort


def test_the_document_is_made_from_the_table_of_routes() -> None:
    described = document("1.2.3")
    assert described["openapi"] == "3.1.0"
    assert described["info"]["version"] == "1.2.3"
    for route in ROUTES:
        operation = described["paths"][route.path][route.method.lower()]
        assert set(operation["responses"]) >= {str(status) for status in route.answers}
        assert operation["summary"] == route.summary
    names = [
        operation["operationId"]
        for path in described["paths"].values()
        for operation in path.values()
    ]
    assert len(names) == len(set(names))


def test_every_documented_error_has_words_and_every_error_is_documented_somewhere() -> None:
    described = document(coherenced.__version__)
    documented = {
        int(status)
        for path in described["paths"].values()
        for operation in path.values()
        for status, response in operation["responses"].items()
        if int(status) >= 400 and response["description"]
    }
    # 401 and 421 depend on the configuration: the description of the whole tells them.
    assert documented == {kind.status for kind in KINDS.values()} - {401, 421}


def test_references_lead_somewhere() -> None:
    described = document(coherenced.__version__)
    schemas = described["components"]["schemas"]

    def references(value: object) -> Iterator[str]:
        if isinstance(value, dict):
            if isinstance(ref := value.get("$ref"), str):
                yield ref
            for inner in value.values():
                yield from references(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from references(inner)

    found = set(references(described))
    assert found
    assert all(ref.removeprefix("#/components/schemas/") in schemas for ref in found)


@contextmanager
def served() -> Iterator[str]:
    """A real server on a loopback port, in a thread with its own loop."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    port = FakePort()
    port.redis[b"0"] = (b"v", (), 0)
    started = threading.Event()
    stop: list[asyncio.Event] = []
    loops: list[asyncio.AbstractEventLoop] = []

    async def run() -> None:
        front = await serve_http(port, [sock])
        stop.append(asyncio.Event())
        loops.append(asyncio.get_running_loop())
        started.set()
        await stop[0].wait()
        await front.close(1.0)

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    try:
        assert started.wait(10)
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        loops[0].call_soon_threadsafe(stop[0].set)
        thread.join(10)


SETTINGS = """
[generation]
# A header nobody has heard of is ignored in HTTP, never an error.
allow-extra-parameters = false
[checks]
# A precondition that does not hold is an answer to a valid request, too.
positive_data_acceptance.expected-statuses = ["2xx", "3xx", 404, 409, 412]
"""


PHASES = {
    # Every boundary of the document; here schemathesis also fills headers with values that
    # their own patterns refuse, so that "valid data was rejected" would say nothing.
    "boundaries": (
        *("--phases", "examples,coverage", "--exclude-checks", "positive_data_acceptance"),
    ),
    "random": ("--phases", "fuzzing", "--max-examples", "15"),
}


def ask(directory: Path, how: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """What schemathesis says of a server of its own."""
    settings = directory / "settings.toml"
    settings.write_text(SETTINGS)
    with served() as url:
        return subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(settings), "run"),
                *(f"{url}/openapi.json", "--checks", "all", "--seed", "20260101", *how),
                # The event stream has no end; test_http_stream reads it.
                *("--exclude-operation-id", "get_invalidations"),
                *("--generation-database", "none", "--no-color", "--request-timeout", "10"),
            ],
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=100,
        )


@pytest.fixture(scope="module")
def told(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Future[subprocess.CompletedProcess[str]]]]:
    """Phase -> its run: side by side, since each keeps no more than one core busy."""
    with ThreadPoolExecutor(len(PHASES)) as runs:
        yield {
            name: runs.submit(ask, tmp_path_factory.mktemp(name), how)
            for name, how in PHASES.items()
        }


@pytest.mark.parametrize("phase", PHASES)
def test_schemathesis_finds_nothing(
    told: dict[str, Future[subprocess.CompletedProcess[str]]], phase: str
) -> None:
    ran = told[phase].result()
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]
    assert "No issues found" in ran.stdout
