"""How each command that the documentation shows is known to work. The first rule that fits counts.

A command that fits no rule fails the suite: whoever writes a command into the
documentation says here how it is checked.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Rule(NamedTuple):
    """What is done with the commands that match `pattern` from their beginning."""

    pattern: str
    how: str
    """`run` (against a daemon, in the order of the text), `watch` (it runs until it is
    interrupted; it must begin, and end in good order), or `elsewhere`."""
    why: str = ""
    """Of `elsewhere`: what checks it, or why nothing can."""
    exit_code: int = 0


INSTALL = (
    "python3 -m venv .venv && .venv/bin/pip install -q '.[embedded]' && .venv/bin/coherenced demo"
)
TEST = "python3 -m venv .venv && .venv/bin/pip install -q '.[dev]' && .venv/bin/python -m tests"

RULES = (
    Rule(re.escape(INSTALL), "elsewhere", "tests/cli runs the demo; .ci/run installs"),
    Rule(re.escape(TEST), "elsewhere", ".ci/run runs exactly this line"),
    Rule(r"sudo(edit)?\s", "elsewhere", "changes the machine; tests/deploy checks the files"),
    Rule(r"systemctl\s", "elsewhere", "needs a machine that runs systemd"),
    Rule(r"docker\s", "elsewhere", "needs a container engine; tests/deploy reads the recipe"),
    Rule(r"kubectl\s", "elsewhere", "needs a cluster; tests/deploy validates the manifests"),
    Rule(r"(\.venv/bin/)?(coherenced (serve|demo|bench))\b", "elsewhere", "tests/cli"),
    Rule(r"(\.venv/bin/)?coherenced (watch|top)\b", "watch"),
    Rule(r"(\.venv/bin/)?coherenced\s", "run"),
    Rule(r"\.venv/bin/python\s", "run"),
    Rule(r"(redis-cli|valkey-cli|curl)\s", "run"),
)


def rule_for(command: str) -> Rule | None:
    """The first rule that fits, or None."""
    return next((rule for rule in RULES if re.match(rule.pattern, command)), None)
