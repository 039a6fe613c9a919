"""What clients speak to: Redis's protocol and HTTP, on Unix sockets and TCP."""

from coherenced.lean import without_authorities

with without_authorities():
    import aiohttp  # noqa: F401
