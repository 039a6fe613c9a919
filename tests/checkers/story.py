"""Histories written by hand, one operation a line, for the checkers' own tests.

    A@n1  write  k=x      0  10  v=1 ack=all
    B@n2  mget   k=x j=-  5   9  snapshot

session@node, kind, key=value pairs (`-` is absent; a delete has only keys), start and
end in ms (`?`: never answered). Options: `v=N` version N of epoch a, `v=b:N` of epoch
b; `ack=LEVEL`, `noack`, `max=MS` (max_staleness_ms), `min=N` (min_version),
`ttl=MS`, `refused`, `final`, `snapshot`, `stale`.
"""

from __future__ import annotations

from typing import Any

from tests.checkers.history import MAKES_ABSENT, History, Kind, Operation, Outcome


def tell(text: str, *, bound_ms: float = 100.0, initial: dict[str, str] | None = None) -> History:
    """The history that `text` describes."""
    lines = [line.split() for line in text.splitlines() if line.strip()]
    operations = [_operation(number, words) for number, words in enumerate(lines, 1)]
    return History(operations=operations, bound_ms=bound_ms, initial=initial or {})


def _operation(number: int, words: list[str]) -> Operation:
    who, kind, *rest = words
    session, _, node = who.partition("@")
    first_time = next(place for place, word in enumerate(rest) if word.isdigit())
    items, (start, end), options = (
        rest[:first_time],
        rest[first_time : first_time + 2],
        rest[first_time + 2 :],
    )
    pairs = [item.partition("=") for item in items]
    details: dict[str, Any] = {}
    for option in options:
        details.update(_option(option))
    details.setdefault("outcome", Outcome.UNKNOWN if end == "?" else Outcome.OK)
    without = kind in MAKES_ABSENT or kind == Kind.FLUSH
    values = () if without else tuple(None if v == "-" else v for _, _, v in pairs)
    return Operation(
        id=number,
        session=session,
        node=node,
        kind=kind,
        keys=tuple(key for key, _, _ in pairs),
        values=values,
        start_ns=int(start) * 1_000_000,
        end_ns=None if end == "?" else int(end) * 1_000_000,
        **details,
    )


def _option(option: str) -> dict[str, Any]:
    name, _, value = option.partition("=")
    match name:
        case "v":
            return {"version": _version(value)}
        case "min":
            return {"min_version": _version(value)}
        case "ack":
            return {"level": value}
        case "noack":
            return {"satisfied": False}
        case "max":
            return {"max_staleness_ms": float(value)}
        case "ttl":
            return {"ttl_ms": int(value)}
        case "refused":
            return {"outcome": Outcome.FAIL}
        case "final" | "snapshot" | "stale":
            return {name: True}
    raise ValueError(f"unknown option {option!r}")


def _version(text: str) -> str:
    epoch, _, seq = text.rpartition(":")
    return f"{(epoch or 'a') * 16}:{seq}"
