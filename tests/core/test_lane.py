"""Where a node stands in a log, and what it can prove: the chain and the proofs, alone."""

from __future__ import annotations

import pytest

from coherenced.core.lane import (
    HISTORY,
    MOST_RELIED,
    PENDING_PROOFS,
    RECENT_TAGS,
    Lane,
    Verdict,
)
from coherenced.core.laws import Laws
from coherenced.core.model import NEVER
from tests.core.driver import EPOCH, OTHER_EPOCH, lineage, record, tag_of

LAWS = Laws()


def lane_at(seq: int) -> Lane:
    lane = Lane(0)
    lane.anchor(lineage(seq), call_id=1)
    return lane


def advance(lane: Lane, *seqs: int) -> None:
    for seq in seqs:
        lane.advance(record(seq))


# -- A1: what a record is, seen from here -----------------------------------------------------


def test_A1_the_next_record_is_next_by_sequence_and_by_previous_tag() -> None:
    assert lane_at(10).judge_record(EPOCH, record(11), LAWS) is Verdict.NEXT


def test_A1_the_first_record_of_all_follows_the_epoch_itself() -> None:
    lane = lane_at(0)
    assert lane.tag == EPOCH
    assert lane.judge_record(EPOCH, record(1), LAWS) is Verdict.NEXT
    assert lane.judge_record(EPOCH, record(1, prev=tag_of(9)), LAWS) is Verdict.FORK


def test_A1_what_was_applied_already_is_a_duplicate() -> None:
    lane = lane_at(10)
    advance(lane, 11, 12)
    assert lane.judge_record(EPOCH, record(11), LAWS) is Verdict.DUPLICATE
    assert lane.judge_record(EPOCH, record(12), LAWS) is Verdict.DUPLICATE


def test_A1_a_record_further_on_is_a_gap() -> None:
    assert lane_at(10).judge_record(EPOCH, record(12), LAWS) is Verdict.AHEAD


def test_A1_the_next_number_after_another_tag_is_a_fork() -> None:
    stranger = record(11, branch=b"b")
    assert lane_at(10).judge_record(EPOCH, stranger, LAWS) is Verdict.FORK


def test_A1_a_number_that_was_applied_with_another_tag_is_a_fork() -> None:
    lane = lane_at(10)
    advance(lane, 11)
    assert lane.judge_record(EPOCH, record(11, branch=b"b"), LAWS) is Verdict.FORK


def test_A1_another_epoch_is_another_log() -> None:
    assert lane_at(10).judge_record(OTHER_EPOCH, record(11), LAWS) is Verdict.OTHER_EPOCH
    assert Lane(0).judge_record(EPOCH, record(1), LAWS) is Verdict.OTHER_EPOCH


def test_A1_what_is_too_far_back_to_tell_is_unknown_not_a_duplicate() -> None:
    lane = lane_at(10)
    assert lane.judge_record(EPOCH, record(9), LAWS) is Verdict.UNKNOWN
    assert lane.judge_lineage(lineage(9), LAWS) is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("laws", "verdict"),
    [
        (Laws(gap_check=False), Verdict.NEXT),
        (Laws(), Verdict.AHEAD),
    ],
)
def test_without_the_gap_check_a_gap_is_stepped_over(laws: Laws, verdict: Verdict) -> None:
    assert lane_at(10).judge_record(EPOCH, record(13), laws) is verdict


def test_without_the_chain_check_a_fork_passes_for_a_continuation() -> None:
    laws = Laws(chain_check=False)
    lane = lane_at(10)
    assert lane.judge_record(EPOCH, record(11, branch=b"b"), laws) is Verdict.NEXT
    assert lane.judge_lineage(lineage(10, b"b"), laws) is Verdict.DUPLICATE


def test_a_lineage_is_judged_like_a_record() -> None:
    lane = lane_at(10)
    advance(lane, 11)
    assert lane.judge_lineage(lineage(11), LAWS) is Verdict.DUPLICATE
    assert lane.judge_lineage(lineage(10), LAWS) is Verdict.DUPLICATE
    assert lane.judge_lineage(lineage(12), LAWS) is Verdict.AHEAD
    assert lane.judge_lineage(lineage(11, b"b"), LAWS) is Verdict.FORK
    assert lane.judge_lineage(lineage(11, epoch=OTHER_EPOCH), LAWS) is Verdict.OTHER_EPOCH


def test_advancing_moves_the_position_and_remembers_the_tag() -> None:
    lane = lane_at(10)
    advance(lane, 11, 12)
    assert lane.lineage == lineage(12)
    assert lane.head == 12
    assert [r.seq for r in lane.history] == [11, 12]


def test_what_is_remembered_is_bounded() -> None:
    lane = lane_at(0)
    advance(lane, *range(1, RECENT_TAGS + 500))
    assert len(lane.recent) <= RECENT_TAGS + 1
    assert len(lane.history) == HISTORY
    old = RECENT_TAGS + 499 - RECENT_TAGS
    assert lane.judge_record(EPOCH, record(old), LAWS) is Verdict.UNKNOWN
    assert lane.judge_record(EPOCH, record(old + 1), LAWS) is Verdict.DUPLICATE


def test_A5_an_anchor_forgets_everything_that_was_proved_or_known() -> None:
    lane = lane_at(10)
    advance(lane, 11)
    lane.offer_proof(5, 100.0, lineage(11))
    lane.settle_proofs(LAWS)
    lane.offer_proof(6, 101.0, lineage(15))
    lane.tag_seq[b"t"] = 11
    generation = lane.generation
    lane.anchor(lineage(3, epoch=OTHER_EPOCH), call_id=7)
    assert lane.generation == generation + 1
    assert lane.lineage == lineage(3, epoch=OTHER_EPOCH)
    assert lane.head == 3
    assert lane.verified_at_ms == NEVER
    assert lane.proved_call_id == 0
    assert not lane.proofs and not lane.history and not lane.tag_seq
    assert lane.anchored_call_id == 7


def test_before_the_first_anchor_there_is_no_lineage() -> None:
    assert Lane(0).lineage is None
    assert Lane(0).verified_at_ms == NEVER


# -- V1: proofs -------------------------------------------------------------------------------


def test_V1_a_proof_counts_from_when_its_probe_was_sent() -> None:
    lane = lane_at(10)
    lane.offer_proof(5, 100.0, lineage(10))
    assert lane.settle_proofs(LAWS) is Verdict.DUPLICATE
    assert lane.verified_at_ms == 100.0
    assert lane.proved_call_id == 5


def test_V1_a_proof_waits_until_everything_up_to_it_is_applied() -> None:
    lane = lane_at(10)
    lane.offer_proof(5, 100.0, lineage(12))
    assert lane.head == 12
    lane.settle_proofs(LAWS)
    advance(lane, 11)
    lane.settle_proofs(LAWS)
    assert lane.verified_at_ms == NEVER
    advance(lane, 12)
    lane.settle_proofs(LAWS)
    assert lane.verified_at_ms == 100.0
    assert not lane.proofs


def test_V1_without_the_law_a_proof_does_not_wait() -> None:
    lane = lane_at(10)
    lane.offer_proof(5, 100.0, lineage(12))
    lane.settle_proofs(Laws(verified_after_applied=False))
    assert lane.verified_at_ms == 100.0


def test_V1_proofs_never_move_the_time_back() -> None:
    lane = lane_at(10)
    lane.offer_proof(6, 200.0, lineage(10))
    lane.offer_proof(5, 100.0, lineage(10))
    lane.settle_proofs(LAWS)
    assert (lane.verified_at_ms, lane.proved_call_id) == (200.0, 6)


@pytest.mark.parametrize(
    ("where", "verdict"),
    [(lineage(10, b"b"), Verdict.FORK), (lineage(7), Verdict.UNKNOWN)],
)
def test_V1_a_proof_from_another_history_proves_nothing(where: object, verdict: Verdict) -> None:
    lane = lane_at(10)
    lane.offer_proof(5, 100.0, where)  # type: ignore[arg-type]
    assert lane.settle_proofs(LAWS) is verdict
    assert lane.verified_at_ms == NEVER
    assert not lane.proofs


def test_V1_a_proof_that_turns_out_to_be_of_a_fork_once_reached_is_refused() -> None:
    lane = lane_at(10)
    lane.offer_proof(5, 100.0, lineage(11, b"b"))
    advance(lane, 11)
    assert lane.settle_proofs(LAWS) is Verdict.FORK
    assert lane.verified_at_ms == NEVER


def test_V1_an_answer_from_behind_the_position_is_held_until_a_later_one_confirms_it() -> None:
    """What came over the bus since may be of a branch that a failover has lost."""
    lane = lane_at(10)
    advance(lane, 11)
    lane.offer_proof(5, 100.0, lineage(10))
    assert lane.settle_proofs(LAWS) is Verdict.DUPLICATE
    assert lane.verified_at_ms == NEVER
    lane.offer_proof(6, 120.0, lineage(11))
    lane.settle_proofs(LAWS)
    assert lane.verified_at_ms == 120.0
    assert lane.unconfirmed is None


def test_V1_on_a_busy_lane_each_answer_confirms_the_one_before() -> None:
    lane = lane_at(10)
    advance(lane, 11)
    lane.offer_proof(5, 100.0, lineage(10))
    lane.settle_proofs(LAWS)
    advance(lane, 12)
    lane.offer_proof(6, 120.0, lineage(11))
    lane.settle_proofs(LAWS)
    assert lane.verified_at_ms == 100.0
    advance(lane, 13)
    lane.offer_proof(7, 140.0, lineage(12))
    lane.settle_proofs(LAWS)
    assert lane.verified_at_ms == 120.0


def test_V1_an_earlier_calls_answer_does_not_confirm() -> None:
    """It may have been executed by the old primary, before the failover."""
    lane = lane_at(10)
    advance(lane, 11)
    lane.offer_proof(5, 100.0, lineage(10))
    lane.settle_proofs(LAWS)
    advance(lane, 12)
    lane.offer_proof(4, 90.0, lineage(11))
    lane.settle_proofs(LAWS)
    assert lane.verified_at_ms == NEVER


def test_V1_without_the_law_an_answer_from_behind_is_believed_at_once() -> None:
    lane = lane_at(10)
    advance(lane, 11)
    lane.offer_proof(5, 100.0, lineage(10))
    lane.settle_proofs(Laws(confirm_position=False))
    assert lane.verified_at_ms == 100.0


def test_V1_answers_that_wait_are_bounded_and_the_next_to_come_true_is_kept() -> None:
    """Dropping the oldest instead would starve a lane whose bus lags behind its own writes."""
    lane = lane_at(10)
    for ahead in range(1, PENDING_PROOFS * 3):
        lane.offer_proof(5 + ahead, 100.0 + ahead, lineage(10 + ahead))
    assert len(lane.proofs) <= PENDING_PROOFS
    advance(lane, 11)
    lane.settle_proofs(LAWS)
    assert lane.verified_at_ms == 101.0


def test_V7_what_was_proved_can_be_taken_back_and_the_position_stays() -> None:
    lane = lane_at(10)
    lane.offer_proof(5, 100.0, lineage(10))
    lane.settle_proofs(LAWS)
    lane.offer_proof(6, 110.0, lineage(12))
    lane.unprove()
    advance(lane, 11, 12)
    lane.settle_proofs(LAWS)
    assert lane.verified_at_ms == NEVER
    assert lane.lineage == lineage(12)


def test_A1_a_run_follows_only_if_each_record_is_the_next_after_the_one_before_it() -> None:
    lane = lane_at(10)
    run = [record(seq) for seq in (11, 12, 13)]
    assert lane.is_followed_by(run)
    assert not lane.is_followed_by([run[0], run[2]])
    assert not lane.is_followed_by([run[0], record(12, branch=b"b", prev=tag_of(11, b"b"))])
    assert not lane.is_followed_by(run[1:])
    lane.advance_along(run)
    assert lane.lineage == lineage(13) and lane.head == 13
    assert [lane.recent[seq] for seq in (11, 12, 13)] == [one.tag for one in run]
    assert list(lane.history)[-3:] == run
    assert lane.rely(15, tag_of(15))
    assert not lane.is_followed_by([record(14), record(15)]), "each is compared with what relies"


# -- what is stored from ahead (F2) -------------------------------------------------------------


def test_F2_what_is_stored_from_ahead_relies_on_the_chain_getting_there_by_its_tag() -> None:
    lane = lane_at(10)
    assert lane.rely(12, tag_of(12))
    assert lane.reliance == 12
    assert lane.advance(record(11))
    assert lane.advance(record(12))
    assert lane.reliance == 12 and not lane.relied


def test_F2_a_chain_that_gets_there_by_another_tag_is_told() -> None:
    lane = lane_at(10)
    assert lane.rely(11, tag_of(11))
    assert not lane.advance(record(11, branch=b"b", prev=tag_of(10)))


def test_F2_two_histories_cannot_both_be_relied_on() -> None:
    lane = lane_at(10)
    assert lane.rely(12, tag_of(12))
    assert lane.rely(12, tag_of(12))
    assert not lane.rely(12, tag_of(12, b"b"))


def test_F2_what_was_applied_already_needs_no_reliance() -> None:
    lane = lane_at(10)
    assert lane.rely(10, tag_of(10))
    assert lane.rely(3, b"judged elsewhere")
    assert not lane.relied and lane.reliance == 10


def test_F2_reliances_are_bounded_and_a_new_lineage_has_none() -> None:
    lane = lane_at(10)
    stored = sum(lane.rely(seq, tag_of(seq)) for seq in range(11, 11 + 2 * MOST_RELIED))
    assert stored == len(lane.relied) == MOST_RELIED
    lane.anchor(lineage(3, epoch=OTHER_EPOCH), call_id=2)
    assert not lane.relied and lane.reliance == 3


def test_V1_an_answer_from_behind_what_is_relied_on_is_held_too() -> None:
    lane = lane_at(10)
    lane.rely(12, tag_of(12))
    lane.offer_proof(5, 100.0, lineage(10))
    lane.settle_proofs(LAWS)
    assert lane.verified_at_ms == NEVER
    advance(lane, 11, 12)
    lane.offer_proof(6, 120.0, lineage(12))
    lane.settle_proofs(LAWS)
    assert lane.verified_at_ms == 120.0
