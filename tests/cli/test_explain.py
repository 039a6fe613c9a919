from __future__ import annotations

from collections.abc import Callable

from coherenced.cli.cluster import Daemon
from tests.cli.conftest import Done

Call = Callable[..., Done]


def test_where_a_key_would_come_from(coherenced: Call, a: Daemon) -> None:
    a.client.set("explain:1", 1, ttl=60, tags=["t", "u"])
    a.client.get("explain:1")
    done = coherenced("explain", "explain:1", "--socket", a.socket)
    assert done.code == 0
    facts = dict(line.split("  ", 1) for line in done.text.splitlines())
    facts = {what.strip(): how.strip() for what, how in facts.items()}
    assert facts["key"] == "explain:1"
    assert facts["cached"] == "yes"
    assert facts["answered from"] == "l1"
    assert facts["tags"] == "t, u"
    assert facts["ttl"].endswith(" s")
    told = coherenced("explain", "explain:none", "--socket", a.socket, "--json").document
    assert told["cached"] is False
    assert told["answered_from"] == "l2"


def test_a_binary_key_is_legible_and_unambiguous(coherenced: Call, a: Daemon) -> None:
    binary, text = "explain:\udcff\x1b", r"explain:\xff\x1b"
    a.client.set(b"explain:\xff\x1b", 1, tags=[b"\xfe", "t"])
    done = coherenced("explain", binary, "--socket", a.socket)
    assert "\x1b" not in done.text
    assert r"explain:\xff\x1b" in done.text and r"\xfe, t" in done.text
    told = coherenced("explain", binary, "--socket", a.socket, "--json").document
    assert told["key"] == {"base64": "ZXhwbGFpbjr/Gw=="} and told["stale"] is False
    assert told["tags"] == [{"base64": "/g=="}, "t"]
    assert coherenced("explain", text, "--socket", a.socket, "--json").document["key"] == text
