"""What a write means for an origin, as a table."""

from __future__ import annotations

import pytest

from coherenced.core.model import Mutation, Version
from coherenced.origin.intents import Intent, Refused, intents_of
from coherenced.wire.plan import Bounds
from coherenced.wire.strings import delete, mset, set_, setex


def mutation(*argv: bytes) -> Mutation:
    planners = {b"SET": set_, b"SETEX": setex(1000), b"PSETEX": setex(1), b"DEL": delete}
    planners |= {b"MSET": mset, b"UNLINK": delete}
    planner = planners.get(argv[0].upper())
    if planner is None:
        return Mutation(argv, keys=(argv[1],))
    (request,) = planner(argv, Bounds()).requests
    return request.mutations[0]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("argv", "found"),
    [
        ((b"SET", b"k", b"v"), [Intent(b"k", b"v")]),
        ((b"set", b"k", b"v", b"ex", b"5"), [Intent(b"k", b"v", 5_000.0)]),
        ((b"SET", b"k", b"v", b"PX", b"5"), [Intent(b"k", b"v", 5.0)]),
        ((b"SETEX", b"k", b"5", b"v"), [Intent(b"k", b"v", 5_000.0)]),
        ((b"PSETEX", b"k", b"5", b"v"), [Intent(b"k", b"v", 5.0)]),
        ((b"DEL", b"k"), [Intent(b"k", None)]),
        ((b"UNLINK", b"k", b"l"), [Intent(b"k", None), Intent(b"l", None)]),
        ((b"MSET", b"k", b"1", b"l", b"2"), [Intent(b"k", b"1"), Intent(b"l", b"2")]),
        ((b"EXPIRE", b"k", b"5"), None),
        ((b"PERSIST", b"k"), None),
    ],
)
def test_what_a_write_means(argv: tuple[bytes, ...], found: list[Intent] | None) -> None:
    assert intents_of(mutation(*argv)) == found


@pytest.mark.parametrize(
    "argv",
    [
        (b"INCR", b"k"),
        (b"APPEND", b"k", b"v"),
        (b"GETDEL", b"k"),
        (b"SET", b"k", b"v", b"NX"),
        (b"SET", b"k", b"v", b"PX", b"5", b"XX"),
        (b"SET", b"k", b"v", b"KEEPTTL"),
        (b"SET", b"k", b"v", b"GET"),
        (b"SET", b"k", b"v", b"PX", b"0"),
        (b"SET", b"k", b"v", b"PX", b"x"),
    ],
)
def test_what_no_origin_can_be_asked_is_refused_in_one_line(argv: tuple[bytes, ...]) -> None:
    with pytest.raises(Refused) as caught:
        intents_of(mutation(*argv))
    assert "\n" not in str(caught.value)


def test_conditions_are_refused_and_types_are_told() -> None:
    conditional = Mutation((b"SET", b"k", b"v"), keys=(b"k",), if_version=Version(b"0" * 16, 1))
    with pytest.raises(Refused, match="condition"):
        intents_of(conditional)
    labelled = Mutation((b"SET", b"k", b"v"), keys=(b"k",), label=(b"t", b"content-type=a/b"))
    (intent,) = intents_of(labelled) or []
    assert intent.headers == {"Content-Type": "a/b"} and intent.labels == labelled.label
    graced = Mutation(
        (b"SET", b"k", b"v", b"PX", b"70000"), keys=(b"k",), label=(b"coh:life=70000/60000",)
    )
    (intent,) = intents_of(graced) or []
    assert (intent.ttl_ms, intent.labels) == (10_000.0, ()), "the namespace has its own grace"
    assert intents_of(Mutation((), keys=(b"k",))) is None, "an invalidation changes no origin"
