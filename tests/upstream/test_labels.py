"""Labelled values (T1): cache entries in Redis that die of their tags; plain values never do."""

from __future__ import annotations

from time import sleep

import pytest

from coherenced.core.life import age_ms, life_label
from coherenced.core.model import Mutation, Query, ReplyError
from tests.servers import Server, wait_until
from tests.upstream.lanes import FLUSH, NAMES, Lane, delete, incr, invalidate, set_, write

DAY_MS = 86_400_000
DEAD = b"coh:{0}:dead"
LABELS = b"coh:{0}:labels"
PREFIXES = b"coh:{0}:prefixes"


def label_key(key: bytes) -> bytes:
    return b"coh:{0}:label:" + key


def labelled(key: bytes, *tags: bytes, px: bytes | None = None) -> Mutation:
    options = (b"PX", px) if px else ()
    return set_(key, b"value", *options, label=tags)


def alive(lane: Lane, key: bytes) -> bool:
    return lane.fetch(key).value is not None


def test_labels_are_read_with_the_value(lane: Lane) -> None:
    lane.mutate(labelled(b"a", b"t", b"\xff\x00"), set_(b"plain", b"1"))
    assert lane.fetch(b"a").labels == (b"t", b"\xff\x00")
    assert lane.fetch(b"plain").labels == ()
    assert lane.fetch(b"missing").labels == ()


@pytest.mark.parametrize(
    "record",
    [
        invalidate(b"a"),
        invalidate(tags=(b"x", b"t")),
        invalidate(prefixes=(b"zz", b"a")),
        invalidate(everything=True),
    ],
    ids=["key", "tag", "prefix", "everything"],
)
def test_a_labelled_value_dies_of_what_covers_it(lane: Lane, record: Mutation) -> None:
    lane.mutate(labelled(b"a", b"t"), labelled(b"b", b"u"), set_(b"ab", b"plain"))
    lane.mutate(record)
    assert not alive(lane, b"a")
    assert alive(lane, b"b") == (not record.everything)
    assert alive(lane, b"ab"), "a plain value lives in Redis: no invalidation ends it"
    assert lane.server.command("EXISTS", b"a", label_key(b"a")) == 0
    # Written again afterwards it lives, and what is older does not touch it.
    lane.mutate(labelled(b"a", b"t"))
    assert alive(lane, b"a")


def test_a_dead_value_is_absent_for_every_command(lane: Lane) -> None:
    keys = [b"a%d" % i for i in range(8)]
    lane.mutate(*(labelled(key, b"t") for key in keys), invalidate(tags=(b"t",)))
    exists = Query((b"EXISTS", keys[0]), (keys[0],))
    assert lane.fetch_all(exists).results == (0,)
    assert lane.reply(incr(keys[1])) == 1
    assert lane.reply(write(b"APPEND", keys[2], b"x")) == 1
    assert lane.reply(write(b"SET", keys[3], b"x", b"NX", unchanged=b"n")) == b"OK"
    assert lane.reply(delete(keys[4])) == 0
    read = Mutation((b"STRLEN", keys[5]), keys=(keys[5],), is_write=False)
    assert lane.reply(read) == 0
    assert lane.reply(write(b"EXPIRE", keys[6], b"9", unchanged=b"z")) == 0
    assert lane.reply(write(b"SET", keys[7], b"new", b"GET")) is None
    assert alive(lane, keys[7])


def test_a_plain_write_makes_a_value_plain(lane: Lane) -> None:
    for verb in (b"SET", b"GETSET"):
        lane.mutate(labelled(b"a", b"t"), write(verb, b"a", b"plain"))
        lane.mutate(invalidate(tags=(b"t",)))
        assert lane.fetch(b"a").value == b"plain"
        assert lane.server.command("EXISTS", label_key(b"a")) == 0


def test_what_changes_a_value_in_place_keeps_its_label(lane: Lane) -> None:
    lane.mutate(set_(b"n", b"1", label=(b"t",)), incr(b"n"), write(b"APPEND", b"n", b"0"))
    found = lane.fetch(b"n")
    assert (found.value, found.labels) == (b"20", (b"t",))
    lane.mutate(invalidate(tags=(b"t",)))
    assert not alive(lane, b"n")


def test_a_label_lives_as_long_as_its_value(lane: Lane) -> None:
    server = lane.server

    def ends(key: bytes) -> tuple[int, int]:
        value, label, own = server.commands(
            ["PEXPIRETIME", key], ["ZSCORE", LABELS, key], ["PEXPIRETIME", label_key(key)]
        )
        assert value == int(label)
        assert own == -1  # a server that evicts what expires would take it before its value
        return value, server.command("PTTL", key)

    lane.mutate(labelled(b"a", b"t", px=b"50000"))
    assert 0 < ends(b"a")[1] <= 50_000
    lane.mutate(write(b"PEXPIRE", b"a", b"90000"))
    assert 50_000 < ends(b"a")[1] <= 90_000
    lane.mutate(write(b"GETEX", b"a", b"PX", b"70000"))
    assert 50_000 < ends(b"a")[1] <= 70_000
    lane.mutate(write(b"PERSIST", b"a"))
    assert 29 * DAY_MS < ends(b"a")[1] <= 30 * DAY_MS
    lane.mutate(write(b"PEXPIRE", b"a", b"%d" % (90 * DAY_MS)))
    assert 29 * DAY_MS < ends(b"a")[1] <= 30 * DAY_MS
    lane.mutate(labelled(b"b", b"t"))
    assert 29 * DAY_MS < ends(b"b")[1] <= 30 * DAY_MS
    lane.mutate(write(b"EXPIRE", b"a", b"-1"))
    assert server.command("EXISTS", b"a", label_key(b"a")) == 0


def test_a_foreign_delete_leaves_no_dead_label_in_the_way(lane: Lane) -> None:
    lane.mutate(labelled(b"a", b"t"))
    lane.server.command("DEL", b"a")
    assert not alive(lane, b"a")
    lane.mutate(set_(b"a", b"1"))
    lane.mutate(invalidate(tags=(b"t",)))
    assert alive(lane, b"a")


def test_nothing_is_kept_while_there_are_no_labels(lane: Lane) -> None:
    lane.mutate(set_(b"a", b"1"), invalidate(b"a", tags=(b"t",), prefixes=(b"p",)))
    assert lane.server.command("EXISTS", DEAD, PREFIXES) == 0


def test_many_prefixes_become_everything(lane: Lane) -> None:
    lane.mutate(labelled(b"a", b"t"))
    lane.mutate(*(invalidate(prefixes=(b"p%d" % i,)) for i in range(256)))
    assert alive(lane, b"a")
    lane.mutate(invalidate(prefixes=(b"one more",)))
    assert not alive(lane, b"a")
    assert lane.server.command("EXISTS", PREFIXES) == 0
    assert lane.server.command("HLEN", DEAD) == 1
    lane.mutate(labelled(b"a", b"t"))
    assert alive(lane, b"a")


def test_many_tags_become_everything(lane: Lane) -> None:
    lane.mutate(labelled(b"a", b"t"))
    crowd = [x for i in range(100_000) for x in (f"t:{i}", "1")]
    for at in range(0, len(crowd), 10_000):
        lane.server.command("HSET", DEAD, *crowd[at : at + 10_000])
    assert alive(lane, b"a")
    lane.mutate(invalidate(tags=(b"one more",)))
    assert not alive(lane, b"a")
    assert lane.server.command("HLEN", DEAD) == 1


def test_a_new_epoch_ends_all_labelled_values(lane: Lane) -> None:
    lane.mutate(labelled(b"a", b"t"), set_(b"plain", b"1"))
    lane.server.command("DEL", NAMES.meta)
    found = lane.fetch_all(b"a", b"plain", new_epoch=b"f" * 16)
    assert [f.value for f in found.results] == [None, b"1"]


def test_a_label_that_is_nonsense_ends_its_value(lane: Lane) -> None:
    lane.mutate(labelled(b"a", b"t"), labelled(b"b", b"t"))
    lane.server.command("SET", label_key(b"a"), b"\xc1junk")
    lane.server.command("SET", label_key(b"b"), b"\x01")
    assert not alive(lane, b"a")
    assert not alive(lane, b"b")


def test_a_value_whose_label_may_not_be_read_does_not_pass_for_a_plain_one(lane: Lane) -> None:
    """A permission that is taken away for a while: what is appended meanwhile loses no tag."""
    server = lane.server
    lane.mutate(labelled(b"a", b"t"))
    server.command("ACL", "SETUSER", "default", "-get")
    try:
        append = write(b"APPEND", b"a", b"x")
        (done,) = lane.mutate(append).done
        assert isinstance(done.reply, ReplyError)
    finally:
        server.command("ACL", "SETUSER", "default", "+@all")
    lane.mutate(invalidate(tags=(b"t",)))
    assert not alive(lane, b"a")


def test_a_server_that_evicts_takes_no_label_before_its_value(lane: Lane) -> None:
    """With volatile-*: a value without its label would pass for a plain one, for ever."""
    server = lane.server
    used = int(server.info_field("memory", "used_memory"))
    server.command("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    server.command("CONFIG", "SET", "maxmemory", str(used + 1_500_000))
    keys = [b"k%d" % number for number in range(6_400)]
    try:
        for at in range(0, len(keys), 32):
            lane.mutate(*(labelled(key, b"t", px=b"900000") for key in keys[at : at + 32]))
    finally:
        server.command("CONFIG", "SET", "maxmemory", "0")
        server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    left = [key for key in keys if server.command("EXISTS", key)]
    assert 0 < len(left) < len(keys) - 500
    # What was evicted leaves a label behind, for a while.
    labels = int(server.command("ZCARD", LABELS))
    assert len(left) <= labels < len(keys) - 500
    lane.mutate(invalidate(tags=(b"t",)))
    assert not [key for key in left if alive(lane, key)]


def test_labels_of_values_that_have_expired_are_taken_away(lane: Lane) -> None:
    server = lane.server
    for number in range(10):
        lane.mutate(labelled(b"k%d" % number, b"t", px=b"1"))
    lane.mutate(labelled(b"lives", b"t", px=b"20"))
    server.command("PERSIST", b"lives")  # another program
    wait_until(lambda: server.command("PTTL", b"k9") == -2, 5)
    sleep(0.03)
    lane.mutate(set_(b"plain", b"1"))
    assert server.command("ZRANGE", LABELS, 0, -1) == [b"lives"]
    assert server.command("KEYS", label_key(b"*")) == [label_key(b"lives")]
    assert server.command("DBSIZE") > lane.query(b"DBSIZE") == 2
    lane.mutate(invalidate(tags=(b"t",)))
    assert not alive(lane, b"lives")
    assert server.command("EXISTS", LABELS) == 0


@pytest.mark.parametrize("command", ["APPEND", "SET"])
def test_a_label_whose_value_is_gone_labels_nothing_new(lane: Lane, command: str) -> None:
    lane.mutate(labelled(b"a", b"t"))
    lane.server.command("DEL", b"a")
    lane.mutate(write(command.encode(), b"a", b"mine"))
    lane.mutate(invalidate(b"a", tags=(b"t",)))
    assert alive(lane, b"a")


def test_flushdb_ends_the_bookkeeping_too(lane: Lane) -> None:
    lane.mutate(labelled(b"a", b"t"), invalidate(tags=(b"t",)))
    lane.mutate(FLUSH)
    assert lane.server.command("EXISTS", DEAD) == 0
    lane.mutate(labelled(b"a", b"t"))
    assert lane.fetch(b"a").labels == (b"t",)
    lane.mutate(invalidate(tags=(b"t",)))
    assert not alive(lane, b"a")


def test_a_value_without_tags_can_be_labelled(server: Server) -> None:
    lane = Lane(server)
    lane.mutate(labelled(b"a"))
    assert lane.fetch(b"a").labels == ()
    lane.mutate(invalidate(b"a"))
    assert not alive(lane, b"a")
    lane.close()


def test_a_new_expiry_does_not_change_how_old_a_value_is(lane: Lane) -> None:
    """Its age is its life less what is left of it: both grow alike."""

    def age_left(key: bytes) -> tuple[float, int]:
        found = lane.fetch(key)
        known_ms = age_ms(found.labels, found.ttl_ms)
        assert known_ms is not None
        return known_ms, found.ttl_ms

    mark = life_label(50_000, age_ms=20_000, grace_ms=7)
    lane.mutate(labelled(b"a", b"t", mark, px=b"50000"))
    commands: list[tuple[tuple[bytes, ...], float]] = [
        ((b"PEXPIRE", b"a", b"90000"), 90_000),
        ((b"PEXPIRE", b"a", b"30000"), 30_000),
        ((b"APPEND", b"a", b"x"), 30_000),
        ((b"PERSIST", b"a"), 30 * DAY_MS),
        ((b"EXPIRE", b"a", b"5"), 5_000),
    ]
    for argv, left_ms in commands:
        lane.mutate(Mutation(argv, keys=(b"a",)))
        age, left = age_left(b"a")
        assert left_ms - 4_000 < left <= left_ms, argv
        assert 20_000 <= age < 24_000, argv
    assert lane.fetch(b"a").labels[0] == b"t"
    assert lane.fetch(b"a").labels[1].endswith(b"/7")
