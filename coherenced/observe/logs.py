"""Logs: one line for each change of state, on stderr.

JSON when stderr is not a terminal (a pipe, systemd, a container), readable
columns on a terminal. Lines of the libraries underneath (asyncio, aiohttp,
redis) take the same road, so that a log file has one format.
"""

from __future__ import annotations

import logging
import sys
from functools import cache
from typing import Any, Final, TextIO

import structlog
from structlog.typing import FilteringBoundLogger, Processor

from coherenced.errors import ConfigError
from coherenced.observe.lines import Lines

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
FORMATS: Final = ("auto", "json", "pretty")


def configure(level: str = "info", format: str = "auto", stream: TextIO | None = None) -> None:
    """Set up logging for the process; may be called again (SIGHUP).

    `level` is debug, info, warning or error; `format` is auto, json or pretty
    (auto: pretty iff the stream is a terminal). `stream` is stderr unless given, and
    then one that never holds the daemon up (see `lines`).
    ConfigError when one of them is none of these.
    """
    if level not in LEVELS:
        raise ConfigError(f"log.level {level!r} is not one of {', '.join(LEVELS)}")
    if format not in FORMATS:
        raise ConfigError(f"log.format {format!r} is not one of {', '.join(FORMATS)}")
    out = _stderr() if stream is None else stream
    pretty = format == "pretty" or (format == "auto" and out.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(
            fmt="%H:%M:%S.%f" if pretty else "iso", utc=not pretty, key="timestamp"
        ),
        structlog.processors.StackInfoRenderer(),
    ]
    render: list[Processor]
    if pretty:
        render = [structlog.dev.ConsoleRenderer(colors=out.isatty(), sort_keys=False)]
    else:
        render = [
            structlog.processors.format_exc_info,
            structlog.processors.UnicodeDecoder(),
            structlog.processors.EventRenamer("message"),
            _in_reading_order,
            structlog.processors.JSONRenderer(default=str),
        ]
    if isinstance(out, Lines):
        out.tell_lost = lambda lost: _lost(lost, [*shared, *render])
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(out),
        # Not cached: a reload changes the level of loggers that already exist.
        cache_logger_on_first_use=False,
    )
    _adopt_library_logs(out, LEVELS[level], shared, render)


def _stderr() -> Any:
    """Descriptor 2; or what somebody, a test, has put in the place of Python's stream to it."""
    try:
        ours = sys.stderr.fileno() == 2
    except (OSError, ValueError):
        ours = False
    return _descriptor_2() if ours else sys.stderr


@cache
def _descriptor_2() -> Lines:
    return Lines(2)


def _lost(lost: int, processors: list[Processor]) -> str:
    """The line that tells of lines which nobody will read, in the format of all others."""
    event: Any = {"event": "log lines were lost: they could not be written", "component": "logs"}
    event["lost"] = lost
    for processor in processors:
        event = processor(None, "warning", event)
    return f"{event}\n"


def get(component: str) -> FilteringBoundLogger:
    """The logger of one part of the daemon; its lines carry `component`."""
    logger: FilteringBoundLogger = structlog.get_logger(component=component)
    return logger


def _adopt_library_logs(
    out: TextIO, level: int, shared: list[Processor], render: list[Processor]
) -> None:
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, _add_component],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    for old in list(root.handlers):
        if getattr(old, "_coherenced", False):
            root.removeHandler(old)
    handler._coherenced = True  # type: ignore[attr-defined]
    root.addHandler(handler)
    # Libraries are quieter by one step: their "info" is our "debug".
    root.setLevel(max(level, logging.WARNING) if level > logging.DEBUG else logging.DEBUG)


def _in_reading_order(logger: Any, method: str, event: Any) -> Any:
    """When, how bad, what; then who and the rest: people read JSON lines, too."""
    first = {key: event.pop(key) for key in _FIRST if key in event}
    return {**first, **event}


_FIRST: Final = ("timestamp", "level", "message", "component", "name")


def _add_component(logger: Any, method: str, event: Any) -> Any:
    record = event.get("_record")
    if record is not None:
        event["component"] = record.name
    return event
