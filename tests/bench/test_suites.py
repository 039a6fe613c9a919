"""Every suite runs to its end and returns the rows it promises. No figure is looked at."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from coherenced.bench.model import Context
from coherenced.bench.suites import SUITES, run
from coherenced.client.hits import NATIVE

ROWS = {
    "resp": ["GET, 50 connections", "GET, 50 connections, pipelined by 16: CPU each"],
    "busy": [
        "hits, 10,000 invalidations a second: p99",
        "hits beside a client that pipelines 10,000 GETs: p99",
    ],
    "http": ["GET /v1/keys/…, 16 connections", "GET /v1/keys/…, 16 connections: p99"],
    "miss": [
        "cold reads, 50 connections",
        "200 misses of one key at once: reads upstream",
        "200 misses of 200 keys at once: round trips",
    ],
    "write": ["SET, 50 connections", "COH.SET ACK all, 3 nodes: p50"],
    "invalidation": [
        "write on A until dropped by all 3 nodes: p50",
        "write on A until served by all 3 nodes: p50",
    ],
    "apply": [
        "keys not held: in a second of CPU time",
        "keys held: writer, server and node together",
        "the core alone, keys not held",
    ],
    "memory": [
        "idle node: resident",
        "an entry of 116 bytes, of 10000: resident",
        "hits while a prefix of all held keys is invalidated: the longest wait",
        "churn for 1 s: greatest growth, as a share of the bound",
    ],
    "startup": ["start until ready, Valkey given", "coherenced --help: CPU time"],
    "recovery": [
        "2 nodes, 1200 hot entries each: cut off, until all are current and serve from L1",
        "reads of Redis until then",
        "until all is held again",
    ],
    "lookup": [
        "a hit, beside dict",
        "a hit, beside redis-py over a Unix socket",
        "a hit on a small dict, copied",
        "2 processes: hits together",
        "written by one process until read by another: p50",
    ],
    "eviction": [],
    "scale": [
        "one more node: Redis's CPU for a message, many at once",
        "one more lane that brings nothing: a node's CPU",
        "one more key of a record: a node's CPU",
        "one more tag of a value: a node's CPU",
        "Redis's CPU as computed beside real nodes: how far off",
        "100 nodes, all nodes write alike: invalidations a second that fit",
        "acknowledgements a second, 100 nodes, each writing 0.2/s with ack=all",
    ],
}
"""Some that must be there."""


HALF = ("write", "memory", "startup", "recovery", "scale")
"""As long as all others together."""


def quick_run(suites: Iterable[str]) -> Any:
    """What one quick run of these prints."""
    done = subprocess.run(
        [sys.executable, "-m", "coherenced", "bench", "--quick", "--json", *suites],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def told() -> Any:
    """Everything, in two runs side by side: no figure is looked at."""
    others = [suite for suite in SUITES if suite not in HALF]
    with ThreadPoolExecutor(2) as runs:
        one, other = runs.map(quick_run, (HALF, others))
    return {**one, "suites": {**other["suites"], **one["suites"]}}


@pytest.mark.timeout(240)  # for whatever else runs beside it; alone it takes a tenth
def test_every_suite_is_run_and_none_fails(told: Any) -> None:
    assert told["suites"].keys() == SUITES.keys() == ROWS.keys()
    for rows in told["suites"].values():
        for row in rows:
            assert row["ours"] is not None or row["note"].startswith("skipped: "), row
            assert row["met"] in (True, False, None)


@pytest.mark.parametrize("suite", ROWS)
def test_its_rows_are_there(told: Any, suite: str) -> None:
    rows = {row["name"]: row for row in told["suites"][suite]}
    assert set(ROWS[suite]) <= set(rows)
    for row in rows.values():
        if row["theirs"] is not None and row["theirs"]["value"]:
            ratio = row["ours"]["value"] / row["theirs"]["value"]
            assert row["ratio"]["value"] == pytest.approx(ratio)  # of one round
            assert row["peer"]


def test_hits_are_measured_in_both_forms(told: Any) -> None:
    rows = {row["name"]: row for row in told["suites"]["lookup"]}
    for what in ("256 bytes", "a small dict, copied"):
        assert (f"in Python: a hit on {what}" in rows) is NATIVE
        assert ("in Python" in rows[f"a hit on {what}"]["note"]) is not NATIVE


def test_one_upstream_read_for_many_misses(told: Any) -> None:
    """This is no timing: single-flight holds on any machine."""
    rows = {row["name"]: row for row in told["suites"]["miss"]}
    assert rows["200 misses of one key at once: reads upstream"]["ours"]["value"] == 1


@pytest.mark.parametrize(
    ("suite", "packages", "empty", "says"),
    [
        ("lookup", ("lru", "cachetools", "cachetools", "theine", "lmdb"), 5, "a hit, beside dict"),
        ("eviction", ("libcachesim",), 1, None),
    ],
)
def test_a_peer_that_is_not_installed_is_skipped_by_name(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    suite: str,
    packages: tuple[str, ...],
    empty: int,
    says: str | None,
) -> None:
    """And the suite tells what it does."""
    real = importlib.import_module

    def without(name: str) -> Any:
        if name in packages:
            raise ModuleNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib, "import_module", without)
    said: list[str] = []
    context = Context(directory=tmp_path, seconds=0.05, rounds=1, quick=True, say=said.append)
    rows = [row for row in run(suite, context) if row.ours is None]
    assert len(rows) == empty
    for row, package in zip(rows, packages, strict=True):
        assert row.note.startswith(f"skipped: {package} is not installed")
    assert says is None or says in said
