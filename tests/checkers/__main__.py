"""Judge a history that was kept: `python -m tests.checkers history.jsonl`."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.checkers.history import History
from tests.checkers.suite import check_all
from tests.checkers.verdict import report


def main() -> int:
    files = [Path(name) for name in sys.argv[1:]]
    if len(files) != 1 or not files[0].is_file():
        print("usage: python -m tests.checkers history.jsonl", file=sys.stderr)
        return 2
    history = History.load(files[0])
    # A run that failed before its end has no final reads and no final counters.
    ended = "counters" in history.notes
    skip = () if ended else ("eventual", "counter")
    verdicts = check_all(history, counters=history.notes.get("counters"), skip=skip)
    print(report(verdicts))
    return 1 if any(verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
