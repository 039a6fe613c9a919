"""The console script: SIGINT ends it without a word, also while its modules are being loaded.

Nothing is imported here but what Python has loaded by itself, until SIGINT is taken care of: a
Ctrl-C in the first tenth of a second would else print where in which import it came.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import time
from typing import Any, NoReturn

INTERRUPTED = 130
"""What a shell reports for a program that Ctrl-C ended."""


def main() -> NoReturn:
    """`coherenced`."""
    # Who started us may want SIGINT ignored, as a shell does for what runs in its background.
    watches = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if watches:
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
        sys.unraisablehook = _on_unraisable
    _open_what_is_closed()
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


def _on_unraisable(unraisable: Any) -> None:
    """A Ctrl-C that came within a callback that cannot raise it (one of an import's locks, a
    finaliser) is neither printed nor lost: it comes once more when that is over."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        _thread.start_new_thread(_interrupt_again, ())
    else:
        sys.__unraisablehook__(unraisable)


def _interrupt_again() -> None:
    time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)


def _open_what_is_closed() -> None:
    """Stand in for standard streams that were closed (`>&-`): nobody wants what they would carry.

    Left closed, their numbers would go to the next files and sockets, into which whoever writes
    to "standard error" then writes.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
            os.set_inheritable(number, True)
    # For as long as the process lives: nobody closes them.
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, closefd=False)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)
