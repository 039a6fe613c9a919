"""faults.py: what a refusal means for a write."""

from __future__ import annotations

import pytest

from coherenced.core.calls import Failure
from coherenced.upstream.faults import failure_of, plain

INSIDE = " script: 0123456789abcdef0123456789abcdef01234567, on @user_script:12."


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ("NOREPLICAS Not enough good replicas to write.", Failure.UNREACHABLE),
        ("READONLY You can't write against a read only replica.", Failure.UNREACHABLE),
        ("MISCONF Redis is configured to save RDB snapshots", Failure.UNREACHABLE),
        ("LOADING Redis is loading the dataset in memory", Failure.UNREACHABLE),
        ("BUSY Redis is busy running a script.", Failure.UNREACHABLE),
        ("MASTERDOWN Link with MASTER is down", Failure.UNREACHABLE),
        ("NOAUTH Authentication required.", Failure.UNREACHABLE),
        ("NOPERM User weak has no permissions", Failure.UNREACHABLE),
        ("CLUSTERDOWN The cluster is down", Failure.UNREACHABLE),
        ("NOTRUN NOPERM No permissions to access a key" + INSIDE, Failure.UNREACHABLE),
        ("OOM command not allowed when used memory > 'maxmemory'.", Failure.OUT_OF_MEMORY),
        # From inside a script that was running: how far it had got is not known.
        ("NOPERM ACL failure in script" + INSIDE, Failure.LOST),
        ("OOM command not allowed" + INSIDE, Failure.LOST),
        ("WRONGTYPE Operation against a key" + INSIDE, Failure.LOST),
        ("ERR something new", Failure.LOST),
    ],
)
def test_failure_of(text: str, failure: str) -> None:
    assert failure_of(text) == failure


def test_plain_is_one_line_for_people() -> None:
    assert plain("NOTRUN NOPERM no\r\n  keys" + INSIDE) == "NOPERM no keys"
    assert plain("READONLY as it is") == "READONLY as it is"
