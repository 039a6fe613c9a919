"""Checkers of recorded histories: one promise each, judged from outside.

A history (`history.py`) is what clients did and saw. A checker is a pure function
from a history to a `Verdict`: the violations it found, each a short story, and how
many operations it has judged. No checker ever raises a false alarm: where a history
leaves something open (an unanswered write, two concurrent ones, a lost data set) it
judges for the system. What it can still find is shown by its tests.

Reading order: `history`, `order` (which write came before which, as far as the
history proves it), then the promises: `values`, `staleness` (bounded, ack=all,
nines), `session`, `linearizable` (with `zones` and `search`), `snapshot`, `counter`,
`eventual`; `suite` runs them all.
"""
