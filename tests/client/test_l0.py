"""L0 over a page that the test itself writes: what may be served, and what callers are given."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from coherenced.client.replies import Entry, Version
from coherenced.client.values import MSGPACK
from coherenced.errors import UsageError
from coherenced.page.layout import MIN_SLOTS, key_slot
from coherenced.page.reader import PageReader
from coherenced.page.writer import PageWriter
from tests.client.forms import Form
from tests.client.rig import BOUND_MS, EPOCH, MINE, Rig, is_asked, now_ms

# -- what may be served --------------------------------------------------------------------------


def test_a_kept_copy_is_found_until_its_key_is_named(rig: Rig) -> None:
    rig.keep("k", "v")
    copy = rig.l0.find("k")
    assert copy is not None
    assert copy.given("default") == "v"
    rig.page.touch((b"k",))
    assert not rig.has("k")


def test_absence_is_kept_too(rig: Rig) -> None:
    rig.keep("k", None)
    copy = rig.l0.find("k")
    assert copy is not None
    assert copy.given("default") == "default"


def test_an_invalidation_that_overtakes_the_answer_wins(rig: Rig) -> None:
    note = rig.l0.note("k", b"k")
    rig.page.touch((b"k",))
    rig.answer(note, "old")
    assert not rig.has("k")


def test_a_lane_dropped_meanwhile_or_later(rig: Rig) -> None:
    note = rig.l0.note("k", b"k")
    rig.page.drop()
    rig.answer(note, "old")
    assert not rig.has("k")
    rig.keep("k", "new")
    assert rig.has("k")
    rig.page.drop()
    assert not rig.has("k")


def test_a_tag_kills_its_copies_only(rig: Rig) -> None:
    rig.keep("k", "v", tags=(b"t", b"u"))
    rig.keep("other", "v", tags=(b"x",))
    rig.page.touch_tags((b"u",))
    assert not rig.has("k")
    assert rig.has("other")


def test_a_tag_that_was_invalidated_before_its_name_was_known(rig: Rig) -> None:
    note = rig.l0.note("k", b"k")
    rig.page.touch_tags((b"t",))
    rig.answer(note, "old", tags=(b"t",))
    assert not rig.has("k")
    plain = rig.l0.note("plain", b"plain")
    rig.page.touch_tags((b"t",))
    rig.answer(plain, "v")
    assert rig.has("plain")


def test_two_keys_in_one_slot_cost_a_miss_and_never_more(rig: Rig) -> None:
    slot = key_slot(b"k", MIN_SLOTS)
    twin = next(f"{n}" for n in range(99_999) if key_slot(b"%d" % n, MIN_SLOTS) == slot)
    rig.keep("k", "v")
    rig.page.touch((twin.encode(),))
    assert not rig.has("k")


def test_a_counter_that_wraps_has_moved(rig: Rig) -> None:
    slot = key_slot(b"k", MIN_SLOTS)
    rig.page._words[slot] = (1 << 64) - 1
    rig.keep("k", "v")
    assert rig.has("k")
    rig.page.touch((b"k",))
    assert rig.page._words[slot] == 0
    assert not rig.has("k")


def test_the_bound_is_the_callers_the_keys_and_never_above_the_daemons(rig: Rig) -> None:
    rig.keep("k", "v", bound_ms=5000)
    rig.prove(age_ms=0.0)
    rig.prove(age_ms=-1.0)
    rig.page.publish(now_ms() - 6000.0, EPOCH.encode(), 10)  # moves back: the lane is void
    rig.keep("k", "v", bound_ms=5000)
    assert not rig.has("k")
    assert rig.has("k", 8000.0)
    assert not rig.has("k", 3000.0)
    rig.page.bound(5500.0)
    assert not rig.has("k", 8000.0)


def test_a_deadline_counts_from_before_the_question(rig: Rig) -> None:
    note = rig.l0.note("k", b"k", now_s=now_ms() / 1e3 - 1.0)
    rig.answer(note, "v", ms=900)
    assert not rig.has("k")
    rig.keep("k", "v", ms=50)
    assert rig.has("k")
    time.sleep(0.06)
    assert not rig.has("k")


def test_a_session_token_is_proved_or_the_daemon_is_asked(rig: Rig) -> None:
    rig.keep("k", "v", seq=12)
    assert rig.has("k", None, f"{EPOCH}:10")
    assert rig.has("k", None, f"{EPOCH}:12")
    assert not rig.has("k", None, f"{EPOCH}:13")
    rig.prove(applied=13)
    assert rig.has("k", None, f"{EPOCH}:13")
    assert not rig.has("k", None, f"{'f' * 16}:1")
    assert not rig.has("k", None, "nonsense")


def test_another_daemons_answer_is_not_kept_and_ends_this_page(rig: Rig) -> None:
    rig.keep("k", "v")
    note = rig.l0.note("j", b"j")
    rig.l0.keep(note, b"v", Entry("v", True, Version(), "l1", 0.0, False), [-1, 0])
    assert not rig.has("k")
    assert rig.l0.page is None
    assert rig.l0.wants_page()


def test_what_may_not_be_kept_replaces_what_was(rig: Rig) -> None:
    rig.keep("k", "old")
    rig.keep("k", "new", ms=0)
    assert not rig.has("k")


def test_a_file_that_lost_its_name_is_left(rig: Rig) -> None:
    rig.keep("k", "v")
    rig.l0.connected("")
    assert rig.has("k")
    successor = PageWriter(rig.path, b"00000000000000bb", MIN_SLOTS, BOUND_MS)
    assert not rig.has("k")
    rig.l0.connected("")
    assert rig.l0.page is None
    assert "another daemon" in rig.l0.because
    rig.l0.open({"path": str(rig.path), "incarnation": "00000000000000bb"})
    assert rig.l0.page is not None
    successor.close()


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({}, "knows of no shared page"),
        (None, "knows of no shared page"),
        ({"path": None, "because": "page.slots is 0"}, "page.slots is 0"),
        ({"path": 3, "incarnation": "x"}, "knows of no shared page"),
        ({"path": "/nowhere/page.shm", "incarnation": "00000000000000aa"}, "No such file"),
        ({"path": "/dev/null", "incarnation": "zz"}, "not a file"),
    ],
)
def test_a_page_that_cannot_be_used_leaves_l0_off_for_a_while(
    document: object, why: str, monkeypatch: pytest.MonkeyPatch, form: Form
) -> None:
    l0 = form.l0.L0(MSGPACK.loads)
    assert l0.wants_page()
    l0.open(document)
    assert why in l0.stats()["because"]
    assert not l0.wants_page()
    monkeypatch.setattr(form.l0, "_clock_s", lambda clock: now_ms() / 1e3 + 2.0)
    assert l0.wants_page()


def test_the_page_is_looked_for_beside_the_socket_too(rig: Rig) -> None:
    rig.l0.leave("test")
    rig.l0.connected(str(rig.path.parent / "coherenced.sock"))
    rig.l0.open({"path": "/in/another/container/page.shm", "incarnation": MINE.decode()})
    assert rig.l0.page is not None


# -- bounds --------------------------------------------------------------------------------------


def test_it_is_bounded_in_entries_and_spares_what_is_used(tmp_path: Path, form: Form) -> None:
    rig = Rig(tmp_path, form, max_entries=10)
    rig.keep("used", 0)
    for number in range(1000):
        assert rig.has("used")
        rig.keep(f"k{number}", number)
    stats = rig.l0.stats()
    assert stats["entries"] == 10
    assert stats["evictions"] == 991
    assert stats["hits"] == 1000
    assert stats["bytes"] == sum(copy.size for copy in rig.l0.copies.values())


def test_it_is_bounded_in_bytes(tmp_path: Path, form: Form) -> None:
    rig = Rig(tmp_path, form, max_bytes=10_000)
    for number in range(100):
        rig.keep(f"k{number}", "x" * 500)
        assert rig.l0.bytes_used <= 10_000
    assert 3 < len(rig.l0.copies) < 10
    rig.keep("huge", "x" * 20_000)
    assert not rig.has("huge")
    assert rig.l0.bytes_used == sum(copy.size for copy in rig.l0.copies.values())


def test_when_all_are_used_one_goes_all_the_same(tmp_path: Path, form: Form) -> None:
    rig = Rig(tmp_path, form, max_entries=100)
    for number in range(300):
        rig.keep(f"k{number}", number)
        assert rig.has(f"k{number}")
    assert len(rig.l0.copies) == 100


@pytest.mark.parametrize("wrong", [{"max_entries": 0}, {"max_bytes": 0}, {"values": "some"}])
def test_bad_bounds_are_refused(wrong: dict[str, Any], form: Form) -> None:
    with pytest.raises(UsageError, match="l0_"):
        form.l0.L0(MSGPACK.loads, **wrong)


# -- what callers are given ------------------------------------------------------------------------

MUTABLE: dict[str, Any] = {
    "flat dict": {"name": "Ada", "n": 1},
    "flat list": [1, "two", None],
    "nested": {"list": [1, 2], "dict": {"deep": [3]}},
    "list of dicts": [{"a": 1}, {"b": 2}],
}


def spoil(value: Any) -> None:
    """Change everything that can be changed."""
    for inner in list(value.values() if isinstance(value, dict) else value):
        if isinstance(inner, dict | list):
            spoil(inner)
    value.clear()


@pytest.mark.parametrize("value", MUTABLE.values(), ids=MUTABLE)
def test_no_caller_can_change_what_others_get(rig: Rig, value: Any) -> None:
    first = MSGPACK.loads(MSGPACK.dumps(value))
    rig.keep("k", first)
    spoil(first)  # who asked first has the decoded object itself
    for _ in range(3):
        copy = rig.l0.find("k")
        assert copy is not None
        given = copy.given(None)
        assert given == value
        spoil(given)


@pytest.mark.parametrize("value", ["text", b"bytes", 7, 1.5, True])
def test_what_cannot_be_changed_is_shared(rig: Rig, value: Any) -> None:
    rig.keep("k", value)
    copy = rig.l0.find("k")
    assert copy is not None
    assert copy.given(None) is copy.given(None)


def test_shared_values_are_shared_when_asked_for(tmp_path: Path, form: Form) -> None:
    rig = Rig(tmp_path, form, values="shared")
    rig.keep("k", {"a": [1]})
    copy = rig.l0.find("k")
    assert copy is not None
    assert copy.given(None) is copy.given(None)


# -- the short path of the clients ---------------------------------------------------------------


def test_get_needs_nobody_while_the_copy_holds(rig: Rig, client: Any) -> None:
    rig.keep("k", {"a": 1})
    rig.keep("gone", None)
    rig.keep("tagged", "v", tags=(b"t",))
    for _ in range(3):
        assert client.get("k") == {"a": 1}
        assert client.get("gone", 5) == 5
        assert client.get("tagged") == "v"
        assert client.get_many(["k", "gone", "tagged"]) == {"k": {"a": 1}, "tagged": "v"}
        assert client.get_entry("k").source == "l0"
    rig.page.touch_tags((b"t",))
    assert is_asked(client, "tagged")
    rig.page.touch((b"k",))
    assert is_asked(client, "k")
    rig.page.drop()
    assert is_asked(client, "gone")


def test_get_asks_when_the_proof_is_over_or_taken_back(rig: Rig, client: Any) -> None:
    rig.page.publish(now_ms(), EPOCH.encode(), 10)
    rig.keep("k", "v", bound_ms=80)
    assert client.get("k") == client.get("k") == "v"
    time.sleep(0.09)
    assert is_asked(client, "k")
    rig.prove()
    assert client.get("k") == client.get("k") == "v"
    rig.page.publish(float("-inf"), EPOCH.encode(), 10)
    assert is_asked(client, "k")


def test_terms_of_a_call_are_kept(rig: Rig, client: Any) -> None:
    rig.keep("k", "v")
    assert client.get("k", max_staleness_ms=5000) == "v"
    assert client.get("k", min_version=f"{EPOCH}:10") == "v"
    assert is_asked(client, "k", max_staleness_ms=0)
    assert is_asked(client, "k", min_version=f"{EPOCH}:11")


def test_strange_keys_are_refused_as_ever(rig: Rig, client: Any) -> None:
    rig.keep("1", "v")
    for key in (1, None, [], {}, 1.5):
        with pytest.raises(UsageError, match="a key is str or bytes"):
            client.get(key)


def test_a_closed_client_answers_nothing(rig: Rig) -> None:
    client = rig.form.Client(rig.path.parent / "no.sock")
    assert client._l0 is not None
    client._l0.use(PageReader(str(rig.path), MINE.decode()))
    rig.l0 = client._l0
    rig.keep("k", "v")
    client.close()
    with pytest.raises(UsageError, match="closed"):
        client.get("k")


def test_threads_never_see_what_was_over_before_they_asked(rig: Rig, client: Any) -> None:
    """A writer that counts as the daemon does, and readers: none begins after and sees before."""

    def look() -> Any:
        copy = rig.l0.find("k")
        return None if copy is None else copy.given(None)

    wrong, _ = rig.race(look, 3000)
    assert not wrong
