"""The configuration: precedence, ranges, and complaints that name the place and the remedy."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from coherenced import config_sources
from coherenced.config import (
    Change,
    Config,
    Namespace,
    describe,
    diff,
    flatten,
    is_reloadable,
    load,
    parse_assignment,
    runtime_dir,
)
from coherenced.config_sources import variable_of
from coherenced.config_tree import settings, settings_of
from coherenced.config_values import (
    Address,
    RedisEndpoint,
    Setting,
    format_size,
    mask_url,
    parse_address,
    parse_redis_url,
)
from coherenced.core.requests import Level
from coherenced.errors import ConfigError, StartError
from coherenced.paths import prepare_runtime_dir

REFERENCE = Path(__file__).parents[1] / "config" / "coherenced.toml"
FILE = "coherenced.toml"


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No file of this machine is found: an empty working directory, no system file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config_sources, "SYSTEM_FILE", tmp_path / "etc" / "coherenced.toml")
    return tmp_path


def config_of(**flags: str) -> Config:
    """A configuration from flags; `__` in a name stands for the dot."""
    return load({key.replace("__", "."): value for key, value in flags.items()}, None, {}).config


def complaint(toml: str = "", environ: dict[str, str] | None = None, **flags: str) -> str:
    """What is said about a wrong configuration: always one line."""
    file = Path("coherenced.toml")
    file.write_text(toml)
    dotted = {key.replace("__", "."): value for key, value in flags.items()}
    with pytest.raises(ConfigError) as caught:
        load(dotted, None, environ or {})
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- where values come from ---------------------------------------------------------------


def test_with_nothing_at_all_the_defaults_are_in_force() -> None:
    loaded = load({}, None, {})
    assert loaded.config == Config()
    assert loaded.file is None
    assert set(loaded.sources) == set(settings())
    assert set(loaded.sources.values()) == {"default"}


def test_flags_go_before_environment_before_file_before_defaults(tmp_path: Path) -> None:
    file = tmp_path / "some.toml"
    file.write_text("[l1]\nmax_bytes = 2097152\nmax_age_ms = 20\nmax_value_bytes = 20\n")
    environ = {"COHERENCED_L1__MAX_BYTES": "3MiB", "COHERENCED_L1__MAX_AGE_MS": "30"}
    loaded = load({"l1.max_bytes": "4MiB"}, file, environ)
    assert loaded.config.l1.max_bytes == 4 << 20
    assert loaded.config.l1.max_age_ms == 30
    assert loaded.config.l1.max_value_bytes == 20
    assert loaded.config.l1.negative_max_age_ms == 5000
    assert loaded.sources["l1.max_bytes"] == "command line"
    assert loaded.sources["l1.max_age_ms"] == "environment variable COHERENCED_L1__MAX_AGE_MS"
    assert loaded.sources["l1.max_value_bytes"] == f"{file} [l1]"
    assert loaded.sources["l1.negative_max_age_ms"] == "default"
    assert loaded.file == file


def test_the_file_is_the_first_of_flag_variable_working_directory_and_system(
    tmp_path: Path,
) -> None:
    system = config_sources.SYSTEM_FILE
    system.parent.mkdir()
    named = {"COHERENCED_CONFIG": str(tmp_path / "variable.toml")}
    places = [
        (system, {}, None),
        (Path("coherenced.toml"), {}, None),
        (tmp_path / "variable.toml", named, None),
        (tmp_path / "flag.toml", named, tmp_path / "flag.toml"),
    ]
    for number, (file, environ, flag) in enumerate(places, 1):
        file.write_text(f'[node]\nname = "node{number}"')
        loaded = load({}, flag, environ)
        assert loaded.config.node.name == f"node{number}"
        assert loaded.file == file


def test_a_named_file_that_is_not_there_is_an_error_not_the_defaults(tmp_path: Path) -> None:
    for path, environ in [
        (tmp_path / "gone.toml", {}),
        (None, {"COHERENCED_CONFIG": str(tmp_path / "gone.toml")}),
    ]:
        with pytest.raises(ConfigError, match=r"cannot read .*gone\.toml: No such file"):
            load({}, path, environ)


def test_files_that_are_no_configuration_are_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    for content, words in [
        (b"[l1", "is not valid TOML"),
        (b"a = 1\na = 2", "is not valid TOML"),
        (b"a = " + b"[" * 50_000, "is not valid TOML"),
        (b"a = " + b"1" * 5_000, "is not valid TOML"),
        (b"\xff\xfe", "is not a text file in UTF-8"),
        (b"#" * (1 << 20) + b"\n", "larger than 1 MiB"),
    ]:
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=words) as caught:
            load({}, file, {})
        assert "\n" not in str(caught.value)
        assert str(file) in str(caught.value)
    with pytest.raises(ConfigError, match="Is a directory"):
        load({}, tmp_path, {})


def test_every_key_can_be_set_from_the_environment_and_the_command_line() -> None:
    sample = {"ms": "77", "bytes": "2MiB", "number": "777", "ack": "all", "mode": "0600"}
    by_kind = {"url": "rediss://h", "address": "127.0.0.1:1", "path": "/a/b", "name": "n"}
    for key, setting in settings().items():
        text = {**sample, **by_kind, "text": "x", "flag": "false"}.get(setting.kind)
        text = text or setting.choices[-1]
        companions = {"redis.url": "rediss://h", "redis.tls_cert_file": "/c"}
        companions |= {"redis.tls_key_file": "/k", "limits.max_value_bytes": "1MiB"}
        companions |= {"redis.reconnect_min_ms": "5"}
        needed = {k: v for k, v in companions.items() if k != key}
        from_flags = load({**needed, key: text}, None, {})
        from_environ = load({}, None, {variable_of(k): v for k, v in {**needed, key: text}.items()})
        assert from_flags.config == from_environ.config
        assert from_flags.sources[key] == "command line"
        assert variable_of(key) in from_environ.sources[key]
        section, name = key.split(".")
        assert getattr(getattr(from_flags.config, section), name) != setting.default, key


def test_set_is_written_key_equals_value() -> None:
    assert parse_assignment("l1.max_bytes=64MiB") == ("l1.max_bytes", "64MiB")
    assert parse_assignment("redis.url=redis://h/?db=1") == ("redis.url", "redis://h/?db=1")
    for wrong in ("l1.max_bytes", "=3", ""):
        with pytest.raises(ConfigError, match="write KEY=VALUE"):
            parse_assignment(wrong)


# -- unknown keys ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("[l1]\nmax_byte = 1", f"key l1.max_byte ({FILE} [l1]): did you mean l1.max_bytes?"),
        ("[redsi]\nurl = ''", f"unknown key redsi.url ({FILE} [redsi]): did you mean redis.url?"),
        ("max_staleness_ms = 1", "did you mean coherence.max_staleness_ms?"),
        ("[coherence]\nlinearizable = true", "did you mean namespace.NAME.linearizable?"),
        ("[l1]\nzzzzzzzz = 1", "[l1] has max_bytes, max_value_bytes, max_age_ms, negative"),
        ("[qqqq]\nzzzz = 1", "the sections are redis, node, listen, l1, coherence"),
        ("redis = 'redis://h'", "redis (coherenced.toml) is a section: write [redis]"),
        ("[namespace.u]\nmax_stale_ms = 1", "did you mean namespace.u.max_staleness_ms?"),
        ("[namespace]\nmatch = 'a'", f"namespace.match ({FILE} [namespace]): a namespace has"),
        ("[namespace.u]\nack = 'all'", "namespace.u (coherenced.toml [namespace.u]) has no match"),
        ("[namespace.u]", "namespace.u (coherenced.toml [namespace.u]) has no match"),
        ("[reids]", "unknown key reids (coherenced.toml [reids]): the sections are redis, node"),
        ("[namespace.User]\nmatch = 'a'", "lower-case letters"),
        ("[namespace.a__b]\nmatch = 'a'", "single _"),
        ("[l1.max_bytes]\nx = 1", "l1.max_bytes = {'x': 1}"),
    ],
)  # fmt: skip
def test_an_unknown_key_names_its_place_and_the_nearest_valid_one(toml: str, words: str) -> None:
    assert words in complaint(toml)


def test_an_unknown_variable_names_itself() -> None:
    assert complaint(environ={"COHERENCED_L1__MAX_BYTE": "1"}) == (
        "unknown key l1.max_byte (environment variable COHERENCED_L1__MAX_BYTE): "
        "did you mean l1.max_bytes?"
    )


def test_a_variable_with_one_underscore_too_few_is_not_silently_ignored() -> None:
    assert complaint(environ={"COHERENCED_REDIS_URL": "redis://h"}) == (
        "unknown environment variable COHERENCED_REDIS_URL: did you mean COHERENCED_REDIS__URL?"
    )


def test_variables_that_kubernetes_sets_for_a_service_are_not_ours() -> None:
    environ = {
        "COHERENCED_PORT": "tcp://10.0.0.1:8377",
        "COHERENCED_SERVICE_HOST": "10.0.0.1",
        "COHERENCED_PORT_8377_TCP_ADDR": "10.0.0.1",
        "COHERENCED_SOCKET": "/some/where.sock",
    }
    assert load({}, None, environ).config == Config()


# -- wrong values -----------------------------------------------------------------------------


def wrong_texts(setting: Setting) -> list[str]:
    """Texts that this setting must refuse, whichever it is."""
    if setting.base is int:
        return [str(setting.low - 1), str(setting.high + 1), "x", "", "1.5", "2s", "1e3", "٣"]
    if setting.choices:
        return ["x", ""]
    return {
        "flag": ["maybe", "2", ""],
        "ack": ["x", "0", "10000", "-1", ""],
        "mode": ["rw", "888", "66", "00660", "7777", ""],
        "url": ["x", "http://h", "redis://", "redis://h/x", "redis://h:99999", "unix://rel"],
        "address": ["x", "h:", ":1", "h:99999", "::1:80", "h:x"],
        "name": ["a b", "a,b", "x" * 129, "-a"],
        "path": ["a\0b", "/" + "x" * 4096],
        "glob": ["", "x" * 1025],
        "origin": ["", "x", "ftp://h/{key}", "http://h/", "http:///{key}", "http://h/{id}"],
        "text": ["a\0b", "x" * 5000],
    }[setting.kind]


@pytest.mark.parametrize(
    "key", [*settings(), *(f"namespace.n.{k}" for k in settings_of(Namespace))]
)
def test_every_key_refuses_what_is_out_of_its_range(key: str) -> None:
    name = key.removeprefix("namespace.n.")
    setting = settings_of(Namespace)[name] if name != key else settings()[key]
    match = {"COHERENCED_NAMESPACE__N__MATCH": "n:*"} if name != key else {}
    for text in wrong_texts(setting):
        said = complaint(environ={**match, variable_of(key): text})
        assert key in said, text
        assert variable_of(key) in said, text
        assert "must" in said or "is not a URL" in said
        if setting.secret:
            assert text[:9] not in said


@pytest.mark.parametrize("key", [key for key, setting in settings().items() if setting.high])
def test_the_ends_of_every_range_are_allowed(key: str) -> None:
    setting = settings()[key]
    section, name = key.split(".")
    for value in (setting.low, setting.high):
        assert setting.read(value, False, False) == value
        assert setting.read(str(value), True, False) == value
        msgspec.convert({section: {name: value}}, Config)
    assert setting.low <= setting.default <= setting.high


def test_a_wrong_value_is_told_with_its_range_and_place() -> None:
    assert complaint("[coherence]\nmax_staleness_ms = 3600001") == (
        "coherence.max_staleness_ms = 3600001 (coherenced.toml [coherence]): "
        "must be a whole number of milliseconds from 0 to 3600000"
    )
    assert complaint("[l1]\nmax_bytes = 1000").endswith(
        'must be a size from 1MiB to 1TiB: bytes, or text such as "256MiB" (KiB, MiB, GiB, TiB)'
    )
    assert complaint("[redis]\nwatch_connections = -1").endswith(
        "must be a whole number from 0 to 10000"
    )
    assert complaint('[log]\nlevel = "loud"').endswith("must be one of debug, info, warning, error")


@pytest.mark.parametrize(
    "toml",
    [
        '[coherence]\nmax_staleness_ms = "1000"',
        '[coherence]\nmax_staleness_ms = "1s"',
        "[coherence]\nmax_staleness_ms = 1000.0",
        "[coherence]\nmax_staleness_ms = true",
        "[coherence]\nmax_staleness_ms = [1000]",
        '[l1]\nmax_bytes = "64MB"',
        '[l1]\nmax_bytes = "67108864"',
        '[redis]\ntls_check_hostname = "true"',
        "[redis]\ntls_check_hostname = 1",
        "[redis]\nurl = 1",
        "[redis]\nurl = false",
        "[listen]\nsocket_mode = 0o660",
        "[coherence]\nack = true",
        "[log]\nlevel = 1979-05-27",
        '[listen]\nsocket = "relative.sock"',
    ],
)
def test_toml_values_of_the_wrong_type_are_refused(toml: str) -> None:
    assert ": must be " in complaint(toml)


def test_sizes_are_bytes_or_text_with_a_binary_unit() -> None:
    for text, expected in [("64MiB", 64 << 20), ("1 gib", 1 << 30), ("1048576", 1 << 20)]:
        assert config_of(l1__max_bytes=text).l1.max_bytes == expected
    assert [format_size(n) for n in (0, 1, 1023, 1 << 10, 3 << 20, 1 << 40)] == [
        "0", "1", "1023", "1KiB", "3MiB", "1TiB",
    ]  # fmt: skip


def test_acknowledgement_levels_are_the_cores_own() -> None:
    for text, level in [
        ("none", Level.NONE),
        ("ALL", Level.ALL),
        ("quorum", Level.QUORUM),
        ("3", 3),
    ]:
        config = config_of(coherence__ack=text, namespace__u__match="a", namespace__u__ack=text)
        assert config.coherence.ack_level == level
        assert config.namespace["u"].ack_level == level
    assert config_of().coherence.ack_level == Level.REDIS
    Path("coherenced.toml").write_text("[coherence]\nack = 2")
    assert load({}, None, {}).config.coherence.ack == "2"


def test_file_modes_are_octal_text() -> None:
    assert config_of(listen__socket_mode="600").listen.socket_mode == "0600"
    assert config_of(listen__socket_mode="0666").listen.socket_mode_bits == 0o666


def test_addresses_to_listen_on() -> None:
    assert parse_address("127.0.0.1:80") == Address("127.0.0.1", 80)
    assert parse_address("[::1]:0") == Address("::1", 0)
    assert config_of().listen.http_address is None
    assert config_of(listen__http="localhost:1").listen.http_address == Address("localhost", 1)
    for host in ("127.9.9.9", "::1", "localhost"):
        assert Address(host, 1).is_loopback
    for host in ("0.0.0.0", "::", "127", "h"):
        assert not Address(host, 1).is_loopback


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("redis://h", RedisEndpoint(host="h", port=6379)),
        ("valkey://h:7/3", RedisEndpoint(host="h", port=7, db=3)),
        (
            "rediss://u:p%40@h/?db=2",
            RedisEndpoint(host="h", port=6379, db=2, username="u", password="p@", tls=True),
        ),
        ("VALKEYS://:p@[::1]:7", RedisEndpoint(host="::1", port=7, password="p", tls=True)),
        ("unix:///a%20b?db=4", RedisEndpoint(unix_path="/a b", db=4)),
        ("valkey+unix://u:p@/a", RedisEndpoint(unix_path="/a", username="u", password="p")),
    ],
)  # fmt: skip
def test_urls_of_every_scheme(url: str, endpoint: RedisEndpoint) -> None:
    assert parse_redis_url(url) == endpoint
    assert config_of(redis__url=url).redis.endpoint() == endpoint


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("h:6379", "must begin with one of redis://, valkey://, rediss://"),
        ("redis+sentinel://h", "must begin with one of"),
        ("redis://:6379", "must name a host"),
        ("redis://[::1", "is not a URL"),
        ("redis://h:99999", "is not a URL"),
        ("redis://h/1?db=2", "names the database twice"),
        ("redis://h/-1", "by number"),
        ("redis://h/9999999", "by number"),
        ("redis://h?socket_timeout=3", "takes no option but ?db=N"),
        ("redis://h#x", "takes no option but ?db=N"),
        ("unix://a/b", "absolute path"),
        ("unix://", "absolute path"),
    ],
)
def test_urls_that_are_none(url: str, words: str) -> None:
    assert words in complaint(redis__url=url)


# -- values that do not fit together ---------------------------------------------------------


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("[redis]\nreconnect_min_ms = 3000", "reconnect_min_ms is greater than"),
        (
            "[l1]\nmax_bytes = '1MiB'\nmax_value_bytes = '2MiB'",
            "l1.max_value_bytes is greater than",
        ),
        ("[listen]\nmax_query_bytes = '64MiB'", "listen.max_query_bytes must be greater than"),
        ("[listen]\ntcp = '0.0.0.0:1'", "lets other hosts in without a password"),
        ("[listen]\nsocket = '/x'\nhttp_socket = '/x'", "are the same path"),
        ("[redis]\npassword = 'x'", "redis.password is set but redis.url is empty"),
        ("[redis]\nurl = 'redis://h'\npassword = 'x'\npassword_file = '/x'", "are both set"),
        ("[redis]\nurl = 'redis://:y@h'\npassword = 'x'", "redis.url holds a password"),
        ("[redis]\nurl = 'redis://u@h'\nusername = 'x'", "redis.url holds a user name"),
        ("[redis]\nurl = 'redis://h'\ntls_ca_file = '/x'", "is not rediss:// or valkeys://"),
        ("[redis]\nurl = 'rediss://h'\ntls_cert_file = '/x'", "belong together"),
        (
            "[namespace.a]\nmatch = 'u:*'\n[namespace.b]\nmatch = 'v:*'\n"
            "[namespace.c]\nmatch = 'u:*'",
            "namespace.a and namespace.c both match 'u:*', and the second would never apply",
        ),
    ],
)
def test_values_that_contradict_each_other(toml: str, words: str) -> None:
    assert words in complaint(toml)


def test_a_tcp_listener_for_other_hosts_is_allowed_with_a_password() -> None:
    config = config_of(listen__tcp="0.0.0.0:1", listen__password="x")
    assert config.listen.tcp_address == Address("0.0.0.0", 1)


# -- namespaces ---------------------------------------------------------------------------------


def test_a_namespace_is_merged_from_file_environment_and_flags_key_by_key(tmp_path: Path) -> None:
    file = tmp_path / "n.toml"
    file.write_text(
        '[namespace.user]\nmatch = "user:*"\nack = "all"\nmax_age_ms = 9\n'
        '[namespace.a-b]\nmatch = "*"\n'
    )
    environ = {
        "COHERENCED_NAMESPACE__USER__ACK": "quorum",
        "COHERENCED_NAMESPACE__CART__MATCH": "cart:?",
        "COHERENCED_NAMESPACE__CART__LINEARIZABLE": "true",
    }
    loaded = load({"namespace.user.max_age_ms": "7"}, file, environ)
    assert loaded.config.namespace == {
        "user": Namespace(match="user:*", ack="quorum", max_age_ms=7),
        "a-b": Namespace(match="*"),
        "cart": Namespace(match="cart:?", linearizable=True),
    }
    assert list(loaded.config.namespace) == ["user", "a-b", "cart"]
    assert loaded.sources["namespace.user.match"] == f"{file} [namespace.user]"
    assert loaded.sources["namespace.user.max_age_ms"] == "command line"


def test_a_namespace_overrides_with_the_same_ranges_as_what_it_overrides() -> None:
    for name, setting in settings_of(Namespace).items():
        for section in ("coherence", "l1"):
            general = settings().get(f"{section}.{name}")
            if general is not None:
                assert setting._replace(default=None) == general._replace(default=None)


def test_there_is_a_bound_on_namespaces() -> None:
    toml = "\n".join(f"[namespace.n{i}]\nmatch = 'n'" for i in range(1001))
    assert "there are 1001 namespaces, and at most 1000" in complaint(toml)


# -- secrets ----------------------------------------------------------------------------------


def test_no_secret_is_ever_shown() -> None:
    config = config_of(
        redis__url="rediss://user:hunter2@h:1/0",
        listen__password="hunter2",
        listen__tcp="0.0.0.0:1",
    )
    other = config_of(redis__url="redis://h", redis__password="hunter2")
    for shown in (
        json.dumps(describe(config)),
        json.dumps(describe(other)),
        repr(config),
        repr(other.redis),
        repr(config.redis.endpoint()),
        repr(diff(config, other).restart),
    ):
        assert "hunter2" not in shown
        assert "***" in shown
    assert describe(config)["redis"]["url"] == "rediss://user:***@h:1/0"
    assert describe(Config())["redis"]["password"] == "", "an empty secret is shown as empty"
    assert mask_url("redis://[x:hunter2@") == "***"
    for toml in ("[redis]\nurl = 'foo://:hunter2@h'", "[listen]\npassword = ['hunter2']"):
        assert "hunter2" not in complaint(toml)


def test_describe_shows_every_key_and_is_json() -> None:
    shown = json.loads(json.dumps(describe(config_of(namespace__u__match="a"))))
    assert {f"{s}.{k}" for s, keys in shown.items() if s != "namespace" for k in keys} == set(
        settings()
    )
    assert shown["namespace"] == {"u": {"match": "a", "linearizable": False}}


def test_the_password_file_is_read_at_each_use(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    redis = config_of(redis__url="redis://u@h", redis__password_file="secret").redis
    for content, expected in [("one\n", "one"), ("two\r\n", "two"), ("th ree \n\n", "th ree \n")]:
        file.write_text(content, newline="")
        assert redis.endpoint().password == expected
        assert redis.endpoint().username == "u"
    for content, words in [(b"\xff", "UTF-8"), (b"x" * 5000, "larger than 4096 bytes")]:
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=words):
            redis.endpoint()
    file.unlink()
    with pytest.raises(
        ConfigError, match=r"cannot read redis.password_file .*secret: No such file"
    ):
        redis.endpoint()


# -- reloading ----------------------------------------------------------------------------------


def test_diff_tells_what_can_be_reloaded_from_what_needs_a_restart() -> None:
    old = config_of(namespace__a__match="a:*", namespace__b__match="b:*")
    new = config_of(
        namespace__a__match="a:*", namespace__a__ack="all", namespace__c__match="c:*",
        log__level="debug", log__format="json", l1__max_age_ms="1", l1__max_bytes="1MiB",
        listen__password="x", limits__max_tags="3",
    )  # fmt: skip
    found = diff(old, new)
    assert found.reloaded == (
        Change("l1.max_age_ms", 60_000, 1),
        Change("limits.max_tags", 64, 3),
        Change("log.level", "info", "debug"),
        Change("namespace.b.match", "b:*", None),
        Change("namespace.b.linearizable", False, None),
        Change("namespace.a.ack", None, "all"),
        Change("namespace.c.match", None, "c:*"),
        Change("namespace.c.linearizable", None, False),
    )
    assert found.restart == (
        Change("listen.password", "", "***"),
        Change("l1.max_bytes", 256 << 20, 1 << 20),
        Change("log.format", "auto", "json"),
    )


def test_what_is_in_force_after_a_reload_is_exactly_the_reloadable_part() -> None:
    old = config_of(listen__password="old")
    new = config_of(
        redis__url="redis://h", node__name="n", listen__password="new", log__format="json",
        l1__max_bytes="8MiB", l1__max_value_bytes="7", l1__max_age_ms="1",
        l1__negative_max_age_ms="2", coherence__ack="all", coherence__max_staleness_ms="3",
        limits__max_tags="4", log__level="error", namespace__u__match="u",
    )  # fmt: skip
    in_force = diff(old, new).config
    before, after, both = flatten(old), flatten(new), flatten(in_force)
    for key in both:
        expected = after if is_reloadable(key) else before
        assert both[key] == expected[key], key
    assert in_force.listen.password == "old"
    assert {change.key for change in diff(old, in_force).reloaded} == {
        change.key for change in diff(old, new).reloaded
    }
    assert diff(old, in_force).restart == ()
    assert diff(new, new)[:2] == ((), ())


def test_a_changed_secret_is_seen_though_both_look_the_same() -> None:
    changes = diff(config_of(listen__password="a"), config_of(listen__password="b")).restart
    assert changes == (Change("listen.password", "***", "***"),)


def test_a_reload_that_does_not_fit_what_stays_is_refused() -> None:
    new = config_of(limits__max_value_bytes="256MiB", listen__max_query_bytes="512MiB")
    with pytest.raises(ConfigError, match=r"listen\.max_query_bytes must be greater"):
        diff(Config(), new)


# -- files of the daemon -------------------------------------------------------------------------


def test_the_runtime_directory_is_looked_for_in_a_fixed_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    session = {"XDG_RUNTIME_DIR": "/run/user/7"}
    assert runtime_dir({"RUNTIME_DIRECTORY": "/run/one:/run/two", **session}, 0) == Path("/run/one")
    assert runtime_dir(session, 0) == Path("/run/user/7/coherenced")
    assert runtime_dir({}, 0) == Path("/run/coherenced")
    assert runtime_dir({"RUNTIME_DIRECTORY": ""}, 7) == tmp_path / "coherenced-7"


def test_paths_follow_the_runtime_directory_unless_named() -> None:
    environ = {"XDG_RUNTIME_DIR": "/run/user/7"}
    assert Config().paths(environ, 7) == (
        Path("/run/user/7/coherenced"),
        Path("/run/user/7/coherenced/coherenced.sock"),
        Path("/run/user/7/coherenced/http.sock"),
        Path("/run/user/7/coherenced/page.shm"),
    )
    moved = config_of(node__runtime_dir="/r", listen__socket="/s/a", listen__http_socket="/s/b")
    assert moved.paths(environ, 7) == (Path("/r"), Path("/s/a"), Path("/s/b"), Path("/r/page.shm"))
    beside = config_of(node__runtime_dir="/r", listen__socket="/s/a").paths(environ, 7)
    assert beside.http_socket == Path("/s/http.sock"), "where the command line looks for it"


def test_a_path_on_the_command_line_may_be_relative(tmp_path: Path) -> None:
    assert config_of(listen__socket="a.sock").listen.socket == str(tmp_path / "a.sock")


def test_a_socket_path_that_no_socket_can_have_is_refused() -> None:
    config = config_of(node__runtime_dir="/" + "x" * 110)
    with pytest.raises(ConfigError, match=r"listen\.socket: the path .* is 20 bytes too long"):
        config.paths({}, 0)
    exact = config_of(listen__socket="/" + "x" * 106, node__runtime_dir="/r")
    assert len(str(exact.paths({}, 0).socket)) == 107


def test_a_missing_runtime_directory_is_made_closed_to_strangers(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    prepare_runtime_dir(directory, uid=directory.parent.stat().st_uid)
    assert directory.is_dir()
    assert directory.stat().st_mode & 0o007 == 0
    prepare_runtime_dir(directory, uid=directory.stat().st_uid)


def test_a_runtime_directory_that_cannot_be_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, words in [
        (tmp_path / "no" / "run", "does not exist; create it or set node.runtime_dir"),
        (tmp_path / "file", "is not a directory"),
        (tmp_path / "file" / "run", "cannot be made: Not a directory"),
        (Path("/proc/coherenced"), "does not exist"),
    ]:
        with pytest.raises(StartError, match=words) as caught:
            prepare_runtime_dir(path, 0)
        assert "\n" not in str(caught.value)


def test_a_runtime_directory_that_is_read_only_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Asked of the system in one place; root, as whom tests may run, could write anywhere.
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(StartError, match="is not writable for uid 7: change its owner"):
        prepare_runtime_dir(tmp_path, 7)


def test_a_private_directory_that_somebody_else_could_use_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    uid = tmp_path.stat().st_uid
    private = runtime_dir({}, uid or 4711)
    owner = uid or 4711
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    private.symlink_to(elsewhere)
    with pytest.raises(StartError, match="only uid"):
        prepare_runtime_dir(private, owner)
    private.unlink()
    private.mkdir()
    private.chmod(0o755)
    with pytest.raises(StartError, match="only uid"):
        prepare_runtime_dir(private, owner)


# -- the reference --------------------------------------------------------------------------------


def test_the_reference_equals_the_defaults_and_holds_every_key() -> None:
    document = tomllib.loads(REFERENCE.read_text())
    assert load({}, REFERENCE, {}).config == Config()
    written = [f"{section}.{key}" for section, table in document.items() for key in table]
    assert written == list(settings()), "every key, in the order of the code"


def test_the_references_example_of_a_namespace_shows_every_key() -> None:
    # A `#` right before the text is a setting commented out; prose has a space after it.
    example = re.sub(r"(?m)^#(?=[^\s#])", "", REFERENCE.read_text())
    file = Path("example.toml")
    file.write_text(example)
    (namespace,) = load({}, file, {}).config.namespace.values()
    document = tomllib.loads(example)
    assert set(document["namespace"]["user"]) == set(settings_of(Namespace))
    assert namespace.linearizable


def reference_keys() -> Iterator[tuple[str, str]]:
    """Each key of the reference with the comment above it (several keys may share one)."""
    section, comment, in_comment = "", "", False
    for line in REFERENCE.read_text().splitlines():
        if line.startswith("#"):
            comment = f"{comment} {line}" if in_comment else line
        elif line.startswith("["):
            section, comment = line.strip("[]"), ""
        elif line:
            yield f"{section}.{line.partition(' = ')[0]}", comment
        in_comment = line.startswith("#")


@pytest.mark.parametrize(("key", "comment"), list(reference_keys()))
def test_the_reference_explains_each_key_with_its_range(key: str, comment: str) -> None:
    setting = settings()[key]
    assert len(comment) > 20
    if setting.kind == "bytes":
        assert f"{format_size(setting.low)} to {format_size(setting.high)}" in comment
    elif setting.base is int:
        unit = " ms" if setting.kind == "ms" else ""
        assert f"{setting.low} to {setting.high}{unit}" in comment
    for choice in setting.choices:
        assert re.search(rf"\b{choice}\b", comment)
    assert ("[reload]" in comment) == is_reloadable(key)


# -- cost ------------------------------------------------------------------------------------------


def test_importing_the_configuration_loads_nothing_but_msgspec() -> None:
    code = (
        "import sys; before = set(sys.modules); import coherenced.config; "
        "print(*sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    foreign = {m for m in out.stdout.split() if m not in sys.stdlib_module_names}
    assert foreign <= {"coherenced", "msgspec", "typing_extensions"}
    assert not {"asyncio", "socket", "tomllib", "difflib", "tempfile", "ssl"} & set(
        out.stdout.split()
    )
