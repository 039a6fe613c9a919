"""What a second at a steady pace has in it."""

from __future__ import annotations

from coherenced.bench.truth import told


def test_every_node_hears_every_message() -> None:
    counts = told(8, 300.0, 10)
    assert (counts.copies, counts.pushes) == (2_400, 2_400)
    assert (counts.scripts, counts.records, counts.applied) == (300, 3_000, 3_000)
    assert counts.probes == 32
    assert counts.turns > counts.scripts + counts.probes
