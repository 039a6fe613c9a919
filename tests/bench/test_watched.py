"""A daemon whose garbage collections are timed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from coherenced.bench.rig import Rig, wait_until
from coherenced.bench.talk import Talk
from coherenced.bench.watched import collections, command


def test_collections_of_a_real_daemon_are_noted(tmp_path: Path) -> None:
    path = tmp_path / "collections"
    with Rig(tmp_path) as rig:
        daemon = rig.daemons(1, command=command(path))[0]
        before = collections(path)
        assert before  # it collects once, before it freezes what is there
        os.kill(daemon.pid, signal.SIGUSR2)
        wait_until(lambda: len(collections(path)) > len(before), "a collection")
        with Talk(daemon.socket) as talk:
            assert talk.ask("SET", "k", "v") == "OK" or talk.ask("GET", "k") == b"v"
    last = collections(path)[len(before)]
    assert last.generation == 2 and 0 < last.took_ms < 10_000
    assert collections(path, since_s=last.began_s)[0] == last
