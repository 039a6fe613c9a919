"""The Python client: one sans-IO core, a blocking shell and an asyncio shell around it.

address   where the daemon's socket is
values    Python objects to bytes and back
replies   error replies to the error tree, versions, results
l0        decoded objects in this process (`copies`), proved from the daemon's shared page
hits      the short way to one: compiled (`_hits.c`), else in Python (`pure`)
core      every method, once: arguments -> `Request` (bytes out, how to read the replies)
leases    the right to load a key, as requests
freshness how long a loaded value is fresh; `LoadPolicy`
loading   the machine behind `get_or_load`: read, lease, load, fill
warming   the same in bulk
patterns  every method that loads, once: arguments -> a machine of `steps`
cached    `@cached`, its keys from templates (`template`)
blocking, awaiting   machines carried out with threads, with tasks
sync      `Client`: blocking sockets, a bounded pool, threads and forks
aio       `AsyncClient`: the same methods with `await`, pipelined on asyncio or uvloop
direct    past a daemon that is gone, straight to Redis (on_unavailable="redis")
contrib   Django, ASGI, dogpile.cache
"""
