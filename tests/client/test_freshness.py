from __future__ import annotations

import random

import pytest

from coherenced.client.freshness import LoadPolicy, State, due_s, state_of

POLICY = LoadPolicy(ttl=60, stale_while_revalidate=10, stale_if_error=100).checked()


@pytest.mark.parametrize(
    ("left_s", "state"),
    [
        (None, State.FRESH),
        (160, State.FRESH),
        (100.001, State.FRESH),
        (100, State.STALE),
        (90.001, State.STALE),
        (90, State.LAST_RESORT),
        (0, State.LAST_RESORT),
    ],
)
def test_what_is_left_tells_how_fresh_it_is(left_s: float | None, state: State) -> None:
    assert state_of(POLICY, left_s, 0.0, lambda: 0.5) is state


def test_an_early_refresh_is_likelier_near_the_end_and_for_slow_loads() -> None:
    policy = LoadPolicy(ttl=60, early_refresh=1.0)
    draw = random.Random(7).random

    def share(left_s: float, load_s: float) -> float:
        states = [state_of(policy, left_s, load_s, draw) for _ in range(2000)]
        return states.count(State.EARLY) / len(states)

    # The gap is exponential with the load's time as its mean: P(gap >= left) = exp(-left/load).
    assert share(1.0, 1.0) == pytest.approx(0.368, abs=0.05)
    assert share(2.0, 1.0) == pytest.approx(0.135, abs=0.04)
    assert share(10.0, 0.1) == 0.0
    assert share(1.0, 0.0) == 0.0
    assert share(0.001, 1.0) > 0.98


def test_a_refresh_is_of_the_value_that_was_seen() -> None:
    early = LoadPolicy(ttl=60, early_refresh=1.0, jitter=0.5)
    assert due_s(early, 3.0) == 3.25
    assert due_s(early, 29.9) == pytest.approx(29.95)  # one stored now may have 30 s left
    assert due_s(early, 50.0) == 50.0
    assert due_s(POLICY, 99.0) == due_s(POLICY, 0.0) == 100  # stale: whatever is not fresh
