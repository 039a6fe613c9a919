"""The configuration's namespaces as the core's policies; what one leaves out, the default says."""

from __future__ import annotations

import msgspec

from coherenced.config import Config
from coherenced.core.policy import Policy
from coherenced.origin.rules import rules_of


def hold_bounds(old: Config, new: Config, largest_ms: float) -> tuple[Config, list[str]]:
    """`new`, but a bound above `largest_ms`, the largest that this node has published, stays as it
    is in `old`: writers fence this node by that one (K3). -> that, and the keys that stay.
    """
    stays = []
    common = new.coherence
    if common.max_staleness_ms > largest_ms:
        stays.append("coherence.max_staleness_ms")
        bound_ms = old.coherence.max_staleness_ms
        common = msgspec.structs.replace(common, max_staleness_ms=bound_ms)
    spaces = {}
    for name, space in new.namespace.items():
        if (space.max_staleness_ms or 0) > largest_ms:
            stays.append(f"namespace.{name}.max_staleness_ms")
            before = old.namespace.get(name)
            held_ms = None if before is None else before.max_staleness_ms
            space = msgspec.structs.replace(space, max_staleness_ms=held_ms)
        spaces[name] = space
    return msgspec.structs.replace(new, coherence=common, namespace=spaces), stays


def policies(config: Config) -> tuple[Policy, list[tuple[str, Policy]]]:
    """The configuration's defaults and namespaces as the core's policies."""
    common = config.coherence
    default = Policy(
        max_staleness_ms=common.max_staleness_ms,
        ack=common.ack_level,
        ack_timeout_ms=common.ack_timeout_ms,
        stale_if_error_ms=common.stale_if_error_ms,
        max_age_ms=config.l1.max_age_ms,
        negative_max_age_ms=config.l1.negative_max_age_ms,
        spool=common.on_unavailable == "spool",
    )
    rules = []
    for name, space in config.namespace.items():
        level = space.ack_level

        def pick(value: float | None, otherwise: float) -> float:
            return otherwise if value is None else value

        policy = Policy(
            name=name,
            max_staleness_ms=pick(space.max_staleness_ms, default.max_staleness_ms),
            ack=default.ack if level is None else level,
            ack_timeout_ms=pick(space.ack_timeout_ms, default.ack_timeout_ms),
            stale_if_error_ms=pick(space.stale_if_error_ms, default.stale_if_error_ms),
            max_age_ms=pick(space.max_age_ms, default.max_age_ms),
            negative_max_age_ms=pick(space.negative_max_age_ms, default.negative_max_age_ms),
            linearizable=space.linearizable,
            spool=default.spool
            if space.on_unavailable is None
            else space.on_unavailable == "spool",
        )
        origin = rules_of(name, space, config)
        if origin is not None:
            # "Not there" is for the origin to say: L1 may not answer it by itself.
            policy = msgspec.structs.replace(
                policy,
                has_origin=True,
                grace_ms=origin.grace_ms,
                early_ms=origin.early_ms,
                negative_max_age_ms=0.0,
            )
        rules.append((space.match, policy))
    return default, rules
