from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from coherenced import AsyncClient, Client
from coherenced.page.reader import PageReader
from tests.client import forms
from tests.client.fake_daemon import FakeDaemon
from tests.client.forms import Form
from tests.client.nodes import nodes
from tests.client.rig import MINE, Rig

__all__ = ["nodes"]


@pytest.fixture(params=forms.FORMS)
def form(request: pytest.FixtureRequest) -> Form:
    """The client with hits compiled, and with hits in Python."""
    found = forms.form(request.param)
    if found is None:
        pytest.skip(f"hits are not compiled here ({forms.HOW_TO_BUILD})")
    return found


@pytest.fixture
def rig(tmp_path: Path, form: Form) -> Rig:
    return Rig(tmp_path, form)


@pytest.fixture
def client(rig: Rig) -> Iterator[Any]:
    """A client of nobody: what it answers, it has answered by itself."""
    with rig.form.Client(rig.path.parent / "no.sock") as client:
        assert client._l0 is not None
        client._l0.use(PageReader(str(rig.path), MINE.decode()))
        rig.l0 = client._l0
        yield client


@pytest.fixture
def socket_path() -> Iterator[Path]:
    """A path short enough for a Unix socket, whatever the name of the test."""
    directory = Path(tempfile.mkdtemp(prefix="coh-"))
    yield directory / "coherenced.sock"
    shutil.rmtree(directory)


@pytest.fixture
def daemon(socket_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(socket_path) as daemon:
        yield daemon


class Awaited:
    """An `AsyncClient` with the face of a `Client`, so that one suite runs over both."""

    def __init__(self, runner: asyncio.Runner, client: AsyncClient) -> None:
        self._runner = runner
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)
        return lambda *arguments, **named: self._runner.run(method(*arguments, **named))


@pytest.fixture(params=["sync", "asyncio", "uvloop"])
def connect(request: pytest.FixtureRequest, daemon: FakeDaemon) -> Iterator[Callable[..., Any]]:
    """Makes clients of the fake daemon, of each kind, and closes them."""
    clients: list[Any] = []
    if request.param == "sync":

        def make(**options: Any) -> Any:
            clients.append(Client(daemon.path, **{"l0": False, **options}))
            return clients[-1]

        yield make
        for client in clients:
            client.close()
        return
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:

        def make(**options: Any) -> Any:
            clients.append(Awaited(runner, AsyncClient(daemon.path, **{"l0": False, **options})))
            return clients[-1]

        yield make
        for client in clients:
            client.close()
