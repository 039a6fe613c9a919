"""What the daemon tells of itself: logs, events, metrics."""

from coherenced.lean import without

with without("rich"):
    import structlog  # noqa: F401
