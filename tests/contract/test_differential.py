"""The modelled Redis against real servers: the same calls, the same answers and messages.

What the simulator proves about the core it proves on the model; this is what
makes it a proof about Redis.
"""

from __future__ import annotations

import pytest

from tests.contract.ports import ModelPort, RealPort, comparable, difference
from tests.contract.steps import Steps
from tests.servers import available_kinds, shared_server

SEEDS = 6
STEPS = 250


async def go_through(seed: int, steps: int, kind: str) -> None:
    model, real = ModelPort(), RealPort(shared_server(kind))
    await real.open()
    drawn = Steps(seed)
    try:
        for number in range(steps):
            where = f"seed {seed}, step {number} on {kind}"
            if drawn.random.random() < 0.04:
                await drawn.accident(model, real)
                continue
            call = drawn.next_call()
            expected, found = await model.ask(call), await real.ask(call)
            differs = difference(comparable(found), comparable(expected))
            assert not differs, f"{where}: {type(call).__name__} {differs}\n{call}"
            drawn.lineage = getattr(found, "lineage", drawn.lineage)
            heard, said = await real.published(), await model.published()
            differs = difference(heard, said)
            assert not differs, f"{where}: published after {type(call).__name__} {differs}\n{call}"
    finally:
        await real.close()


@pytest.mark.parametrize("kind", available_kinds())
@pytest.mark.parametrize("seed", range(SEEDS))
async def test_same_answers_and_messages(seed: int, kind: str) -> None:
    await go_through(seed, STEPS, kind)


@pytest.mark.soak
@pytest.mark.parametrize("kind", available_kinds())
@pytest.mark.parametrize("seed", range(100, 130))
async def test_same_answers_and_messages_for_long(seed: int, kind: str) -> None:
    await go_through(seed, 2_000, kind)
