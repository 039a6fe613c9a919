from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from coherenced.cli.cluster import Cluster, Daemon
from tests.cli.conftest import Done
from tests.client.fake_daemon import FakeDaemon, bulk
from tests.servers import wait_until

Call = Callable[..., Done]


def test_what_the_node_holds_agrees_with_redis(coherenced: Call, a: Daemon) -> None:
    for number in range(5):
        a.client.set(f"audit:{number}", b"v%d" % number)
    keys = [f"audit:{number}" for number in range(7)]
    done = coherenced("audit", "--socket", a.socket, *keys)
    assert done.code == 0
    assert done.text.strip() == (
        "a: 5 copies compared with Redis, 5 agree, 0 diverged; 0 moved meanwhile, 2 not held"
    )
    told = coherenced("audit", "--socket", a.socket, "--sample", "3", "--json").document
    assert told["compared"] + told["moved"] + told["not_held"] == 3
    assert told["diverged"] == []


def test_a_write_past_the_daemons_is_found_and_dropped(
    coherenced: Call, a: Daemon, cluster: Cluster
) -> None:
    a.client.set("audit:foreign", b"ours")
    assert a.client.get("audit:foreign") == b"ours"
    cluster.tell_server("SET", "audit:foreign", "theirs")
    assert a.client.get("audit:foreign") == b"ours"  # nobody has told the node
    done = coherenced("audit", "--socket", a.socket, "audit:foreign")
    assert done.code == 1
    assert "1 diverged" in done.text
    assert "audit:foreign" in done.text
    assert "were dropped here" in done.err
    wait_until(lambda: a.client.get("audit:foreign") == b"theirs", what="the copy is dropped")
    events = coherenced("nodes", "--socket", a.socket, "--events", "--json").document["events"]
    assert "audit_diverged" in [event["event"] for event in events]
    assert coherenced("stats", "--socket", a.socket, "--json").document["audit"]["diverged"] == 1


def test_the_pieces_are_added_up(coherenced: Call, tmp_path: Path) -> None:
    asked = []

    def answer(command: list[bytes]) -> bytes:
        asked.append(command)
        return bulk(
            '{"node": "a", "compared": 9, "agreed": 8, "moved": 1, "not_held": 2, "diverged": '
            '[{"key": "k", "held_bytes": null, "held_as_of": "e:1", "redis_bytes": 3, '
            '"redis_as_of": "e:2"}]}'
        )

    with FakeDaemon(tmp_path / "s", answer) as daemon:
        done = coherenced("audit", "--socket", daemon.path, "--sample", "2500", "--json")
    assert [command[1:] for command in asked] == [
        [b"COUNT", b"1000"],
        [b"COUNT", b"1000"],
        [b"COUNT", b"500"],
    ]
    assert done.code == 1
    assert (done.document["compared"], len(done.document["diverged"])) == (27, 3)


def test_no_daemon(coherenced: Call, tmp_path: Path) -> None:
    assert coherenced("audit", "--socket", tmp_path / "none").code == 4
    assert coherenced("audit", "--sample", "0").code == 2
