from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from coherenced.cli import invalidate
from coherenced.cli.cluster import Cluster, Daemon
from coherenced.cli.invalidate import BATCH, Outcome, Tally, Targets, batches, lines, send_all
from coherenced.client.sync import Client
from coherenced.errors import DaemonUnreachable
from tests.cli.conftest import Done
from tests.client.fake_daemon import EPOCH, FakeDaemon, error

Call = Callable[..., Done]


@pytest.fixture
def on_a(coherenced: Call, a: Daemon) -> Call:
    return lambda *words: coherenced("invalidate", "--socket", a.socket, *words)


# -- what is sent ---------------------------------------------------------------------


def test_names_travel_in_bounded_messages() -> None:
    keys = [b"%d" % n for n in range(2 * BATCH)]
    sent = list(batches(keys, [b"file"], [b"t"], [b"p"], True))
    assert [len(one.keys) + len(one.tags) + len(one.prefixes) for one in sent] == [BATCH] * 2 + [3]
    assert [key for one in sent for key in one.keys] == [*keys, b"file"]
    assert sent[2].tags == (b"t",)
    assert sent[2].prefixes == (b"p",)
    assert [one.everything for one in sent] == [True, False, False]


def test_everything_alone_is_one_message() -> None:
    assert list(batches([], [], [], [], True)) == [Targets(everything=True)]
    assert list(batches([], [], [], [], False)) == []


def test_a_file_is_read_as_a_stream() -> None:
    def endless() -> object:
        number = 0
        while True:
            number += 1
            yield b"%d" % number

    assert len(next(batches([], endless(), [], [], False)).keys) == BATCH  # type: ignore[arg-type]


def test_one_key_a_line() -> None:
    text = b"one\r\n\ntwo \xff\nthree"
    assert list(lines(io.BytesIO(text))) == [b"one", b"two \xff", b"three"]
    assert list(lines(None)) == []


# -- what came of it --------------------------------------------------------------------


def test_a_tally_keeps_who_acknowledged_all_and_the_longest_time() -> None:
    answers = iter(
        [
            Outcome("e:1", {"a": 0.0, "b": 0.4, "c": 1.0}),
            Outcome("e:2", {"a": 0.0, "b": 0.2, "c": None}, ["d"], ["f"], False),
            Outcome("", {"a": 0.0, "c": 0.1}),
        ]
    )
    tally = send_all([Targets((b"k",))] * 3, lambda targets: next(answers))
    assert tally.acknowledged == {"a": 0.0, "c": None}
    assert (tally.version, tally.late) == ("e:2", True)
    assert (list(tally.missing), list(tally.fenced)) == (["d"], ["f"])
    assert tally.what() == "3 keys"


def test_what_was_invalidated_in_words() -> None:
    tally = Tally()
    assert tally.what() == "nothing"
    tally.add(Targets((b"k",), (b"t", b"u"), (b"p",), True), Outcome("", {}))
    assert tally.what() == "everything, 1 key, 2 tags, 1 prefix"


def test_an_error_half_way_says_how_far_it_came(capsys: pytest.CaptureFixture[str]) -> None:
    def send(targets: Targets) -> Outcome:
        if targets.keys == (b"2",):
            raise DaemonUnreachable("gone")
        return Outcome("e:1", {})

    with pytest.raises(DaemonUnreachable):
        send_all([Targets((b"1",)), Targets((b"2",))], send)
    assert "before the error, 1 key had been invalidated" in capsys.readouterr().err


# -- the command ------------------------------------------------------------------------


def test_it_prints_who_acknowledged_and_how_long_each_took(
    on_a: Call, a: Daemon, b: Daemon
) -> None:
    a.client.set("inv:1", 1)
    b.client.get("inv:1")
    assert b.client.get_entry("inv:1").source == "l1"
    done = on_a("inv:1", "--ack", "all")
    assert done.code == 0
    heading, columns, *rows = done.text.splitlines()
    assert heading.startswith("invalidated 1 key at ")
    assert columns.split() == ["node", "state", "after"]
    assert sorted(row.split()[0] for row in rows) == ["a", "b"]
    assert all(row.split()[1] == "acknowledged" and row.endswith("s") for row in rows)
    assert b.client.get_entry("inv:1").source == "l2"


def test_tags_prefixes_and_everything(on_a: Call, a: Daemon, b: Daemon) -> None:
    a.client.set("inv:tagged", 1, tags=["inv-tag"])
    for words in (["--tag", "inv-tag"], ["--prefix", "inv:"], ["--all"]):
        b.client.get("inv:tagged")
        assert b.client.get_entry("inv:tagged").source == "l1"
        assert on_a(*words, "--ack", "all").code == 0
        assert b.client.get_entry("inv:tagged").source == "l2"


def test_json(on_a: Call) -> None:
    told = on_a("inv:j", "--tag", "t", "--ack", "all", "--json").document
    assert told["acknowledged"].keys() == {"a", "b"}
    assert (told["keys"], told["tags"], told["missing"]) == (1, 1, [])
    assert told["satisfied"] is True


def test_many_keys_from_a_file(on_a: Call, a: Daemon, b: Daemon, tmp_path: Path) -> None:
    a.client.set_many({f"inv:f{n}": n for n in range(450)})
    b.client.get_many([f"inv:f{n}" for n in range(450)])
    file = tmp_path / "keys"
    file.write_bytes(b"".join(b"inv:f%d\n" % n for n in range(450)))
    done = on_a("inv:first", "--from-file", file, "--ack", "all")
    assert done.text.startswith("invalidated 451 keys at ")
    assert b.client.get_entry("inv:f449").source == "l2"


def test_who_is_missing_is_listed_and_the_exit_code_is_3(on_a: Call) -> None:
    done = on_a("inv:late", "--ack", "9", "--timeout", "30ms")
    assert done.code == 3
    assert "MISSING" in done.text
    assert "not acknowledged in time" in done.err
    told = on_a("inv:late", "--ack", "9", "--timeout", "300ms", "--json").document
    assert told["satisfied"] is False
    assert told["missing"]
    assert set(told["acknowledged"]) == {"a", "b"}
    assert all(0 <= ms < 300 for ms in told["acknowledged"].values()), "how long each took"


def test_what_is_journaled_is_not_called_invalidated(coherenced: Call, tmp_path: Path) -> None:
    def away(command: list[bytes]) -> bytes | None:
        return error("NOACK journaled missing=(spooled)") if b"ACK" in command else None

    with FakeDaemon(tmp_path / "s", away) as daemon:
        done = coherenced("invalidate", "--socket", daemon.path, "k", "--ack", "all")
    assert done.code == 3
    assert done.text.startswith("accepted 1 key\n")
    assert "journaled: sent when Redis is back" in done.text
    assert "nobody has acknowledged" in done.err


def test_an_empty_file_invalidates_nothing(on_a: Call) -> None:
    done = on_a("--from-file", os.devnull)
    assert (done.code, done.text) == (0, "invalidated nothing\n")


def test_a_late_message_does_not_stop_the_rest(coherenced: Call, tmp_path: Path) -> None:
    def late(command: list[bytes]) -> bytes | None:
        if b"first" in command:
            return error(f"NOACK committed {EPOCH}:7 missing=c acknowledged=a fenced=d")
        return None

    with FakeDaemon(tmp_path / "s", late) as daemon:
        keys = ["first", *map(str, range(BATCH))]
        done = coherenced("invalidate", "--socket", daemon.path, *keys, "--json")
    assert done.code == 3
    assert len(daemon.commands) == 2
    told = done.document
    assert (told["missing"], told["fenced"]) == (["c"], ["d"])
    assert told["acknowledged"] == {"a": None}
    assert told["keys"] == BATCH + 1


def test_a_dry_run_sends_nothing(coherenced: Call) -> None:
    done = coherenced("invalidate", "k\x1b", "--tag", "t", "--all", "--dry-run")
    assert done.code == 0
    assert done.text == (
        "would invalidate everything, 1 key, 1 tag, in 1 message\n  key k\\x1b\n  tag t\n"
    )
    told = coherenced("invalidate", *map(str, range(201)), "--dry-run", "--json").document
    assert (told["messages"], told["counts"]["keys"]) == (2, 201)
    assert len(told["first"]["keys"]) == invalidate.SHOWN


def test_a_long_dry_run_is_cut(coherenced: Call) -> None:
    assert "  and 5 more keys" in coherenced("invalidate", *map(str, range(25)), "--dry-run").text


# -- without a daemon -------------------------------------------------------------------


def test_straight_to_redis(coherenced: Call, cluster: Cluster, a: Daemon, b: Daemon) -> None:
    a.client.set("inv:direct", 1)
    with Client(b.socket) as reader:
        reader.get("inv:direct")
        assert reader.get_entry("inv:direct").source == "l1"
        done = coherenced(
            "invalidate", "inv:direct", "--via", "redis", "--redis", cluster.server.url,
            "--ack", "all",
        )  # fmt: skip
        assert done.code == 0, done.err
        assert [line.split()[0] for line in sorted(done.text.splitlines()[2:])] == ["a", "b"]
        assert reader.get_entry("inv:direct").source == "l2"


def test_straight_to_redis_from_the_configuration(
    coherenced: Call, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COHERENCED_REDIS__URL", cluster.server.url)
    told = coherenced("invalidate", "k", "--via", "redis", "--json").document
    assert told["version"]
    late = ("--ack", "9", "--timeout", "300ms", "--json")
    done = coherenced("invalidate", "k", "--via", "redis", *late)
    assert done.code == 3
    assert set(done.document["acknowledged"]) == {"a", "b"}
    assert all(ms is not None for ms in done.document["acknowledged"].values())
    for words in (["coh:x"], ["--tag", "coh:x"], ["--prefix", "p" * 16_385], ["k" * 16_385]):
        assert coherenced("invalidate", *words, "--via", "redis").code == 2


def test_a_redis_that_is_not_there_is_exit_code_4(coherenced: Call, tmp_path: Path) -> None:
    done = coherenced("invalidate", "k", "--redis", f"unix://{tmp_path}/none.sock")
    assert done.code == 4
    assert done.err.count("\n") == 1
