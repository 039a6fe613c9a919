from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coherenced.cli.cluster import Daemon
from tests.cli.conftest import Done

Call = Callable[..., Done]


def test_keys_of_a_file_are_held_afterwards(
    coherenced: Call, a: Daemon, b: Daemon, tmp_path: Path
) -> None:
    keys = [f"warm:{n}" for n in range(500)]
    # `all`: else `a` may hear of them after it has read them, and drop what it holds.
    b.client.set_many(dict.fromkeys(keys, b"x"), ack="all")
    file = tmp_path / "keys"
    file.write_text("\n".join([*keys, "", "warm:none"]) + "\n")
    before = a.stats()["l1"]["entries"]
    done = coherenced("warm", "--socket", a.socket, "--from-file", file)
    assert done.code == 0
    assert done.text.startswith("500 keys read into memory in ")
    assert done.err == "coherenced: not there: warm:none\n"
    assert a.stats()["l1"]["entries"] - before >= 500
    assert coherenced("explain", "--socket", a.socket, "warm:7", "--json").document["cached"]


def test_keys_of_standard_input_and_arguments_as_json(
    coherenced: Call, a: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    a.client.set("warm:given", b"x")
    stdin: Any = io.TextIOWrapper(io.BytesIO(b"warm:absent\r\nwarm:given\n"))
    monkeypatch.setattr("sys.stdin", stdin)
    told = coherenced("warm", "--socket", a.socket, "warm:given", "--from-file", "-", "--json")
    assert told.document["keys"] == 2
    assert (told.document["found"], told.document["missing"]) == (1, ["warm:absent"])


def test_nothing_to_warm_and_nobody_to_ask(coherenced: Call, tmp_path: Path) -> None:
    assert coherenced("warm").code == 2
    done = coherenced("warm", "--socket", tmp_path / "none.sock", "k")
    assert done.code == 4
    assert done.err.startswith("coherenced: cannot reach the daemon")
