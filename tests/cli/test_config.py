from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Done

Call = Callable[..., Done]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "c.toml"
    path.write_text(
        '[redis]\nurl = "redis://cache:6379"\npassword = "secret"\n'
        '[namespace.users]\nmatch = "user:*"\nlinearizable = true\n'
    )
    return path


def test_check(coherenced: Call, file: Path) -> None:
    done = coherenced("config", "check", "--config", file)
    assert (done.code, done.text) == (0, f"the configuration is right: {file}\n")
    assert coherenced("config", "check", "--config", file, "--json").document == {
        "ok": True,
        "file": str(file),
    }


def test_check_says_what_it_has_looked_at(
    coherenced: Call, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert coherenced("config", "check").text.endswith(": no file, defaults only\n")
    monkeypatch.setenv("COHERENCED_L1__MAX_BYTES", "64MiB")
    done = coherenced("config", "check")
    assert done.text.endswith(": no file, 1 value from the environment\n")
    monkeypatch.setenv("COHERENCED_COHERENCE__ACK", "all")
    done = coherenced("config", "check", "--config", file)
    assert done.text.endswith(f": {file}, 2 values from the environment\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[redis]\nurll = 1", "did you mean redis.url?"),
        ("[l1]\nmax_bytes = 1", "l1.max_bytes"),
        ("[l1", "c.toml"),
        ('[node]\nruntime_dir = "/' + "x" * 150 + '"', "too long for a Unix socket"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(
    coherenced: Call, tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    done = coherenced("config", "check", "--config", path)
    assert (done.code, done.out) == (2, b"")
    assert said in done.err
    assert done.err.count("\n") == 1
    assert coherenced("config", "show", "--config", path).code == 2


def test_what_is_shown_is_toml_and_shows_no_secret(coherenced: Call, file: Path) -> None:
    shown = tomllib.loads(coherenced("config", "show", "--config", file).text)
    assert shown["redis"]["url"] == "redis://cache:6379"
    assert shown["redis"]["password"] == "***"
    assert shown["namespace"]["users"]["linearizable"] is True
    assert shown["l1"]["max_bytes"] == 256 << 20
    assert coherenced("config", "show", "--config", file, "--json").document == shown


def test_sources(coherenced: Call, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COHERENCED_L1__MAX_AGE_MS", "1000")
    lines = coherenced("config", "show", "--config", file, "--sources").text.splitlines()
    rows = {line.split()[0]: line for line in lines}
    assert str(file) in rows["redis.url"]
    assert "COHERENCED_L1__MAX_AGE_MS" in rows["l1.max_age_ms"]
    assert rows["l1.max_bytes"].endswith("default")
    told = coherenced("config", "show", "--config", file, "--sources", "--json").document
    assert told["sources"]["l1.max_bytes"] == "default"


def test_awkward_text_is_quoted(coherenced: Call, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('[namespace.odd]\nmatch = "a\\"b\\\\c\\td*"\n')
    shown = tomllib.loads(coherenced("config", "show", "--config", path).text)
    assert shown["namespace"]["odd"]["match"] == 'a"b\\c\td*'
