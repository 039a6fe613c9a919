"""SIGINT at any moment ends a command without a word of Python's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# As the console script does, from which Python's own start is the only thing before ours.
SCRIPT = "import sys; from coherenced.cli.start import main; print('x', end='', flush=True); main()"


def interrupted(words: list[str], after_ms: float, code: str = SCRIPT) -> tuple[int, str]:
    """Interrupt it so long after its own code has begun."""
    with subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read(1) == b"x"
        time.sleep(after_ms / 1e3)
        process.send_signal(signal.SIGINT)
        error = process.stderr.read().decode()
        return process.wait(20), error


IN_A_FINALISER = """
import signal, time
from coherenced.cli import main, start

class Late:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

def run(arguments):
    Late()
    time.sleep(30)
    return 0

main.run = run
start.main()
"""


def test_sigint_where_nothing_can_be_raised_comes_once_more() -> None:
    """As within one of an import's locks: it was printed as ignored, and the command went on."""
    done = subprocess.run([sys.executable, "-c", IN_A_FINALISER], capture_output=True, timeout=20)
    assert (done.returncode, done.stderr) == (130, b"")


@pytest.mark.parametrize("words", [["get", "k"], ["bench", "--list"]])
def test_sigint_while_a_command_starts(words: list[str], tmp_path: Path) -> None:
    os.environ["COHERENCED_SOCKET"] = str(tmp_path / "nobody.sock")
    try:
        for after_ms in (2, 12, 30, 60, 100, 150):
            code, error = interrupted(words, after_ms)
            # 0 or 4: it had done what it was to do (nobody listens there) before.
            assert code in (130, 0, 4), (after_ms, code, error)
            assert "Traceback" not in error and error.count("\n") <= 1, error
            assert code != 130 or not error.strip(), "click ends the line of the terminal's ^C"
    finally:
        del os.environ["COHERENCED_SOCKET"]


def test_what_was_started_with_sigint_ignored_goes_on_ignoring_it() -> None:
    ignoring = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); " + SCRIPT
    code, error = interrupted(["bench", "--list"], 5, ignoring)
    assert (code, error) == (0, "")
