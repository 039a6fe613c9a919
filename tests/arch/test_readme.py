"""What the documentation shows is true: every command is run, every setting loads, every
program works, against a real daemon."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from coherenced.config import load
from tests.arch.readme import ROOT, Block, Command, blocks, commands
from tests.arch.readme_commands import INSTALL, RULES, TEST, rule_for
from tests.deploy.manager import PROGRAM, http_status
from tests.servers import Server, free_port

FILES = ("README.md", "deploy/README.md", "coherenced/client/PATTERNS.md")
COMMANDS = [command for file in FILES for command in commands(file)]
TIMEOUT_S = 60.0
HTTP_ADDRESS = "127.0.0.1:8377"
"""The address that the documentation uses; the tests use a free one."""


class Surroundings(NamedTuple):
    """A running daemon, as the reader of the documentation has one."""

    directory: Path
    environ: dict[str, str]
    http: str

    def adapted(self, text: str) -> str:
        """The reader's paths as they are here."""
        bin_directory = str(Path(sys.executable).parent)
        return (
            text.replace(".venv/bin/", f"{bin_directory}/")
            .replace("/run/coherenced/", f"{self.directory}/coherenced/")
            .replace(HTTP_ADDRESS, self.http)
        )


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Surroundings]:
    directory = tmp_path_factory.mktemp("readme")
    http = f"127.0.0.1:{free_port()}"
    environ = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
    environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environ["XDG_RUNTIME_DIR"] = str(directory)
    with Server("valkey") as server, (directory / "log").open("wb") as log:
        environ["COHERENCED_REDIS__URL"] = server.unix_url
        daemon = subprocess.Popen(
            [PROGRAM, "serve", "--http", http],
            env=environ, cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            socket = directory / "coherenced" / "http.sock"
            end = time.monotonic() + TIMEOUT_S
            while not (socket.exists() and http_status(socket, "/readyz").endswith(b"200 OK")):
                assert daemon.poll() is None, (directory / "log").read_text()
                assert time.monotonic() < end, (directory / "log").read_text()
                time.sleep(0.02)
            yield Surroundings(directory, environ, http)
        finally:
            daemon.terminate()
            daemon.wait(TIMEOUT_S)


def test_the_readme_begins_with_how_to_install_and_how_to_test() -> None:
    shown = [command.text for command in commands("README.md")]
    assert shown[:1] == [INSTALL]
    assert shown.count(TEST) == 1, ".ci/run looks for this line"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_has_a_rule(command: Command) -> None:
    rule = rule_for(command.text)
    assert rule is not None, f"{command.text!r}: say in readme_commands.py how it is checked"


def test_every_rule_that_runs_nothing_says_why() -> None:
    for rule in RULES:
        assert rule.how in ("run", "watch", "elsewhere")
        assert bool(rule.why) == (rule.how == "elsewhere")


@pytest.mark.parametrize(
    "command",
    [command for command in COMMANDS if (rule := rule_for(command.text)) and rule.how == "run"],
    ids=lambda command: command.name,
)
def test_commands_do_what_they_are_shown_to_do(
    command: Command, surroundings: Surroundings
) -> None:
    program = command.text.split()[0]
    if shutil.which(program, path=surroundings.environ["PATH"]) is None and "/" not in program:
        pytest.skip(f"{program} is not installed")
    rule = rule_for(command.text)
    assert rule is not None
    done = subprocess.run(
        ["bash", "-ec", surroundings.adapted(command.text)],
        env=surroundings.environ, cwd=ROOT, capture_output=True, text=True,
        stdin=subprocess.DEVNULL, timeout=TIMEOUT_S,
    )  # fmt: skip
    assert done.returncode == rule.exit_code, f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "command",
    [command for command in COMMANDS if (rule := rule_for(command.text)) and rule.how == "watch"],
    ids=lambda command: command.name,
)
def test_commands_that_go_on_begin_and_end_in_good_order(
    command: Command, surroundings: Surroundings
) -> None:
    process = subprocess.Popen(
        ["bash", "-ec", f"exec {surroundings.adapted(command.text)}"],
        env={**surroundings.environ, "PYTHONUNBUFFERED": "1"},
        cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        shown = b""
        end = time.monotonic() + TIMEOUT_S
        while not shown:  # something happens again and again, until it is shown
            assert process.poll() is None and time.monotonic() < end
            subprocess.run([PROGRAM, "set", "readme", "x"], env=surroundings.environ, check=True,
                           capture_output=True)  # fmt: skip
            shown = process.stdout.read() or b""
        process.send_signal(signal.SIGINT)
        # `top` shows one picture on a pipe: the signal may meet it when it is about to end.
        assert process.wait(TIMEOUT_S) in (0, 130, -signal.SIGINT)
        assert b"Traceback" not in shown + (process.stdout.read() or b"")
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.mark.parametrize(
    "block",
    [block for file in FILES for block in blocks(file, "toml")],
    ids=lambda block: block.name,
)
def test_settings_that_are_shown_load(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "shown.toml"
    file.write_text(block.text)
    load({}, file, {})


@pytest.mark.parametrize(
    "block",
    [block for file in FILES for block in blocks(file, "python")],
    ids=lambda block: block.name,
)
def test_programs_that_are_shown_run(block: Block, surroundings: Surroundings) -> None:
    done = subprocess.run(
        [sys.executable, "-c", surroundings.adapted(block.text)],
        env=surroundings.environ, cwd=ROOT, capture_output=True, text=True,
        stdin=subprocess.DEVNULL, timeout=TIMEOUT_S,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("file", FILES)
def test_links_and_named_files_are_there(file: str) -> None:
    text = (ROOT / file).read_text()
    here = (ROOT / file).parent
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (here / target).exists(), target
    for path in re.findall(r"`(tests/[\w/.]+)`", text):
        assert (ROOT / path).exists(), path


# -- the reader itself --------------------------------------------------------------------------


def test_commands_are_found_where_they_stand(tmp_path: Path) -> None:
    (tmp_path / "x.md").write_text(
        "text\n```sh\n# a comment\none --a \\\n  --b   # why\n\ntwo '#3'\n```\n"
        "```python\nnot = 'sh'\n```\n```\nplain\n```\n```sh\nthree\n```\n"
    )
    assert commands("x.md", tmp_path) == [
        ("x.md", 4, "one --a   --b"),
        ("x.md", 7, "two '#3'"),
        ("x.md", 16, "three"),
    ]
    assert [block.text for block in blocks("x.md", "python", tmp_path)] == ["not = 'sh'"]


def test_a_block_that_is_never_closed_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.md").write_text("```sh\none\n")
    with pytest.raises(ValueError, match="never closed"):
        blocks("x.md", "sh", tmp_path)


def test_rules_are_taken_from_the_first() -> None:
    for text, how in [
        (INSTALL, "elsewhere"),
        (TEST, "elsewhere"),
        ("coherenced serve", "elsewhere"),
        (".venv/bin/coherenced watch", "watch"),
        ("coherenced get k", "run"),
        ("curl --unix-socket x http://h/", "run"),
    ]:
        rule = rule_for(text)
        assert rule is not None
        assert rule.how == how
    assert rule_for("rm -rf /") is None
