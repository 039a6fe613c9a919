"""What a lane keeps on its server, by name. The scripts build the other names from these."""

from __future__ import annotations

from typing import NamedTuple

PREFIX = b"coh:"
"""Keys that begin with it are ours: clients may not touch them."""


class LaneNames(NamedTuple):
    """The names of one lane in one database."""

    meta: bytes
    log: bytes
    bus: bytes
    """The channel of its records. Channels are not per database, so it is in the name."""
    ack_prefix: bytes
    """Acknowledgements go to this and the writer's incarnation."""

    def ack(self, incarnation: bytes) -> bytes:
        """The channel on which a writer hears who has applied its records."""
        return self.ack_prefix + incarnation


def lane_names(lane: int, db: int) -> LaneNames:
    """The names of `lane` in database `db`."""
    return LaneNames(
        meta=b"coh:{%d}:meta" % lane,
        log=b"coh:{%d}:log" % lane,
        bus=b"coh:%d:{%d}:bus" % (db, lane),
        ack_prefix=b"coh:%d:{%d}:ack:" % (db, lane),
    )
