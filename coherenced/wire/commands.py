"""The one table of commands: arity, keys, access, and the planner that understands each.

    command, refusal = lookup(request)      refusal: the error text, or ''
    plan = command.plan(argv, bounds)       UsageError: its text after `ERR `
    answers.answer(plan, outcomes, resp3)   the reply

Arity counts the command's own name; negative means at least. Commands without a planner
are the connection's own (`serve/resp_local`, `serve/resp_transaction`). The answers of the
COH. commands are described in `extensions`; COH.NODES, COH.STATS, COH.EXPLAIN and
COH.AUDIT answer one bulk string of JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec

from coherenced.wire import extensions, leasing, multiget, strings, structures
from coherenced.wire.elsewhere import ELSEWHERE
from coherenced.wire.plan import status_shape
from coherenced.wire.strings import ZERO, Planner
from coherenced.wire.structures import ALL, ONE, Row


class Access:
    """What a command must wait for on its connection; the rest may be under way at once."""

    LOCAL: Final = 0
    """Nothing: it is answered from the connection's own state."""
    READ: Final = 1
    """Writes sent before it: a client reads its own writes."""
    WRITE: Final = 2
    """Reads sent before it: they must not see it."""
    BARRIER: Final = 3
    """Everything, and everything after it waits for it."""


class Command(msgspec.Struct, frozen=True, gc=False):
    """One row of the table."""

    name: str
    arity: int
    flags: tuple[str, ...]
    """As COMMAND INFO tells them."""
    keys: tuple[int, int, int]
    """First, last (negative: from the end), step; zeros: none, or not by position."""
    access: int
    plan: Planner | None
    summary: str
    group: str
    """As COMMAND DOCS tells it."""
    subcommands: Mapping[str, int] = {}
    """Name -> arity, the command's and the subcommand's names counted."""

    @property
    def is_extension(self) -> bool:
        """One of ours: not for transactions, which answer with Redis's replies."""
        return self.name.startswith("coh.")

    @property
    def needs_no_auth(self) -> bool:
        return "no_auth" in self.flags

    def takes(self, count: int) -> bool:
        return count == self.arity if self.arity >= 0 else count >= -self.arity


PAIRS: Final = (1, -1, 2)
NONE: Final = (0, 0, 0)

_SUBCOMMANDS: Final[dict[str, dict[str, int]]] = {
    "client": {
        "caching": 3,
        "getname": 2,
        "getredir": 2,
        "help": 2,
        "id": 2,
        "info": 2,
        "kill": -3,
        "list": -2,
        "no-evict": 3,
        "no-touch": 3,
        "reply": 3,
        "setinfo": 4,
        "setname": 3,
        "tracking": -3,
        "trackinginfo": 2,
        "unblock": -3,
    },
    "command": {
        "count": 2,
        "docs": -2,
        "getkeys": -3,
        "help": 2,
        "info": -2,
        "list": -2,
    },
    "config": {"get": -3, "help": 2, "resetstat": 2, "rewrite": 2, "set": -4},
}


def _rows(group: str, access: int, *rows: Row) -> Iterator[Command]:
    for name, arity, flags, keys, plan, summary in rows:
        subcommands = _SUBCOMMANDS.get(name, {})
        flag_names = tuple(flags.split())
        yield Command(name, arity, flag_names, keys, access, plan, summary, group, subcommands)


_one_key: Final = strings.read()
_type: Final = strings.read(status_shape)
_no_key: Final = strings.keyless()
_count: Final = strings.count_of_keys
_any: Final = strings.change()
_nonzero: Final = strings.change(ZERO)
_counter: Final = strings.change(exact_integer=True)
_fast_write: Final = "write denyoom fast"
_local: Final = "loading stale fast"
_state: Final = "noscript loading stale fast"
_no_auth: Final = "noscript loading stale fast no_auth"

_TABLE: Final[tuple[Command, ...]] = (
    *_rows(
        *("string", Access.READ),
        ("get", 2, "readonly fast", ONE, strings.get, "The value of a key."),
        ("mget", -2, "readonly fast", ALL, strings.mget, "The values of many keys."),
        ("strlen", 2, "readonly fast", ONE, _one_key, "The length of a value."),
        ("getrange", 4, "readonly", ONE, _one_key, "A part of a value."),
        ("substr", 4, "readonly", ONE, _one_key, "A part of a value."),
    ),
    *_rows(
        *("generic", Access.READ),
        ("type", 2, "readonly fast", ONE, _type, "What kind of value a key holds."),
        ("ttl", 2, "readonly fast", ONE, _one_key, "Seconds until it expires."),
        ("pttl", 2, "readonly fast", ONE, _one_key, "Milliseconds until it expires."),
        ("expiretime", 2, "readonly fast", ONE, _one_key, "When it expires, Unix time."),
        ("pexpiretime", 2, "readonly fast", ONE, _one_key, "The same in milliseconds."),
        ("exists", -2, "readonly fast", ALL, _count, "How many of these keys exist."),
        ("touch", -2, "readonly fast", ALL, _count, "Mark keys as used."),
        ("scan", -2, "readonly", NONE, strings.scan, "Walk over the keys."),
        ("keys", 2, "readonly", NONE, strings.keys, "All keys that match."),
    ),
    *_rows(
        *("server", Access.READ),
        ("dbsize", 1, "readonly fast", NONE, _no_key, "How many keys there are."),
        ("time", 1, _local, NONE, _no_key, "The clock of Redis."),
    ),
    *_rows(
        *("string", Access.WRITE),
        ("set", -3, "write denyoom", ONE, strings.set_, "Set a value."),
        ("setex", 4, "write denyoom", ONE, strings.setex(1000), "Set with a time to live."),
        ("psetex", 4, "write denyoom", ONE, strings.setex(1), "The same in milliseconds."),
        ("setnx", 3, _fast_write, ONE, _nonzero, "Set a value if there is none."),
        ("getset", 3, _fast_write, ONE, _any, "Set, and return the old value."),
        ("getdel", 2, "write fast", ONE, strings.getdel, "Return a value and delete it."),
        ("getex", -2, "write fast", ONE, strings.getex, "Return a value, set its expiry."),
        ("mset", -3, "write denyoom", PAIRS, strings.mset, "Set many values."),
        ("msetnx", -3, "write denyoom", PAIRS, strings.msetnx, "Set all, or none."),
        ("append", 3, _fast_write, ONE, strings.append, "Add to the end of a value."),
        ("setrange", 4, "write denyoom", ONE, strings.setrange, "Overwrite a part of a value."),
        ("incr", 2, _fast_write, ONE, _counter, "Add one."),
        ("decr", 2, _fast_write, ONE, _counter, "Take one away."),
        ("incrby", 3, _fast_write, ONE, _counter, "Add a number."),
        ("decrby", 3, _fast_write, ONE, _counter, "Take a number away."),
        ("incrbyfloat", 3, _fast_write, ONE, _any, "Add a number with fractions."),
    ),
    *_rows(
        *("generic", Access.WRITE),
        ("expire", -3, "write fast", ONE, _nonzero, "Set a time to live."),
        ("pexpire", -3, "write fast", ONE, _nonzero, "The same in milliseconds."),
        ("expireat", -3, "write fast", ONE, _nonzero, "Set when it expires, Unix time."),
        ("pexpireat", -3, "write fast", ONE, _nonzero, "The same in milliseconds."),
        ("persist", 2, "write fast", ONE, _nonzero, "Take the expiry away."),
        ("del", -2, "write", ALL, strings.delete, "Delete keys."),
        ("unlink", -2, "write fast", ALL, strings.delete, "Delete keys, freed later."),
    ),
    *_rows(
        *("server", Access.WRITE),
        ("flushdb", -1, "write", NONE, strings.flush, "Delete every key."),
        ("flushall", -1, "write", NONE, strings.flush, "Delete every key everywhere."),
    ),
    *_rows("hash", Access.READ, *structures.HASH_READS),
    *_rows("hash", Access.WRITE, *structures.HASH_WRITES),
    *_rows("list", Access.READ, *structures.LIST_READS),
    *_rows("list", Access.WRITE, *structures.LIST_WRITES),
    *_rows("set", Access.READ, *structures.SET_READS),
    *_rows("set", Access.WRITE, *structures.SET_WRITES),
    *_rows("sorted-set", Access.READ, *structures.SORTED_SET_READS),
    *_rows("sorted-set", Access.WRITE, *structures.SORTED_SET_WRITES),
    *_rows(
        *("coherence", Access.READ),
        ("coh.get", -2, "readonly fast", ONE, extensions.get, "GET with a bound of its own."),
        ("coh.mget", -2, "readonly fast", ALL, multiget.mget, "MGET, of one moment if asked."),
        (
            "coh.lease",
            -2,
            "write blocking",
            ONE,
            leasing.lease,
            "A value, or the right to load it.",
        ),
        ("coh.nodes", 1, "readonly", NONE, None, "The nodes, as JSON."),
        ("coh.audit", -1, "readonly", NONE, None, "Compare this cache with Redis, as JSON."),
    ),
    *_rows(
        *("coherence", Access.WRITE),
        ("coh.set", -3, "write denyoom", ONE, extensions.set_, "SET with tags and terms."),
        ("coh.del", -2, "write", ONE, extensions.delete, "DEL with terms."),
        ("coh.fill", -4, "write denyoom", ONE, leasing.fill, "Store what a lease has loaded."),
        ("coh.release", -3, "write", ONE, leasing.release, "Give a lease back."),
        ("coh.invalidate", -2, "write", NONE, extensions.invalidate, "Drop copies everywhere."),
    ),
    *_rows(
        *("coherence", Access.LOCAL),
        ("coh.stats", 1, "readonly", NONE, None, "What this node counts, as JSON."),
        ("coh.explain", 2, "readonly", ONE, None, "Why a key is served from where."),
        ("coh.page", 1, "readonly", NONE, None, "Where the shared page is, as JSON."),
    ),
    *_rows(
        *("connection", Access.LOCAL),
        ("ping", -1, "fast", NONE, None, "Is anybody there?"),
        ("echo", 2, _local, NONE, None, "Say it back."),
        ("quit", -1, _no_auth, NONE, None, "Close the connection."),
        ("hello", -1, _no_auth, NONE, None, "Choose the protocol, introduce oneself."),
        ("auth", -2, _no_auth, NONE, None, "Give the password."),
        ("select", 2, _local, NONE, None, "Choose the database."),
        ("client", -2, "", NONE, None, "About connections."),
    ),
    *_rows(
        *("server", Access.LOCAL),
        ("command", -1, "loading stale", NONE, None, "About commands."),
        ("config", -2, "", NONE, None, "About the configuration."),
        ("info", -1, "loading stale", NONE, None, "About this daemon."),
        ("readonly", 1, _local, NONE, None, "Refused: this is no cluster."),
        ("readwrite", 1, _local, NONE, None, "Refused: this is no cluster."),
    ),
    *_rows(
        *("transactions", Access.LOCAL),
        ("multi", 1, _state, NONE, None, "Begin a transaction."),
    ),
    *_rows(
        *("transactions", Access.WRITE),
        ("exec", 1, "noscript loading stale", NONE, None, "Carry the transaction out."),
    ),
    *_rows(
        *("transactions", Access.BARRIER),
        ("discard", 1, _state, NONE, None, "Forget the transaction."),
        ("watch", -2, _state, ALL, None, "Only if these keys stay as they are."),
        ("unwatch", 1, _state, NONE, None, "Forget what is watched."),
        ("reset", 1, _no_auth, NONE, None, "As if newly connected."),
    ),
)

COMMANDS: Final[dict[bytes, Command]] = {c.name.upper().encode(): c for c in _TABLE}
"""By their name in upper case."""

UNSUPPORTED: Final = frozenset(
    b"SUBSCRIBE PSUBSCRIBE SSUBSCRIBE UNSUBSCRIBE PUNSUBSCRIBE SUNSUBSCRIBE MONITOR".split()
)
"""Known, and refused in plain words: they would turn the connection into another thing."""

ITSELF: Final = "connect to Redis itself for it"

CROSS_PROTOCOL: Final = frozenset((b"POST", b"HOST:"))
"""A browser was made to speak to this port: hang up, as Redis does."""


def lookup(request: Sequence[bytes]) -> tuple[Command | None, str]:
    """The command of a request (its first word in upper case), or why it is refused."""
    verb = request[0]
    command = COMMANDS.get(verb) or COMMANDS.get(verb.upper())
    if command is None:
        return None, unknown_text(request)
    count = len(request)
    if command.subcommands and count > 1:
        name = request[1].decode("utf-8", "surrogateescape")
        arity = command.subcommands.get(name.lower())
        if arity is None:
            text = f"ERR unknown subcommand '{name[:128]}'. Try {command.name.upper()} HELP."
            return None, text
        if count != arity if arity >= 0 else count < -arity:
            return None, arity_text(f"{command.name}|{name.lower()}")
    elif not command.takes(count):
        return None, arity_text(command.name)
    return command, ""


def arity_text(name: str) -> str:
    return f"ERR wrong number of arguments for '{name}' command"


def unknown_text(request: Sequence[bytes]) -> str:
    """Redis's own words, with the beginning of the arguments."""
    verb = request[0]
    upper = verb.upper()
    if upper in UNSUPPORTED:
        name = upper.decode("ascii")
        return f"ERR {name} is not supported through coherenced: {ITSELF}"
    if upper in ELSEWHERE:
        # It begins as Redis's own text does, by which libraries know that they must do without.
        name = verb.decode("ascii")
        return f"ERR unknown command '{name}', not supported through coherenced: {ITSELF}"
    shown = b""
    for argument in request[1:]:
        if len(shown) >= 128:
            break
        room = 128 - len(shown)
        shown += b"'%b' " % argument.partition(b"\0")[0][:room]
    name = verb.partition(b"\0")[0][:128].decode("utf-8", "surrogateescape")
    told = shown.decode("utf-8", "surrogateescape")
    return f"ERR unknown command '{name}', with args beginning with: {told}"


def keys_of(command: Command, request: Sequence[bytes]) -> list[bytes]:
    """The keys of a request by position (COMMAND GETKEYS)."""
    first, last, step = command.keys
    if not first:
        return []
    end = last if last >= 0 else len(request) + last
    return list(request[first : end + 1 : step])


def listed() -> Iterator[Command]:
    """Every command, by name."""
    return iter(sorted(COMMANDS.values(), key=lambda command: command.name))
