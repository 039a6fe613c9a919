from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import pytest

import coherenced.daemon
from coherenced.config import Loaded
from tests.cli.conftest import Done

Call = Callable[..., Done]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Loaded, Callable[[], Loaded]]]:
    """What the daemon would have been started with."""
    calls: list[tuple[Loaded, Callable[[], Loaded]]] = []

    def run(loaded: Loaded, reload: Callable[[], Loaded]) -> int:
        calls.append((loaded, reload))
        return 7

    monkeypatch.setattr(coherenced.daemon, "run", run)
    return calls


def test_flags_become_the_configuration(
    coherenced: Call,
    started: list[tuple[Loaded, Callable[[], Loaded]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[node]\nname = "of-file"\n[l1]\nmax_age_ms = 5\n[log]\nlevel = "debug"\n')
    monkeypatch.setenv("COHERENCED_L1__MAX_AGE_MS", "6")
    done = coherenced(
        "serve", "--config", file, "--redis", "redis://h", "--socket", tmp_path / "s",
        "--http", "127.0.0.1:1", "--node", "of-flag", "--set", "l1.max_bytes=64MiB",
    )  # fmt: skip
    assert done.code == 7  # the daemon's own exit code
    assert gc.isenabled()
    (loaded, reload) = started[0]
    config = loaded.config
    assert config.redis.url == "redis://h"
    assert config.listen.socket == str(tmp_path / "s")
    assert config.listen.http == "127.0.0.1:1"
    assert config.node.name == "of-flag"
    assert config.l1.max_bytes == 64 << 20
    assert config.l1.max_age_ms == 6
    assert config.log.level == "debug"
    file.write_text('[log]\nlevel = "error"\n')
    assert reload().config.log.level == "error"


def test_the_global_socket_flag_means_where_to_listen(
    coherenced: Call, started: list[tuple[Loaded, Callable[[], Loaded]]]
) -> None:
    coherenced("--socket", "/global.sock", "serve")
    assert started[0][0].config.listen.socket == "/global.sock"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "l1.max_bytes"], "KEY=VALUE"),
        (["--set", "l1.max_byte=1"], "did you mean l1.max_bytes?"),
        (["--redis", "http://h"], "redis.url"),
        (["--config", "/no/such/file"], "/no/such/file"),
    ],
)
def test_a_wrong_flag_is_told_before_anything_starts(
    coherenced: Call, started: list[object], words: list[str], said: str
) -> None:
    done = coherenced("serve", *words)
    assert done.code == 2
    assert said in done.err
    assert not started
