"""Each promise's judge: content with what may be, and not with what may not."""

from __future__ import annotations

import pytest

from coherenced.cli.faults.ledger import FOREVER, Fate, Ledger, Read, Write

BOUND_S = 0.5


def write(number: int, began_s: float, ended_s: float | None = None, **more: object) -> Write:
    """Number `number` of key k by w; `ended_s` None: its reply was lost."""
    one = Write("w", str(more.pop("key", "k")), number, bool(more.pop("absent", False)), began_s)
    if ended_s is not None:
        one.ended_s, one.fate = ended_s, Fate.OK
    for name, value in more.items():
        setattr(one, name, value)
    return one


def read(number: int | None, began_s: float, ended_s: float, **more: object) -> Read:
    one = Read("r", "n", str(more.pop("key", "k")), number, began_s, ended_s)
    for name, value in more.items():
        setattr(one, name, value)
    return one


def broken(*operations: Read | Write, losses: tuple[tuple[float, float], ...] = ()) -> set[str]:
    ledger = Ledger(BOUND_S)
    ledger.operations += operations
    ledger.losses += losses
    levels = ledger.judge()
    for level in levels:
        for violation in level.violations:
            assert violation.level == level.name
            assert " read " in violation.text
    return {level.name.split(" (")[0] for level in levels if level.violations}


TWO = (write(1, 0.0, 0.1), write(2, 1.0, 1.1))


def test_a_read_within_the_bound_may_be_old() -> None:
    assert not broken(*TWO, read(1, 1.5, 1.51))


def test_a_read_past_the_bound_may_not() -> None:
    assert broken(*TWO, read(1, 1.7, 1.71)) == {"bounded"}


def test_after_the_acknowledgement_of_all_nothing_older_is_served() -> None:
    second = write(2, 1.0, 1.1, by_all=True)
    assert not broken(TWO[0], second, read(1, 1.05, 1.2))
    assert broken(TWO[0], second, read(1, 1.15, 1.2)) == {"ack=all"}


def test_a_current_read_sees_what_had_returned_and_what_others_had_seen() -> None:
    assert broken(*TWO, read(1, 1.15, 1.2, current=True)) == {"linearizable by B = 0"}
    slow = write(2, 1.0, 1.4)
    seen = read(2, 1.05, 1.1, current=True, session="s")
    assert not broken(TWO[0], slow, read(1, 1.05, 1.2, current=True), seen)
    assert broken(TWO[0], slow, seen, read(1, 1.2, 1.3, current=True)) == {"linearizable by B = 0"}
    assert not broken(TWO[0], slow, seen, read(1, 1.2, 1.3))


def test_new_then_old_in_a_linearizable_namespace() -> None:
    first, slow = write(1, 0.0, 0.1, key="lin:k"), write(2, 1.0, 1.4, key="lin:k")
    seen = read(2, 1.05, 1.1, key="lin:k", session="s")
    then = read(1, 1.2, 1.3, key="lin:k")
    assert broken(first, slow, seen, then) == {"linearizable namespace"}


def test_a_session_does_not_go_back_and_sees_its_own_writes() -> None:
    assert broken(*TWO, read(2, 1.2, 1.21), read(1, 1.3, 1.31)) == {"session"}
    assert not broken(*TWO, read(2, 1.2, 1.21, session="s"), read(1, 1.3, 1.31))
    assert broken(*TWO, read(1, 1.2, 1.21, session="w")) == {"session"}


def test_a_write_without_a_reply_may_happen_late_but_only_once() -> None:
    lost, later = write(1, 0.0), write(2, 0.2, 0.3)
    assert not broken(lost, later, read(1, 5.0, 5.1))  # it took effect only then
    last = write(3, 6.0, 6.1)
    assert broken(lost, later, read(1, 5.0, 5.1, session="s"), last, read(1, 7.0, 7.1)) == {
        "bounded"
    }


def test_what_was_lost_is_not_promised_but_what_came_after_is() -> None:
    loss = ((2.0, 2.1),)
    assert broken(*TWO, read(None, 3.0, 3.1)) == {"bounded"}
    assert not broken(*TWO, read(None, 3.0, 3.1), losses=loss)
    third = write(3, 2.5, 2.6)
    assert broken(*TWO, third, read(1, 4.0, 4.1), losses=loss) == {"bounded"}
    # One bound after the loss a client may see the lost state once more.
    seen = read(None, 2.2, 2.3)
    assert not broken(*TWO, third, read(3, 2.55, 2.7), seen, losses=loss)


def test_nothing_is_made_up() -> None:
    assert broken(*TWO, read(3, 2.0, 2.1)) == {"nothing made up"}
    assert broken(*TWO, read(2, 0.5, 0.6)) == {"nothing made up"}
    failed = write(2, 1.0, fate=Fate.FAILED)
    assert broken(TWO[0], failed, read(2, 2.0, 2.1)) == {"nothing made up"}


@pytest.mark.parametrize("absent_at", [2, 3])
def test_absent_is_a_value_like_another(absent_at: int) -> None:
    gone = write(absent_at, 1.0, 1.1, absent=True)
    others = [write(1, 0.0, 0.1)] + ([write(2, 0.5, 0.6)] if absent_at == 3 else [])
    assert not broken(*others, gone, read(None, 2.0, 2.1))
    assert broken(*others, gone, read(1, 2.0, 2.1)) == {"bounded"}
    again = write(absent_at + 1, 3.0, 3.1)
    assert broken(*others, gone, again, read(None, 4.0, 4.1)) == {"bounded"}


def test_what_expires_may_be_gone_and_must_be() -> None:
    one = write(1, 0.0, 0.1, ttl_s=0.3)
    assert not broken(one, read(1, 0.2, 0.21), read(None, 0.35, 0.36))
    assert broken(one, read(1, 0.6, 0.61)) == {"expiry"}
    assert broken(one, read(None, 0.2, 0.25, current=True)) == {"linearizable by B = 0"}


def test_counters() -> None:
    ledger = Ledger(BOUND_S)
    ledger.counters = {"one": (10, 2, 11), "two": (10, 0, 10)}
    assert not any(level.violations for level in ledger.judge())
    ledger.counters = {"one": (10, 2, 13), "two": (10, 0, 9)}
    (level,) = [level for level in ledger.judge() if level.violations]
    assert (level.name, level.checked, len(level.violations)) == ("counters", 22, 2)


def test_in_the_end_all_agree() -> None:
    ledger = Ledger(BOUND_S)
    ledger.final = {"Redis": {"k": "1", "j": None}, "a": {"k": "1", "j": None}}
    assert not any(level.violations for level in ledger.judge())
    ledger.final["b"] = {"k": "1", "j": "2"}
    (level,) = [level for level in ledger.judge() if level.violations]
    assert (level.name, len(level.violations)) == ("eventual", 1)


def test_a_snapshot_shows_no_half() -> None:
    ledger = Ledger(BOUND_S)
    ledger.groups = [("r", {"g:0": "3", "g:1": "3"}, 1.0)]
    assert not any(level.violations for level in ledger.judge())
    ledger.groups.append(("r", {"g:0": "4", "g:1": "3"}, 2.0))
    (level,) = [level for level in ledger.judge() if level.violations]
    assert level.name == "snapshot"
    assert write(1, 0.0).known_s == FOREVER
