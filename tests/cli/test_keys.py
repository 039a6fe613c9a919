from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coherenced.cli.cluster import Daemon
from tests.cli.conftest import Done
from tests.client.fake_daemon import EPOCH, FakeDaemon, error

Call = Callable[..., Done]


@pytest.fixture
def on_a(coherenced: Call, a: Daemon) -> Call:
    return lambda command, *words: coherenced(command, "--socket", a.socket, *words)


def test_set_prints_the_version_and_get_the_bytes(on_a: Call) -> None:
    done = on_a("set", "keys:1", "value", "--ttl", "60s", "--tag", "t", "--tag", "u")
    assert done.code == 0
    version = done.text.strip()
    epoch, _, seq = version.partition(":")
    assert len(epoch) == 16
    assert int(seq) > 0
    assert on_a("get", "keys:1") == (0, b"value", "")
    assert on_a("get", "keys:1", "--min-version", version, "--max-staleness", "0").out == b"value"


def test_a_key_that_is_not_there(on_a: Call) -> None:
    assert on_a("get", "keys:\x1bnone") == (1, b"", "coherenced: no such key: keys:\\x1bnone\n")
    done = on_a("get", "keys:none", "--json")
    assert done.code == 1
    assert done.document["found"] is False
    assert "value" not in done.document


def test_binary_keys_and_values(on_a: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    key, value = "keys:\udcff", b"\x00\xff\n"
    stdin: Any = io.TextIOWrapper(io.BytesIO(value))
    monkeypatch.setattr("sys.stdin", stdin)
    assert on_a("set", key, "-").code == 0
    assert on_a("get", key).out == value
    told = on_a("get", key, "--json").document
    assert (told["key"], told["value_base64"]) == ({"base64": "a2V5czr/"}, "AP8K")


def test_meta_goes_beside_the_value(on_a: Call) -> None:
    on_a("set", "keys:meta", "v")
    done = on_a("get", "keys:meta", "--meta")
    assert done.out == b"v"
    assert "l1, version" in done.err
    told = on_a("get", "keys:meta", "--json").document
    assert told["source"] == "l1"
    assert told["stale"] is False
    assert told["value"] == "v"


def test_mget(on_a: Call) -> None:
    on_a("set", "keys:m1", "one\ntwo")
    done = on_a("mget", "keys:m1", "keys:m2", "keys:m1")
    assert done.text == "keys:m1\tone\\ntwo\n" * 2
    assert done.err == "coherenced: no such key: keys:m2\n"
    assert done.code == 0
    rows = on_a("mget", "keys:m1", "keys:m2", "--json").document["values"]
    assert [(row["key"], row["found"]) for row in rows] == [("keys:m1", True), ("keys:m2", False)]


def test_del_counts(on_a: Call) -> None:
    on_a("set", "keys:d", "1")
    assert on_a("del", "keys:d", "keys:e").text == "1\n"
    assert on_a("del", "keys:d", "--json").document == {"deleted": 0, "missing": []}


def test_compare_and_set(on_a: Call) -> None:
    version = on_a("set", "keys:cas", "1").text.strip()
    assert on_a("set", "keys:cas", "2", "--if-version", version).code == 0
    done = on_a("set", "keys:cas", "3", "--if-version", version)
    assert done.code == 1
    assert "changed" in done.err


def test_everyone_acknowledges(on_a: Call) -> None:
    assert on_a("set", "keys:ack", "1", "--ack", "all").code == 0
    assert on_a("set", "keys:ack", "1", "--ack", "none").out == b""
    assert on_a("del", "keys:ack", "--ack", "2").code == 0


@pytest.mark.parametrize("words", [["set", "keys:late", "1"], ["del", "keys:late"]])
def test_not_everyone_acknowledges(on_a: Call, words: list[str]) -> None:
    on_a("set", "keys:late", "0")
    done = on_a(*words, "--ack", "9", "--timeout", "30ms", "--json")
    assert done.code == 3
    assert done.document["version"]
    assert done.document["missing"]
    assert "not acknowledged in time by" in done.err


@pytest.mark.parametrize(
    "words",
    [["set", "keys:rep", "1"], ["del", "keys:rep"], ["invalidate", "keys:rep"]],
)
def test_replicas_that_are_not_there_do_not_have_it(on_a: Call, words: list[str]) -> None:
    on_a("set", "keys:rep", "0")
    done = on_a(*words, "--replicas", "1", "--timeout", "30ms", "--json")
    assert (done.code, done.document["missing"]) == (3, ["(replicas)"])


def test_a_wrong_version_is_told(on_a: Call) -> None:
    done = on_a("get", "keys:1", "--min-version", "abc")
    assert done.code == 2
    assert "epoch:seq" in done.err


LONG = "k" * 16_385


@pytest.mark.parametrize(
    "words",
    [
        ["get", "coh:x"],
        ["set", "coh:x", "v"],
        ["del", LONG],
        ["mget", "k", LONG],
        ["lease", LONG, "true"],
        ["explain", "coh:x"],
        ["set", "k", "v", "--tag", "coh:x"],
        ["invalidate", "--prefix", LONG],
        ["invalidate", "coh:x"],
    ],
    ids=lambda words: " ".join(words)[:20],
)
def test_names_that_cannot_be_are_bad_usage(on_a: Call, words: list[str]) -> None:
    done = on_a(*words)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "start with coh:" in done.err or "longer than limits.max_key_bytes" in done.err


def test_replicas_are_waited_for_though_no_node_is(on_a: Call) -> None:
    """There is none here; `--ack none` left them out in silence."""
    for words in (("set", "keys:r", "v"), ("del", "keys:r"), ("invalidate", "keys:r")):
        done = on_a(*words, "--ack", "none", "--replicas", "1", "--timeout", "50ms")
        assert (done.code, "(replicas)" in done.err) == (3, True)


def test_a_lease_whose_output_is_refused_is_given_back(coherenced: Call, tmp_path: Path) -> None:
    told = ["OOM no memory", f"NOACK committed {EPOCH}:7 missing=b"]

    def refuse(command: list[bytes]) -> bytes | None:
        return error(told[0]) if command[0] == b"COH.FILL" else None

    with FakeDaemon(tmp_path / "s", refuse) as daemon:
        words = ("lease", "--socket", daemon.path, "k", "echo", "made")
        assert coherenced(*words).code == 1
        assert not daemon.tokens, "else all others waited for a minute"
        del told[0]
        done = coherenced(*words)
    assert (done.code, done.out) == (3, b"made\n"), "it is stored"
