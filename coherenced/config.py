"""The configuration: file + environment + flags -> one frozen, validated `Config`.

Precedence: the command line, then `COHERENCED_SECTION__KEY` in the environment,
then the file, then the defaults of `config_tree`. An unknown key is an error that
names the nearest valid one; every value has a range, and a wrong one is refused
with the place where it was written. `config/coherenced.toml` is the reference
for people and is tested to equal the code.

Nothing here talks to anything: a Redis that cannot be reached or a directory
that cannot be written is found by whoever uses it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from coherenced.config_sources import (
    Given,
    find_file,
    parse_assignment,
    read_environment,
    read_file,
    read_flags,
)
from coherenced.config_tree import (
    L1,
    Coherence,
    Config,
    Limits,
    Listen,
    Log,
    Namespace,
    Node,
    Redis,
    Section,
    check_together,
    settings,
    settings_of,
)
from coherenced.config_values import Address, RedisEndpoint, Setting
from coherenced.errors import ConfigError
from coherenced.paths import Paths, runtime_dir

__all__ = [
    "L1",
    "Address",
    "Change",
    "Coherence",
    "Config",
    "Diff",
    "Limits",
    "Listen",
    "Loaded",
    "Log",
    "Namespace",
    "Node",
    "Paths",
    "Redis",
    "RedisEndpoint",
    "describe",
    "diff",
    "flatten",
    "is_reloadable",
    "load",
    "parse_assignment",
    "runtime_dir",
]

MAX_NAMESPACES: Final = 1000
_NAMESPACE_NAME: Final = re.compile(r"[a-z0-9](?:_?[a-z0-9-])*")
"""Lower case and no double underscore, so that an environment variable can name every one
that has no hyphen."""


# -- loading -----------------------------------------------------------------------------


class Loaded(NamedTuple):
    """A configuration and where each of its values came from."""

    config: Config
    sources: dict[str, str]
    """Dotted key -> `default`, the file and its section, the variable, or `command line`."""
    file: Path | None
    """The configuration file that was read."""


def load(flags: Mapping[str, str], path: Path | None, environ: Mapping[str, str]) -> Loaded:
    """The configuration in force; ConfigError says what is wrong and where.

    `flags`: dotted key -> text, from the command line. `path`: `--config`.
    """
    file = find_file(path, environ)
    given = read_file(file) if file is not None else []
    given += read_environment(environ, settings())
    given += read_flags(flags)

    tree: dict[str, Any] = {}
    sources = dict.fromkeys(settings(), "default")
    for one in given:
        if one.value == {} and len(one.key) == 1 and _is_section(one.key[0]):
            continue  # a section of which nothing is said
        setting = _find(one)
        try:
            value = setting.read(one.value, one.is_text, one.is_relative)
        except ValueError as error:
            raise ConfigError(f"{_as_written(one, setting)} ({one.origin}): {error}") from None
        place = tree
        for part in one.key[:-1]:
            place = place.setdefault(part, {})
        place[one.key[-1]] = value
        sources[".".join(one.key)] = one.origin
    _check_namespaces(tree.get("namespace", {}), sources)
    config = msgspec.convert(tree, Config)
    check_together(config)
    return Loaded(config, sources, file)


def _as_written(given: Given, setting: Setting) -> str:
    key = ".".join(given.key)
    if setting.secret or setting.kind in ("url", "origin"):
        return key
    shown = repr(given.value)
    return f"{key} = {shown if len(shown) <= 80 else shown[:77] + '...'}"


def _find(given: Given) -> Setting:
    """The setting that a key names, or the ConfigError that helps to find it."""
    section, *rest = given.key
    if section == "namespace":
        return _find_in_namespace(given)
    setting = settings().get(".".join(given.key))
    if setting is not None:
        return setting
    if not rest and _is_section(section):
        raise ConfigError(
            f"{section} ({given.origin}) is a section: write [{section}] and its keys below it"
        )
    raise _unknown(
        given, [*settings(), *(f"namespace.NAME.{key}" for key in settings_of(Namespace))]
    )


def _find_in_namespace(given: Given) -> Setting:
    if len(given.key) == 2 and given.value == {}:
        raise _has_no_match(given.key[1], given.origin)
    if len(given.key) < 3:
        raise ConfigError(
            f"{'.'.join(given.key)} ({given.origin}): a namespace has a name: "
            "write [namespace.NAME] and its keys below it"
        )
    _, name, *rest = given.key
    if not _NAMESPACE_NAME.fullmatch(name) or len(name) > 64:
        raise ConfigError(
            f"namespace {name!r} ({given.origin}): a name is at most 64 lower-case letters, "
            "digits, - and single _"
        )
    setting = settings_of(Namespace).get(".".join(rest))
    if setting is None:
        raise _unknown(given, [f"namespace.{name}.{key}" for key in settings_of(Namespace)])
    return setting


def _is_section(name: str) -> bool:
    return name in Config.__struct_fields__


def _unknown(given: Given, known: Iterable[str]) -> ConfigError:
    from difflib import get_close_matches  # only where something is wrong

    written, last = ".".join(given.key), given.key[-1]
    known = list(known)
    # The right name in the wrong section is nearer than any other name.
    near = [key for key in known if key.rpartition(".")[2] == last]
    near = get_close_matches(written, near, 1, 0.0) or get_close_matches(written, known, 1, 0.6)
    if near:
        remedy = f"did you mean {near[0]}?"
    elif _is_section(given.key[0]):
        keys = (key.rpartition(".")[2] for key in known if key.startswith(f"{given.key[0]}."))
        remedy = f"[{given.key[0]}] has {', '.join(dict.fromkeys(keys))}"
    else:
        remedy = f"the sections are {', '.join(Config.__struct_fields__)}"
    return ConfigError(f"unknown key {written} ({given.origin}): {remedy}")


def _check_namespaces(namespaces: Mapping[str, Mapping[str, Any]], sources: dict[str, str]) -> None:
    if len(namespaces) > MAX_NAMESPACES:
        raise ConfigError(f"there are {len(namespaces)} namespaces, and at most {MAX_NAMESPACES}")
    for name, values in namespaces.items():
        if "match" not in values:
            where = next(sources[f"namespace.{name}.{key}"] for key in values)
            raise _has_no_match(name, where)


def _has_no_match(name: str, where: str) -> ConfigError:
    return ConfigError(
        f"namespace.{name} ({where}) has no match: say which keys it is for, "
        f'for example match = "{name}:*"'
    )


# -- showing and comparing -----------------------------------------------------------------


def describe(config: Config) -> dict[str, Any]:
    """The configuration as nested built-in values, JSON-ready, every secret replaced by `***`.

    A namespace shows only what it sets.
    """
    shown: dict[str, Any] = {}
    for key, value in flatten(config).items():
        place = shown
        *parts, last = key.split(".")
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = value
    return shown


def flatten(config: Config) -> dict[str, Any]:
    """Dotted key -> value, every secret replaced by `***`."""
    return _flat(config, Section.shown)


def _flat(config: Config, values: Callable[[Section], dict[str, Any]]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for section in msgspec.structs.fields(Config):
        if section.name != "namespace":
            for key, value in values(getattr(config, section.name)).items():
                flat[f"{section.name}.{key}"] = value
    for name, namespace in config.namespace.items():
        for key, value in values(namespace).items():
            if value is not None:
                flat[f"namespace.{name}.{key}"] = value
    return flat


RELOADABLE_SECTIONS: Final = frozenset({"namespace", "coherence", "limits"})
RELOADABLE_KEYS: Final = frozenset({"log.level", "l1.max_age_ms", "l1.negative_max_age_ms"})


def is_reloadable(key: str) -> bool:
    """Whether SIGHUP can change this key while the daemon runs."""
    return key in RELOADABLE_KEYS or key.partition(".")[0] in RELOADABLE_SECTIONS


class Change(NamedTuple):
    """One key that differs; secrets are masked, and None means that it is not set."""

    key: str
    old: Any
    new: Any


class Diff(NamedTuple):
    """What SIGHUP found."""

    reloaded: tuple[Change, ...]
    """In force from now on."""
    restart: tuple[Change, ...]
    """In force only after a restart."""
    config: Config
    """The old configuration with what can be reloaded taken from the new one."""


def diff(old: Config, new: Config) -> Diff:
    """What differs between two configurations, and what of it can be reloaded.

    ConfigError when what can be reloaded does not fit what cannot.
    """
    before, after = _flat(old, msgspec.structs.asdict), _flat(new, msgspec.structs.asdict)
    shown_before, shown_after = flatten(old), flatten(new)
    changes = [
        Change(key, shown_before.get(key), shown_after.get(key))
        for key in (*before, *(key for key in after if key not in before))
        if before.get(key) != after.get(key)
    ]
    config = msgspec.structs.replace(
        old,
        coherence=new.coherence,
        limits=new.limits,
        namespace=new.namespace,
        log=msgspec.structs.replace(old.log, level=new.log.level),
        l1=msgspec.structs.replace(
            old.l1,
            max_age_ms=new.l1.max_age_ms,
            negative_max_age_ms=new.l1.negative_max_age_ms,
        ),
    )
    check_together(config)
    return Diff(
        reloaded=tuple(change for change in changes if is_reloadable(change.key)),
        restart=tuple(change for change in changes if not is_reloadable(change.key)),
        config=config,
    )
