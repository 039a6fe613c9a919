"""Which namespace a key belongs to, and the bounds that follow from all of them."""

from __future__ import annotations

import pytest

from coherenced.core.policy import NEVER_BY_AGE, Namespaces, Policy


def matching(pattern: str, key: bytes) -> bool:
    return Namespaces(Policy(), [(pattern, Policy(name="hit"))]).for_key(key).name == "hit"


@pytest.mark.parametrize(
    ("pattern", "key", "matches"),
    [
        ("user:*", b"user:1", True),
        ("user:*", b"user:", True),
        ("user:*", b"xuser:1", False),
        ("user:*", b"users:1", False),
        ("*", b"", True),
        ("*", b"a\nb\x00\xff", True),
        ("h?llo", b"hello", True),
        ("h?llo", b"hllo", False),
        ("h[ae]llo", b"hallo", True),
        ("h[ae]llo", b"hillo", False),
        ("h[^e]llo", b"hello", False),
        ("h[^e]llo", b"hallo", True),
        ("k[a-c]", b"kb", True),
        ("k[a-c]", b"kd", False),
        ("a.b", b"axb", False),
        ("a+b(c)", b"a+b(c)", True),
        ("a[b", b"ab", True),
        ("a[b", b"a[b", False),
        ("café:*", "café:1".encode(), True),
        ("exact", b"exact", True),
        ("exact", b"exact2", False),
        ("exact", b"exact\n", False),
    ],
)
def test_patterns_are_redis_globs_on_bytes(pattern: str, key: bytes, matches: bool) -> None:
    assert matching(pattern, key) is matches


@pytest.mark.parametrize("pattern", ["[^]", "[z-a]", "a[^]b", "[a&&b]", "[[]", "[a||b]", "[~~]"])
def test_no_pattern_makes_the_daemon_fail(pattern: str) -> None:
    matching(pattern, b"a")


def test_a_backslash_takes_the_next_character_as_it_is() -> None:
    assert matching(r"a\*b", b"a*b")
    assert not matching(r"a\*b", b"axb")


def test_the_first_namespace_that_matches_applies() -> None:
    names = Namespaces(
        Policy(), [("user:*", Policy(name="first")), ("user:1", Policy(name="second"))]
    )
    assert names.for_key(b"user:1").name == "first"
    assert names.for_key(b"other").name == ""


def test_new_rules_replace_the_old_ones() -> None:
    names = Namespaces(Policy(name="old"), [("a", Policy(name="a"))])
    names.replace(Policy(name="new"), [("b", Policy(name="b"))])
    assert [names.for_key(k).name for k in (b"a", b"b")] == ["new", "b"]


def test_a_bound_of_zero_is_never_a_plain_hit_V4() -> None:
    assert Policy(max_staleness_ms=0).hit_bound_ms == NEVER_BY_AGE < 0
    assert Policy(max_staleness_ms=250).hit_bound_ms == 250


def test_the_bounds_of_all_namespaces_K2() -> None:
    names = Namespaces(
        Policy(max_staleness_ms=1000, stale_if_error_ms=5),
        [
            ("a", Policy(max_staleness_ms=3000)),
            ("b", Policy(max_staleness_ms=0, stale_if_error_ms=70)),
        ],
    )
    assert names.largest_bound_ms == 3000
    assert names.smallest_bound_ms == 1000
    assert names.longest_stale_ms == 70


def test_when_every_bound_is_zero_the_smallest_is_infinite() -> None:
    names = Namespaces(Policy(max_staleness_ms=0))
    assert names.smallest_bound_ms == float("inf")
    assert names.largest_bound_ms == 0
