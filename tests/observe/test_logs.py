"""Logs: one JSON object a line for machines, columns for people, one road for all libraries."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
import structlog

from coherenced.errors import ConfigError
from coherenced.observe import logs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = before
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_pipe_gets_json() -> None:
    out = io.StringIO()
    logs.configure("info", "auto", out)
    logs.get("bus").warning("lost the bus", lane=0, reason="reset", key=b"\xff")
    (line,) = lines(out)
    assert list(line)[:4] == ["timestamp", "level", "message", "component"]
    assert line["message"] == "lost the bus"
    assert line["level"] == "warning"
    assert line["component"] == "bus"
    assert (line["lane"], line["reason"]) == (0, "reset")
    assert datetime.fromisoformat(line["timestamp"]).tzinfo is not None


def test_a_terminal_gets_columns() -> None:
    out = Terminal()
    logs.configure("info", "auto", out)
    logs.get("bus").info("connected", lane=0)
    text = out.getvalue()
    assert "connected" in text
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)


def test_the_format_can_be_forced() -> None:
    terminal, pipe = Terminal(), io.StringIO()
    logs.configure("info", "json", terminal)
    logs.get("x").info("a")
    assert lines(terminal)[0]["message"] == "a"
    logs.configure("info", "pretty", pipe)
    logs.get("x").info("b")
    assert "\x1b[" not in pipe.getvalue()  # columns, but no colours into a file
    assert "b" in pipe.getvalue()


def test_levels_and_changing_them_while_running() -> None:
    out = io.StringIO()
    logs.configure("warning", "json", out)
    log = logs.get("x")
    log.info("quiet")
    log.error("loud")
    logs.configure("debug", "json", out)
    log.debug("detail")
    assert [line["message"] for line in lines(out)] == ["loud", "detail"]


def test_libraries_take_the_same_road_one_step_quieter() -> None:
    out = io.StringIO()
    logs.configure("info", "json", out)
    logs.configure("info", "json", out)  # twice: no line may come twice
    logging.getLogger("aiohttp.server").info("chatter")
    logging.getLogger("asyncio").error("task failed: %s", "x")
    (line,) = lines(out)
    assert line["message"] == "task failed: x"
    assert line["component"] == "asyncio"
    assert line["level"] == "error"
    assert "_record" not in line


def test_an_exception_is_one_line_of_json() -> None:
    out = io.StringIO()
    logs.configure("info", "json", out)
    try:
        raise ValueError("inside")
    except ValueError:
        logs.get("x").exception("failed")
    (line,) = lines(out)
    assert "ValueError: inside" in line["exception"]


@pytest.mark.parametrize(("level", "format"), [("loud", "json"), ("info", "xml")])
def test_settings_that_are_none(level: str, format: str) -> None:
    with pytest.raises(ConfigError, match="is not one of"):
        logs.configure(level, format)
