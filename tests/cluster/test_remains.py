"""A failed run leaves everything that tells why; a good one leaves nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkers.history import History, Kind, Outcome
from tests.cluster.daemons import Cluster, DaemonError
from tests.cluster.remains import KEEP_VARIABLE, Remains


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(KEEP_VARIABLE, str(tmp_path))
    return tmp_path


def test_a_good_run_leaves_nothing(kept: Path) -> None:
    with Remains("good", 1) as remains:
        remains.say("well")
        assert "seed 1" in (remains.directory / "run.txt").read_text()
    assert not list(kept.iterdir())


def test_a_failed_run_leaves_its_seed_its_history_and_the_logs(
    kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        pytest.raises(DaemonError, match="n1 ended by itself with -9"),
        Remains("bad", 7) as remains,
        Cluster(1, keep=remains.directory) as cluster,
    ):
        op = remains.recorder.begin("s", "n1", Kind.WRITE, ("k",), ("v",))
        assert cluster.daemons[0].command("SET", "k", "v") == b"OK"
        remains.recorder.end(op, Outcome.OK)
        remains.say("#1 a fault")
        daemon = cluster.daemons[0]
        assert daemon._process is not None
        daemon._process.kill()  # as if it had crashed: nobody has told it to
        daemon._process.wait()
        cluster.heal()
    (directory,) = kept.iterdir()
    assert str(directory) in capsys.readouterr().out
    told = (directory / "run.txt").read_text()
    assert "seed 7" in told and "#1 a fault" in told and "DaemonError" in told
    history = History.load(directory / "history.jsonl")
    assert [op.values for op in history.operations] == [("v",)]
    assert history.notes["seed"] == 7
    assert "ready" in (directory / "n1.log").read_text().lower()
    assert (directory / "server.log").stat().st_size
