"""The console script: SIGINT ends it without a word, also while its modules are being loaded.

Nothing is imported here but what Python has loaded by itself, until SIGINT is taken care of: a
Ctrl-C in the first tenth of a second would else print where in which import it came.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

INTERRUPTED = 130
"""What a shell reports for a program that Ctrl-C ended."""


def main() -> NoReturn:
    """`coherenced`."""
    # Who started us may want SIGINT ignored, as a shell does for what runs in its background.
    watches = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if watches:
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    from coherenced.cli.main import run

    try:
        if watches:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = INTERRUPTED
    if watches:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is over: what is left is to end
    sys.exit(code)
