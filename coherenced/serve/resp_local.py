"""Commands that the connection answers itself: who speaks, in which protocol, about what.

Each handler takes the connection and the request and returns the reply; None: it has
opened a slot and will fill it. What they tell of the daemon is in `resp_about`.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from coherenced.core.requests import Fault
from coherenced.errors import UsageError
from coherenced.serve import resp_about, resp_transaction
from coherenced.serve.resp_settings import COMPATIBLE_WITH
from coherenced.wire import resp
from coherenced.wire.answers import fault_text
from coherenced.wire.commands import Access, arity_text
from coherenced.wire.plan import NOT_INTEGER, all_checked, checked, whole_number

if TYPE_CHECKING:
    from coherenced.serve.resp_connection import RespConnection

Request = Sequence[bytes]
Handler = Callable[["RespConnection", Request], bytes | None]

NO_AUTH: Final = "NOAUTH Authentication required."
_HELLO_FIRST: Final = (
    "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO "
    "<proto> AUTH <user> <pass> option can be used to authenticate the client and select the "
    "RESP protocol version at the same time"
)
_NO_PASSWORD: Final = (
    "ERR AUTH <password> called without any password configured for the default user. "
    "Are you sure your configuration is correct?"
)
_WRONG_PASSWORD: Final = "WRONGPASS invalid username-password pair or user is disabled."
_NO_CLUSTER: Final = "ERR This instance has cluster support disabled"
_SYNTAX: Final = "ERR syntax error"
_INT64: Final = 1 << 63
AUDITED: Final = 1_000
"""Keys that COH.AUDIT compares when it is not told which or how many."""
MOST_AUDITED: Final = 1_000_000

_json: Final = msgspec.json.Encoder().encode


# -- the connection itself ---------------------------------------------------------------


def ping(connection: RespConnection, request: Request) -> bytes:
    if len(request) > 2:
        return resp.error(arity_text("ping"))
    return resp.bulk(request[1]) if len(request) == 2 else resp.PONG


def echo(connection: RespConnection, request: Request) -> bytes:
    return resp.bulk(request[1])


def quit_(connection: RespConnection, request: Request) -> None:
    connection.reply(resp.OK)
    connection.end()


def reset(connection: RespConnection, request: Request) -> bytes:
    connection.transaction = None
    connection.watched.release(connection.front.port)
    connection.name = b""
    connection.resp3 = False
    connection.distrust()
    return resp.status(b"RESET")


def select(connection: RespConnection, request: Request) -> bytes:
    try:
        number = whole_number(request[1], -_INT64, _INT64 - 1)
    except UsageError as error:
        return resp.error(f"ERR {error}")
    if not -(1 << 31) <= number < 1 << 31:
        return resp.error(
            "ERR value is out of range, value must between -2147483648 and 2147483647"
        )
    if number in (0, connection.front.settings.database):
        return resp.OK
    return resp.error("ERR DB index is out of range")


def auth(connection: RespConnection, request: Request) -> bytes:
    if len(request) > 3:
        return resp.error(_SYNTAX)
    if len(request) == 2 and not connection.front.settings.password:
        return resp.error(_NO_PASSWORD)
    user = request[1] if len(request) == 3 else b"default"
    if not _authenticate(connection, user, request[-1]):
        return resp.error(_WRONG_PASSWORD)
    return resp.OK


def _authenticate(connection: RespConnection, user: bytes, password: bytes) -> bool:
    wanted = connection.front.settings.password.encode("utf-8", "surrogateescape")
    if user != b"default" or (wanted and not hmac.compare_digest(wanted, password)):
        return False
    connection.trust()
    return True


def hello(connection: RespConnection, request: Request) -> bytes:
    """HELLO [protocol [AUTH user password] [SETNAME name]]"""
    protocol = 3 if connection.resp3 else 2
    if len(request) > 1:
        try:
            protocol = whole_number(request[1], -_INT64, _INT64 - 1)
        except UsageError:
            return resp.error("ERR Protocol version is not an integer or out of range")
        if protocol not in (2, 3):
            return resp.error("NOPROTO unsupported protocol version")
    name: bytes | None = None
    words = list(request[2:])
    while words:
        option = words.pop(0)
        if option.upper() == b"AUTH" and len(words) >= 2:
            if not _authenticate(connection, words.pop(0), words.pop(0)):
                return resp.error(_WRONG_PASSWORD)
        elif option.upper() == b"SETNAME" and words:
            name = words.pop(0)
            if not _is_name(name):
                return resp.error(_bad_name("Client names"))
        else:
            shown = option.decode("utf-8", "surrogateescape")
            return resp.error(f"ERR Syntax error in HELLO option '{shown}'")
    if not connection.authenticated:
        return resp.error(_HELLO_FIRST)
    if name is not None:
        connection.name = name
    connection.resp3 = protocol == 3
    told: dict[bytes, resp.Value] = {
        b"server": b"coherenced",
        b"version": COMPATIBLE_WITH,
        b"proto": protocol,
        b"id": connection.number,
        b"mode": b"standalone",
        b"role": b"master",
        b"modules": (),
    }
    return resp.encode(told, connection.resp3)


def no_cluster(connection: RespConnection, request: Request) -> bytes:
    return resp.error(_NO_CLUSTER)


# -- CLIENT ------------------------------------------------------------------------------


def client(connection: RespConnection, request: Request) -> bytes:
    return _CLIENT[request[1].lower()](connection, request)


def _is_name(name: bytes) -> bool:
    return all(33 <= byte <= 126 for byte in name)


def _bad_name(what: str) -> str:
    return f"ERR {what} cannot contain spaces, newlines or special characters."


def _client_setname(connection: RespConnection, request: Request) -> bytes:
    if not _is_name(request[2]):
        return resp.error(_bad_name("Client names"))
    connection.name = request[2]
    return resp.OK


def _client_getname(connection: RespConnection, request: Request) -> bytes:
    return resp.reply(connection.name or None, connection.resp3)


def _client_setinfo(connection: RespConnection, request: Request) -> bytes:
    attribute = request[2].lower()
    if attribute not in (b"lib-name", b"lib-ver"):
        shown = request[2].decode("utf-8", "surrogateescape")
        return resp.error(f"ERR Unrecognized option '{shown}'")
    if not _is_name(request[3]):
        return resp.error(_bad_name(attribute.decode()))
    connection.library[attribute == b"lib-ver"] = request[3]
    return resp.OK


def _client_id(connection: RespConnection, request: Request) -> bytes:
    return resp.integer(connection.number)


def _client_info(connection: RespConnection, request: Request) -> bytes:
    return resp.verbatim(resp_about.client_line(connection), connection.resp3)


def _client_list(connection: RespConnection, request: Request) -> bytes:
    """CLIENT LIST [TYPE type] [ID id...]"""
    connections = connection.front.connections
    chosen = list(connections.values())
    words = list(request[2:])
    if words:
        option = words.pop(0).upper()
        if option == b"TYPE" and len(words) == 1:
            kind = words[0].lower()
            if kind not in (b"normal", b"master", b"replica", b"slave", b"pubsub"):
                shown = words[0].decode("utf-8", "surrogateescape")
                return resp.error(f"ERR Unknown client type '{shown}'")
            chosen = chosen if kind == b"normal" else []
        elif option == b"ID" and words:
            try:
                numbers = [whole_number(word, 1, _INT64 - 1) for word in words]
            except UsageError:
                return resp.error("ERR Invalid client ID")
            chosen = [connections[number] for number in numbers if number in connections]
        else:
            return resp.error(_SYNTAX)
    return resp.verbatim(b"".join(map(resp_about.client_line, chosen)), connection.resp3)


def _client_switch(connection: RespConnection, request: Request) -> bytes:
    """NO-EVICT, NO-TOUCH: accepted, there is nothing here that they could change."""
    return resp.OK if request[2].upper() in (b"ON", b"OFF") else resp.error(_SYNTAX)


def _client_reply(connection: RespConnection, request: Request) -> bytes:
    mode = request[2].upper()
    if mode == b"ON":
        return resp.OK
    if mode in (b"OFF", b"SKIP"):
        return resp.error("ERR CLIENT REPLY OFF and SKIP are not supported through coherenced")
    return resp.error(_SYNTAX)


def _client_kill(connection: RespConnection, request: Request) -> bytes:
    return resp.error("ERR CLIENT KILL is not supported through coherenced")


def _client_tracking(connection: RespConnection, request: Request) -> bytes:
    mode = request[2].upper()
    if mode == b"OFF":
        return resp.OK
    if mode == b"ON":
        return resp.error(
            "ERR CLIENT TRACKING is not supported through coherenced: its own cache on this "
            "host is kept coherent, a second one in the client is not"
        )
    return resp.error(_SYNTAX)


def _client_caching(connection: RespConnection, request: Request) -> bytes:
    return resp.error(
        "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN "
        "or OPTOUT mode enabled"
    )


def _client_trackinginfo(connection: RespConnection, request: Request) -> bytes:
    told: dict[bytes, resp.Value] = {
        b"flags": resp.Set((b"off",)),
        b"redirect": -1,
        b"prefixes": (),
    }
    return resp.encode(told, connection.resp3)


def _client_getredir(connection: RespConnection, request: Request) -> bytes:
    return resp.integer(-1)


def _client_unblock(connection: RespConnection, request: Request) -> bytes:
    """Nothing here blocks."""
    try:
        whole_number(request[2], -_INT64, _INT64 - 1)
    except UsageError:
        return resp.error(f"ERR {NOT_INTEGER}")
    if len(request) > 3 and request[3].upper() not in (b"TIMEOUT", b"ERROR"):
        return resp.error("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR")
    return resp.integer(0)


_CLIENT: Final[dict[bytes, Callable[[RespConnection, Request], bytes]]] = {
    b"caching": _client_caching,
    b"getname": _client_getname,
    b"getredir": _client_getredir,
    b"help": resp_about.subcommands,
    b"id": _client_id,
    b"info": _client_info,
    b"kill": _client_kill,
    b"list": _client_list,
    b"no-evict": _client_switch,
    b"no-touch": _client_switch,
    b"reply": _client_reply,
    b"setinfo": _client_setinfo,
    b"setname": _client_setname,
    b"tracking": _client_tracking,
    b"trackinginfo": _client_trackinginfo,
    b"unblock": _client_unblock,
}


# -- the node ----------------------------------------------------------------------------


def coh_stats(connection: RespConnection, request: Request) -> bytes:
    return resp.bulk(_json(connection.front.port.stats()))


def coh_page(connection: RespConnection, request: Request) -> bytes:
    return resp.bulk(_json(connection.front.port.page()))


def coh_explain(connection: RespConnection, request: Request) -> bytes:
    front = connection.front
    try:
        key = checked(request[1], front.settings.bounds)
    except UsageError as error:
        return resp.error(f"ERR {error}")
    return resp.bulk(_json(front.port.explain(key)))


def coh_nodes(connection: RespConnection, request: Request) -> None:
    connection.front.port.nodes(_told_later(connection))


def coh_audit(connection: RespConnection, request: Request) -> bytes | None:
    """COH.AUDIT [COUNT n | KEYS n key...]"""
    words = list(request[1:])
    keys: Sequence[bytes] | int = AUDITED
    try:
        if len(words) >= 2 and words[0].upper() == b"KEYS":
            named = all_checked(words[2:], connection.front.settings.bounds)
            if len(named) != whole_number(words[1], 1, MOST_AUDITED):
                return resp.error(_SYNTAX)
            keys = named
        elif len(words) == 2 and words[0].upper() == b"COUNT":
            keys = whole_number(words[1], 1, MOST_AUDITED)
        elif words:
            return resp.error(_SYNTAX)
    except UsageError as error:
        return resp.error(f"ERR {error}")
    connection.front.port.audit(keys, _told_later(connection))
    return None


def _told_later(connection: RespConnection) -> Callable[[dict[str, object] | Fault], None]:
    """Open a slot; what fills it, with JSON or the fault, when the node knows."""
    slot = connection.open(Access.READ)

    def done(outcome: dict[str, object] | Fault) -> None:
        if isinstance(outcome, Fault):
            data = resp.error(fault_text(outcome))
        else:
            data = resp.bulk(_json(outcome))
        connection.fill(slot, data)

    return done


HANDLERS: Final[dict[str, Handler]] = {
    "auth": auth,
    "client": client,
    "coh.audit": coh_audit,
    "coh.explain": coh_explain,
    "coh.nodes": coh_nodes,
    "coh.page": coh_page,
    "coh.stats": coh_stats,
    "command": resp_about.command,
    "config": resp_about.config,
    "discard": resp_transaction.discard,
    "echo": echo,
    "exec": resp_transaction.execute,
    "hello": hello,
    "info": resp_about.info,
    "multi": resp_transaction.multi,
    "ping": ping,
    "quit": quit_,
    "readonly": no_cluster,
    "readwrite": no_cluster,
    "reset": reset,
    "select": select,
    "unwatch": resp_transaction.unwatch,
    "watch": resp_transaction.watch,
}
"""Every command of the table that has no planner."""
