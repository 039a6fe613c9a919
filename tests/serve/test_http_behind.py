"""/v1/writebehind: what may be asked, and how faults are told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.serve.fake_port import UNAVAILABLE
from tests.serve.http_rig import Rig, rig


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path) as running:
        yield running


async def test_the_queues_are_shown(http: Rig) -> None:
    answer = await http.ask("GET", "/v1/writebehind")
    assert (answer.status, answer.json) == (200, {"namespaces": {}})
    http.port.fault = UNAVAILABLE
    assert (await http.ask("GET", "/v1/writebehind")).status == 503


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        ({"action": "replay", "ids": ["1-0", "2-0"]}, ("row", ["1-0", "2-0"], True)),
        ({"action": "drop", "all": True}, ("row", None, False)),
    ],
)
async def test_letters_are_settled(http: Rig, body: dict[str, Any], asked: tuple[Any, ...]) -> None:
    answer = await http.ask("POST", "/v1/writebehind", {"namespace": "row", **body})
    assert (answer.status, answer.json["done"]) == (200, 1)
    assert http.port.settled == asked
    http.port.fault = UNAVAILABLE
    assert (await http.ask("POST", "/v1/writebehind", {"namespace": "row", **body})).status == 503


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"namespace": "row", "action": "replay"}, 400),
        ({"namespace": "row", "action": "replay", "ids": ["1-0"], "all": True}, 400),
        ({"namespace": "row", "action": "burn", "all": True}, 400),
        ({"namespace": "other", "action": "drop", "all": True}, 404),
    ],
)
async def test_what_cannot_be_settled(http: Rig, body: dict[str, Any], status: int) -> None:
    assert (await http.ask("POST", "/v1/writebehind", body)).status == status
