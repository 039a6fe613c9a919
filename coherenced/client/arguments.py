"""A method's arguments as the words of a command: names, times, options.

What cannot be one is refused here, with a `UsageError` that says what was expected.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeVar

from coherenced.errors import UsageError

MOST_REPLICAS: Final = 1000
"""Redis replicas that a write can wait for."""
LONGEST_ACK_S: Final = 3600.0
"""The longest time to wait for acknowledgements."""
MOST_STALENESS_MS: Final = 1e15
LONGEST_SILENCE_S: Final = 1e6
"""More is no time to wait for an answer, and more than the system calls take."""

K = TypeVar("K")

_LEVELS: Final = frozenset({"none", "redis", "quorum", "all"})
_HEX: Final = frozenset("0123456789abcdef")

Key = str | bytes
"""A key, tag or prefix: text is encoded as UTF-8."""


def key_bytes(key: Key) -> bytes:
    """A key, tag or prefix as bytes. Raises `UsageError` for other types."""
    if isinstance(key, bytes):
        return key
    if isinstance(key, str):
        try:
            return key.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"key {key!r} is no valid text: pass it as bytes") from error
    raise UsageError(f"a key is str or bytes, not {type(key).__name__}")


def key_list(names: Iterable[Key]) -> list[bytes]:
    """Several of them, as bytes."""
    return [key_bytes(name) for name in several(names)]


def several(names: Iterable[K]) -> Iterable[K]:
    """`names` themselves; a single text is surely a mistake."""
    if isinstance(names, str | bytes):
        raise UsageError(f"give a list of names, not the single text {names!r}")
    if not isinstance(names, Iterable):
        raise UsageError(f"give a list of names, not {names!r}")
    return names


def number(what: str, value: object) -> float:
    """`value`, if it is a number (NaN is none). `what`: the argument's name."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise UsageError(f"{what} is a number, not {value!r}")
    return value


def staleness(ms: float) -> float:
    """`max_staleness_ms`, if it can be one."""
    if not 0 <= number("max_staleness_ms", ms) < MOST_STALENESS_MS:
        raise UsageError(
            f"max_staleness_ms is 0 (linearizable) or more milliseconds, below 1e15, not {ms!r}"
        )
    return ms


def silence(seconds: float) -> float:
    """A client's `timeout`, if it can be one."""
    if not 0 < number("timeout", seconds) <= LONGEST_SILENCE_S:
        raise UsageError(
            f"timeout is a number of seconds above 0, at most {LONGEST_SILENCE_S:.0f}, "
            f"not {seconds!r}"
        )
    return seconds


def level(ack: str | int) -> bytes:
    """An acknowledgement level, as a word."""
    text = str(ack).strip().lower()
    if text not in _LEVELS and not (text.isascii() and text.isdigit() and 1 <= int(text) <= 9999):
        raise UsageError(
            f"ack is one of none, redis, quorum, all or a number of nodes from 1, not {ack!r}"
        )
    return text.encode()


def version(written: str) -> bytes:
    """`if_version` or `min_version`, as a word."""
    epoch, colon, seq = str(written).partition(":")
    is_number = seq.isascii() and seq.isdigit() and len(seq) <= 18
    if len(epoch) != 16 or not colon or not is_number or not _HEX.issuperset(epoch):
        raise UsageError(
            f"a version is what a write has returned, epoch:seq, not {written!r} (empty: a write "
            "with ack none has none)"
        )
    return f"{epoch}:{seq}".encode()


def label_list(what: str, names: Iterable[Key]) -> list[bytes]:
    """Several tags or prefixes, as bytes. `what`: one of them."""
    found = key_list(names)
    if b"" in found:
        raise UsageError(f"a {what} must not be empty")
    if what == "tag" and any(name.startswith(b"coh:") for name in found):
        raise UsageError("tags that start with coh: are the daemon's own")
    return found


def connections(most: int) -> int:
    """A client's `max_connections`, if it can be one."""
    if not isinstance(most, int) or most < 1:
        raise UsageError(f"max_connections is a whole number, at least 1, not {most!r}")
    return most


def milliseconds(what: str, seconds: float) -> bytes:
    """A time in seconds as whole milliseconds, at least one. `what`: the argument's name."""
    if not 0 < number(what, seconds) < 1e11:
        raise UsageError(f"{what} is a number of seconds above 0, below 1e11, not {seconds!r}")
    return b"%d" % max(1, round(seconds * 1000))


def write_options(
    ack: str | int | None, timeout: float | None, replicas: int = 0
) -> tuple[bytes, ...]:
    """`ACK …`, `TIMEOUT …` (seconds in, milliseconds out) and `REPLICAS …`."""
    options: tuple[bytes, ...] = ()
    if ack is not None:
        options = (b"ACK", level(ack))
    if timeout is not None:
        if number("timeout", timeout) > LONGEST_ACK_S:
            raise UsageError(f"timeout is at most {LONGEST_ACK_S:g} seconds, not {timeout!r}")
        options += (b"TIMEOUT", milliseconds("timeout", timeout))
    if not isinstance(replicas, int) or not 0 <= replicas <= MOST_REPLICAS:
        raise UsageError(f"replicas is a whole number from 0 to {MOST_REPLICAS}, not {replicas!r}")
    if replicas:
        options += (b"REPLICAS", b"%d" % replicas)
    return options


def sectioned(targets: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    """`KEYS n k… TAGS n t…` out of (section, name) pairs that come in that order."""
    sections: dict[bytes, list[bytes]] = {}
    for section, name in targets:
        sections.setdefault(section, []).append(name)
    return [
        word
        for section, names in sections.items()
        for word in (section, b"%d" % len(names), *names)
    ]
