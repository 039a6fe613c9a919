"""Events: a bounded ring, and one line in the log for each."""

from __future__ import annotations

import json
import re
from pathlib import Path

import structlog

import coherenced
from coherenced.observe.events import RING, WORDS, EventRing, log_event

AT = "2026-01-02T03:04:05+01:00"


def test_the_ring_keeps_the_last_ones_in_order() -> None:
    ring = EventRing()
    for number in range(RING + 5):
        ring.add(AT, "gap_found", {"number": number})
    assert len(ring) == RING
    told = ring.as_json()
    assert [told[0]["number"], told[-1]["number"]] == [5, RING + 4]
    assert ring.counts == {"gap_found": RING + 5}


def test_an_event_has_its_words_and_its_fields() -> None:
    ring = EventRing()
    ring.add(AT, "bus_lost", {"lane": 0, "reason": "connection reset"})
    (told,) = ring.as_json()
    assert told == {
        "at": AT,
        "event": "bus_lost",
        "text": WORDS["bus_lost"].text,
        "lane": 0,
        "reason": "connection reset",
    }


def test_fields_become_what_json_can_hold_and_are_bounded() -> None:
    ring = EventRing()
    fields = {
        "key": b"\xffuser",
        "text": "x" * 10_000,
        "keys": [b"k"] * 1000,
        "age_ms": 1.5,
        "none": None,
        "flag": True,
        "event": "a field must not shadow the event's name",
    }
    ring.add(AT, "something_new", fields)
    told = json.loads(json.dumps(ring.as_json()))[0]
    assert told["event"] == "something_new"
    assert told["text"] == "something new"
    assert told["key"] == {"base64": "/3VzZXI="}
    assert len(told["keys"]) == 50
    assert (told["age_ms"], told["none"], told["flag"]) == (1.5, None, True)
    long = EventRing().add(AT, "x", {"detail": "y" * 10_000, "key": b"\xff" * 10_000})
    assert len(long.fields["detail"]) == len(long.fields["key"]) == 500


def test_one_line_at_the_right_level() -> None:
    ring = EventRing()
    with structlog.testing.capture_logs() as captured:
        log = structlog.get_logger()
        log_event(log, ring.add(AT, "lane_dropped", {"lane": 0, "reason": "fork"}))
        log_event(log, ring.add(AT, "write_indeterminate", {"event": "x", "name": "y"}))
        log_event(log, ring.add(AT, "something_new", {}))
    assert [line["log_level"] for line in captured] == ["warning", "error", "info"]
    assert captured[0]["event"] == WORDS["lane_dropped"].text
    assert (captured[0]["name"], captured[0]["reason"]) == ("lane_dropped", "fork")


def test_the_table_and_the_code_name_the_same_events() -> None:
    """An event that nobody gave words would still be logged, but as an identifier."""
    folder = Path(coherenced.__file__).parent
    named = re.compile(r"(?:\b|_)(?:[Ee]vent|report)\(\s*\"([a-z_]+)\"")
    spell = re.compile(r"\bSpell\(\s*\"([a-z_]+)\",\s*\"([a-z_]+)\"")
    names: set[str] = set()
    for file in folder.rglob("*.py"):
        text = file.read_text()
        names.update(named.findall(text), *spell.findall(text))
    assert names == set(WORDS)
    assert all(words.level in ("info", "warning", "error") for words in WORDS.values())
