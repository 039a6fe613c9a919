"""A quiet connection, compiled and in Python: nothing differs but what it costs."""

from __future__ import annotations

import copy
import gc
import os
import random
import subprocess
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coherenced import native
from coherenced.core.bulk import bulk_of
from coherenced.core.entry import Entry
from coherenced.core.lane import Lane
from coherenced.core.laws import Laws
from coherenced.core.model import FOREVER, NEVER
from coherenced.core.node import Node, Settings
from coherenced.core.policy import Namespaces, Policy
from coherenced.core.requests import Fault, FaultKind, Get
from coherenced.serve import quiet
from coherenced.serve.resp_settings import RespSettings
from coherenced.wire.commands import Access
from coherenced.wire.framing import FrameLimits
from coherenced.wire.plan import Bounds
from tests.forms import assert_compiled
from tests.serve import forms
from tests.serve.resp_rig import Client, RespPort, packed


def test_it_is_compiled_where_it_can_be() -> None:
    """Else the suite would say nothing about the form that most daemons have."""
    assert_compiled(quiet, native.SOURCES[1])


def test_the_other_form_passes_the_same_tests() -> None:
    """All that is said of connections is true of both."""
    if not quiet.NATIVE:
        pytest.skip("this is the only form here")
    here = Path(__file__).parent
    files = [str(here / f"test_resp_{name}.py") for name in ("connection", "local", "transaction")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files],
        env=os.environ | {quiet.OFF: "1"},
        cwd=here.parent.parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "[100%]" in done.stdout


def test_one_that_was_built_of_an_older_source_is_left_alone() -> None:
    """A checkout has moved on, and nobody has built it again: the daemon runs all the same."""
    code = (
        "import sys, types\n"
        "old = types.ModuleType('coherenced.serve._quiet')\n"
        "old.Hit = old.Quiet = old.Tally = object\n"
        "sys.modules[old.__name__] = old\n"
        "import coherenced.serve\n"
        "coherenced.serve._quiet = old\n"
        "from coherenced.serve import quiet, quiet_pure\n"
        "assert not quiet.NATIVE and quiet.Tally is quiet_pure.Tally\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


# -- connections ------------------------------------------------------------------------------

TIGHT = RespSettings(
    output_buffer_bytes=20_000,
    pause_bytes=2_000,
    max_pending=40,
    bounds=Bounds(max_key_bytes=120),
    frame=FrameLimits(max_bulk_bytes=600, max_query_bytes=4_000),
)
KEYS = (
    b"k",
    b"a-key-of-some-length",
    b"x" * 99,
    b"y" * 100,
    b"z" * 121,
    b"coh:is-reserved",
    b"\r\n$3\r\n",
)


def pair() -> tuple[Client, Client]:
    """One client of each form."""
    told = [forms.form(name) for name in forms.FORMS]
    if None in told:
        pytest.skip("the compiled form is not to be had here")
    one, other = (
        Client(front=form.resp.RespFront(RespPort(), TIGHT)) for form in told if form is not None
    )
    return one, other


def chunk(chance: random.Random, keys: Sequence[bytes]) -> bytes:
    """What a client may send at once: mostly what the short way knows; sometimes harmed."""
    deed, key = chance.random(), chance.choice(keys)
    value = b"v" * chance.choice((0, 1, 9, 10, 99, 100, 590, 600, 601, 700))
    if deed < 0.3:
        data = packed((chance.choice((b"GET", b"get", b"gEt")), key))
    elif deed < 0.5:
        data = packed((chance.choice((b"SET", b"set", b"sEt")), key, value))
    elif deed < 0.7:
        verbs = chance.choices((b"GET", b"GET", b"get", b"SET"), k=chance.randint(2, 120))
        words = [(v, chance.choice(keys[:3])) if v != b"SET" else (v, key, b"1") for v in verbs]
        data = packed(*words)
    elif deed < 0.8:
        data = packed(*[("GET", keys[1])] * chance.randint(2, 400))
    else:
        data = packed(chance.choice(("PING", "MULTI", "EXEC", "HELLO 3", "HELLO 2", "RESET")))
    if chance.random() < 0.1:
        at = chance.randrange(len(data))
        data = data[:at] + bytes([chance.randrange(256)]) + data[at + chance.randint(0, 2) :]
    return data


def told(client: Client) -> tuple[object, ...]:
    """All that can be seen of a connection. One form may know a request by itself that the other
    gives a slot."""
    c, port = client.connection, client.port
    slots = [(slot.access, slot.data, slot.resp3) for slot in c._slots]
    gets, sets = c.state == quiet.GETTING, c.state == quiet.SETTING
    if gets or sets:
        slots.append((Access.READ if gets else Access.WRITE, None, c.resp3))
    numbers = (c._reads + gets, c._writes + sets, c._held_bytes, len(c._queue), c._reply_bytes)
    flags = (c.state == quiet.QUIET, c.quick and not sets, c.resp3, c._reading, c._paused)
    ends = (c._running, c._ending, c.lost, client.wire.closing)
    counts = (client.front.requests, client.front.errors, port.served, len(port.requests))
    return (*numbers, *flags, *ends, slots, *counts, c._reader.idle)


@pytest.mark.parametrize("seed", range(150))
async def test_both_forms_live_through_the_same(seed: int) -> None:
    """Which of them knows a key of another length by itself decides how many replies it hands over
    at once; who does not read tells the difference, and is given keys that both know."""
    chance = random.Random(seed)
    blocks = seed % 2
    keys = [key for key in KEYS if 10 <= len(key) < 100] * 2 if blocks else KEYS
    clients = pair()
    for step in range(60):
        deed, data, cut = chance.random(), chunk(chance, keys), chance.random()
        kept, moment = chance.choice(keys[:5]), chance.random()
        for client in clients:
            port, wire, connection = client.port, client.wire, client.connection
            port.fault = Fault(FaultKind.UNAVAILABLE, "gone") if moment < 0.05 else None
            port.fills = moment < 0.5
            if deed < 0.65:
                if wire.closing or not wire.reading:
                    continue
                if cut < 0.15:
                    at = 1 + int(len(data) * cut * 6)
                    client.feed(data[:at])
                    if wire.reading and not wire.closing:
                        client.feed(data[at:])
                else:
                    client.feed(data)
            elif deed < 0.72:
                port.keep(kept, None if cut < 0.3 else b"v" * int(cut * 900))
            elif deed < 0.76:
                port.l1.clear()
            elif deed < 0.8:
                if port.held is None:
                    port.hold()
            elif deed < 0.92:
                if port.held is not None:
                    port.release(None if cut < 0.5 else 1)
            elif deed < 0.94:
                wire.blocked = bool(blocks)
            elif deed < 0.98:
                wire.blocked = False
                wire.drain()
            elif deed > 0.997:
                (connection.retire if cut < 0.5 else wire.close)()
            elif deed > 0.994 and not wire.closing:
                connection.eof_received()
        one, other = clients
        assert one.raw() == other.raw(), step
        assert told(one) == told(other), step
        assert one.port.requests == other.port.requests


@pytest.mark.parametrize("name", forms.FORMS)
def test_a_tally_and_what_is_sampled(name: str) -> None:
    form = forms.form(name)
    if form is None:
        pytest.skip("the compiled form is not to be had here")
    observed: list[float] = []
    front = form.resp.RespFront(RespPort(), TIGHT, observed.append)
    client = Client(front=front)
    client.port.keep(b"k", b"v")
    every = form.resp.SAMPLE_EVERY
    for number in range(1, 3 * every + 1):
        client.feed(packed(("GET", "k")))
        assert (front.requests, len(observed)) == (number, number // every)
    client.feed(packed(*[("GET", "k")] * every))
    assert (front.requests, len(observed)) == (4 * every, 4)


@pytest.mark.parametrize("name", forms.FORMS)
def test_an_exception_reaches_whoever_called(name: str) -> None:
    """Of the port, a reply that cannot be written: nothing is swallowed, nothing is left behind."""
    form = forms.form(name)
    if form is None:
        pytest.skip("the compiled form is not to be had here")

    class Trouble(Exception):
        pass

    def fails(*args: Any) -> Any:
        raise Trouble

    for what in ("hit", "hits", "get", "submit"):
        port = RespPort()
        client = Client(front=form.resp.RespFront(port, TIGHT))
        client.port.keep(b"held", b"v")
        setattr(port, what, fails)
        client = Client(front=client.front)
        read, write = packed(("GET", "a-key-of-some-length")), packed(("SET", "k", "v"))
        data = {"submit": write, "hits": read * 2}.get(what, read)
        if what == "hits" and name == "native":
            port.hit = fails  # type: ignore[method-assign]
            client = Client(front=client.front)
        with pytest.raises(Trouble):
            client.connection.data_received(data)
    client = Client(front=form.resp.RespFront(RespPort(), TIGHT))
    client.port.keep(b"held", b"v")
    client.wire.write = fails  # type: ignore[method-assign]
    with pytest.raises(Trouble):
        client.connection.data_received(packed(("GET", "held")))
    if name == "native":
        with pytest.raises(TypeError):
            client.connection.data_received(bytearray(b"GET"))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", forms.FORMS)
def test_connections_are_given_back(name: str) -> None:
    form = forms.form(name)
    if form is None:
        pytest.skip("the compiled form is not to be had here")
    front = form.resp.RespFront(RespPort(), TIGHT)
    client = Client(front=front)
    client.port.hold()
    client.feed(packed(("GET", "a-key-of-some-length")))
    gone = weakref.ref(client.wire), weakref.ref(client)
    client.wire.close()
    client.port.release()
    del client
    gc.collect()
    assert [one() for one in gone] == [None, None]


@pytest.mark.skipif(not quiet.NATIVE, reason="the compiled form is not to be had here")
def test_one_that_was_not_begun_is_no_connection() -> None:
    from coherenced.serve import _quiet  # type: ignore[attr-defined,unused-ignore]

    read = packed(("GET", "a-key-of-some-length"))
    raw = _quiet.Quiet.__new__(_quiet.Quiet)
    raw.state = quiet.QUIET
    for use in (raw.leading_hits, raw.data_received):
        with pytest.raises(RuntimeError, match="no front"):
            use(read)
    form = forms.form("native")
    assert form is not None
    port = RespPort()
    front = form.resp.RespFront(port, TIGHT)
    for lacking in ("hit", "submit"):
        names = {"hit", "now_ms", "get", "submit"} - {lacking}
        front.port = SimpleNamespace(**dict.fromkeys(names))
        with pytest.raises(AttributeError, match=lacking):
            raw.__init__(front)
    front.port = port
    raw.__init__(front)
    assert raw.leading_hits(read) == 0


# -- hits -------------------------------------------------------------------------------------


@pytest.mark.skipif(not quiet.NATIVE, reason="the compiled form is not to be had here")
@pytest.mark.parametrize("seed", range(40))
def test_a_compiled_hit_is_the_nodes_own(seed: int) -> None:
    chance = random.Random(seed)
    switches = {name: False for name in Laws.__struct_fields__ if chance.random() < 0.1}
    laws = Laws(**switches) if seed % 2 else Laws()

    def node() -> Node:
        settings = Settings(
            name="n", incarnation=b"n" * 16, namespaces=Namespaces(Policy()), l1_max_bytes=50_000
        )
        return Node(settings, lambda: b"0" * 16, laws)

    mine, its = node(), node()
    hit = quiet.hit_of(mine)
    assert hit != mine.hit
    keys = [b"%d" % number for number in range(12)]
    for _ in range(300):
        deed, key, now_ms = chance.random(), chance.choice(keys), chance.choice((0.0, 5.0, 10.0))
        until_ms, bound_ms = chance.choice((FOREVER, 10.0, 5.0)), chance.choice((5.0, 0.0, -1.0))
        tags = chance.choice(((), (), (), (b"t",)))
        proved_ms = chance.choice((NEVER, 0.0, 5.0, 7))
        for one in (mine, its):
            if deed < 0.4:
                one.l1.put(Entry(key, bulk_of(b"v"), one.lane, 3, until_ms, bound_ms, tags))
            elif deed < 0.45:
                one.lane.verified_at_ms = proved_ms
            elif deed < 0.47:
                one.l1.end_prefix(key[:1], 4)
            elif deed < 0.49:
                one.l1.sweep(now_ms, 0.0, 1_000)
            elif deed < 0.5:
                one.lane.tag_seq[b"t"] = 4
            elif deed < 0.51:
                one.l1.drop_all()
        if deed > 0.5:
            found, expected = hit(key, now_ms), its.hit(key, now_ms)
            assert (found is None) == (expected is None)
            if found is not None and expected is not None:
                assert (found.key, found.frequency) == (expected.key, expected.frequency)
            assert mine.l1.hits == its.l1.hits


@pytest.mark.skipif(not quiet.NATIVE, reason="the compiled form is not to be had here")
def test_a_hit_is_told_what_it_cannot_use() -> None:
    from coherenced.serve import _quiet  # type: ignore[attr-defined,unused-ignore]

    node = Node(
        Settings(name="n", incarnation=b"n" * 16, namespaces=Namespaces(Policy())),
        lambda: b"0" * 16,
    )
    hit = quiet.hit_of(node)
    for arguments in ((), (b"k",), (b"k", "now"), (b"k", 1.0, 2.0)):
        with pytest.raises(TypeError):
            hit(*arguments)  # type: ignore[call-arg,arg-type]
    assert hit(b"k", 1.0) is None
    with pytest.raises(AttributeError):
        _quiet.Hit(node.l1, node.hit, Entry, Get)  # a Get proves nothing
    with pytest.raises(AttributeError):
        _quiet.Hit(object(), node.hit, Entry, Lane)
    with pytest.raises(TypeError, match="not a field"):
        _quiet.Hit(node.l1, node.hit, Entry, type("Late", (), {"verified_at_ms": 0.0}))
    with pytest.raises(TypeError):
        copy.copy(hit)
