"""The protocol's invariants, each with its number, its words, and a switch.

Every switch is on. Only a test can make a `Node` with one off, and then the
suite must turn red: a law whose absence nobody notices is not tested.
(`V2`, the fenced probe, `W1`, the atomic script, what `K5` and `L1` say of deletes that find
nothing and of late claims, and the refusal of `K6` are the server's and the shell's part: the
simulator's modelled Redis and the contract tests hold their switches.)
"""

from __future__ import annotations

import msgspec


class Laws(msgspec.Struct, frozen=True, kw_only=True):
    """All on in every daemon. The comment on each field is the law it stands for."""

    resolve_lost_reply: bool = True
    """W3: a lost reply is looked up by its tag in the log; a mutation is never blindly repeated."""
    own_write_drops: bool = True
    """W5: before a writer is answered, its node has dropped the key and voided fills in flight."""
    fill_fence: bool = True
    """F2: a fill is not stored if an invalidation newer than it hit its key since it was asked."""
    fill_not_backwards: bool = True
    """F2: a fill is stored only if it is of this lineage and not older than what was applied."""
    pending_not_cached: bool = True
    """F2, K6: a key between prepare and commit is not cached."""
    join_only_fresh_flights: bool = True
    """F3: nobody who asked after an invalidation is given a fetch sent before it."""
    entry_deadline: bool = True
    """F1: an entry never outlives Redis's TTL, counted from before its request was sent."""
    gap_check: bool = True
    """A1: a record is applied only if it is the next one."""
    chain_check: bool = True
    """A1, A2: …and only if its previous tag is mine; else a fork is detected."""
    confirm_position: bool = True
    """V1: an answer from behind my position proves it only once a later answer shows that the
    position is on the server's chain (what came over the bus in between may be a lost branch)."""
    reliance_checked: bool = True
    """F2, A2: what is stored from ahead of the position relies on the chain getting there by the
    same tag; if it gets there by another, or an answer stays behind it, that is a fork."""
    no_way_back: bool = True
    """S1: who was given an answer that this chain does not vouch for is not shown an older state
    by a hit afterwards: what is held of its keys is let go, and an answer of another branch ends
    all hits until the lane is proved anew."""
    new_epoch_after_fork: bool = True
    """S1: once a fork was seen the lane goes on under a new epoch: the numbers of the old one have
    named two writes each, so no session and no compare-and-set may go by them."""
    old_connection_ignored: bool = True
    """A3: a message that arrived on an earlier bus connection is ignored."""
    drop_on_trimmed: bool = True
    """A2, A5: when the log no longer reaches back to my position, the lane is dropped."""
    verified_when_sent: bool = True
    """V1: verified-at is the time before the probe was sent, not when its reply came."""
    verified_after_applied: bool = True
    """V1: …and moves only once everything up to the probe's sequence is applied."""
    staleness_bound: bool = True
    """V3: a hit is served only within its bound of verified-at."""
    probe_after_arrival: bool = True
    """V4: with B = 0 only a probe sent after the read arrived proves it."""
    pause_alarm: bool = True
    """V7: server time and local time drifting apart between probes voids every verified-at."""
    ack_after_applied: bool = True
    """K1: a node acknowledges only what it has applied."""
    member_proves: bool = True
    """K2: an answer proves this node only while it is surely on the roster: the call carried its
    membership, or one that did was answered shortly before this one was sent."""
    wait_for_all: bool = True
    """K3: `ack=all` waits until each node of the roster has acknowledged or is fenced by time."""
    quarantine: bool = True
    """K7: after a lineage change `ack=all` waits one bound before it is believed."""
    two_phases: bool = True
    """K6: a linearizable write is prepared on every node before it becomes visible."""
    namespaces_declared: bool = True
    """K6: a node tells the lane which of its namespaces are linearizable, so that nobody writes
    their keys in one phase."""
    min_version: bool = True
    """S1: a read with a session token is served nothing older than it."""
    snapshot: bool = True
    """S2: a snapshot is all of one position, or all of one script."""
    page_before_ack: bool = True
    """P1: the shared page counts what a step makes worthless before the step's effects leave."""
    tags_cover: bool = True
    """T1: a tag's invalidation kills entries and fills older than it."""
    marks_cover: bool = True
    """T1: what an invalidated prefix covers is gone once its record is applied, though it is looked
    for only afterwards, a few entries at a time."""
    marks_stay: bool = True
    """T1: …and until that is done: a mark stays until a whole round, begun after it, has ended."""
    lease_voided: bool = True
    """L1: what was loaded is stored only under a token that lives, and that nothing has voided."""
