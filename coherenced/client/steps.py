"""What a loading machine asks of its shell.

A machine is a generator: it yields one step, the shell carries it out (blocking or
awaiting), sends the result back in or throws the error, and asks for the next.
What it returns is the result of the call. So the logic of loading is written once,
and neither shell has a twin of it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Final, NamedTuple, TypeVar

from coherenced.client.flights import Flight
from coherenced.client.stream import Request

T = TypeVar("T")


TOO_LONG: Final = "the loader has not returned within {:g} s (hard_timeout)"


class Call(NamedTuple):
    """Call this (and await what it returns, in the asynchronous shell).

    Past `timeout_s` it is given up: `LoadTimeout`."""

    function: Callable[[], Any]
    timeout_s: float | None = None


class Board(NamedTuple):
    """Be the one in this process who loads `name`, or find who is: a `Flight`."""

    name: bytes


class Await(NamedTuple):
    """Wait until the flight has landed: True, or False after `timeout_s`."""

    flight: Flight
    timeout_s: float


class Background(NamedTuple):
    """Carry this machine out without waiting for it: False when too many are under way."""

    machine: Machine[Any]


class Together(NamedTuple):
    """Carry these machines out, at most `limit` at a time; the list of what they return."""

    machines: list[Machine[Any]]
    limit: int


Step = Request[Any] | Call | Board | Await | Background | Together
Machine = Generator[Step, Any, T]
