"""What waits to be written behind, and its dead letters, for people: list, replay, drop."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from coherenced.core.requests import Fault, FaultKind
from coherenced.errors import RedisUnreachable
from coherenced.origin.behind import WriteBehind
from coherenced.origin.sender import decode
from coherenced.wire.names import json_name

MOST_SHOWN: Final = 100
"""Entries and dead letters of one namespace in one answer; the oldest."""
_LETTER_ID: Final = re.compile(r"[0-9]{1,19}-[0-9]{1,19}")
"""What an id of a Redis Stream looks like; anything else is no letter's, and not for Redis."""
REPLAYED: Final = 1
SUPERSEDED: Final = 2


async def describe(behind: WriteBehind | None, names: Mapping[str, str]) -> dict[str, Any] | Fault:
    """Per namespace: how much waits, who sends, the oldest entries, the oldest dead letters.

    `names`: of nodes, by incarnation.
    """
    namespaces: dict[str, Any] = {}
    try:
        for name, sender in ({} if behind is None else behind.senders).items():
            store = sender.store
            count = await store.count(name)
            owner = count.owner.decode("ascii", "replace")
            namespaces[name] = {
                "waiting": count.waiting,
                "keys": count.keys,
                "dead": count.dead,
                "owner": names.get(owner, owner),
                "error": sender.error,
                "oldest": [
                    {"id": entry.decode(), "key": json_name(key)}
                    for entry, key in await store.waiting(name, MOST_SHOWN)
                ],
                "letters": [_letter(one) for one in await store.dead(name, MOST_SHOWN)],
            }
    except RedisUnreachable as error:
        return Fault(FaultKind.UNAVAILABLE, str(error))
    except (ValueError, TypeError, LookupError) as error:
        return Fault(FaultKind.UNAVAILABLE, f"the queue in Redis is not readable: {error}")
    return {"namespaces": namespaces}


def _letter(letter: Any) -> dict[str, Any]:
    payload = decode(letter.payload)
    value = None if payload is None else payload.value
    return {
        "id": letter.id.decode(),
        "key": json_name(letter.key),
        "operation": "DELETE" if payload is not None and value is None else "PUT",
        "bytes": len(value) if value is not None else 0,
        "why": letter.why,
        "tries": letter.tries,
    }


async def settle(
    behind: WriteBehind | None, namespace: str, ids: Sequence[str] | None, *, replay: bool
) -> dict[str, Any] | Fault | None:
    """Send dead letters again, or forget them; None of the ids: all of them. None: no such queue.

    A letter is not sent again when a newer write of its key waits: it is forgotten
    (`superseded`). A replayed one is sent with the newest of its key, then what is cached of
    the key is dropped.
    """
    sender = None if behind is None else behind.senders.get(namespace)
    if sender is None:
        return None
    told: dict[str, Any] = {"done": 0, "superseded": 0, "unknown": []}
    try:
        if ids is None:
            count = (await sender.store.count(namespace)).dead
            letters = await sender.store.dead(namespace, count)
            ids = [letter.id.decode() for letter in letters]
        for letter_id in ids:
            if not _LETTER_ID.fullmatch(letter_id):
                told["unknown"].append(letter_id)
                continue
            raw = letter_id.encode()
            if not replay:
                found = int(await sender.store.drop(namespace, raw))
            else:
                found = await sender.store.replay(namespace, raw)
            if found == REPLAYED:
                told["done"] += 1
            elif found == SUPERSEDED:
                told["superseded"] += 1
            else:
                told["unknown"].append(letter_id)
    except RedisUnreachable as error:
        return Fault(FaultKind.UNAVAILABLE, str(error))
    except (ValueError, TypeError, LookupError) as error:
        return Fault(FaultKind.UNAVAILABLE, f"the queue in Redis is not readable: {error}")
    sender.poke()
    return told
