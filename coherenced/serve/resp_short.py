"""The short way of GETs and SETs without options, past parsers, tables and plans.

One that comes alone is `quiet`'s. Here it gets its slot when something else happens before it is
answered; and those of a pipeline are begun by a few assignments, too. Whatever is of another form
goes the general way (`resp_connection`).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from coherenced.core.model import Set
from coherenced.core.requests import Outcome
from coherenced.serve.resp_flow import ReplyFlow, Slot
from coherenced.serve.resp_transaction import Watched
from coherenced.wire import resp
from coherenced.wire.commands import Access
from coherenced.wire.plan import OK, Plan, is_usable, status_shape

if TYPE_CHECKING:
    from coherenced.serve.resp import RespFront

_GETS: Final = (b"GET", b"get")
_SETS: Final = (b"SET", b"set")

_GET: Final = Plan(())
_SET: Final = Plan((), status_shape)
"""What becomes of the replies of a plain GET and SET."""


class ShortWay(ReplyFlow):
    """One connection's plain GETs and SETs."""

    __slots__ = ("_alone", "watched")

    def __init__(self, front: RespFront) -> None:
        super().__init__(front)
        self.watched = Watched()
        self._alone: Slot
        """Of what was asked while nothing else was under way; see `open_alone`."""

    def _answered(self, slot: Slot, plan: Plan, resp3: bool, outcome: Outcome) -> None:
        """The general way of `_got_for` and `_stored_for`."""
        raise NotImplementedError

    def open_alone(self, is_set: bool, size: int) -> None:
        self._resize_window()
        self._alone = self.open(Access.WRITE, size) if is_set else self.open(Access.READ)
        self._alone.resp3 = self.resp3

    def fill_alone(self, outcome: Outcome) -> None:
        if self.lost:
            return
        slot = self._alone
        if slot.access == Access.READ:
            self._got_for(slot, outcome)
        else:
            self._stored_for(slot, outcome)

    def _got_for(self, slot: Slot, outcome: Outcome) -> None:
        if outcome.__class__ is bytes:
            self.fill(slot, resp.NIL3 if slot.resp3 and outcome == resp.NIL2 else outcome)
        else:
            self._answered(slot, _GET, slot.resp3, outcome)

    def _stored_for(self, slot: Slot, outcome: Outcome) -> None:
        if outcome == OK:
            self.fill(slot, resp.OK)
        else:
            self._answered(slot, _SET, slot.resp3, outcome)

    def _begin_plain(self, request: list[bytes]) -> bool:
        """Ask the node, as for a lone one, if it is a SET or GET without options, as most are."""
        settings, key = self.front.settings, request[1]
        if self.watched or not is_usable(key, settings.bounds):
            return False
        if len(request) == 2 and request[0] in _GETS:
            slot = self.open(Access.READ)
            slot.resp3 = self.resp3
            self._get(key, partial(self._got_for, slot))
            return True
        if len(request) != 3 or request[0] not in _SETS:
            return False
        value = request[2]
        size = len(key) + len(value)
        if not self.has_room(size):
            return False  # and so it is told the general way
        asked = Set.to(key, value)
        slot = self.open(Access.WRITE, size)
        slot.resp3 = self.resp3
        self._submit(asked, partial(self._stored_for, slot))
        return True
