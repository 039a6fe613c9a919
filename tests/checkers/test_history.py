"""The recorder and the file format."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from tests.checkers.history import History, Kind, Outcome, Recorder, Values, read_journal
from tests.checkers.story import tell
from tests.checkers.verdict import Verdict, report


def test_a_history_survives_the_file(tmp_path: Path) -> None:
    history = tell(
        """
        A@n1 write  k=x    0 10 v=1 ack=all noack
        A@n1 mget   k=x j=- 11 12 snapshot max=0 min=1
        B@n2 delete k     13 ?
        """,
        initial={"j": "old"},
    )
    history.notes["seed"] = 7
    history.save(tmp_path / "h.jsonl")
    loaded = History.load(tmp_path / "h.jsonl")
    assert loaded.initial == {"j": "old"}
    assert loaded.notes == {"seed": 7}
    assert loaded.bound_ms == 100.0
    fields = history.operations[0].__struct_fields__
    for before, after in zip(history.operations, loaded.operations, strict=True):
        assert all(getattr(before, name) == getattr(after, name) for name in fields)


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text('{"format": "something else"}\n')
    with pytest.raises(ValueError, match="is not a coherenced-history-1 file"):
        History.load(path)


def test_operations_of_many_threads_are_all_recorded() -> None:
    recorder = Recorder()

    def client(name: str) -> None:
        values = Values(name)
        for _ in range(200):
            value = values.next()
            op = recorder.begin(name, "n1", Kind.WRITE, ("k",), (value,))
            recorder.end(op, Outcome.OK)

    threads = [threading.Thread(target=client, args=(f"s{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    history = recorder.history()
    assert len(history.operations) == 800
    assert len({op.id for op in history.operations}) == 800
    assert len({op.values for op in history.operations}) == 800
    starts = [op.start_ns for op in history.operations]
    assert starts == sorted(starts)


def test_recording_is_cheap() -> None:
    recorder = Recorder()
    best_us = float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        for _ in range(2000):
            op = recorder.begin("s", "n", Kind.READ, ("k",))
            recorder.end(op, Outcome.OK, values=("v",))
        best_us = min(best_us, (time.perf_counter() - begun) / 2000 * 1e6)
    assert best_us < 50


def test_an_unknown_outcome_has_no_end() -> None:
    recorder = Recorder()
    op = recorder.begin("s", "n", Kind.WRITE, ("k",), ("v",))
    recorder.end(op, Outcome.UNKNOWN, detail="connection lost")
    assert op.end_ns is None
    assert op.end == float("inf")


def test_a_killed_client_leaves_its_unanswered_mutation_in_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    recorder = Recorder(journal=path, first_id=1000)
    done = recorder.begin("s", "n", Kind.WRITE, ("k",), ("a",))
    recorder.end(done, Outcome.OK)
    recorder.begin("s", "n", Kind.READ, ("k",))
    recorder.begin("s", "n", Kind.WRITE, ("k",), ("b",))
    recorder.close()
    with path.open("ab") as file:
        file.write(b'{"id": 1003, "torn')
    with path.open("rb") as file:
        operations = read_journal(file)
    assert [(op.id, op.outcome, op.values) for op in operations] == [
        (1000, Outcome.OK, ("a",)),
        (1002, Outcome.UNKNOWN, ("b",)),
    ]


def test_a_violation_tells_its_story() -> None:
    history = tell(
        """
        A@n1 write k=x  0 10 v=1 ack=all
        B@n2 read  k=- 20 21 max=5
        """
    )
    verdict = Verdict("bounded", checked=1)
    verdict.add("k: read absent", *reversed(history.operations), None)
    assert report([verdict, Verdict("session", checked=2)]).splitlines() == [
        "bounded                    1 checked   BROKEN 1 times",
        "session                    2 checked   kept",
        "bounded: k: read absent",
        "       0.000 –      10.000 ms  A@n1         write      k = x  "
        "(version aaaaaaaaaaaaaaaa:1, ack=all)",
        "      20.000 –      21.000 ms  B@n2         read       k → absent  (max_staleness 5 ms)",
    ]
