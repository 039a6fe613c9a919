"""A daemon with some invariants switched off: `python -m tests.cluster.lawless LAWS serve …`.

LAWS: names of `coherenced.core.laws.Laws`, comma-separated. Nothing but a test may start
one; it exists to show that the history checkers notice when a law is broken.
"""

from __future__ import annotations

import functools
import sys


def main() -> None:
    """Switch off, then be `coherenced`."""
    names = sys.argv.pop(1).split(",")

    from coherenced import daemon
    from coherenced.cli.main import main as coherenced
    from coherenced.core.laws import Laws
    from coherenced.core.node import Node

    laws = Laws(**dict.fromkeys(names, False))
    setattr(daemon, "Node", functools.partial(Node, laws=laws))  # noqa: B010  (not for mypy)
    coherenced()


if __name__ == "__main__":
    main()
