"""A process that follows several lanes of one server."""

from __future__ import annotations

from pathlib import Path

from coherenced.bench.processes import Program
from coherenced.bench.rig import Rig


def test_it_is_on_the_roster_of_each(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig:
        told = {"socket": str(rig.server.socket), "lanes": 3}
        with Program("lanes", told, rig.log) as program:
            assert program.hear() == 3
            with rig.talk_to_server() as talk:
                for lane in range(3):
                    talk.ask("SELECT", lane)
                    assert talk.ask("HLEN", "coh:{0}:nodes") == 1
                talk.ask("SELECT", 3)
                assert talk.ask("HLEN", "coh:{0}:nodes") == 0
