"""Read-through, write-through, write-behind and refresh-ahead against an HTTP origin.

A namespace with an `origin` has a home outside Redis: what is not in the cache is
loaded from there. Reading order:

    rules        what one namespace says of its origin, and the address of a key
    freshness    how long an answer is good for, when it is loaded anew: pure
    breaker      when a failing origin is left alone: pure
    marks        what is kept beside a value, as labels, so that every node can revalidate it
    fetcher      one origin over HTTP: connections, bounds, timeouts, retries
    loads        one load per key and node, under the cluster's lease
    layer        between the front ends and the node: which requests concern an origin
    intents      what a write of Redis's language means for an origin: pure
    through      write-through
    behind       write-behind: a write is queued in Redis in its own atomic step
    backlog      which of the queued writes is sent when: pure
    sender       who sends them, and what becomes of those that are refused
"""

from coherenced.lean import without_authorities

with without_authorities():
    import aiohttp  # noqa: F401
