"""Each law can be switched off, and then something here must turn red.

A test that stays green without the law it is for proves nothing. For every
switch: a story that breaks an `expect` or a promise, or tells something else
than its golden text; or a seeded run that breaks a promise.
"""

from __future__ import annotations

import msgspec
import pytest

from coherenced.core.laws import Laws
from tests.ahead import Part, result
from tests.sim.redis_model import ServerLaws
from tests.sim.run import Config, Failure, by_seed, run
from tests.sim.story import KNOWN_TO_BREAK, Broken, parse, stories, tell

SWITCHES = (*Laws.__struct_fields__, *ServerLaws.__struct_fields__)
MOST_SEEDS = 80
CORNERS: dict[str, dict[str, object]] = {
    "confirm_position": {
        "kinds": ("fail over", "pause", "slow", "stuck"),
        "fault_gap_ms": 60.0,
        "run_ms": 1_000.0,
    },
    "fill_not_backwards": {"run_ms": 1_000.0},
}
"""Where to look first for what only rare circumstances show."""


def laws_without(switch: str) -> tuple[Laws, ServerLaws]:
    if switch in Laws.__struct_fields__:
        return Laws(**{switch: False}), ServerLaws()
    return Laws(), ServerLaws(**{switch: False})


def story_that_turns_red(switch: str) -> str:
    """A story that breaks, else one that says something else than it should; '' if all is well."""
    laws, server_laws = laws_without(switch)
    different = ""
    for path in stories():
        if path.stem in KNOWN_TO_BREAK:
            continue
        text = path.read_text("utf-8")
        try:
            told = tell(text, laws, server_laws)
        except (Broken, AssertionError) as broken:
            return f"{path.stem}: {broken}"
        for before, now in zip(parse(text), told, strict=True):
            if now.output != before.output:
                different = different or f"{path.stem}: {now.commands[-1]!r} says {now.output}"
    return different


def seed_that_turns_red(switch: str) -> str:
    laws, server_laws = laws_without(switch)
    changes = CORNERS.get(switch, {})
    for seed in range(MOST_SEEDS):
        config: Config = msgspec.structs.replace(
            by_seed(seed), laws=laws, server_laws=server_laws, **changes
        )
        try:
            run(config)
        except Failure as failure:
            return f"seed {seed}: {failure.problem}"
    return ""


def red(switch: str) -> str:
    return story_that_turns_red(switch) or seed_that_turns_red(switch)


def without_each() -> list[Part]:
    return [Part(red, (switch,)) for switch in SWITCHES]


@pytest.mark.ahead(parts=without_each)
@pytest.mark.parametrize("switch", SWITCHES)
def test_without_this_law_something_breaks(switch: str) -> None:
    found = result(without_each, SWITCHES.index(switch))
    assert found, f"nobody notices that {switch} is off"
    print(f"{switch}: {found}")
