from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from coherenced.cli.cluster import Cluster, Daemon
from coherenced.cli.main import run


@pytest.fixture(scope="package")
def cluster() -> Iterator[Cluster]:
    """Two real daemons, a and b, on a private server: shared, so use keys of your own."""
    with Cluster(2) as cluster:
        cluster.start_server()
        cluster.start_daemons()
        # A new log waits out one staleness bound before `all` is believed.
        cluster.daemons[0].client.set("warm-up", 1, ack="all")
        yield cluster


@pytest.fixture
def a(cluster: Cluster) -> Daemon:
    return cluster.daemons[0]


@pytest.fixture
def b(cluster: Cluster) -> Daemon:
    return cluster.daemons[1]


@pytest.fixture(autouse=True)
def no_settings_of_this_host(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("COHERENCED_"):
            monkeypatch.delenv(name)


class Done(NamedTuple):
    """One command line that was carried out."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def coherenced(capfdbinary: pytest.CaptureFixture[bytes]) -> Callable[..., Done]:
    """Carries out a command line in this process."""

    def call(*words: Any) -> Done:
        code = run([str(word) for word in words])
        out, err = capfdbinary.readouterr()
        return Done(code, out, err.decode())

    return call
