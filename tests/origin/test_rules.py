"""From the configuration to rules, and from a key to its address."""

from __future__ import annotations

import pytest

from coherenced.config import describe, flatten, load
from coherenced.errors import ConfigError
from coherenced.origin.rules import Rules, all_rules, place


def config(**space: str) -> dict[str, str]:
    given = {"match": "user:*", "origin": "http://db:81/u/{key}"} | space
    return {f"namespace.user.{name}": value for name, value in given.items()}


def test_what_is_left_out_is_as_documented_or_as_for_all() -> None:
    loaded = load({**config(), "coherence.stale_if_error_ms": "7"}, None, {}).config
    rules = all_rules(loaded)["user"]
    assert rules == Rules(name="user", match="user:*", url="http://db:81/u/{key}", if_error_ms=7.0)
    assert rules.grace_ms == 7.0 and rules.early_ms == 0.0
    chosen = config(
        ttl_ms="1000",
        ttl_jitter_percent="50",
        stale_while_revalidate_ms="9000",
        refresh_ahead="2",
        origin_mode="write-behind",
        negative_max_age_ms="3",
    )
    rules = all_rules(load(chosen, None, {}).config)["user"]
    assert (rules.jitter, rules.beta, rules.mode) == (0.5, 2.0, "write-behind")
    assert (rules.grace_ms, rules.early_ms, rules.negative_ms) == (9000.0, 100.0, 3.0)
    plain = {"namespace.x.match": "x:*"}
    assert all_rules(load(plain, None, {}).config) == {}


@pytest.mark.parametrize(
    ("url", "key", "address"),
    [
        ("http://db/{key}", b"user:42", "http://db/user%3A42"),
        ("https://db:81/a/{rest}?v=1", b"user:4 2/\xff", "https://db:81/a/4%202%2F%FF?v=1"),
        ("http://db/{rest}", b"other", "http://db/other"),
        ("http+unix://%2Frun%2Fa.sock/u/{rest}", b"user:1", "http://localhost/u/1"),
        ("http://db/{rest}", b"user:{key}", "http://db/%7Bkey%7D"),
        ("http://db/{rest}", b"user:../x", "http://db/..%2Fx"),
    ],
)
def test_the_address_of_a_key(url: str, key: bytes, address: str) -> None:
    rules = Rules(name="user", match="user:*", url=url)
    assert rules.address(key) == address


def test_a_unix_socket_is_named_in_the_url() -> None:
    rules = Rules(name="u", match="user:[ab]*", url="http+unix://%2Frun%2Fa.sock/{key}")
    assert rules.unix_path == "/run/a.sock" and rules.prefix == b"user:"
    assert Rules(name="u", match="x", url="http://h/{key}").unix_path == ""
    with_password = Rules(name="u", match="x", url="http://a:secret@h:1/{key}")
    assert place(with_password) == "http://h:1"


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"origin": ""}, "origin"),
        ({"soft_timeout_ms": "9", "hard_timeout_ms": "8"}, "greater than"),
        ({"write_behind_tries": "3"}, "write-behind"),
        ({"origin": "http://h/no-place"}, "must hold {key}"),
        ({"origin": "http://h/{key}#x"}, "must be a URL"),
    ],
)
def test_what_contradicts_itself_is_refused(space: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(config(**space), None, {})
    with pytest.raises(ConfigError, match=r"user\.origin is not"):
        load({"namespace.user.match": "u:*", "namespace.user.ttl_ms": "5"}, None, {})


def test_a_password_in_an_origin_is_never_shown() -> None:
    loaded = load(config(origin="http://me:hunter2@h/{key}"), None, {}).config
    shown = repr(loaded) + str(flatten(loaded)) + str(describe(loaded))
    assert "hunter2" not in shown and "http://me:***@h/{key}" in shown
    with pytest.raises(ConfigError) as caught:
        load(config(origin="http://me:hunter2@h/nothing"), None, {})
    assert "hunter2" not in str(caught.value)
