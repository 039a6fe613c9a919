"""dogpile.cache's own suite for backends, as it is installed, and what it does not ask."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from dogpile.cache import make_region
from dogpile.testing.fixtures import (
    _GenericBackendTestSuite,
    _GenericMutexTestSuite,
    _GenericSerializerTestSuite,
)

from coherenced import Client
from coherenced.client.contrib.dogpile import CoherencedBackend, register
from tests.cluster.daemons import Cluster

register()


@pytest.fixture(scope="module", autouse=True)
def arguments(nodes: Cluster) -> Iterator[dict[str, Any]]:
    """The suites read their configuration from their class."""
    given = {"address": str(nodes.daemons[0].socket)}
    clients = []
    for suite in (OfDogpile, SerializerOfDogpile, MutexOfDogpile):
        client = Client(nodes.daemons[0].socket, serializer=None)
        clients.append(client)
        suite.config_args["arguments"] |= {**given, "client": client}
    yield given
    for client in clients:
        client.close()


class OfDogpile(_GenericBackendTestSuite):  # type: ignore[misc]
    backend = "coherenced"
    config_args: ClassVar[dict[str, Any]] = {"arguments": {"tags": ("dogpile",)}}


class SerializerOfDogpile(_GenericSerializerTestSuite, OfDogpile):  # type: ignore[misc]
    backend = "coherenced"
    config_args: ClassVar[dict[str, Any]] = {"arguments": {}}


class MutexOfDogpile(_GenericMutexTestSuite):  # type: ignore[misc]
    backend = "coherenced"
    config_args: ClassVar[dict[str, Any]] = {
        "arguments": {"distributed_lock": True, "lock_timeout": 10}
    }


class TestOfDogpile(OfDogpile):
    pass


class TestSerializerOfDogpile(SerializerOfDogpile):
    # The rest has been run with pickle already.
    test_threaded_dogpile = test_threaded_get_multi = test_region_expire = None


class TestMutexOfDogpile(MutexOfDogpile):
    pass


def test_its_name_is_an_entry_point() -> None:
    import tomllib

    from tests.arch.readme import ROOT

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, name = project["entry-points"]["dogpile.cache"]["coherenced"].partition(":")
    assert (module, name) == (CoherencedBackend.__module__, CoherencedBackend.__name__)


def test_one_creator_in_the_cluster(nodes: Cluster) -> None:
    """A region on each node, as in two processes: their creators exclude each other."""
    regions = [
        make_region().configure(
            "coherenced",
            arguments={"address": str(daemon.socket), "distributed_lock": True, "tags": ["d"]},
        )
        for daemon in nodes.daemons
    ]
    created, all_there = itertools.count(1), threading.Barrier(20)
    answers: list[int] = []

    def create() -> int:
        threading.Event().wait(0.1)
        return next(created)

    def ask(number: int) -> None:
        all_there.wait(10)
        answers.append(regions[number % 2].get_or_create("one-creator", create))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == [1] * 20
    for region in regions:
        region.backend.client.close()


def test_a_tag_ends_what_the_region_stored(nodes: Cluster) -> None:
    one, two = (
        make_region().configure(
            "coherenced", arguments={"address": str(daemon.socket), "tags": ["ends"], "ack": "all"}
        )
        for daemon in nodes.daemons
    )
    one.set("ends-1", "value")
    assert two.get("ends-1") == "value"
    with Client(nodes.daemons[0].socket) as cache:
        cache.invalidate(tags=["ends"], ack="all")
    assert not two.get("ends-1")
    for region in (one, two):
        region.backend.client.close()
