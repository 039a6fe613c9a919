"""The image's recipe, read as text: where no engine runs it cannot be built."""

from __future__ import annotations

import json
import os
import re
from fnmatch import fnmatch

from coherenced.config import load
from tests.deploy.files import DEPLOY, ROOT, read_dockerfile

INSTRUCTIONS = read_dockerfile()
DOCKER = DEPLOY / "docker"


def last(name: str) -> str:
    return next(i.value for i in reversed(INSTRUCTIONS) if i.name == name)


def test_two_stages_of_the_same_base() -> None:
    """One with a compiler, one with as little as possible; the same Python at the same place."""
    images = [i.words[0] for i in INSTRUCTIONS if i.name == "FROM"]
    version = "python:${PYTHON_VERSION}"
    assert images == [version, f"{version}-slim"], "no registry is named"
    (version,) = [i.value for i in INSTRUCTIONS if i.value.startswith("PYTHON_VERSION=")]
    minor = int(version.rpartition(".")[2])
    assert 11 <= minor <= 14, "a version that the package supports"


def test_nothing_is_fetched_but_by_pip_and_nothing_is_installed_into_the_last_stage() -> None:
    for instruction in INSTRUCTIONS:
        assert instruction.name != "ADD"
        assert not re.search(r"https?://|\bcurl\b|\bwget\b|\bapt", instruction.value)
        if instruction.stage == 1:
            assert "pip" not in instruction.value


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    lines = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*", "nothing but what is named goes into the build"
    allowed = [rule[1:] for rule in rules if rule.startswith("!")]
    for instruction in INSTRUCTIONS:
        if instruction.name == "COPY" and "--from=build" not in instruction.words:
            for source in instruction.words[:-1]:
                assert (ROOT / source).exists()
                assert any(fnmatch(source, rule) for rule in allowed), f"{source} is ignored"
    for rule in allowed:
        assert (ROOT / rule).exists(), f"{rule} is not there"


def test_it_runs_as_a_numbered_user_who_owns_only_the_runtime_directory() -> None:
    final = [i for i in INSTRUCTIONS if i.stage == 1]
    assert [i.name for i in final][-4:] == ["USER", "HEALTHCHECK", "ENTRYPOINT", "CMD"]
    assert last("USER") == "10001:10001"
    (setup,) = [i.value for i in final if i.name == "RUN"]
    assert "install -d -o 10001 -g 10001 -m 2770 /run/coherenced" in setup


def test_signals_reach_the_daemon() -> None:
    assert json.loads(last("ENTRYPOINT")) == ["coherenced"], "no shell in between"
    assert json.loads(last("CMD")) == ["serve"]
    probe = last("HEALTHCHECK").partition("CMD ")[2]
    assert json.loads(probe) == ["coherenced-probe", "/healthz"]


def test_its_environment_is_a_valid_configuration() -> None:
    environ = dict(word.split("=", 1) for word in last("ENV").split())
    config = load({}, DEPLOY.parent / "config" / "coherenced.toml", environ).config
    assert config.node.runtime_dir == "/run/coherenced"


def test_the_probe_is_copied_executable() -> None:
    assert os.access(DOCKER / "probe.py", os.X_OK)
    (first, *_) = (DOCKER / "probe.py").read_text().splitlines()
    assert first == "#!/usr/local/bin/python3 -IS"
