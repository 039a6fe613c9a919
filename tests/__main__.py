"""Every check of the project, in one command: `python -m tests [pytest arguments]`.

Format, lint, types, floors, then the tests. All of them run even if one fails; the
exit code is not 0 if any failed. The last line is pytest's own summary.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]

CHECKS = {
    "format": [sys.executable, "-m", "ruff", "format", "--check", "--quiet", "."],
    "lint": [sys.executable, "-m", "ruff", "check", "--quiet", "--output-format=concise", "."],
    "types": [sys.executable, "-m", "mypy", "--no-error-summary"],
    "floors": [str(Path(sys.executable).with_name("lint-imports")), "--no-logo"],
}


def main(arguments: list[str]) -> int:
    """The exit code of everything together."""
    failed = [name for name, command in CHECKS.items() if not _passes(name, command)]
    if failed:
        print(f"FAILED before the tests: {', '.join(failed)}", flush=True)
    print("tests", flush=True)
    # A script's `&` has it ignored, and so would be all that the tests start and end by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "--color=no", *arguments], cwd=ROOT
    ).returncode
    return tests or (1 if failed else 0)


def _passes(name: str, command: list[str]) -> bool:
    started = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    verdict = "ok" if done.returncode == 0 else "FAILED"
    print(f"{name}: {verdict} ({time.monotonic() - started:.1f} s)", flush=True)
    if done.returncode != 0:
        print(done.stdout + done.stderr, flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
