"""The configuration's namespaces as the core's policies."""

from __future__ import annotations

from coherenced.config import Config, load
from coherenced.policies import hold_bounds, policies


def config_of(**settings: str) -> Config:
    return load({key.replace("__", "."): value for key, value in settings.items()}, None, {}).config


def test_a_larger_bound_than_the_published_one_stays_as_it_was_and_all_else_changes() -> None:
    old = config_of(
        coherence__max_staleness_ms="1000",
        namespace__short__match="s:*", namespace__short__max_staleness_ms="200",
        namespace__plain__match="p:*",
    )  # fmt: skip
    new = config_of(
        coherence__max_staleness_ms="1001", coherence__ack="all",
        namespace__short__match="s:*", namespace__short__max_staleness_ms="5000",
        namespace__short__ack="none",
        namespace__plain__match="p:*", namespace__plain__max_staleness_ms="1000",
        namespace__more__match="m:*", namespace__more__max_staleness_ms="5000",
    )  # fmt: skip
    held, stays = hold_bounds(old, new, 1000)
    assert stays == [
        "coherence.max_staleness_ms",
        "namespace.short.max_staleness_ms",
        "namespace.more.max_staleness_ms",
    ]
    default, rules = policies(held)
    assert default.max_staleness_ms == 1000
    assert {policy.name: policy.max_staleness_ms for _, policy in rules} == {
        "short": 200,
        "plain": 1000,
        "more": 1000,  # that of everything else, until it may have its own
    }
    assert held.coherence.ack == "all"
    assert held.namespace["short"].ack == "none"


def test_smaller_bounds_are_taken_as_they_are() -> None:
    old, new = config_of(), config_of(coherence__max_staleness_ms="0")
    assert hold_bounds(old, new, 1000) == (new, [])
