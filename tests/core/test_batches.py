"""Batches: what goes into one, and what may be in flight beside it."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from coherenced.core.batches import BATCH_MUTATIONS, Batch, Pending, plain_key, together
from coherenced.core.lane import Lane
from coherenced.core.model import Mutation
from coherenced.core.requests import Fault, FaultKind, Level, Write, WriteResult
from tests.core.driver import delete, lineage, set_to, version


def incr(key: bytes) -> Mutation:
    return Mutation((b"INCR", key), keys=(key,), exact_integer=True)


def pending(*mutations: Mutation, level: int = Level.REDIS, **terms: Any) -> Pending:
    write = Write(mutations, **terms)
    key = plain_key(write)
    return Pending(1, level, 1e3, key or b"", key is not None, said=write)


def batch(*writes: Pending) -> Batch:
    lane = Lane(0)
    lane.anchor(lineage(10), call_id=1)
    made = Batch(lane, 0.0)
    queue = deque(writes)
    made.take(queue)
    assert not queue
    return made


def taken(*writes: Pending, before: Batch | None = None) -> int:
    """How many of them one batch takes."""
    queue = deque(writes)
    Batch(Lane(0), 0.0).take(queue, before)
    return len(writes) - len(queue)


def test_a_batch_knows_where_each_request_begins_and_who_wants_acknowledgements() -> None:
    first, second = pending(incr(b"a"), incr(b"b")), pending(incr(b"c"), level=Level.ALL)
    made = batch(first, second)
    assert (first.first, second.first) == (0, 2)
    assert made.want_ack == [False, False, True]
    assert made.chain == lineage(10)


def test_K5_a_delete_that_waits_for_replicas_is_recorded_whatever_it_finds() -> None:
    waits = pending(incr(b"a"), delete(b"b"), replicas=1)
    assert batch(waits, pending(delete(b"c"))).want_ack == [False, True, False]


def test_W6_a_batch_takes_as_many_as_fit_and_anything_as_its_first() -> None:
    many = pending(*(set_to(b"%d" % i, b"") for i in range(BATCH_MUTATIONS)))
    too_many = pending(*many.write.mutations, incr(b"z"))
    one, watching = pending(incr(b"a")), pending(incr(b"b"), watch_id=7)
    assert taken(too_many, one) == taken(many, one) == taken(one, many) == 1
    assert taken(watching, one) == taken(one, watching) == 1
    plain = [pending(set_to(b"%d" % i, b"")) for i in range(BATCH_MUTATIONS + 1)]
    assert taken(*plain) == BATCH_MUTATIONS


@pytest.mark.parametrize(
    ("write", "key"),
    [
        (Write((set_to(b"k", b"v"),)), b"k"),
        (Write((delete(b"k"),)), b"k"),
        (Write((delete(b"k", b"l"),)), None),
        (Write((incr(b"k"), incr(b"l"))), None),
        (Write((set_to(b"k", b"v", label=(b"t",)),)), b"k"),
        (Write((set_to(b"k", b"v", if_version=version(1)),)), None),
        (Write((set_to(b"k", b"v", lease=b"x"),)), None),
        (Write((set_to(b"k", b"v"),), replicas=1), None),
        (Write((set_to(b"k", b"v"),), watch_id=1), None),
    ],
)
def test_W4_the_one_key_of_a_plain_write(write: Write, key: bytes | None) -> None:
    assert plain_key(write) == key


def test_W4_only_plain_writes_to_other_keys_are_apart() -> None:
    a, b = pending(set_to(b"a", b"")), pending(set_to(b"b", b""))
    assert batch(a).is_apart_from(b)
    assert taken(b, pending(set_to(b"c", b"")), pending(set_to(b"a", b"")), before=batch(a)) == 2
    assert not batch(a, b).is_apart_from(b)
    assert not batch(a).is_apart_from(pending(delete(b"x", b"y")))
    assert not batch(a, pending(incr(b"x"), incr(b"y"))).is_apart_from(b)


def test_the_pieces_of_one_operation_together() -> None:
    one = WriteResult((1,), version(11), {"b": 2.0, "c": 1.0}, fenced=("d",))
    two = WriteResult((2, 3), version(12), {"b": 1.0}, missing=("c",), satisfied=False)
    whole = together([one, two])
    assert whole == WriteResult(
        (1, 2, 3), version(12), {"b": 2.0}, ("d",), ("c",), satisfied=False, replicas=0
    )
    fault = Fault(FaultKind.UNAVAILABLE, "no")
    assert together([one, fault, two]) is fault
