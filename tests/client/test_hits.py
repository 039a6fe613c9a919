"""The short way to a hit, compiled and in Python: nothing differs but what it costs."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import subprocess
import sys
import tracemalloc
import weakref
from typing import Any
from unittest import mock

import pytest

from coherenced import native
from coherenced.client import hits
from coherenced.client.core import Calls
from coherenced.errors import DaemonUnreachable, UsageError
from coherenced.page.reader import PageReader
from tests.client import forms
from tests.client.forms import Form
from tests.client.rig import MINE, Rig, is_asked, now_ms
from tests.forms import assert_compiled

SMALL = {"id": 42, "name": "Ada"}


def test_hits_are_compiled_where_they_can_be() -> None:
    """Else the suite would say nothing about the form that most processes have."""
    assert_compiled(hits, native.SOURCES[0])


def proved(rig: Rig, key: Any, value: Any, **terms: Any) -> Any:
    """A copy that the short way serves from now on."""
    rig.keep(key, value, **terms)
    assert rig.has(key)
    return rig.l0.copies[key]


class Asked(Exception):
    """The long way was taken."""


def shortly(client: Any) -> Any:
    """The client, with nothing left to it but the short way."""
    client._run = mock.Mock(side_effect=Asked)
    return client


# -- the same answers ----------------------------------------------------------------------------


def test_what_is_proved_needs_no_long_way(rig: Rig, client: Any) -> None:
    copy = proved(rig, "k", "v")
    proved(rig, b"k", 7)
    proved(rig, "dict", SMALL)
    proved(rig, "gone", None)
    proved(rig, "tagged", "t", tags=(b"a", b"b"))
    get, hits_before = shortly(client).get, copy.hits
    for _ in range(3):
        assert get("k") == get("k", 1) == get("k", default=1) == "v"
        assert (get(b"k"), get("dict"), get("tagged", None)) == (7, SMALL, "t")
        assert (get("gone"), get("gone", 1), get("gone", default=2)) == (None, 1, 2)
    assert get("dict") is not get("dict")
    assert copy.hits == hits_before + 9
    assert rig.l0.stats()["native"] is rig.form.is_native


@pytest.mark.parametrize("harm", ["key", "tag", "lane", "time", "left"])
def test_what_is_over_goes_the_long_way(rig: Rig, client: Any, harm: str) -> None:
    copy = proved(rig, "k", "v", tags=(b"a", b"b"))
    assert shortly(client).get("k") == "v"
    if harm == "key":
        rig.page.touch((b"k",))
    elif harm == "tag":
        rig.page.touch_tags((b"b",))
    elif harm == "lane":
        rig.page.drop()
    elif harm == "time":
        copy.until_s = now_ms() / 1e3 - 1e-3
    else:
        rig.l0.leave("test")
    assert copy.holds() is (harm in ("time", "left"))
    with pytest.raises(Asked):
        client.get("k")


def test_terms_are_for_the_long_way(rig: Rig, client: Any) -> None:
    proved(rig, "k", "v")
    shortly(client)
    for terms in (
        {"max_staleness_ms": 5000},
        {"min_version": "0f1e2d3c4b5a6978:9"},
        {"max_staleness_ms": 0},
    ):
        with pytest.raises(Asked):
            client.get("k", **terms)
    with pytest.raises(Asked):
        client.get("not kept")


@pytest.mark.parametrize("arguments", [(), ("k", 1, 2), ("k", 1, 2, 3)])
def test_a_call_that_is_none(rig: Rig, client: Any, arguments: tuple[Any, ...]) -> None:
    proved(rig, "k", "v")
    with pytest.raises(TypeError, match=r"Client\.get\(\) (missing|takes)"):
        client.get(*arguments)
    with pytest.raises(TypeError, match=r"Client\.get\(\) got an unexpected keyword .*'other'"):
        client.get("k", other=1)
    with pytest.raises(TypeError, match=r"Client\.get\(\) got multiple values .*'default'"):
        client.get("k", 1, default=2)
    with pytest.raises(TypeError, match=r"Client\.get\(\) missing"):
        rig.form.Client.get()
    with pytest.raises(AttributeError, match="_hot"):
        rig.form.Client.get(object(), "k")


class Odd(str):
    """A key that does not behave."""

    error: BaseException

    def __hash__(self) -> int:
        return hash(str(self))

    def __eq__(self, other: object) -> bool:
        raise self.error


class Unhashable(str):
    error: BaseException

    def __hash__(self) -> int:
        raise self.error


@pytest.mark.parametrize("kind", [Odd, Unhashable])
def test_keys_that_do_not_behave(rig: Rig, client: Any, kind: Any) -> None:
    proved(rig, "k", "v")
    key = kind("k")
    key.error = ValueError("mine")
    with pytest.raises(ValueError, match="mine"):
        client.get(key)
    # To the short way these are no copy; the long way knows one of them for no key.
    for quiet, comes in ((TypeError, DaemonUnreachable), (KeyError, KeyError)):
        key.error = quiet("mine")
        with pytest.raises(comes):
            client.get(key)
    for none in (None, 1, [], {}):
        with pytest.raises(UsageError, match="a key is str or bytes"):
            client.get(none)


def test_what_making_a_value_raises_is_raised(rig: Rig, client: Any) -> None:
    copy = proved(rig, "k", {"nested": [1]})

    def fresh() -> Any:
        rig.l0.discard("k")  # what it is made from goes away meanwhile
        copy.fresh = None
        gc.collect()
        raise KeyError("mine")

    copy.fresh = fresh
    del fresh
    with pytest.raises(KeyError, match="mine"):
        shortly(client).get("k", "default")


def test_asynchronous_clients_go_the_same_short_way(rig: Rig) -> None:
    async def use() -> None:
        async with rig.form.AsyncClient(rig.path.parent / "no.sock") as client:
            client._l0.use(PageReader(str(rig.path), MINE.decode()))
            rig.l0 = client._l0
            copy = proved(rig, "k", SMALL)
            proved(rig, "gone", None)
            shortly(client)
            assert await client.get("k") == await client.get("k", default=1) == SMALL
            assert await client.get("gone", "default") == "default"
            with pytest.raises(UsageError, match="a key is str or bytes"):
                await client.get([])
            with pytest.raises(Asked):
                await client.get("not kept")
            assert copy.hits == 3
            rig.page.touch((b"k",))
            with pytest.raises(Asked):
                await client.get("k")

    asyncio.run(use())


def test_threads_never_get_what_was_over_before_they_asked(rig: Rig, client: Any) -> None:
    def look() -> Any:
        try:
            return client.get("k")
        except DaemonUnreachable:
            return None

    wrong, seen = rig.race(look, 1000)
    assert not wrong
    assert seen


# -- a method like another -----------------------------------------------------------------------


def test_it_looks_like_the_method_that_it_is(form: Form) -> None:
    get = form.Client.get
    assert inspect.signature(get).parameters == inspect.signature(Calls.get).parameters
    assert get.__doc__ == Calls.get.__doc__
    assert (get.__name__, get.__qualname__) == ("get", "Client.get")
    assert get.__module__ == "coherenced.client.sync"
    assert inspect.isroutine(get)
    assert weakref.ref(get)() is get
    assert "max_staleness_ms" in inspect.getsource(get)
    assert inspect.iscoroutinefunction(form.AsyncClient.get)


def test_it_can_be_bound_overridden_and_replaced(rig: Rig, client: Any) -> None:
    class Mine(rig.form.Client):  # type: ignore[name-defined,misc]
        def get(self, key: Any, default: Any = None, **terms: Any) -> Any:
            return ["mine", super().get(key, default, **terms)]

    proved(rig, "k", "v")
    assert client.get.__self__ is client
    assert list(map(client.get, ["k", "k"])) == ["v", "v"]
    assert rig.form.Client.get(client, "k") == "v"
    assert rig.form.Client.get(client, key="k") == "v"
    with Mine(rig.path.parent / "no.sock") as mine:
        mine._hot = client._hot
        assert mine.get("k") == ["mine", "v"]
    with mock.patch.object(rig.form.Client, "get", return_value="patched"):
        assert client.get("k") == "patched"
    assert mock.create_autospec(client).get("k", default=1) is not None
    assert client.get("k") == "v"


# -- memory ----------------------------------------------------------------------------------------


def test_hits_leave_nothing_behind(rig: Rig, client: Any) -> None:
    copy = proved(rig, "k", "v" * 100)
    proved(rig, "dict", SMALL)
    value, get = copy.value, client.get

    def use() -> None:
        for _ in range(5000):
            get("k")
            get("dict", value)
            get("k", default=value)
        is_asked(client, "not kept")

    use()
    counts = [sys.getrefcount(one) for one in (value, copy, client._hot, client, None)]
    tracemalloc.start()
    try:
        use()
        before, _ = tracemalloc.get_traced_memory()
        use()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 20_000
    now = [sys.getrefcount(one) for one in (value, copy, client._hot, client, None)]
    assert all(abs(new - old) < 100 for new, old in zip(now, counts, strict=True))


def test_a_copy_in_a_cycle_is_collected(rig: Rig) -> None:
    class Canary:
        pass

    canary = Canary()
    alive = weakref.ref(canary)
    copy = proved(rig, "k", "v")
    copy.value = [canary, copy]
    copy.fresh = copy.value.copy
    rig.l0.discard("k")
    del canary, copy
    gc.collect()
    assert alive() is None


def test_clients_are_collected(form: Form, rig: Rig) -> None:
    class Mine(form.Client):  # type: ignore[name-defined,misc]
        get = form.hits.hits_first(lambda self, key, default=None, **terms: None)

    client, kind = Mine(rig.path.parent / "no.sock"), weakref.ref(Mine)
    client.get("k")
    client.close()
    del client, Mine
    gc.collect()
    assert kind() is None


# -- what only the compiled form has to take care of -------------------------------------------


@pytest.fixture
def kept() -> Any:
    native = forms.form("native")
    if native is None:
        pytest.skip(f"hits are not compiled here ({forms.HOW_TO_BUILD})")
    return native.hits.Kept


def test_a_page_is_there_as_long_as_who_looks_at_it(rig: Rig, kept: Any) -> None:
    words = PageReader(str(rig.path), MINE.decode()).words
    one = kept(words, ((600, words[600]), (17, words[17]), (700, words[700])))
    assert one.words is words
    mapped = words.obj
    words.release()
    with pytest.raises(BufferError):
        mapped.close()
    del words, mapped
    rig.l0.leave("test")
    gc.collect()
    assert one.holds()
    rig.page._words[700] += 1
    assert not one.holds()


IN_A_CYCLE = """
import gc
from types import SimpleNamespace
from coherenced.client.hits import Kept

for _ in range(100):
    words = memoryview(bytearray(8 * 8)).cast("Q")
    holder = SimpleNamespace(words=words, hot={n: Kept(words, ((0, 0), (n, 0))) for n in range(8)})
    holder.itself = holder
    del words, holder
    gc.collect()
print("alive")
"""


def test_a_page_in_a_cycle_is_collected(form: Form) -> None:
    """CPython clears a memoryview in a cycle under those who hold it as a buffer (gh-77894): the
    process ended with SIGSEGV, which is why this one is a process of its own."""
    pure = {} if form.is_native else {"COHERENCED_PURE": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", IN_A_CYCLE],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **pure},
        timeout=60,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "alive\n", "")


def test_what_is_no_page_or_no_counter_is_refused(kept: Any) -> None:
    page = bytearray(8 * 8)
    words = memoryview(page).cast("Q")
    assert kept(words, ((0, 0), (7, 0))).holds()
    for slot in (-1, 8, 1 << 62):
        with pytest.raises(IndexError):
            kept(words, ((0, 0), (slot, 0)))
    for other in (words.cast("B"), words[::2], memoryview(bytes(16)), b"", None):
        with pytest.raises((TypeError, BufferError)):
            kept(other, ((0, 0),))
    unaligned = memoryview(bytearray(8 * 8 + 1))[1:].cast("Q")
    with pytest.raises(TypeError):
        kept(unaligned, ((0, 0),))
    for pairs in ((), None, [(0, 0)], ((0,),), ((0, "x"),), (7,)):
        with pytest.raises((TypeError, ValueError, SystemError)):
            kept(words, pairs)
    words.release()
    page.append(0)  # nobody that was refused holds on to it


def test_what_it_is_kept_under_does_not_change(kept: Any) -> None:
    words = memoryview(bytearray(8)).cast("Q")
    one = kept(words, ((0, 0),))
    with pytest.raises(ValueError, match="given once"):
        one.__init__(words, ((0, 1),))
    with pytest.raises(AttributeError):
        one.words = words
    assert one.holds()
    blank = kept.__new__(kept)
    assert not blank.holds()
    assert (blank.words, blank.value, blank.fresh, blank.found) == (None, None, None, False)


def test_it_is_no_use_on_what_is_no_dict_of_copies(rig: Rig, client: Any) -> None:
    if not rig.form.is_native:
        pytest.skip("of the compiled form")
    shortly(client)
    for hot in ({"k": 7}, {"k": None}, [], None):
        client._hot = hot
        with pytest.raises(Asked):
            client.get("k")
    del client._hot
    with pytest.raises(AttributeError, match="_hot"):
        client.get("k")
