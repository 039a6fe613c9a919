"""What can happen to a connection, and which error of the tree the caller gets for it."""

from __future__ import annotations

from coherenced.client.address import Address
from coherenced.errors import DaemonUnreachable, Indeterminate


class Lost(Exception):
    """The connection broke. `sent`: a byte of this call may have reached the daemon."""

    def __init__(self, sent: bool, reason: str) -> None:
        super().__init__(reason)
        self.sent = sent


class TimedOut(Lost):
    """No answer in time: with the connection goes a reply that may still come."""


def unreachable(address: Address, error: OSError) -> DaemonUnreachable:
    """Why a connection could not be opened, and what to do about it."""
    if isinstance(error, FileNotFoundError):
        advice = "there is no such socket: start the daemon with 'coherenced serve'"
    elif isinstance(error, ConnectionRefusedError):
        advice = "nobody listens there: start the daemon with 'coherenced serve'"
    elif isinstance(error, PermissionError):
        advice = "permission denied: add this user to the group of the socket"
    elif isinstance(error, BlockingIOError | TimeoutError):
        advice = "it does not accept connections in time: is the daemon stopped or overloaded?"
    else:
        advice = error.strerror or str(error) or type(error).__name__
    return DaemonUnreachable(f"cannot reach the daemon at {address}: {advice}")


def silent(address: Address, lost: Lost) -> DaemonUnreachable:
    """The daemon was there and gave no answer; nothing was changed."""
    return DaemonUnreachable(
        f"the daemon at {address} did not answer: {lost}; 'coherenced doctor' looks for the reason"
    )


def indeterminate(address: Address, lost: Lost) -> Indeterminate:
    """A write was sent; its reply never came, and it is not sent again (W3)."""
    return Indeterminate(
        f"a write was sent to {address}, but {lost}: it may or may not have been applied; "
        "read the key before writing again"
    )
