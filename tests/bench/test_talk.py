"""talk.py: what nodes ask of a server is counted."""

from __future__ import annotations

from pathlib import Path

from coherenced.bench.rig import Rig
from coherenced.bench.talk import Talk, values_read


def test_what_nodes_read_of_a_server_is_counted(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig:
        (daemon,) = rig.daemons(1)
        with rig.talk_to_server() as upstream, Talk(daemon.socket) as talk:
            for number in range(5):
                upstream.ask("SET", f"k{number}", "v")
            before = values_read(upstream)
            talk.ask("MGET", *(f"k{number}" for number in range(5)))
            talk.ask("GET", "k0")  # held
            assert values_read(upstream) - before == 5
            talk.ask("COH.INVALIDATE", "ALL")
            talk.ask("GET", "k0")
            assert values_read(upstream) - before == 6
