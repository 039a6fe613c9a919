"""MULTI, EXEC, DISCARD, WATCH, UNWATCH: a transaction is one atomic script.

Commands are understood when they are queued and executed together at EXEC: data
commands as the mutations of one atomic write (reads in their place, never from L1), the
connection's own commands beside them, when the answer is put together.

WATCH needs a connection of its own to Redis, since there the server keeps what is watched;
`port.watch` opens it, EXEC and UNWATCH give it back.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from coherenced.core.model import Mutation, Reply
from coherenced.core.requests import Fault, Outcome, Read, Request, Write, WriteResult
from coherenced.errors import UsageError
from coherenced.wire import resp
from coherenced.wire.answers import fault_text, refusal
from coherenced.wire.commands import Access, Command
from coherenced.wire.plan import Shape, all_checked, in_transaction, merge

if TYPE_CHECKING:
    from coherenced.serve.port import NodePort
    from coherenced.serve.resp_connection import RespConnection
    from coherenced.serve.resp_flow import Slot

IMMEDIATE: Final = frozenset(("exec", "discard", "multi", "watch", "quit", "reset"))
"""What is not queued after MULTI."""
ABORTED: Final = "EXECABORT Transaction discarded because of previous errors."


class Item(msgspec.Struct, frozen=True, gc=False):
    """One queued command: its share of the script, or what it is otherwise."""

    mutations: tuple[Mutation, ...] = ()
    shape: Shape = resp.reply
    local: Command | None = None
    request: Sequence[bytes] = ()
    refused: str = ""
    """The error that stands in its place in EXEC's answer."""


class Transaction:
    """What was queued since MULTI."""

    __slots__ = ("failed", "items", "size")

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.failed = False
        """Something could not be queued: EXEC will refuse all of it."""
        self.size = 0
        """Bytes of all arguments."""


class Watched:
    """What a connection WATCHes."""

    __slots__ = ("broken", "keys", "watch_id")

    def __init__(self) -> None:
        self.watch_id = 0
        self.keys: tuple[bytes, ...] = ()
        self.broken = False
        """The upstream connection is gone: nobody can say any more that nothing changed."""

    def __bool__(self) -> bool:
        return self.watch_id != 0 or self.broken

    def release(self, port: NodePort) -> None:
        """Forget it all and give the upstream connection back."""
        watch_id = self.forget()
        if watch_id:
            port.unwatch(watch_id)

    def forget(self) -> int:
        watch_id = self.watch_id
        self.watch_id, self.keys, self.broken = 0, (), False
        return watch_id


# -- queueing ----------------------------------------------------------------------------


def multi(connection: RespConnection, request: Sequence[bytes]) -> bytes:
    if connection.transaction is not None:
        return resp.error("ERR MULTI calls can not be nested")
    connection.transaction = Transaction()
    connection.settle_mode()
    return resp.OK


def queue(connection: RespConnection, command: Command, request: list[bytes]) -> bytes:
    """Understand a command now, execute it at EXEC."""
    transaction = connection.transaction
    assert transaction is not None
    settings = connection.front.settings
    if command.is_extension:
        transaction.failed = True
        name = command.name.upper()
        return resp.error(f"ERR {name} is not possible inside a transaction: use Redis's commands")
    transaction.size += sum(map(len, request))
    if (
        len(transaction.items) >= settings.max_transaction_commands
        or transaction.size > settings.frame.max_query_bytes
    ):
        transaction.failed = True
        return resp.error(
            f"ERR a transaction has at most {settings.max_transaction_commands} commands "
            f"(limits.max_transaction_commands) and {settings.frame.max_query_bytes} bytes "
            "(listen.max_query_bytes)"
        )
    if command.plan is None:
        item = Item(local=command, request=request)
    else:
        request[0] = request[0].upper()
        try:
            plan = command.plan(request, settings.bounds)
            item = Item(in_transaction(plan, request), plan.shape)
        except UsageError as error:
            item = Item(refused=f"ERR {error}")
    transaction.items.append(item)
    return resp.QUEUED


def refused(connection: RespConnection, request: Sequence[bytes], text: str) -> str:
    """A command that does not exist, or not so: the transaction will not be carried out."""
    if connection.transaction is not None:
        connection.transaction.failed = True
    if request[0].upper() == b"EXEC":
        _leave(connection)
        return f"EXECABORT Transaction discarded because of: {text.removeprefix('ERR ')}"
    return text


def discard(connection: RespConnection, request: Sequence[bytes]) -> bytes:
    if connection.transaction is None:
        return resp.error("ERR DISCARD without MULTI")
    _leave(connection)
    return resp.OK


def _leave(connection: RespConnection) -> None:
    """The end of a transaction that is not carried out."""
    connection.transaction = None
    connection.watched.release(connection.front.port)
    connection.settle_mode()


# -- watching ----------------------------------------------------------------------------


def watch(connection: RespConnection, request: Sequence[bytes]) -> bytes | None:
    if connection.transaction is not None:
        return resp.error("ERR WATCH inside MULTI is not allowed")
    settings = connection.front.settings
    watched = connection.watched
    try:
        keys = all_checked(request[1:], settings.bounds)
    except UsageError as error:
        return resp.error(f"ERR {error}")
    if len(watched.keys) + len(keys) > settings.max_watched_keys:
        return resp.error(f"ERR at most {settings.max_watched_keys} keys can be watched at once")
    if watched.broken:
        return resp.OK  # EXEC will abort whatever else is watched
    slot = connection.open(Access.BARRIER)
    done = partial(_watching, connection, slot, keys)
    connection.front.port.watch(watched.watch_id, keys, done)
    return None


def _watching(
    connection: RespConnection, slot: Slot, keys: tuple[bytes, ...], outcome: int | Fault
) -> None:
    watched = connection.watched
    if isinstance(outcome, Fault):
        watched.broken = bool(watched.watch_id)
        connection.fill(slot, resp.error(fault_text(outcome)))
        return
    if connection.lost:
        connection.front.port.unwatch(outcome)
        return
    watched.watch_id = outcome
    watched.keys += keys
    connection.fill(slot, resp.OK)


def past_l1(request: Request) -> Request:
    """What is read while watching decides a transaction: Redis is asked."""
    if isinstance(request, Read):
        return msgspec.structs.replace(request, skip_l1=True)
    return request


def unwatch(connection: RespConnection, request: Sequence[bytes]) -> bytes:
    connection.watched.release(connection.front.port)
    connection.settle_mode()
    return resp.OK


# -- carrying out --------------------------------------------------------------------------


def execute(connection: RespConnection, request: Sequence[bytes]) -> bytes | None:
    """EXEC."""
    transaction = connection.transaction
    if transaction is None:
        return resp.error("ERR EXEC without MULTI")
    watched = connection.watched
    if transaction.failed:
        _leave(connection)
        return resp.error(ABORTED)
    if watched.broken:
        _leave(connection)
        return resp.nil_array(connection.resp3)
    mutations = [m for item in transaction.items for m in item.mutations]
    if not mutations and watched:
        # Only Redis knows whether a watched key has changed: ask with a read of no consequence.
        key = watched.keys[0]
        mutations.append(Mutation((b"EXISTS", key), keys=(key,), is_write=False))
    connection.transaction = None
    watch_id = watched.forget()
    connection.settle_mode()
    if not mutations:
        return _put_together(connection, transaction.items, (), connection.resp3)
    slot = connection.open(Access.WRITE, transaction.size)
    write = Write(tuple(mutations), atomic=True, watch_id=watch_id)
    done = partial(_executed, connection, slot, transaction.items, connection.resp3)
    connection.front.port.submit(write, done)
    return None


def _executed(
    connection: RespConnection, slot: Slot, items: Sequence[Item], resp3: bool, outcome: Outcome
) -> None:
    if connection.lost:
        return
    data = refusal((outcome,))
    if data is None:
        assert isinstance(outcome, WriteResult)
        if outcome.aborted:
            data = resp.nil_array(resp3)
        else:
            data = _put_together(connection, items, outcome.replies, resp3)
    connection.fill(slot, data)


def _put_together(
    connection: RespConnection, items: Sequence[Item], replies: Sequence[Reply], resp3: bool
) -> bytes:
    from coherenced.serve.resp_local import HANDLERS  # which has this module in its table

    answers: list[bytes] = []
    taken = 0
    for item in items:
        if item.refused:
            answers.append(resp.error(item.refused))
        elif item.local is not None:
            answers.append(HANDLERS[item.local.name](connection, item.request) or b"")
            if item.local.name == "hello":
                resp3 = connection.resp3
        else:
            share = replies[taken : taken + len(item.mutations)]
            taken += len(item.mutations)
            answers.append(item.shape(merge(share), resp3))
    return resp.array(answers)
